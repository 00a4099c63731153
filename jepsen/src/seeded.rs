//! `jepsen mutants`: does the judge see the bugs that were put in on purpose?
//!
//! For each seeded bug the seeds 0, 1, 2, ... run until one finds it; that is repeated from other first seeds, and
//! the median is what a reader wants to know: how many seeds until such a bug is seen. A bug that nobody sees
//! fails the command. Those that wait for a capability are listed as pending, and count as nothing.

use crate::{
    campaign::judged,
    results::{Line, Mutant as Caught},
    world::sim::{
        Plan,
        mutant::{Mutant, SEEDED, Seeded},
    },
};
use clap::Args;
use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// `jepsen mutants`.
#[derive(Args)]
pub struct Mutants {
    /// How often the seeds until the first find are counted, for each bug.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Seeds after which a round gives up.
    #[arg(long, default_value_t = 200)]
    seeds_max: u64,
    /// Simulated seconds of faults in each run.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Only these, by number: m1,m4.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A JSON line for each as soon as it is done, as in `results.jsonl`, instead of the table.
    #[arg(long)]
    json: bool,
}

impl Mutants {
    /// Hunts them all and prints the table.
    pub fn run(&self) -> ExitCode {
        let wanted = |seeded: &&Seeded| self.only.is_empty() || self.only.iter().any(|only| only == seeded.number);
        let hunted: Vec<&'static Seeded> = SEEDED
            .iter()
            .filter(wanted)
            .filter(|seeded| seeded.mutant.is_some())
            .collect();
        let next = AtomicUsize::new(0);
        let caught = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while let Some(seeded) = hunted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // A thread of its own: what a simulation chose for its thread ends with it.
                        let result = std::thread::scope(|own| own.spawn(|| self.hunt(seeded)).join());
                        let result = result.expect("a run's panic is caught where it is judged");
                        self.tell(&result);
                        caught.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                    }
                });
            }
        });
        let caught = caught.into_inner().unwrap_or_else(PoisonError::into_inner);
        let missed = caught.iter().filter(|one| one.median().is_none()).count();
        if !self.json {
            self.print(&caught);
            println!("{} of {} seeded bugs were seen", caught.len() - missed, caught.len());
        }
        if missed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn tell(&self, caught: &Caught) {
        if self.json {
            let line = serde_json::to_string(&Line::Mutant(caught.clone()));
            println!("{}", line.expect("a bug's name is text"));
        }
    }

    fn hunt(&self, seeded: &'static Seeded) -> Caught {
        let began = Instant::now();
        let mutant = seeded.mutant.unwrap_or_default();
        let mut first = None;
        let rounds = 0..self.rounds;
        let seeds = rounds.map(|round| {
            let from = round * 10_000;
            (0..self.seeds_max).find_map(|offset| {
                let why = judged(&self.plan(from + offset, mutant)).err()?;
                first.get_or_insert((from + offset, why));
                Some(offset + 1)
            })
        });
        let seeds = seeds.collect();
        let (first_seed, why) = first.map_or((None, String::new()), |(seed, why): (u64, String)| (Some(seed), why));
        Caught {
            seeds,
            seeds_max: self.seeds_max,
            first_seed,
            found_as: why.lines().next().unwrap_or_default().chars().take(100).collect(),
            elapsed_s: began.elapsed().as_secs_f64(),
            ..Caught::of(seeded)
        }
    }

    fn plan(&self, seed: u64, mutant: Mutant) -> Plan {
        Plan {
            seed,
            faulty: Duration::from_secs(self.seconds),
            mutant,
            world: None,
            is_told: false,
        }
    }

    fn print(&self, caught: &[Caught]) {
        println!("| bug | what | layer | median seeds | seconds | seed | found as |");
        println!("|---|---|---|---|---|---|---|");
        for seeded in SEEDED {
            let Seeded {
                number, what, layer, ..
            } = seeded;
            if seeded.mutant.is_none() {
                println!("| {number} | {what} | | | | | pending: {layer} |");
                continue;
            }
            let Some(one) = caught.iter().find(|one| one.number == *number) else {
                continue;
            };
            let took = one.elapsed_s / self.rounds as f64;
            let Some((median, seed)) = one.median().zip(one.first_seed) else {
                let max = self.seeds_max;
                println!("| {number} | {what} | {layer} | not within {max} | {took:.1} | | |");
                continue;
            };
            let why = &one.found_as;
            println!("| {number} | {what} | {layer} | {median} | {took:.1} | {seed} | {why} |");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_there_once() {
        let mut numbers: Vec<_> = SEEDED.iter().map(|seeded| seeded.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), SEEDED.len());
        let of_the_plan = (1..=24).map(|number| format!("m{number}"));
        assert!(of_the_plan.into_iter().all(|number| numbers.contains(&number.as_str())));
    }
}
