//! Counter-examples beside the results: the history, and a drawing of what is wrong with it.
//!
//! Not here: the drawing (`report/timeline`).

use crate::{
    campaign::history_of,
    checkers::{Anomaly, expectations_of},
    history::Record,
    report::{shrink::shrink, timeline::draw},
    world::sim::Plan,
};
use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
};

const FOLDER: &str = "counter-examples";

/// Keeps a failing seed: its history shrunk and drawn, or the text of the invariant that it broke. The name of
/// what a reader opens first, relative to `directory`.
pub fn seed(directory: &Path, plan: &Plan, why: &str) -> std::io::Result<String> {
    let name = format!("sim-seed-{}", plan.seed);
    let Some((history, anomalies)) = history_of(plan) else {
        return text(directory, &name, why);
    };
    let Some(first) = anomalies.first() else {
        return text(directory, &name, &format!("{why}\nIt did not show a second time."));
    };
    let shrunk = shrink(&history, first, &expectations_of(&history));
    save(directory, &name, &history, &shrunk.history, &shrunk.anomaly)
}

/// Keeps a real scenario's history. A real one is long: it is drawn around the anomaly and not shrunk, which
/// `jepsen check --html` does.
pub fn real(directory: &Path, name: &str, history: &[Record], first: &Anomaly) -> std::io::Result<String> {
    save(directory, name, history, history, first)
}

fn save(
    directory: &Path,
    name: &str,
    history: &[Record],
    drawn: &[Record],
    anomaly: &Anomaly,
) -> std::io::Result<String> {
    let folder = directory.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let mut file = BufWriter::new(File::create(folder.join(format!("{name}.jsonl")))?);
    for record in history {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    let title = format!("{name}: {}", anomaly.name);
    let drawing = draw(&title, drawn, std::slice::from_ref(anomaly));
    fs::write(folder.join(format!("{name}.txt")), drawing.text)?;
    fs::write(folder.join(format!("{name}.html")), drawing.html)?;
    Ok(format!("{FOLDER}/{name}.html"))
}

fn text(directory: &Path, name: &str, why: &str) -> std::io::Result<String> {
    fs::create_dir_all(directory.join(FOLDER))?;
    let path = format!("{FOLDER}/{name}.txt");
    fs::write(directory.join(&path), format!("{why}\n"))?;
    Ok(path)
}
