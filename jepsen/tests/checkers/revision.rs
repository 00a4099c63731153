//! The revision and watch checkers on histories of which the truth is known.

use crate::generate::{self, Mix, Plan, expectations};
use jepsen::checkers::check_all;
use jepsen::expectations::{Expectations, Promise};
use jepsen::history::{Record, Request};
use std::time::Instant;

#[test]
fn histories_of_the_model_have_no_anomaly() {
    for seed in 0..3000 {
        // Without leases the search for linearizations has all keys to judge.
        let mix = *[Mix::Simple, Mix::Present, Mix::All].get(seed as usize % 3).unwrap();
        let history = generate::history(Plan {
            mix,
            ..Plan::small(seed)
        });
        let anomalies = check_all(&history, &expectations());
        assert!(anomalies.is_empty(), "seed {seed}: {anomalies:#?}");
    }
}

#[test]
fn a_hundred_thousand_operations_are_checked_in_seconds() {
    let plan = Plan {
        operations: 100_000,
        processes: 20,
        keys: 200,
        unknown: 1,
        ..Plan::small(7)
    };
    let history = generate::history(plan);
    let writes = history.iter().filter(
        |record| matches!(record, Record::Operation(operation) if matches!(operation.request, Request::Put(_))),
    );
    println!("{} records, {} puts", history.len(), writes.count());
    let begun = Instant::now();
    let (log, mut anomalies) = jepsen::checkers::canonical::read(&history, &expectations());
    anomalies.extend(jepsen::checkers::revision::check(&history, &log, &expectations()).1);
    println!(
        "revision checker: 100000 operations, log to revision {}, {:?}",
        log.last(),
        begun.elapsed()
    );
    assert!(log.last() > 30_000, "{}", log.last());
    assert!(anomalies.is_empty(), "{anomalies:#?}");
}

#[test]
fn every_checker_is_quick_on_a_long_history() {
    let plan = Plan {
        operations: 50_000,
        processes: 12,
        keys: 500,
        unknown: 1,
        mix: Mix::Simple,
        ..Plan::small(11)
    };
    let history = generate::history(plan);
    let promises = vec![
        Promise::Set {
            prefix: "none/".to_owned(),
        },
        Promise::Lists {
            prefix: "none/".to_owned(),
        },
        Promise::Registers {
            prefix: "none/".to_owned(),
        },
    ];
    let begun = Instant::now();
    let anomalies = check_all(
        &history,
        &Expectations {
            promises,
            ..expectations()
        },
    );
    println!("all checkers: {} records, {:?}", history.len(), begun.elapsed());
    assert!(anomalies.is_empty(), "{anomalies:#?}");
}
