//! Dipper and a real etcd are asked the same random questions and must give the same answers.
//!
//! The sequence is generated, not recorded: `DIPPER_SEED` and `DIPPER_OPS` choose it, and
//! `DIPPER_DIFFERENCES` how many differences are collected before a run ends. What may differ is
//! listed in differential/compare.rs, each line with the etcd version that changed it.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod harness;

#[path = "differential/compare.rs"]
mod compare;
#[path = "differential/concurrent.rs"]
mod concurrent;
#[path = "differential/generate.rs"]
mod generate;
#[path = "differential/large.rs"]
mod large;
#[path = "differential/request.rs"]
mod request;
#[path = "differential/run.rs"]
mod run;
#[path = "differential/side.rs"]
mod side;
#[path = "differential/watching.rs"]
mod watching;

use std::{
    path::Path,
    sync::{Mutex, MutexGuard},
};

use harness::{Cluster, Kind, peers, rpc::block_on};
use run::Pair;
use side::Side;

/// The contract that Dipper follows.
const DIPPER_CONTRACT: (u32, u32) = (3, 7);
/// Operations of the main test; the issue asks for 20,000.
const OPS: usize = 20_000;
/// The next differences are mostly echoes of the first.
const DIFFERENCES_MAX: usize = 10;
/// The seeded breaks of the `mutants` build, each of which must be seen.
const BREAKS: [&str; 5] = [
    "count-after-filter",
    "noop-delete-bumps",
    "value-compare-missing",
    "reput-keeps-lease",
    "compaction-off-by-one",
];

#[test]
fn dipper_answers_like_debians_etcd() {
    let _alone = alone();
    let Some(etcd) = peers::etcd() else { return };
    let subject = Side::new(Cluster::start(Kind::Dipper, 3, &[]), DIPPER_CONTRACT);
    assert_same(oracle(&etcd), subject, OPS);
}

#[test]
fn dipper_answers_like_etcd_35() {
    let _alone = alone();
    let Some(etcd) = peers::etcd_35() else { return };
    let subject = Side::new(Cluster::start(Kind::Dipper, 3, &[]), DIPPER_CONTRACT);
    assert_same(oracle(&etcd), subject, OPS / 4);
}

/// The comparison itself must not find differences where there are none.
#[test]
fn etcd_answers_like_etcd() {
    let _alone = alone();
    let Some(etcd) = peers::etcd() else { return };
    let subject = Side::new(
        Cluster::start(Kind::Etcd { binary: etcd.clone() }, 3, &[]),
        peers::version(&etcd),
    );
    assert_same(oracle(&etcd), subject, OPS / 10);
}

/// What etcd itself changed between 3.4 and 3.5 is in the table, and nothing else differs.
#[test]
fn etcd_35_answers_like_debians_etcd() {
    let _alone = alone();
    let (Some(etcd), Some(newer)) = (peers::etcd(), peers::etcd_35()) else {
        return;
    };
    let subject = Side::new(
        Cluster::start(Kind::Etcd { binary: newer.clone() }, 1, &[]),
        peers::version(&newer),
    );
    assert_same(oracle(&etcd), subject, OPS / 10);
}

#[test]
fn differential_catches_breaks() {
    let _alone = alone();
    let Some(etcd) = peers::etcd() else { return };
    let Some(binary) = std::env::var_os("DIPPER_MUTANTS_BIN") else {
        println!("skipped: DIPPER_MUTANTS_BIN is not set (make test sets it)");
        return;
    };
    let run = |name: &str| {
        let variables = vec![("DIPPER_MUTANT".to_owned(), name.to_owned())];
        let broken = Kind::DipperBuild {
            binary: binary.clone().into(),
            variables,
        };
        let subject = Side::new(Cluster::start(broken, 1, &[]), DIPPER_CONTRACT);
        differences(oracle(&etcd), subject, OPS / 5, 1)
    };
    // Without a break the same build and sequence must be clean, or any difference would pass for the break.
    let unbroken = run("");
    assert!(
        unbroken.is_empty(),
        "without a break there is a difference: {}",
        unbroken[0]
    );
    for name in BREAKS {
        let found = run(name);
        assert!(!found.is_empty(), "the break {name} was not seen");
        println!("{name} was seen: {}", found[0]);
    }
}

fn oracle(etcd: &Path) -> Side {
    let cluster = Cluster::start(
        Kind::Etcd {
            binary: etcd.to_owned(),
        },
        1,
        &[],
    );
    Side::new(cluster, peers::version(etcd))
}

fn assert_same(oracle: Side, subject: Side, ops: usize) {
    let found = differences(oracle, subject, ops, DIFFERENCES_MAX);
    assert!(
        found.is_empty(),
        "{} differences:\n\n{}",
        found.len(),
        found.join("\n\n")
    );
}

fn differences(oracle: Side, subject: Side, ops: usize, differences_max: usize) -> Vec<String> {
    let differences_max = from_environment("DIPPER_DIFFERENCES").map_or(differences_max, |max| max as usize);
    let seed = from_environment("DIPPER_SEED").unwrap_or(20_261_122);
    let ops = from_environment("DIPPER_OPS").map_or(ops, |ops| ops as usize);
    block_on(async move {
        let mut pair = Pair::new(oracle, subject, differences_max).await;
        pair.run(seed, ops).await;
        if pair.differences.is_empty() {
            large::compare(&mut pair).await;
        }
        std::mem::take(&mut pair.differences)
    })
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")),
    )
}

/// Each test starts up to four servers: one test at a time. A failed test does not spoil the others.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
