//! What single workloads promise beyond etcd's own rules: sums, sets, payments and locks.
//!
//! Each is a small function from the canonical log and the reads to what breaks it. The conventions of keys and
//! values are written at `Promise`. Lists and registers of transactions are in `cycles`.

mod bank;
mod lock;
mod payments;
mod set;

use super::Anomaly;
use super::canonical::Log;
use super::revision::{Claims, is_linearizable, operations};
use crate::expectations::{Expectations, Promise};
use crate::history::{Operation, Outcome, RangeReply, Record, Reply, Request};
use crate::model::contains;

const CHECKER: &str = "promises";

pub fn check(history: &[Record], log: &Log, claims: &Claims, expectations: &Expectations) -> Vec<Anomaly> {
    let promises = expectations.promises.iter();
    let judged = promises.map(|promise| match promise {
        Promise::Bank { prefix, total } => bank::check(history, log, prefix, *total),
        Promise::Set { prefix } => set::check(history, log, prefix),
        Promise::Payments { receipts, accounts } => payments::check(history, log, claims, receipts, accounts),
        Promise::Lock { lock, resource } => lock::check(log, claims, lock, resource),
        // Those of transactions.
        Promise::Lists { .. } | Promise::Registers { .. } => Vec::new(),
    });
    judged.flatten().collect()
}

fn anomaly(name: &str, text: String, places: &[usize]) -> Anomaly {
    Anomaly::new(CHECKER, name, text, places)
}

/// Acknowledged reads of everything under `prefix`, with all values.
fn whole_reads<'a>(
    history: &'a [Record],
    prefix: &'a str,
) -> impl Iterator<Item = (usize, &'a Operation, &'a RangeReply)> {
    let is_whole = move |request: &Request| match request {
        Request::Range(range) => {
            let last = format!("{prefix}{}", char::MAX);
            let covers =
                contains(&range.key, &range.range_end, prefix) && contains(&range.key, &range.range_end, &last);
            covers && range.limit <= 0 && range.revision <= 0 && !range.keys_only && !range.count_only
        }
        _ => false,
    };
    let reads = operations(history).filter(move |(_, operation)| is_whole(&operation.request));
    reads.filter_map(|(place, operation)| match &operation.outcome {
        Outcome::Ok(Reply::Range(reply)) => Some((place, operation, reply)),
        _ => None,
    })
}

fn is_present(operation: &Operation) -> bool {
    is_linearizable(&operation.request)
}
