//! Transfers: the sum of all accounts is the same in every state and in every read.

use super::{anomaly, whole_reads};
use crate::checkers::Anomaly;
use crate::checkers::canonical::Log;
use crate::history::{KeyValue, Record};
use std::collections::BTreeMap;

pub fn check(history: &[Record], log: &Log, prefix: &str, total: i64) -> Vec<Anomaly> {
    let mut anomalies: Vec<Anomaly> = states(log, prefix, total).into_iter().collect();
    for (place, operation, reply) in whole_reads(history, prefix) {
        let accounts = reply.kvs.iter().filter(|kv| kv.key.starts_with(prefix));
        let balances: Option<Vec<i64>> = accounts.map(balance).collect();
        let is_open = balances.as_ref().is_none_or(|balances| !balances.is_empty());
        let sum = balances.map(|balances| balances.iter().sum::<i64>());
        if is_open && sum != Some(total) {
            let text = format!("process {} reads a sum of {sum:?}, not {total}", operation.process);
            anomalies.push(anomaly("wrong total", text, &[place]));
        }
    }
    anomalies
}

/// None: that is no amount of money.
fn balance(kv: &KeyValue) -> Option<i64> {
    kv.value.parse().ok()
}

/// The first state whose sum is another; those behind it follow from it.
fn states(log: &Log, prefix: &str, total: i64) -> Option<Anomaly> {
    let mut balances: BTreeMap<&str, i64> = BTreeMap::new();
    let mut sum = 0;
    let mut is_open = false;
    for (revision, events) in log.from(2) {
        let mut is_changed = false;
        for event in events.iter().filter(|event| event.kv.key.starts_with(prefix)) {
            let amount = if event.is_delete {
                0
            } else {
                balance(&event.kv).unwrap_or(i64::MIN / 2)
            };
            sum += amount - balances.insert(&event.kv.key, amount).unwrap_or(0);
            is_changed = true;
        }
        is_open |= sum == total;
        if is_open && is_changed && sum != total {
            let text = format!("the accounts sum to {sum} at revision {revision}, not {total}");
            return Some(anomaly("wrong total", text, &[]));
        }
    }
    None
}
