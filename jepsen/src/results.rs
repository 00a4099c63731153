//! What the judge found, one JSON line an item, written as soon as it is known: all that `jepsen report` reads.
//!
//! ```text
//!   {"Began":{"date":"2026-11-22T21:40Z","commit":"b4ccc5d","cores":2,...}}
//!   {"Real":{"name":"kill-leader-all","fault":"Kill(Leader)","faults":7,...}}
//!   {"Failover":{"case":"Kill","round":1,"rounds":20,"cluster_ms":402.1,...}}
//! ```
//! An item is in the file once it has ended, well or not, so an interrupted run goes on where it stopped and a
//! failure is never run again until it passes. Not here: what the numbers have to be (`report/targets`).

use crate::{
    tally::Tally,
    world::sim::{Counts, mutant::Seeded},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
};

/// The file's name in its directory.
pub const FILE: &str = "results.jsonl";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Line {
    Began(Began),
    Seeds(Seeds),
    Scenario(Scenario),
    Mutant(Mutant),
    Real(Box<Real>),
    Failover(Failover),
    Steady(Steady),
    /// Something of a part that ended without a result of its own.
    Broken(Broken),
}

/// One call of `jepsen full`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Began {
    /// UTC, as in 2026-11-22T21:40Z.
    pub date: String,
    pub version: String,
    pub commit: String,
    pub cores: u64,
    pub memory_mib: u64,
    pub parts: Vec<Part>,
}

/// What can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
pub enum Part {
    /// Ten minutes of full load without a fault
    Steady,
    /// How long clients wait when a leader fails
    Failover,
    /// Scenarios with real processes
    Process,
    /// Seeded bugs
    Mutants,
    /// Simulated seeds and scenarios
    Sim,
}

impl Part {
    /// In the order in which they are run.
    pub const ALL: [Self; 5] = [Self::Steady, Self::Failover, Self::Process, Self::Mutants, Self::Sim];

    /// As the option has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Failover => "failover",
            Self::Process => "process",
            Self::Mutants => "mutants",
            Self::Sim => "sim",
        }
    }
}

/// Some simulated seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seeds {
    /// Also judged by the search for a linearization, for which only short runs are small enough.
    pub searched: bool,
    pub from: u64,
    /// The first that is not among them.
    pub until: u64,
    /// Simulated seconds of faults in each.
    pub seconds: f64,
    pub counts: Counts,
    /// With the liveness phases.
    pub simulated_s: f64,
    pub cpu_s: f64,
    pub elapsed_s: f64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Operations of a workload in the seeds in which a fault happened: workload, fault, operations.
    pub met: BTreeMap<String, BTreeMap<String, u64>>,
    pub failures: Vec<Failure>,
}

/// A seed that broke a promise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub seed: u64,
    pub seconds: f64,
    pub why: String,
    /// The command that shows it again.
    pub replay: String,
    /// The faults that its world draws from.
    pub faults: Vec<String>,
    /// The counter-example, relative to the results.
    pub kept: Option<String>,
}

/// A named scenario of the simulated world.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    pub name: String,
    /// What it has to show.
    pub shows: String,
    pub seeds: u64,
    pub well: bool,
    pub what: String,
    pub elapsed_s: f64,
}

/// A seeded bug, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mutant {
    pub number: String,
    pub what: String,
    pub layer: String,
    /// Seeds until it was seen, for each round; none where nobody saw it.
    pub seeds: Vec<Option<u64>>,
    /// Seeds after which a round gave up.
    pub seeds_max: u64,
    pub first_seed: Option<u64>,
    pub found_as: String,
    pub elapsed_s: f64,
}

/// A scenario with real processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Real {
    pub name: String,
    pub workloads: Vec<String>,
    /// As in `Kill(Leader)`.
    pub fault: String,
    pub members: u64,
    pub seconds: u64,
    pub seed: u64,
    /// How often the fault was done and proven.
    pub faults: u64,
    pub total: Tally,
    pub by_workload: BTreeMap<String, Tally>,
    /// It is the checkers who are on trial: no anomaly would be the failure.
    pub must_fail: bool,
    pub anomalies: u64,
    /// Name, checker and text of the first of each name.
    pub first: Vec<String>,
    pub kept: Option<String>,
    /// Why it did not come to a verdict.
    pub error: Option<String>,
    pub skipped: Option<String>,
    pub elapsed_s: f64,
}

/// One failover.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Failover {
    pub case: String,
    pub round: u64,
    /// So many were asked for.
    pub rounds: u64,
    pub cluster_ms: f64,
    pub client_ms: f64,
    /// Writes that were not acknowledged between the fault and its healing.
    pub not_acknowledged: u64,
    /// For the cluster and for every client.
    pub limit_ms: f64,
    /// Whether a write that was not acknowledged breaks the promise.
    pub limits_writes: bool,
}

impl Failover {
    pub fn is_kept(&self) -> bool {
        self.cluster_ms <= self.limit_ms
            && self.client_ms <= self.limit_ms
            && (!self.limits_writes || self.not_acknowledged == 0)
    }
}

/// Full load without a fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steady {
    pub seconds: u64,
    pub term: u64,
    pub acknowledged: u64,
    pub refused: u64,
}

/// What went wrong in a part, where there is nothing else to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broken {
    pub part: Part,
    pub name: String,
    pub why: String,
}

impl Line {
    /// Which part it is a result of; a beginning is of none.
    pub fn part(&self) -> Option<Part> {
        match self {
            Self::Began(_) => None,
            Self::Seeds(_) | Self::Scenario(_) => Some(Part::Sim),
            Self::Mutant(_) => Some(Part::Mutants),
            Self::Real(_) => Some(Part::Process),
            Self::Failover(_) => Some(Part::Failover),
            Self::Steady(_) => Some(Part::Steady),
            Self::Broken(broken) => Some(broken.part),
        }
    }
}

impl Mutant {
    /// A seeded bug that was hunted; what became of it is added by the hunter.
    pub fn of(seeded: &Seeded) -> Self {
        Self {
            number: seeded.number.to_owned(),
            what: seeded.what.to_owned(),
            layer: seeded.layer.to_owned(),
            ..Self::default()
        }
    }

    /// The median over the rounds; `None` if the middle one saw nothing.
    pub fn median(&self) -> Option<u64> {
        let mut sorted: Vec<u64> = self.seeds.iter().map(|seeds| seeds.unwrap_or(u64::MAX)).collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied();
        median.filter(|median| *median != u64::MAX)
    }
}

/// The file that is written.
pub struct Book {
    directory: PathBuf,
    file: File,
    pub lines: Vec<Line>,
}

impl Book {
    /// Opens a directory's results, with what is in them already.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let said = |error: std::io::Error| format!("{}: {error}", directory.display());
        std::fs::create_dir_all(directory).map_err(said)?;
        let path = directory.join(FILE);
        let lines = if path.exists() { read(directory)? } else { Vec::new() };
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(said)?;
        Ok(Self {
            directory: directory.to_owned(),
            file,
            lines,
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes a line in one piece, so that an interruption leaves whole lines.
    pub fn append(&mut self, line: Line) -> Result<(), String> {
        let mut text = serde_json::to_string(&line).map_err(|error| error.to_string())?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|error| format!("{}: {error}", self.directory.join(FILE).display()))?;
        self.lines.push(line);
        Ok(())
    }
}

/// All lines of a directory's results.
pub fn read(directory: &Path) -> Result<Vec<Line>, String> {
    let path = directory.join(FILE);
    let said = |why: String| format!("{}: {why}", path.display());
    let file = File::open(&path).map_err(|error| said(error.to_string()))?;
    let mut lines = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let at = |why: String| said(format!("line {}: {why}", number + 1));
        let line = line.map_err(|error| at(error.to_string()))?;
        if !line.trim().is_empty() {
            lines.push(serde_json::from_str(&line).map_err(|error| at(error.to_string()))?);
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_rounds_that_saw_nothing_is_nothing() {
        let of = |seeds: &[Option<u64>]| Mutant {
            seeds: seeds.to_vec(),
            ..Mutant::default()
        };
        assert_eq!(of(&[Some(3), None, Some(1)]).median(), Some(3));
        assert_eq!(of(&[Some(3), None, None]).median(), None);
        assert_eq!(of(&[]).median(), None);
    }

    #[test]
    fn a_round_keeps_its_promise_or_not() {
        let round = |cluster_ms, client_ms, not_acknowledged, limits_writes| Failover {
            cluster_ms,
            client_ms,
            not_acknowledged,
            limit_ms: 1000.0,
            limits_writes,
            ..Failover::default()
        };
        assert!(round(999.0, 1000.0, 7, false).is_kept());
        assert!(!round(1001.0, 1001.0, 0, false).is_kept());
        assert!(!round(500.0, 1001.0, 0, false).is_kept());
        assert!(!round(50.0, 60.0, 1, true).is_kept());
    }

    #[test]
    fn what_was_written_is_read_again() {
        let directory = std::env::temp_dir().join(format!("jepsen-book-{}", std::process::id()));
        let mut book = Book::open(&directory).unwrap();
        let steady = Line::Steady(Steady {
            seconds: 600,
            ..Steady::default()
        });
        book.append(steady.clone()).unwrap();
        let mut again = Book::open(&directory).unwrap();
        let broken = Line::Broken(Broken {
            part: Part::Failover,
            name: "Kill".to_owned(),
            why: "no leader".to_owned(),
        });
        again.append(broken.clone()).unwrap();
        let lines = read(&directory);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(lines.unwrap(), [steady, broken]);
    }
}
