//! A set: what was added is in every later read, and what was read once is read ever after.

use super::{anomaly, is_present, whole_reads};
use crate::checkers::Anomaly;
use crate::checkers::canonical::Log;
use crate::checkers::revision::operations;
use crate::history::{Outcome, Record, Request};
use std::collections::{BTreeMap, BTreeSet};

pub fn check(history: &[Record], log: &Log, prefix: &str) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (revision, events) in log.from(2) {
        for event in events
            .iter()
            .filter(|event| event.is_delete && event.kv.key.starts_with(prefix))
        {
            let text = format!("revision {revision} takes {} out", event.kv.key);
            anomalies.push(anomaly("lost element", text, &[]));
        }
    }
    // By element: since when everybody must see it, and where that is shown.
    let mut known: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    let mut attempted: BTreeSet<&str> = BTreeSet::new();
    for (place, operation) in operations(history) {
        let Request::Put(put) = &operation.request else {
            continue;
        };
        if !put.key.starts_with(prefix) || matches!(operation.outcome, Outcome::Failed(_)) {
            continue;
        }
        attempted.insert(&put.key);
        if matches!(operation.outcome, Outcome::Ok(_)) {
            note(&mut known, &put.key, operation.returned, place);
        }
    }
    for (place, operation, reply) in whole_reads(history, prefix) {
        for kv in &reply.kvs {
            note(&mut known, &kv.key, operation.returned, place);
        }
    }
    for (place, operation, reply) in whole_reads(history, prefix) {
        let read: BTreeSet<&str> = reply.kvs.iter().map(|kv| kv.key.as_str()).collect();
        let under = read.iter().filter(|element| element.starts_with(prefix));
        for phantom in under.filter(|element| !attempted.contains(*element)) {
            let text = format!("process {} reads {phantom}, which nobody added", operation.process);
            anomalies.push(anomaly("phantom element", text, &[place]));
        }
        let lost = known
            .iter()
            .find(|(element, (since, _))| *since < operation.invoked && !read.contains(*element));
        if let Some((element, (_, shown_by))) = lost.filter(|_| is_present(operation)) {
            let text = format!(
                "process {} does not read {element}, which was there before",
                operation.process
            );
            anomalies.push(anomaly("lost element", text, &[*shown_by, place]));
        }
    }
    anomalies
}

fn note<'a>(known: &mut BTreeMap<&'a str, (u64, usize)>, element: &'a str, at: u64, place: usize) {
    let since = known.entry(element).or_insert((at, place));
    *since = (*since).min((at, place));
}
