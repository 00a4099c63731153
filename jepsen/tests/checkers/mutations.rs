//! Whatever brute force can see in a broken history, the checkers see; and what it cannot, they do not claim.

use crate::brute;
use crate::generate::{self, Plan, expectations};
use crate::mutate::OPERATORS;
use crate::random::Random;
use jepsen::checkers::check_all;
use std::collections::BTreeMap;

const HISTORIES: usize = 200;
/// An operator must hit something that can be seen in at least so many of them.
const VISIBLE_MIN: usize = 20;
const SEEDS_MAX: u64 = 20_000;

#[test]
fn every_mutation_that_brute_force_sees_is_detected() {
    let mut missed = Vec::new();
    let (mut opposed, mut shared) = (0, 0);
    for (number, (name, operator)) in OPERATORS.iter().enumerate() {
        let (mut tried, mut visible) = (0, 0);
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for seed in 0..SEEDS_MAX {
            if tried == HISTORIES {
                break;
            }
            let mut history = generate::history(Plan::tiny(seed));
            let mut random = Random::new(seed ^ ((number as u64) << 32));
            if !operator(&mut history, &mut random) {
                continue;
            }
            tried += 1;
            let is_visible = !brute::explains(&history);
            let anomalies = check_all(&history, &expectations());
            visible += usize::from(is_visible);
            for anomaly in &anomalies {
                *names.entry(anomaly.name.clone()).or_default() += 1;
            }
            if is_visible == anomalies.is_empty() {
                let lines: Vec<_> = history.iter().map(|record| format!("{record:?}")).collect();
                let lines = lines.join("\n");
                missed.push(format!(
                    "{name}, seed {seed}: visible {is_visible}, found {anomalies:?}\n{lines}"
                ));
            }
            // Two opinions on the same history: the search may be blind, but not see what is not there.
            let by_search = anomalies.iter().any(|anomaly| anomaly.checker == "linearizable");
            let by_others = anomalies.iter().any(|anomaly| anomaly.checker != "linearizable");
            opposed += usize::from(by_search && !by_others);
            shared += usize::from(by_search && by_others);
        }
        println!("{name}: {tried} histories, {visible} visible, found as {names:?}");
        assert_eq!(tried, HISTORIES, "{name}: too few histories have a place for it");
        assert!(visible >= VISIBLE_MIN, "{name}: only {visible} visible");
    }
    println!(
        "{} operators; search and revision checker: {shared} agreed findings, {opposed} opposed",
        OPERATORS.len()
    );
    assert!(
        missed.is_empty(),
        "{} wrong verdicts:\n{}",
        missed.len(),
        missed[..missed.len().min(12)].join("\n")
    );
    assert_eq!(opposed, 0);
    assert!(shared > 200, "{shared}");
}
