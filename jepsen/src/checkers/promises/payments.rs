//! Payments: each id is paid once, by the amount on its receipt, and every acknowledged one is paid.
//!
//! ```text
//!   revision 9   receipt 17 = "a:b:30"    a 100 -> 70    b 5 -> 35         together, or not at all
//! ```

use super::anomaly;
use crate::checkers::Anomaly;
use crate::checkers::canonical::{Log, describe};
use crate::checkers::revision::{Claims, operations};
use crate::history::{Outcome, Record, Reply, Request};
use std::collections::{BTreeMap, BTreeSet};

pub fn check(history: &[Record], log: &Log, claims: &Claims, receipts: &str, accounts: &str) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut paid: BTreeSet<&str> = BTreeSet::new();
    for (revision, events) in log.from(2) {
        let before = log.at(revision - 1);
        let places: Vec<_> = claims.place_of(revision).into_iter().collect();
        let mut wrong = |name: &str| {
            let text = format!("revision {revision}: {}", describe(events));
            anomalies.push(anomaly(name, text, &places));
        };
        let mut owed: BTreeMap<String, i64> = BTreeMap::new();
        let mut is_payment = false;
        for event in events.iter().filter(|event| event.kv.key.starts_with(receipts)) {
            if event.is_delete || !paid.insert(&event.kv.key) {
                wrong("paid twice");
                continue;
            }
            is_payment = true;
            match amounts(&event.kv.value) {
                Some((from, to, amount)) => {
                    *owed.entry(format!("{accounts}{from}")).or_default() -= amount;
                    *owed.entry(format!("{accounts}{to}")).or_default() += amount;
                }
                None => wrong("receipt that nobody can read"),
            }
        }
        for event in events.iter().filter(|event| event.kv.key.starts_with(accounts)) {
            let old = before.get(&event.kv.key);
            let (was, is) = (
                old.map_or(Some(0), |kv| kv.value.parse::<i64>().ok()),
                event.kv.value.parse::<i64>().ok(),
            );
            let moved = was.zip(is).map(|(was, is)| is - was);
            let due = owed.remove(&event.kv.key).unwrap_or(0);
            // Accounts may be opened without a receipt.
            let is_opening = old.is_none() && !is_payment && !event.is_delete;
            if moved != Some(due) && !is_opening {
                wrong(if is_payment {
                    "wrong amount paid"
                } else {
                    "paid without a receipt"
                });
            }
        }
        if owed.values().any(|amount| *amount != 0) {
            wrong("wrong amount paid");
        }
    }
    anomalies.extend(acknowledged(history, receipts, &paid));
    anomalies
}

/// `from:to:amount`.
fn amounts(receipt: &str) -> Option<(&str, &str, i64)> {
    let mut parts = receipt.split(':');
    let (from, to, amount) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((from, to, amount))
}

/// Payments that a client was told of and that are nowhere.
fn acknowledged(history: &[Record], receipts: &str, paid: &BTreeSet<&str>) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (place, operation) in operations(history) {
        let (Request::Txn(txn), Outcome::Ok(Reply::Txn { succeeded: true, .. })) =
            (&operation.request, &operation.outcome)
        else {
            continue;
        };
        for request in &txn.success {
            if let Request::Put(put) = request
                && put.key.starts_with(receipts)
                && !paid.contains(put.key.as_str())
            {
                let text = format!("process {} was told that {} is paid", operation.process, put.key);
                anomalies.push(anomaly("lost payment", text, &[place]));
            }
        }
    }
    anomalies
}
