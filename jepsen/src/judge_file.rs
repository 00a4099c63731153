//! `jepsen check FILE`: judges a recorded history, and draws what is wrong with it.
//!
//! Not here: the checkers and the drawing; only files and exit codes.

use crate::checkers::{check_all, expectations_of};
use crate::history::Record;
use crate::report::{shrink::shrink, timeline::draw};
use clap::Args;
use std::collections::BTreeMap;
use std::fs::{File, write};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Judges a history and says what is wrong: exit code 0 when nothing is, 1 when something is, 2 when it cannot be
/// judged.
#[derive(Args)]
pub struct Check {
    /// A history: one record a line, as JSON.
    file: PathBuf,
    /// Where to draw the first anomaly, shrunk; the text form goes beside it, as .txt.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// So many anomalies of each kind are printed.
const PRINTED_MAX: usize = 5;

impl Check {
    /// Does it.
    pub fn run(&self) -> ExitCode {
        match self.judge() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(why) => {
                eprintln!("{}: {why}", self.file.display());
                ExitCode::from(2)
            }
        }
    }

    fn judge(&self) -> Result<bool, String> {
        let history = read(&self.file)?;
        let operations = history
            .iter()
            .filter(|record| matches!(record, Record::Operation(_)))
            .count();
        if operations == 0 {
            return Err("no operation: there is nothing to judge".to_owned());
        }
        let expectations = expectations_of(&history);
        if expectations.search.steps_max == 0 {
            println!("skipped: the search for linearizations, by the history's own expectations");
        }
        let anomalies = check_all(&history, &expectations);
        println!(
            "{operations} operations, {} records, {} anomalies",
            history.len(),
            anomalies.len()
        );
        let mut printed: BTreeMap<&str, usize> = BTreeMap::new();
        for anomaly in &anomalies {
            let count = printed.entry(&anomaly.name).or_default();
            *count += 1;
            if *count <= PRINTED_MAX {
                println!("{} ({}): {}", anomaly.name, anomaly.checker, anomaly.text);
            }
        }
        for (name, count) in printed.iter().filter(|(_, count)| **count > PRINTED_MAX) {
            println!("{name}: {count} in all");
        }
        if let (Some(out), Some(first)) = (&self.html, anomalies.first()) {
            let shrunk = shrink(&history, first, &expectations);
            let title = format!("{}: {}", self.file.display(), first.name);
            let drawing = draw(&title, &shrunk.history, std::slice::from_ref(&shrunk.anomaly));
            let text = out.with_extension("txt");
            save(out, &drawing.html)?;
            save(&text, &drawing.text)?;
            println!("drawn in {} and {}", out.display(), text.display());
        }
        Ok(anomalies.is_empty())
    }
}

fn save(path: &Path, content: &str) -> Result<(), String> {
    write(path, content).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads a history, or says which line is none.
pub fn read(path: &Path) -> Result<Vec<Record>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut history = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| format!("line {}: {error}", number + 1))?;
        if !line.trim().is_empty() {
            let record = serde_json::from_str(&line).map_err(|error| format!("line {}: {error}", number + 1))?;
            history.push(record);
        }
    }
    Ok(history)
}
