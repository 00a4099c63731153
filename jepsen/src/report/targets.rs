//! What the results have to be, and whether they are: one row a target, with what was wanted and what was measured.
//!
//! A target is met, missed, or not run. Nothing that is absent from the results counts as met, and nothing that
//! ended without a result of its own. Not here: how it looks (`content`).

use crate::{
    results::{Failover, Line, Mutant, Part, Real, Scenario, Seeds, Steady},
    scenarios,
    world::{process::failover::Case, sim::mutant::SEEDED},
};
use clap::ValueEnum as _;

/// Simulated seeds of [`LONG_SECONDS`].
pub const SEEDS: u64 = 10_000;
pub const LONG_SECONDS: f64 = 60.0;
pub const SIMULATED_OPERATIONS: u64 = 50_000_000;
pub const SEARCHED_SEEDS: u64 = 300;
/// Short enough for the search for a linearization.
pub const SEARCHED_SECONDS: f64 = 20.0;
/// Simulated cluster-hours per CPU-hour.
pub const SPEED: f64 = 170.0;
pub const REAL_SCENARIOS: u64 = 40;
/// Under faults: those of calm scenarios do not count.
pub const REAL_OPERATIONS: u64 = 1_000_000;
pub const FAILOVER_ROUNDS: u64 = 20;
pub const STEADY_SECONDS: u64 = 600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
    NotRun,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::NotRun => "not run",
        }
    }
}

/// One row.
#[derive(Clone, Debug)]
pub struct Target {
    pub part: Part,
    pub what: String,
    pub wanted: String,
    pub measured: String,
    pub verdict: Verdict,
}

/// The lines by what they tell of.
#[derive(Debug, Default)]
pub struct Results<'a> {
    pub long: Vec<&'a Seeds>,
    pub searched: Vec<&'a Seeds>,
    pub scenarios: Vec<&'a Scenario>,
    pub mutants: Vec<&'a Mutant>,
    pub real: Vec<&'a Real>,
    pub failovers: Vec<&'a Failover>,
    pub steady: Option<&'a Steady>,
    /// What ended without a result of its own: part, name and why.
    pub broken: Vec<(Part, &'a str, &'a str)>,
}

impl<'a> Results<'a> {
    pub fn of(lines: &'a [Line]) -> Self {
        let mut results = Self::default();
        for line in lines {
            match line {
                Line::Began(_) => {}
                Line::Seeds(seeds) if seeds.searched => results.searched.push(seeds),
                Line::Seeds(seeds) => results.long.push(seeds),
                Line::Scenario(scenario) => results.scenarios.push(scenario),
                Line::Mutant(mutant) => results.mutants.push(mutant),
                Line::Real(real) => results.real.push(real),
                Line::Failover(round) => results.failovers.push(round),
                Line::Steady(steady) => results.steady = Some(steady),
                Line::Broken(broken) => results.broken.push((broken.part, &broken.name, &broken.why)),
            }
        }
        results
    }

    pub fn rounds(&self, case: &str) -> Vec<&'a Failover> {
        let rounds = self.failovers.iter().filter(|round| round.case == case);
        rounds.copied().collect()
    }

    pub fn why_broken(&self, part: Part, name: &str) -> Option<&'a str> {
        let found = self.broken.iter().find(|broken| broken.0 == part && broken.1 == name);
        found.map(|(_, _, why)| *why)
    }

    /// Those that are no test of the checkers.
    pub fn judged(&self) -> impl Iterator<Item = &'a Real> {
        self.real.iter().copied().filter(|real| !real.must_fail)
    }

    /// Anomalies of both worlds; a failing seed or simulated scenario counts as one.
    pub fn anomalies(&self) -> u64 {
        let seeds = self.long.iter().chain(&self.searched);
        let simulated: u64 = seeds.map(|seeds| seeds.failures.len() as u64).sum();
        let scenarios = self.scenarios.iter().filter(|scenario| !scenario.well).count() as u64;
        simulated + scenarios + self.judged().map(|real| real.anomalies).sum::<u64>()
    }

    /// What was begun and came to no verdict.
    pub fn without_verdict(&self) -> usize {
        let real = self
            .real
            .iter()
            .filter(|real| real.error.is_some() || real.skipped.is_some());
        real.count() + self.broken.len()
    }
}

/// The names of the failovers that are measured.
pub fn cases() -> Vec<String> {
    Case::value_variants().iter().map(|case| format!("{case:?}")).collect()
}

/// All of them, in the order of a report.
pub fn of(lines: &[Line]) -> Vec<Target> {
    let results = Results::of(lines);
    let mut targets = simulated(&results);
    targets.push(searched(&results));
    targets.push(scenarios(&results));
    targets.extend(real(&results));
    targets.extend(cases().iter().map(|case| failover(&results, case)));
    targets.push(steady(&results));
    targets.push(mutants(&results));
    targets
}

fn target(part: Part, what: &str, wanted: impl Into<String>, measured: Option<(String, bool)>) -> Target {
    let (measured, verdict) = match measured {
        Some((measured, true)) => (measured, Verdict::Met),
        Some((measured, false)) => (measured, Verdict::Missed),
        None => ("not run".to_owned(), Verdict::NotRun),
    };
    Target {
        part,
        what: what.to_owned(),
        wanted: wanted.into(),
        measured,
        verdict,
    }
}

fn simulated(results: &Results) -> Vec<Target> {
    let long: Vec<&&Seeds> = results
        .long
        .iter()
        .filter(|seeds| seeds.seconds >= LONG_SECONDS)
        .collect();
    let ran = |measured: (String, bool)| (!long.is_empty()).then_some(measured);
    let sum = |of: fn(&Seeds) -> u64| long.iter().map(|seeds| of(seeds)).sum::<u64>();
    let seconds = |of: fn(&Seeds) -> f64| long.iter().map(|seeds| of(seeds)).sum::<f64>();
    let seeds = sum(|seeds| seeds.until - seeds.from);
    let operations = sum(|seeds| seeds.counts.operations);
    let failed = sum(|seeds| seeds.failures.len() as u64);
    let speed = seconds(|seeds| seeds.simulated_s) / seconds(|seeds| seeds.cpu_s).max(f64::MIN_POSITIVE);
    vec![
        target(
            Part::Sim,
            "simulated seeds of 60 s",
            format!("at least {}", grouped(SEEDS)),
            ran((grouped(seeds), seeds >= SEEDS)),
        ),
        target(
            Part::Sim,
            "simulated operations",
            format!("at least {}", grouped(SIMULATED_OPERATIONS)),
            ran((grouped(operations), operations >= SIMULATED_OPERATIONS)),
        ),
        target(
            Part::Sim,
            "simulated anomalies",
            "0",
            ran((grouped(failed), failed == 0)),
        ),
        target(
            Part::Sim,
            "simulated cluster-hours per CPU-hour",
            format!("at least {SPEED}"),
            ran((format!("{speed:.0}"), speed >= SPEED)),
        ),
    ]
}

fn searched(results: &Results) -> Target {
    let seeds: u64 = results.searched.iter().map(|seeds| seeds.until - seeds.from).sum();
    let failed: usize = results.searched.iter().map(|seeds| seeds.failures.len()).sum();
    let measured = (
        format!("{}, {failed} anomalies", grouped(seeds)),
        seeds >= SEARCHED_SEEDS && failed == 0,
    );
    target(
        Part::Sim,
        "seeds of 20 s that the search for a linearization judges, too",
        format!("at least {SEARCHED_SEEDS}, 0 anomalies"),
        (!results.searched.is_empty()).then_some(measured),
    )
}

fn scenarios(results: &Results) -> Target {
    let all = scenarios::ALL;
    let is_well = |name: &str| {
        let mut found = results
            .scenarios
            .iter()
            .filter(|scenario| scenario.name == name)
            .peekable();
        found.peek().is_some() && found.all(|scenario| scenario.well)
    };
    let well = all.iter().filter(|scenario| is_well(scenario.name)).count();
    target(
        Part::Sim,
        "simulated scenarios that show what they must",
        format!("{} of {}", all.len(), all.len()),
        (!results.scenarios.is_empty()).then(|| (format!("{well} of {}", all.len()), well == all.len())),
    )
}

fn real(results: &Results) -> Vec<Target> {
    let judged: Vec<&Real> = results.judged().collect();
    let ran = |measured: (String, bool)| (!results.real.is_empty()).then_some(measured);
    let ended = judged
        .iter()
        .filter(|real| real.error.is_none() && real.skipped.is_none());
    let ended = ended.count() as u64;
    let without = judged.len() as u64 - ended;
    let under_faults = judged.iter().filter(|real| real.faults > 0);
    let operations: u64 = under_faults.map(|real| real.total.operations).sum();
    let anomalies: u64 = judged.iter().map(|real| real.anomalies).sum();
    let broken: Vec<&&Real> = results.real.iter().filter(|real| real.must_fail).collect();
    let seen = broken.iter().filter(|real| real.anomalies > 0).count();
    let verdicts = match without {
        0 => grouped(ended),
        _ => format!("{ended}, and {without} that came to none"),
    };
    vec![
        target(
            Part::Process,
            "scenarios with real processes that came to a verdict",
            format!("at least {REAL_SCENARIOS}, and all that were begun"),
            ran((verdicts, ended >= REAL_SCENARIOS && without == 0)),
        ),
        target(
            Part::Process,
            "real operations in scenarios with faults",
            format!("at least {}", grouped(REAL_OPERATIONS)),
            ran((grouped(operations), operations >= REAL_OPERATIONS)),
        ),
        target(
            Part::Process,
            "real anomalies",
            "0",
            ran((grouped(anomalies), anomalies == 0)),
        ),
        target(
            Part::Process,
            "the unguarded lock is seen to lose what it guards",
            "seen",
            (!broken.is_empty()).then(|| {
                let is_seen = seen == broken.len();
                (if is_seen { "seen" } else { "not seen" }.to_owned(), is_seen)
            }),
        ),
    ]
}

fn failover(results: &Results, case: &str) -> Target {
    let rounds = results.rounds(case);
    let broken = results.why_broken(Part::Failover, case);
    let what = format!("write gap at a failover: {}", spaced(case));
    let Some(first) = rounds.first() else {
        let measured = broken.map(|why| (format!("no result: {why}"), false));
        return target(Part::Failover, &what, format!("{FAILOVER_ROUNDS} rounds"), measured);
    };
    let kept = rounds.iter().filter(|round| round.is_kept()).count();
    let longest = |of: fn(&Failover) -> f64| rounds.iter().map(|round| of(round)).fold(0.0, f64::max);
    let refused: u64 = rounds.iter().map(|round| round.not_acknowledged).sum();
    let mut wanted = format!(
        "{FAILOVER_ROUNDS} rounds, at most {:.0} ms for every client",
        first.limit_ms
    );
    let mut measured = format!(
        "{kept} of {} rounds; cluster {:.0} ms, worst client {:.0} ms",
        rounds.len(),
        longest(|r| r.cluster_ms),
        longest(|r| r.client_ms)
    );
    if first.limits_writes {
        wanted += ", no failed write";
        measured = format!("{measured}, {refused} failed writes");
    }
    let is_met = kept == rounds.len() && rounds.len() as u64 >= FAILOVER_ROUNDS && broken.is_none();
    target(Part::Failover, &what, wanted, Some((measured, is_met)))
}

fn steady(results: &Results) -> Target {
    let broken = results.why_broken(Part::Steady, "steady");
    let measured = match (results.steady, broken) {
        (_, Some(why)) => Some((why.to_owned(), false)),
        (Some(steady), None) => {
            let said = format!("none in {} s, {} writes", steady.seconds, grouped(steady.acknowledged));
            Some((said, steady.seconds >= STEADY_SECONDS))
        }
        (None, None) => None,
    };
    let wanted = format!("none in {STEADY_SECONDS} s");
    target(
        Part::Steady,
        "elections under full load without a fault",
        wanted,
        measured,
    )
}

fn mutants(results: &Results) -> Target {
    let hunted: Vec<&str> = SEEDED
        .iter()
        .filter(|seeded| seeded.mutant.is_some())
        .map(|seeded| seeded.number)
        .collect();
    let is_seen = |number: &&&str| {
        let mut found = results.mutants.iter().filter(|mutant| mutant.number == **number);
        found.any(|mutant| mutant.median().is_some())
    };
    let of_plan = |number: &&&str| number.starts_with('m');
    let planned = hunted.iter().filter(of_plan).count();
    let seen_of_plan = hunted.iter().filter(of_plan).filter(is_seen).count();
    let seen = hunted.iter().filter(is_seen).count();
    let (more, seen_more) = (hunted.len() - planned, seen - seen_of_plan);
    let is_met = seen == hunted.len() && !results.broken.iter().any(|broken| broken.0 == Part::Mutants);
    target(
        Part::Mutants,
        "seeded bugs that are seen",
        format!("{planned} of {planned}, and {more} of {more} more"),
        (!results.mutants.is_empty() || results.broken.iter().any(|broken| broken.0 == Part::Mutants)).then(|| {
            let said = format!("{seen_of_plan} of {planned}, and {seen_more} of {more} more");
            (said, is_met)
        }),
    )
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The name of a variant as words: `PowerLoss(All, Torn)` as `power loss, all, torn`.
pub fn spaced(name: &str) -> String {
    let mut text = String::new();
    for letter in name.trim_end_matches(')').chars() {
        if letter == '(' {
            text += ", ";
            continue;
        }
        if letter.is_uppercase() && !text.is_empty() && !text.ends_with(' ') {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(spaced("PowerLossOfAll"), "power loss of all");
        assert_eq!(spaced("Kill(Leader)"), "kill, leader");
        assert_eq!(spaced("PowerLoss(All, Torn)"), "power loss, all, torn");
    }

    #[test]
    fn nothing_is_met_by_results_that_are_empty() {
        let targets = of(&[]);
        assert!(targets.len() > 15);
        assert!(targets.iter().all(|target| target.verdict == Verdict::NotRun));
    }
}
