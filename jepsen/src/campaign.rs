//! `jepsen sim`: one seed, told in detail if wanted, or many at once, with the regressions first.
//!
//! ```text
//!   jepsen sim --seed 7 --minutes 1          replays; the last line is `trace <16 hex digits>`
//!   jepsen sim --seed 7 --history 7.jsonl    and writes what clients saw, for `jepsen check`
//!   jepsen sim --seeds 0..1000 --jobs 2      runs many; a failing seed is printed as a line for regressions.txt
//! ```
//! Seeds that once failed are in `regressions.txt`, and run before any other, for ever.

use crate::checkers::{Anomaly, check_all, expectations_of};
use crate::history::Record;
use crate::scenarios::{ALL, FAULTY};
use crate::tally::by_workload;
use crate::world::sim::{Counts, Plan, Ran, mutant::Mutant, run};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Seeds that once failed: `seed seconds what it found`.
pub const REGRESSIONS: &str = include_str!("../regressions.txt");

/// `jepsen sim`.
#[derive(Args)]
pub struct Sim {
    /// Replays one seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs all seeds of A..B, the regressions first.
    #[arg(long, value_parser = parse_seeds)]
    seeds: Option<Range<u64>>,
    /// How long things go wrong in each run, in simulated minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Prints what happens.
    #[arg(long)]
    tell: bool,
    /// Writes the history of --seed, one record a line.
    #[arg(long)]
    history: Option<PathBuf>,
    /// With a seeded bug, by its number: see `jepsen mutants`.
    #[arg(long)]
    mutant: Option<String>,
    /// In the world of a named scenario, for as long as that takes: see `jepsen scenarios`.
    #[arg(long)]
    scenario: Option<String>,
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("A..B is expected")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    Ok(number(from)?..number(to)?)
}

impl Sim {
    /// Runs what was asked for.
    pub fn run(&self) -> ExitCode {
        let mutant = match self.mutant.as_deref().map(crate::world::sim::mutant::by_number) {
            Some(None) => {
                eprintln!("jepsen: no such seeded bug; see `jepsen mutants`");
                return ExitCode::from(2);
            }
            Some(Some(mutant)) => mutant,
            None => Mutant::None,
        };
        let named = |name: &String| ALL.iter().find(|scenario| scenario.name == *name);
        let scenario = self.scenario.as_ref().map(named);
        if let Some(None) = scenario {
            eprintln!("jepsen: no such scenario");
            return ExitCode::from(2);
        }
        let world = scenario.flatten().map(|scenario| scenario.world);
        let faulty = match world {
            Some(_) => FAULTY,
            None => Duration::from_secs_f64(self.minutes * 60.0),
        };
        let plan = |seed| Plan {
            seed,
            faulty,
            mutant,
            world,
            is_told: self.tell,
        };
        match (&self.seeds, self.seed) {
            (Some(seeds), _) => {
                let mut plans: Vec<Plan> = regressions()
                    .into_iter()
                    .map(|(seed, faulty)| Plan { faulty, ..plan(seed) })
                    .collect();
                plans.extend(seeds.clone().map(plan));
                self.many(&plans)
            }
            (None, seed) => self.one(&plan(seed.unwrap_or(0))),
        }
    }

    fn one(&self, plan: &Plan) -> ExitCode {
        let kept = |ran: &Ran| match &self.history {
            Some(path) => write_history(path, ran).map_err(|error| format!("cannot write {}: {error}", path.display())),
            None => Ok(()),
        };
        // Written before it is judged: what fails is what somebody wants to read.
        let verdict = unless_broken(plan)
            .and_then(|ran| kept(&ran).map(|()| ran))
            .and_then(sound);
        match verdict {
            Ok(ran) => {
                println!("{:?}", ran.counts);
                println!("trace {:016x}", ran.trace);
                ExitCode::SUCCESS
            }
            Err(why) => {
                println!("seed {}: {why}", plan.seed);
                ExitCode::FAILURE
            }
        }
    }

    fn many(&self, plans: &[Plan]) -> ExitCode {
        let began = Instant::now();
        let bar = progress(plans.len());
        let sum = run_all(plans, self.jobs, &bar);
        bar.finish_and_clear();
        let hours = sum.simulated.as_secs_f64() / 3600.0;
        let elapsed = began.elapsed().as_secs_f64() / 3600.0;
        let cpu = cpu_seconds() / 3600.0;
        println!(
            "{} runs, {hours:.2} simulated hours in {:.1} s: {:.0} cluster-hours per CPU-hour, {:.0} per hour",
            plans.len(),
            elapsed * 3600.0,
            hours / cpu,
            hours / elapsed
        );
        println!("{:?}", sum.counts);
        for (plan, why) in &sum.failures {
            println!("{} {} {why}", plan.seed, plan.faulty.as_secs_f64());
        }
        if sum.failures.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!(
            "{} of {} runs failed; the lines above belong into regressions.txt",
            sum.failures.len(),
            plans.len()
        );
        ExitCode::FAILURE
    }
}

fn write_history(path: &PathBuf, ran: &Ran) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for record in &ran.history {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// What many runs came to.
#[derive(Default)]
pub struct Sum {
    pub counts: Counts,
    pub simulated: Duration,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Operations of a workload in the runs in which a fault happened: workload, fault, operations.
    pub met: BTreeMap<String, BTreeMap<String, u64>>,
    pub failures: Vec<(Plan, String)>,
}

impl Sum {
    fn add(&mut self, ran: &Ran) {
        self.counts.add(&ran.counts);
        self.simulated += ran.simulated;
        let mut happened: BTreeMap<String, u64> = BTreeMap::new();
        for record in &ran.history {
            if let Record::Fault(fault) = record {
                // Its first word is its kind.
                let kind = fault.what.split(' ').next().unwrap_or_default();
                *happened.entry(kind.to_owned()).or_default() += 1;
            }
        }
        for (workload, tally) in by_workload(&ran.history) {
            let met = self.met.entry(workload).or_default();
            for fault in happened.keys() {
                *met.entry(fault.clone()).or_default() += tally.operations;
            }
        }
        for (fault, times) in happened {
            *self.faults.entry(fault).or_default() += times;
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
pub fn progress(seeds: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left {msg}");
    ProgressBar::new(seeds as u64).with_style(style.expect("the template is right"))
}

/// The lines of the regression file: seeds and how long things go wrong.
pub fn regressions() -> Vec<(u64, Duration)> {
    let lines = REGRESSIONS
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let parsed = lines.map(|line| {
        let mut words = line.split(' ');
        let seed = words.next().and_then(|word| word.parse().ok());
        let seconds = words.next().and_then(|word| word.parse().ok());
        let (seed, seconds) = seed
            .zip(seconds)
            .unwrap_or_else(|| panic!("regressions.txt: `{line}` does not begin with a seed and seconds"));
        (seed, Duration::from_secs_f64(seconds))
    });
    parsed.collect()
}

/// Runs plans on some threads.
pub fn run_all(plans: &[Plan], jobs: usize, bar: &ProgressBar) -> Sum {
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let result = judged(plan);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(ran) => sum.add(&ran),
                        Err(why) => sum.failures.push((plan.clone(), why)),
                    }
                    if !sum.failures.is_empty() {
                        bar.set_message(format!("{} failed", sum.failures.len()));
                    }
                    bar.inc(1);
                }
            });
        }
    });
    let mut sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.failures.sort_by_key(|(plan, _)| plan.seed);
    sum
}

/// A run that kept every promise, or how it did not.
pub type Verdict = Result<Ran, String>;

/// Runs a plan, its invariants judged while it runs, its history behind it.
pub fn judged(plan: &Plan) -> Verdict {
    unless_broken(plan).and_then(sound)
}

/// The run, if the checkers find nothing in its history.
fn sound(ran: Ran) -> Verdict {
    let anomalies = check_all(&ran.history, &expectations_of(&ran.history));
    match anomalies.first() {
        None => Ok(ran),
        Some(first) => Err(format!(
            "{} anomalies, the first: {} ({}): {}",
            anomalies.len(),
            first.name,
            first.checker,
            first.text
        )),
    }
}

/// The history of a plan and what the checkers find in it; nothing if it ends at a broken invariant.
pub fn history_of(plan: &Plan) -> Option<(Vec<Record>, Vec<Anomaly>)> {
    let history = unless_broken(plan).ok()?.history;
    let anomalies = check_all(&history, &expectations_of(&history));
    Some((history, anomalies))
}

fn unless_broken(plan: &Plan) -> Verdict {
    // A broken invariant is a panic, here as in a member; its text is the verdict and needs no second print.
    std::panic::set_hook(Box::new(|_| {}));
    catch_unwind(AssertUnwindSafe(|| run(plan))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default()
    })
}

/// The processor time of this process so far.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks as f64 / 100.0
}
