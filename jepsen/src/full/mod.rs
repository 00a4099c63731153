//! `jepsen full`: the whole judge, planned to end within an hour on two cores.
//!
//! ```text
//!   steady  ->  failover  ->  process  ->  mutants  ->  sim        each result: a line on the terminal,
//!   a quiet machine, one after the other   as much as is left      and one in DIR/results.jsonl
//! ```
//! What needs a quiet machine runs alone and first; the simulated seeds go on until they are enough, or the time
//! is over. `jepsen report` reads the results. It ends well only if every target of the parts that were asked for
//! is met: whatever was not run, skipped or cut off by the clock is missed. Not here: the targets
//! (`report/targets`), and what a scenario does (`world/`).

mod keep;
mod machine;
mod real;
mod simulated;

use crate::{
    report::targets::{self, Verdict},
    results::{Book, Broken, Line, Part},
    world::process::entry,
};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal as _,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

/// `jepsen full`.
#[derive(Args)]
pub struct Full {
    /// Results and counter-examples go here.
    #[arg(long, default_value = "judge-results")]
    dir: PathBuf,
    /// Only these parts, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// Goes on where results of these parts end, and runs nothing twice.
    #[arg(long)]
    resume: bool,
    /// When this is over nothing new begins; what is missing then is missed.
    #[arg(long, default_value_t = 60.0)]
    minutes_cap: f64,
    /// The member's binary [default: dipper beside this program]
    #[arg(long)]
    dipper: Option<PathBuf>,
    /// This program built with the feature `mutants` [default: mutants/jepsen beside this program's directory]
    #[arg(long)]
    mutants: Option<PathBuf>,
    /// Which commit this is [default: git's answer in this directory]
    #[arg(long)]
    commit: Option<String>,
    /// Threads of what is simulated [default: as many as there are cores]
    #[arg(long)]
    jobs: Option<usize>,
    #[command(flatten)]
    sizes: Sizes,
}

/// How much of each; less than the default misses a target, and is for trying things out.
#[derive(Args)]
#[command(next_help_heading = "Sizes, for a try")]
struct Sizes {
    /// At least so many simulated seeds of 60 s.
    #[arg(long, default_value_t = targets::SEEDS)]
    seeds: u64,
    /// And so many simulated operations.
    #[arg(long, default_value_t = targets::SIMULATED_OPERATIONS)]
    operations: u64,
    /// Seeds of 20 s that the search for a linearization judges, too.
    #[arg(long, default_value_t = targets::SEARCHED_SEEDS)]
    searched_seeds: u64,
    /// Seeds of each simulated scenario.
    #[arg(long, default_value_t = 20)]
    scenario_seeds: u64,
    /// Rounds of each seeded bug.
    #[arg(long, default_value_t = 3)]
    mutant_rounds: u64,
    /// Seconds of each real scenario.
    #[arg(long, default_value_t = 20)]
    scenario_seconds: u64,
    /// Only real scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Rounds of each failover.
    #[arg(long, default_value_t = targets::FAILOVER_ROUNDS)]
    rounds: u64,
    /// Minutes without a fault.
    #[arg(long, default_value_t = targets::STEADY_SECONDS as f64 / 60.0)]
    steady_minutes: f64,
}

/// What a run is about to do and where it says so.
struct Session<'a> {
    full: &'a Full,
    book: Book,
    deadline: Instant,
}

impl Full {
    /// Runs the parts and prints what was missed.
    pub fn run(&self) -> ExitCode {
        if cfg!(feature = "mutants") {
            eprintln!("jepsen full: this build contains seeded bugs; a build without them takes it as --mutants");
            return ExitCode::from(2);
        }
        match self.play() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(why) => {
                eprintln!("jepsen full: {why}");
                ExitCode::from(2)
            }
        }
    }

    fn play(&self) -> Result<bool, String> {
        let parts: Vec<Part> = Part::ALL.into_iter().filter(|part| self.wants(*part)).collect();
        let mut book = Book::open(&self.dir)?;
        let done = parts
            .iter()
            .find(|part| book.lines.iter().any(|line| line.part() == Some(**part)));
        if let Some(done) = done.filter(|_| !self.resume) {
            return Err(format!(
                "{} has results of the part {} already; go on with --resume, or choose another --dir",
                self.dir.display(),
                done.name()
            ));
        }
        let began = machine::begin(self.commit.clone(), &parts);
        println!("dipper {} at {}, {} cores", began.version, began.commit, began.cores);
        book.append(Line::Began(began))?;
        self.print_plan(&parts);
        entry::remove_worlds_on_signal();
        let mut session = Session {
            full: self,
            book,
            deadline: Instant::now() + Duration::from_secs_f64(self.minutes_cap * 60.0),
        };
        for part in &parts {
            let began = Instant::now();
            match part {
                Part::Steady => session.steady()?,
                Part::Failover => session.failover()?,
                Part::Process => session.process()?,
                Part::Mutants => session.mutants()?,
                Part::Sim => session.sim()?,
            }
            println!("{} took {:.1} min", part.name(), began.elapsed().as_secs_f64() / 60.0);
        }
        Ok(conclude(&session.book.lines, &parts))
    }

    fn wants(&self, part: Part) -> bool {
        self.part.is_empty() || self.part.contains(&part)
    }

    fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or_else(cores)
    }

    /// From what the parts took on two cores at 2.1 GHz.
    fn minutes(&self, part: Part) -> f64 {
        let sizes = &self.sizes;
        let seconds = match part {
            Part::Steady => sizes.steady_minutes * 60.0 + 10.0,
            Part::Failover => 6.0 * (sizes.rounds as f64 * real::SECONDS_PER_FAILOVER + 5.0),
            Part::Process => real::chosen(sizes).len() as f64 * (sizes.scenario_seconds as f64 + real::SECONDS_AROUND),
            Part::Mutants => sizes.mutant_rounds as f64 * 60.0 / self.jobs() as f64,
            Part::Sim => simulated::seconds(sizes, self.jobs()),
        };
        seconds / 60.0
    }

    fn print_plan(&self, parts: &[Part]) {
        let sum: f64 = parts.iter().map(|part| self.minutes(*part)).sum();
        for part in parts {
            println!("  {:10} about {:5.1} min", part.name(), self.minutes(*part));
        }
        println!(
            "  {:10} about {sum:5.1} min; nothing begins after {:.1}",
            "in all", self.minutes_cap
        );
    }
}

/// Whether every target of these parts is met; those that are not are printed.
fn conclude(lines: &[Line], parts: &[Part]) -> bool {
    let mut is_well = true;
    for target in targets::of(lines) {
        if parts.contains(&target.part) && target.verdict != Verdict::Met {
            is_well = false;
            let (what, wanted, measured) = (&target.what, &target.wanted, &target.measured);
            println!(
                "{}: {what}: {measured}; wanted: {wanted}",
                target.verdict.name().to_uppercase()
            );
        }
    }
    if is_well {
        println!(
            "every target of {} is met",
            parts.iter().map(|part| part.name()).collect::<Vec<_>>().join(", ")
        );
    }
    is_well
}

impl Session<'_> {
    fn is_over(&self, part: Part) -> bool {
        let is_over = Instant::now() >= self.deadline;
        if is_over {
            println!("{}: the time is over; --resume goes on from here", part.name());
        }
        is_over
    }

    fn broken(&mut self, part: Part, name: &str, why: String) -> Result<(), String> {
        println!("{name}: FAILED: {why}");
        self.book.append(Line::Broken(Broken {
            part,
            name: name.to_owned(),
            why,
        }))
    }

    /// Whether a line says that something of a part ended without a result; it is not run again.
    fn is_broken(&self, part: Part, name: &str) -> bool {
        let is_it = |line: &Line| matches!(line, Line::Broken(broken) if broken.part == part && broken.name == name);
        self.book.lines.iter().any(is_it)
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(part: Part, steps: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:9} {bar:30} {pos}/{len} after {elapsed}, {eta} left {msg}");
    let bar = ProgressBar::new(steps).with_style(style.expect("the template is right"));
    bar.set_prefix(part.name());
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}
