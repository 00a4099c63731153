//! Refusals: what etcd answers about compacted and future revisions, missing keys and invalid requests.
//!
//! ```text
//!   compact 5 -> ok     |----|
//!   get a at 4                  |----|   must be refused: it was compacted before
//!   get a at 9 -> future        |----|   right only if 9 had not been seen by anybody
//! ```
//! A refusal must have a reason somewhere within the operation's time; a success must have none before it.
//! Not here: leases (`lease`), and outcomes that are no answers (timeouts, no leader).

use super::claims::Claims;
use super::order::{Floors, is_linearizable};
use super::{Placed, about, anomaly, operations};
use crate::checkers::Anomaly;
use crate::checkers::canonical::Log;
use crate::checkers::compactions::Compactions;
use crate::history::{Event, Outcome, Put, Record, Reply, Request};
use crate::model::{Refusal, validate};

pub fn check(history: &[Record], log: &Log, claims: &Claims, floors: &Floors) -> Vec<Anomaly> {
    let compactions = Compactions::of(history);
    let ceilings = Ceilings::of(history, log, claims);
    let mut anomalies = Vec::new();
    for placed in operations(history) {
        match &placed.1.outcome {
            Outcome::Ok(reply) => anomalies.extend(success(placed, reply, &compactions)),
            Outcome::Failed(text) => anomalies.extend(refusal(placed, text, log, (floors, &ceilings), &compactions)),
            Outcome::Unknown(_) => {}
        }
    }
    anomalies
}

fn success((place, operation): Placed<'_>, reply: &Reply, compactions: &Compactions<'_>) -> Option<Anomaly> {
    let before = compactions.done_before(operation.invoked);
    if let (Request::Compact { revision }, Reply::Compact { revision: now }) = (&operation.request, reply) {
        if revision > now {
            return Some(anomaly("compacted the future", about(operation), &[place]));
        }
        let (compacted, earlier) = before.filter(|(compacted, _)| revision <= compacted)?;
        let text = format!("{}: {compacted} was compacted before", about(operation));
        return Some(anomaly("compacted twice", text, &[earlier, place]));
    }
    let oldest = old_revisions(&operation.request).into_iter().min()?;
    let (compacted, earlier) = before.filter(|(compacted, _)| oldest < *compacted)?;
    // Inside a branch that was not taken it is never looked at.
    let is_read = matches!(operation.request, Request::Range(_));
    if !is_read || !is_linearizable(&operation.request) {
        return None;
    }
    let text = format!("{}: {compacted} was compacted before", about(operation));
    Some(anomaly("read of a compacted revision", text, &[earlier, place]))
}

/// The old revisions that a request may ask for.
fn old_revisions(request: &Request) -> Vec<i64> {
    match request {
        Request::Range(range) if range.revision > 0 => vec![range.revision],
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).flat_map(old_revisions).collect(),
        _ => Vec::new(),
    }
}

fn refusal(
    placed: Placed<'_>,
    text: &str,
    log: &Log,
    (floors, ceilings): (&Floors, &Ceilings),
    compactions: &Compactions<'_>,
) -> Option<Anomaly> {
    let (place, operation) = placed;
    let said = |refusal: Refusal| refusal.is_said_by(text);
    let (floor, _) = floors.before(operation.invoked);
    let old = old_revisions(&operation.request);
    let has_reason = if said(Refusal::Compacted) {
        match &operation.request {
            Request::Compact { revision } => *revision <= 0 || compactions.excuses(*revision, placed),
            _ => old
                .iter()
                .any(|revision| *revision < compactions.begun_by(operation.returned)),
        }
    } else if said(Refusal::FutureRevision) {
        match &operation.request {
            Request::Compact { revision } => *revision > floor,
            request => !is_linearizable(request) || old.iter().any(|revision| *revision > floor),
        }
    } else if said(Refusal::KeyNotFound) {
        let mut kept = Vec::new();
        keeping_puts(&operation.request, &mut kept);
        let ceiling = ceilings.by(operation.returned);
        kept.iter().any(|put| was_missing(log, &put.key, floor, ceiling))
    } else {
        let invalid = [
            Refusal::EmptyKey,
            Refusal::ValueProvided,
            Refusal::LeaseProvided,
            Refusal::TooManyOps,
            Refusal::DuplicateKey,
        ];
        let named = invalid.into_iter().find(|refusal| said(*refusal))?;
        validate(&operation.request) == Err(named)
    };
    (!has_reason).then(|| anomaly("refused without a reason", about(operation), &[place]))
}

/// The puts that need their key to exist.
fn keeping_puts<'a>(request: &'a Request, kept: &mut Vec<&'a Put>) {
    match request {
        Request::Put(put) if put.ignore_value || put.ignore_lease => kept.push(put),
        Request::Txn(txn) => {
            for request in txn.success.iter().chain(&txn.failure) {
                keeping_puts(request, kept);
            }
        }
        _ => {}
    }
}

/// Whether there is a state without the key from revision `floor` to `ceiling`.
fn was_missing(log: &Log, key: &str, floor: i64, ceiling: i64) -> bool {
    let is_its_end = |events: &[Event]| events.iter().any(|event| event.is_delete && event.kv.key == key);
    log.at(floor).get(key).is_none() || (floor + 1..=ceiling).any(|revision| is_its_end(log.events(revision)))
}

/// The highest revision that can have been there by a time: all up to it had been asked for.
struct Ceilings {
    /// By revision, from 2 on: when the last of those up to it was asked for.
    begun: Vec<u64>,
}

impl Ceilings {
    fn of(history: &[Record], log: &Log, claims: &Claims) -> Ceilings {
        let mut latest = 0;
        let begun = log.from(2).map(|(revision, _)| {
            if let Some(Record::Operation(operation)) = claims.place_of(revision).map(|place| &history[place]) {
                latest = latest.max(operation.invoked);
            }
            latest
        });
        Ceilings { begun: begun.collect() }
    }

    fn by(&self, time: u64) -> i64 {
        1 + self.begun.partition_point(|begun| *begun <= time) as i64
    }
}
