//! The simulated world as a test: a thousand seeds, the regressions before them, every named scenario, and that
//! a seed is a run.
//!
//! `JEPSEN_SEEDS=10000 cargo test --release -p dipper-jepsen --test sim` runs more of them.

use jepsen::{
    campaign::{judged, progress, regressions, run_all},
    scenarios::ALL,
    world::sim::Plan,
};
use std::time::Duration;

const SEEDS: u64 = 1_000;
const SEARCHED_SEEDS: u64 = 300;
const FAULTY: Duration = Duration::from_mins(1);
/// Seeds of a scenario; the unguarded lock needs some to be seen.
const SCENARIO_SEEDS: u64 = 20;

#[test]
fn every_seed_keeps_every_promise() {
    let seeds = std::env::var("JEPSEN_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let seeds = seeds.unwrap_or(SEEDS);
    let mut plans: Vec<Plan> = regressions()
        .into_iter()
        .map(|(seed, faulty)| Plan::new(seed, faulty))
        .collect();
    plans.extend((0..seeds).map(|seed| Plan::new(seed, FAULTY)));
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let sum = run_all(&plans, jobs, &progress(plans.len()));
    let hours = sum.simulated.as_secs_f64() / 3600.0;
    println!("{} runs, {hours:.1} simulated hours: {:?}", plans.len(), sum.counts);
    for (plan, why) in &sum.failures {
        println!("{} {} {why}", plan.seed, plan.faulty.as_secs_f64());
        println!("  replay: jepsen sim --seed {} --minutes 1", plan.seed);
    }
    assert!(
        sum.failures.is_empty(),
        "{} of {} runs failed",
        sum.failures.len(),
        plans.len()
    );
    // A simulation in which nothing happens proves nothing.
    let (counts, each) = (&sum.counts, seeds);
    assert!(
        counts.elections > 10 * each && counts.crashes > 10 * each && counts.snapshots > each,
        "too little goes wrong"
    );
    assert!(
        counts.operations > 1_500 * each && counts.reads > 300 * each,
        "too little is asked"
    );
    assert!(
        counts.renewals > 10 * each && counts.expiries > each && counts.refusals > each / 10,
        "too little happens to leases and disks"
    );
}

/// Shorter runs of the same seeds: the end comes in the middle of other things.
#[test]
fn the_second_opinion_is_the_same() {
    let plans: Vec<Plan> = (0..SEARCHED_SEEDS)
        .map(|seed| Plan::new(seed, Duration::from_secs(20)))
        .collect();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let sum = run_all(&plans, jobs, &progress(plans.len()));
    let failures: Vec<_> = sum.failures.iter().map(|(plan, why)| (plan.seed, why)).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_scenario_shows_what_it_must() {
    let failed = ALL.iter().filter_map(|scenario| {
        let verdict = scenario.judge(SCENARIO_SEEDS);
        println!("{}: {verdict:?}", scenario.name);
        Some((scenario.name, verdict.err()?))
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let trace = |seed| judged(&Plan::new(seed, Duration::from_secs(20))).map(|ran| (ran.trace, ran.history));
    for seed in [1, 2, 3] {
        assert!(trace(seed).is_ok() && trace(seed) == trace(seed), "seed {seed}");
    }
    assert_ne!(trace(1), trace(2));
}
