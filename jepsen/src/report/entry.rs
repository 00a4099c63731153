//! `jepsen report`: from the results of `jepsen full`, whole or in pieces, to what people read.
//!
//! Not here: any judgement; what the results lack is said in the report, and `jepsen full` has said it by its
//! exit code.

use super::{content, markdown, page, plot, targets::Results};
use crate::results::{self, Line};
use clap::Args;
use std::{fs, path::PathBuf, process::ExitCode};

/// The plot's file.
const PLOT: &str = "failover.svg";

/// `jepsen report`.
#[derive(Args)]
pub struct Write {
    /// The directory of `jepsen full`.
    #[arg(long, default_value = "judge-results")]
    from: PathBuf,
    /// Where report.html, report.md and failover.svg go.
    #[arg(long)]
    to: PathBuf,
}

/// A report in its forms.
pub struct Written {
    pub html: String,
    pub markdown: String,
    pub svg: Option<String>,
}

/// Counter-examples, which lie beside a report as they lie beside its results; their histories stay there.
fn drawings(lines: &[Line]) -> Vec<&str> {
    let mut kept: Vec<Option<&String>> = Vec::new();
    for line in lines {
        match line {
            Line::Seeds(seeds) => kept.extend(seeds.failures.iter().map(|failure| failure.kept.as_ref())),
            Line::Real(real) => kept.push(real.kept.as_ref()),
            _ => {}
        }
    }
    kept.into_iter().flatten().map(String::as_str).collect()
}

/// Renders results.
pub fn render(lines: &[Line]) -> Written {
    let report = content::of(lines);
    let svg = plot::draw(&Results::of(lines));
    Written {
        html: page::render(&report, svg.as_deref()),
        markdown: markdown::render(&report, svg.as_ref().map(|_| PLOT)),
        svg,
    }
}

impl Write {
    /// Writes the files.
    pub fn run(&self) -> ExitCode {
        match self.write() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("jepsen report: {why}");
                ExitCode::from(2)
            }
        }
    }

    fn write(&self) -> Result<(), String> {
        let lines = results::read(&self.from)?;
        let written = render(&lines);
        let said = |error: std::io::Error| format!("{}: {error}", self.to.display());
        fs::create_dir_all(&self.to).map_err(said)?;
        for drawing in drawings(&lines) {
            let to = self.to.join(drawing);
            fs::create_dir_all(to.parent().unwrap_or(&self.to)).map_err(said)?;
            let from = self.from.join(drawing);
            fs::copy(&from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
        }
        let files = [
            ("report.html", Some(written.html)),
            ("report.md", Some(written.markdown)),
            (PLOT, written.svg),
        ];
        for (name, text) in files {
            let path = self.to.join(name);
            match text {
                Some(text) => fs::write(&path, text).map_err(said)?,
                // One of an earlier report would be taken for this one's.
                None if path.exists() => fs::remove_file(&path).map_err(said)?,
                None => continue,
            }
            println!("{}", path.display());
        }
        Ok(())
    }
}
