//! The parts that need no quiet machine: simulated scenarios, searched seeds, many long seeds, seeded bugs.

use super::{Session, Sizes, bar, keep};
use crate::{
    campaign::{cpu_seconds, regressions, run_all},
    report::targets::{LONG_SECONDS, SEARCHED_SECONDS},
    results::{Failure, Line, Part, Scenario, Seeds},
    rng::Rng,
    scenarios::ALL,
    world::sim::{Plan, swarm::Swarm},
};
use indicatif::ProgressBar;
use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Seeds of one line of the results.
const BATCH: u64 = 250;
/// As measured; for the plan only.
const OPERATIONS_PER_SEED: u64 = 3_100;
const CPU_SECONDS_PER_SEED: f64 = 0.16;

/// How long it will take.
pub fn seconds(sizes: &Sizes, jobs: usize) -> f64 {
    let seeds = sizes.seeds.max(sizes.operations / OPERATIONS_PER_SEED);
    let short = sizes.searched_seeds + sizes.scenario_seeds * ALL.len() as u64;
    (seeds as f64 + short as f64 / 3.0) * CPU_SECONDS_PER_SEED / jobs as f64
}

impl Session<'_> {
    pub(super) fn sim(&mut self) -> Result<(), String> {
        self.scenarios()?;
        let searched = self.seeds_of(true).last().map_or(0, |last| last.until);
        let wanted = self.full.sizes.searched_seeds;
        if searched < wanted && !self.is_over(Part::Sim) {
            let bar = bar(Part::Sim, wanted - searched);
            self.batch(true, searched, wanted, &bar)?;
            bar.finish_and_clear();
        }
        self.long_seeds()
    }

    fn scenarios(&mut self) -> Result<(), String> {
        let is_done = |line: &Line, name| matches!(line, Line::Scenario(scenario) if scenario.name == name);
        for scenario in ALL {
            if self.book.lines.iter().any(|line| is_done(line, scenario.name)) {
                continue;
            }
            if self.is_over(Part::Sim) {
                return Ok(());
            }
            let began = Instant::now();
            let verdict = scenario.judge(self.full.sizes.scenario_seeds);
            let well = verdict.is_ok();
            let what = verdict.unwrap_or_else(|why| why);
            println!("{:24} {}, {what}", scenario.name, if well { "ok" } else { "FAILED" });
            if !well {
                println!("  replay: jepsen scenarios --only {}", scenario.name);
            }
            self.book.append(Line::Scenario(Scenario {
                name: scenario.name.to_owned(),
                shows: format!("{:?}", scenario.shows),
                seeds: self.full.sizes.scenario_seeds,
                well,
                what,
                elapsed_s: began.elapsed().as_secs_f64(),
            }))?;
        }
        Ok(())
    }

    /// Until there are enough seeds and operations.
    fn long_seeds(&mut self) -> Result<(), String> {
        let sizes = &self.full.sizes;
        let (seeds, operations) = (sizes.seeds, sizes.operations);
        let expected = seeds.max(operations / OPERATIONS_PER_SEED);
        let bar = bar(Part::Sim, expected);
        loop {
            let done = self.seeds_of(false);
            let next = done.last().map_or(0, |last| last.until);
            let asked: u64 = done.iter().map(|seeds| seeds.counts.operations).sum();
            if next >= seeds && asked >= operations {
                break;
            }
            if self.is_over(Part::Sim) {
                break;
            }
            bar.set_length(expected.max(next + BATCH));
            bar.set_position(next);
            let batch = if next < seeds { BATCH.min(seeds - next) } else { BATCH };
            self.batch(false, next, next + batch, &bar)?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn seeds_of(&self, searched: bool) -> Vec<&Seeds> {
        let seeds = self.book.lines.iter().filter_map(|line| match line {
            Line::Seeds(seeds) if seeds.searched == searched => Some(seeds),
            _ => None,
        });
        seeds.collect()
    }

    fn batch(&mut self, searched: bool, from: u64, until: u64, bar: &ProgressBar) -> Result<(), String> {
        let seconds = if searched { SEARCHED_SECONDS } else { LONG_SECONDS };
        let faulty = Duration::from_secs_f64(seconds);
        let mut plans: Vec<Plan> = (from..until).map(|seed| Plan::new(seed, faulty)).collect();
        if !searched && from == 0 {
            let once_failed = regressions().into_iter().map(|(seed, faulty)| Plan::new(seed, faulty));
            plans.splice(0..0, once_failed);
        }
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let sum = run_all(&plans, self.full.jobs(), bar);
        let (elapsed_s, cpu_s) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let mut failures = Vec::new();
        for (plan, why) in &sum.failures {
            let failure = self.failure(plan, why)?;
            bar.suspend(|| println!("seed {}: FAILED: {why}\n  replay: {}", plan.seed, failure.replay));
            failures.push(failure);
        }
        let seeds = Seeds {
            searched,
            from,
            until,
            seconds,
            counts: sum.counts,
            simulated_s: sum.simulated.as_secs_f64(),
            cpu_s,
            elapsed_s,
            faults: sum.faults,
            met: sum.met,
            failures,
        };
        bar.suspend(|| {
            println!(
                "seeds {from}..{until} of {seconds} s{}: {} operations, {} faults, {:.1} simulated hours in {elapsed_s:.0} s, {} failed",
                if searched { ", searched" } else { "" },
                seeds.counts.operations,
                seeds.counts.faults,
                seeds.simulated_s / 3600.0,
                seeds.failures.len()
            );
        });
        self.book.append(Line::Seeds(seeds))
    }

    fn failure(&self, plan: &Plan, why: &str) -> Result<Failure, String> {
        let kept = keep::seed(self.book.directory(), plan, why).map_err(|error| error.to_string())?;
        let mut faults: Vec<String> = Swarm::of(&mut Rng::new(plan.seed))
            .harms
            .iter()
            .map(|harm| format!("{harm:?}"))
            .collect();
        faults.sort_unstable();
        faults.dedup();
        let seconds = plan.faulty.as_secs_f64();
        Ok(Failure {
            seed: plan.seed,
            seconds,
            why: why.to_owned(),
            replay: format!("jepsen sim --seed {} --minutes {}", plan.seed, seconds / 60.0),
            faults,
            kept: Some(kept),
        })
    }

    /// They are another build, so another process, which says a line for each.
    pub(super) fn mutants(&mut self) -> Result<(), String> {
        let beside = || {
            Some(
                std::env::current_exe()
                    .ok()?
                    .parent()?
                    .with_file_name("mutants")
                    .join("jepsen"),
            )
        };
        let Some(path) = self.full.mutants.clone().or_else(beside).filter(|path| path.exists()) else {
            println!("mutants: NOT RUN: there is no build with them; `make mutants` makes one, --mutants takes it");
            return Ok(());
        };
        let done: Vec<String> = self.book.lines.iter().filter_map(number).collect();
        let mut left = crate::world::sim::mutant::SEEDED
            .iter()
            .filter(|seeded| seeded.mutant.is_some() && !done.iter().any(|done| done == seeded.number))
            .map(|seeded| seeded.number)
            .peekable();
        if left.peek().is_none() || self.is_over(Part::Mutants) {
            return Ok(());
        }
        let mut child = Command::new(&path)
            .args(["mutants", "--json", "--only", &left.collect::<Vec<_>>().join(",")])
            .args(["--rounds", &self.full.sizes.mutant_rounds.to_string()])
            .args(["--jobs", &self.full.jobs().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let output = child.stdout.take().expect("it is piped");
        for line in BufReader::new(output).lines() {
            let line = line.map_err(|error| error.to_string())?;
            let line: Line = serde_json::from_str(&line).map_err(|error| format!("{}: {error}", path.display()))?;
            if let Line::Mutant(mutant) = &line {
                let seen = mutant
                    .median()
                    .map_or("NOT SEEN".to_owned(), |median| format!("seen, median {median}"));
                println!("{:4} {:50} {seen}", mutant.number, mutant.what);
            }
            self.book.append(line)?;
        }
        // Whether all were seen is in the lines; whether it ended by itself is not.
        let status = child.wait().map_err(|error| error.to_string())?;
        if status.code().is_none_or(|code| code > 1) {
            return self.broken(Part::Mutants, "mutants", format!("{status}"));
        }
        Ok(())
    }
}

fn number(line: &Line) -> Option<String> {
    match line {
        Line::Mutant(mutant) => Some(mutant.number.clone()),
        _ => None,
    }
}
