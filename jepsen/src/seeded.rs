//! `jepsen mutants`: does the judge see the bugs that were put in on purpose?
//!
//! For each seeded bug the seeds 0, 1, 2, ... run until one finds it; that is repeated from other first seeds, and
//! the median is what a reader wants to know: how many seeds until such a bug is seen. A bug that nobody sees
//! fails the command. Those that wait for a capability are listed as pending, and count as nothing.

use crate::{
    campaign::judged,
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
}

/// What became of one bug.
struct Caught {
    seeded: &'static Seeded,
    /// Seeds until it was seen, for each round; `None` where nobody saw it.
    seeds: Vec<Option<u64>>,
    first: Option<(u64, String)>,
    took: Duration,
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
                        caught.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                    }
                });
            }
        });
        let caught = caught.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.print(&caught)
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
        Caught {
            seeded,
            seeds: seeds.collect(),
            first,
            took: began.elapsed(),
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

    fn print(&self, caught: &[Caught]) -> ExitCode {
        println!("| bug | what | layer | median seeds | seconds | seed | found as |");
        println!("|---|---|---|---|---|---|---|");
        let (mut missed, mut seen) = (0, 0);
        for seeded in SEEDED {
            let Seeded {
                number, what, layer, ..
            } = seeded;
            if seeded.mutant.is_none() {
                println!("| {number} | {what} | | | | | pending: {layer} |");
                continue;
            }
            let Some(one) = caught.iter().find(|one| one.seeded.number == *number) else {
                continue;
            };
            let took = one.took.as_secs_f64() / self.rounds as f64;
            let Some((median, (seed, why))) = median(&one.seeds).zip(one.first.as_ref()) else {
                missed += 1;
                let max = self.seeds_max;
                println!("| {number} | {what} | {layer} | not within {max} | {took:.1} | | |");
                continue;
            };
            seen += 1;
            let why: String = why.lines().next().unwrap_or_default().chars().take(100).collect();
            println!("| {number} | {what} | {layer} | {median} | {took:.1} | {seed} | {why} |");
        }
        println!("{seen} of {} seeded bugs were seen", seen + missed);
        if missed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// The median over the rounds; `None` if the middle one saw nothing.
fn median(seeds: &[Option<u64>]) -> Option<u64> {
    let mut sorted: Vec<u64> = seeds.iter().map(|seeds| seeds.unwrap_or(u64::MAX)).collect();
    sorted.sort_unstable();
    sorted
        .get(sorted.len() / 2)
        .copied()
        .filter(|median| *median != u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_rounds_that_saw_nothing_is_nothing() {
        assert_eq!(median(&[Some(3), None, Some(1)]), Some(3));
        assert_eq!(median(&[Some(3), None, None]), None);
    }

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
