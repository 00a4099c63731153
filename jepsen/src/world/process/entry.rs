//! `jepsen process`: which scenarios, against which system, and what is kept of them.
//!
//! Not here: what a scenario does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    command::{Error, Result, failed},
    failover::{self, Case},
    faultfs::console,
    footprint,
    member::System,
    scenario::{Run, Scenario},
    sets::Set,
    steady,
};
use crate::history::Record;

/// Real processes, real faults.
#[derive(Args, Debug)]
pub struct Process {
    #[command(subcommand)]
    command: What,
    /// The system under test
    #[arg(long, global = true, value_enum, default_value = "dipper")]
    system: Which,
    /// Its binary [default: dipper beside this program; /usr/bin/etcd]
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    /// Keep histories and measurements in this directory
    #[arg(long, global = true)]
    keep: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Load under faults, and verdicts on what clients saw
    Run {
        /// The short set is part of `make test`, the full one of `jepsen full`
        #[arg(long, value_enum, default_value = "full")]
        set: Set,
        /// Only scenarios whose name contains this
        #[arg(long, default_value = "")]
        only: String,
        /// Schedules are the same for the same seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print the names of the scenarios
        #[arg(long)]
        list: bool,
    },
    /// How long clients wait when a leader fails
    Failover {
        /// One case only
        #[arg(long, value_enum)]
        case: Option<Case>,
        /// How often each case happens
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// Full load and no fault: fails if there is an election
    Steady {
        /// How long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// A disk that is slow, fails, or loses power, by lines on standard input: slow MS, fail COUNT, lose, torn, seen
    Disk {
        /// An empty directory, or a new one, for a member's data; what is written lies beside it
        #[arg(long)]
        at: PathBuf,
    },
    /// Removes what runs that were killed have left
    Sweep,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Dipper,
    Etcd,
}

pub fn main(asked: &Process) -> ExitCode {
    remove_worlds_on_signal();
    let done = match &asked.command {
        What::Run { set, only, seed, list } => run(asked, *set, only, *seed, *list),
        What::Failover { case, rounds } => failover(asked, *case, *rounds),
        What::Steady { minutes } => steady(asked, *minutes),
        What::Disk { at } => console::run(at),
        What::Sweep => {
            footprint::sweep();
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Skipped(why)) => {
            println!("skipped: {why}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(asked: &Process, set: Set, only: &str, seed: u64, list: bool) -> Result<()> {
    let chosen: Vec<Scenario> = set
        .scenarios()
        .filter(|scenario| scenario.name.contains(only))
        .collect();
    if chosen.is_empty() {
        return failed(format!("no scenario's name contains {only:?}"));
    }
    if list {
        for scenario in chosen {
            println!("{}", scenario.name);
        }
        return Ok(());
    }
    let system = system(asked)?;
    let mut bad = Vec::new();
    for scenario in chosen {
        match play(&scenario, &system, asked, seed) {
            Ok(line) => println!("{:24} {line}", scenario.name),
            Err(Error::Skipped(why)) => println!("{:24} skipped: {why}", scenario.name),
            Err(Error::Failed(why)) => {
                println!("{:24} FAILED: {why}", scenario.name);
                bad.push(scenario.name);
            }
        }
    }
    if bad.is_empty() { Ok(()) } else { failed(bad.join(", ")) }
}

fn failover(asked: &Process, case: Option<Case>, rounds: usize) -> Result<()> {
    let system = system(asked)?;
    let cases = case.map_or_else(|| Case::value_variants().to_vec(), |case| vec![case]);
    let mut broken = Vec::new();
    let mut measured = BTreeMap::new();
    for case in cases {
        let gaps = failover::measure(case, &system, rounds)?;
        println!("{}", gaps.line(case));
        if let Err(error) = gaps.judge(case) {
            broken.push(error.to_string());
        }
        measured.insert(format!("{case:?}"), gaps);
    }
    if let Some(directory) = &asked.keep {
        fs::create_dir_all(directory)?;
        let file = File::create(directory.join("failover.json"))?;
        serde_json::to_writer_pretty(file, &measured).map_err(std::io::Error::from)?;
    }
    if broken.is_empty() {
        Ok(())
    } else {
        failed(broken.join("; "))
    }
}

fn steady(asked: &Process, minutes: u64) -> Result<()> {
    let steady = steady::watch(&system(asked)?, Duration::from_secs(minutes * 60))?;
    println!(
        "no election in {minutes} min of full load: term {}, {} writes acknowledged, {} not",
        steady.term, steady.acknowledged, steady.refused
    );
    Ok(())
}

fn system(asked: &Process) -> Result<System> {
    let beside = std::env::current_exe()?.with_file_name("dipper");
    let (binary, make): (PathBuf, fn(PathBuf) -> System) = match asked.system {
        Which::Dipper => (asked.binary.clone().unwrap_or(beside), System::dipper),
        Which::Etcd => (asked.binary.clone().unwrap_or("/usr/bin/etcd".into()), System::etcd),
    };
    if !binary.exists() {
        return Err(Error::Skipped(format!("there is no {}", binary.display())));
    }
    Ok(make(binary))
}

fn play(scenario: &Scenario, system: &System, asked: &Process, seed: u64) -> Result<String> {
    let run = scenario.run(system, seed)?;
    if let Some(directory) = &asked.keep {
        keep(directory, scenario.name, &run.history)?;
    }
    let names: BTreeSet<&str> = run.anomalies.iter().map(|anomaly| anomaly.name.as_str()).collect();
    match (run.anomalies.first(), scenario.must_fail) {
        (None, false) => Ok(summary(&run)),
        (Some(_), true) => Ok(format!("{}; as it must, it was caught: {names:?}", summary(&run))),
        (None, true) => failed(format!("{}; a broken workload went unnoticed", summary(&run))),
        (Some(first), false) => failed(format!(
            "{}; {} anomalies {names:?}, the first by {}: {}",
            summary(&run),
            run.anomalies.len(),
            first.checker,
            first.text
        )),
    }
}

fn summary(run: &Run) -> String {
    let counts = run.counts;
    format!(
        "{} acknowledged, {} refused, {} not served, {} faults",
        counts.acknowledged, counts.refused, counts.down, run.faults
    )
}

fn keep(directory: &Path, name: &str, history: &[Record]) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut file = BufWriter::new(File::create(directory.join(format!("{name}.jsonl")))?);
    for record in history {
        serde_json::to_writer(&mut file, record).map_err(std::io::Error::from)?;
        writeln!(file)?;
    }
    file.flush()?;
    Ok(())
}

/// SIGINT and SIGTERM end the run; whatever it made is removed first.
pub fn remove_worlds_on_signal() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime without a network can be made");
        let code = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be awaited");
            tokio::select! {
                _ = tokio::signal::ctrl_c() => 130,
                _ = terminate.recv() => 143,
            }
        });
        footprint::remove_own();
        std::process::exit(code);
    });
}
