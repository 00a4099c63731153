//! Real time: what was seen before an operation was called must not be newer than the operation.
//!
//! ```text
//!   A  |----- put x -> 7 -----|
//!   B                            |--- get y -> 6 ---|      stale read: 7 had been seen
//! ```
//! One sorted list of (time, highest revision seen by then) answers it for every operation in O(log n).
//! Not here: which operations made which revision (`claims`).

use super::claims::Claims;
use super::{about, anomaly, operations};
use crate::checkers::{Anomaly, describe};
use crate::history::{NEVER, Operation, Outcome, Record, Request, WatchStep};
use crate::model::{FIRST_REVISION, revision_of};
use std::collections::BTreeMap;

/// The highest revision that anybody had seen by a time, and where.
#[derive(Clone, Debug)]
pub struct Floors {
    /// By time; revisions ascend.
    seen: Vec<(u64, i64, usize)>,
}

impl Floors {
    /// Of everything that a client ever received.
    pub fn of(history: &[Record]) -> Floors {
        let seen = history.iter().enumerate().filter_map(|(place, record)| {
            let (at, revision) = seen_in(record)?;
            Some((at, revision, place))
        });
        Floors::from_seen(seen.collect())
    }

    fn from_seen(mut seen: Vec<(u64, i64, usize)>) -> Floors {
        seen.sort_unstable();
        let mut highest = FIRST_REVISION;
        seen.retain(|(_, revision, _)| {
            let is_new = *revision > highest;
            highest = highest.max(*revision);
            is_new
        });
        Floors { seen }
    }

    /// The highest revision seen strictly before `time` and the place of the record that shows it. Strictly: at
    /// equal times an operation may still have been called before the other returned.
    pub fn before(&self, time: u64) -> (i64, usize) {
        let earlier = self.seen.partition_point(|(at, ..)| *at < time);
        let last = self.seen[..earlier].last();
        last.map_or((FIRST_REVISION, 0), |(_, revision, place)| (*revision, *place))
    }

    /// When `revision` or a later one was first seen.
    pub fn first_seen(&self, revision: i64) -> u64 {
        let below = self.seen.partition_point(|(_, seen, _)| *seen < revision);
        self.seen.get(below).map_or(NEVER, |(at, ..)| *at)
    }
}

fn seen_in(record: &Record) -> Option<(u64, i64)> {
    match record {
        Record::Operation(operation) => match &operation.outcome {
            Outcome::Ok(reply) => Some((operation.returned, revision_of(reply)?)),
            _ => None,
        },
        Record::Watch(watch) => match &watch.step {
            WatchStep::Created { revision }
            | WatchStep::Events { revision, .. }
            | WatchStep::Progress { revision }
            | WatchStep::Canceled { revision, .. } => Some((watch.at, *revision)),
            WatchStep::Asked(_) | WatchStep::Lost => None,
        },
        _ => None,
    }
}

/// Whether it must see all that was acknowledged before it was called.
pub fn is_linearizable(request: &Request) -> bool {
    match request {
        Request::Range(range) => !range.serializable,
        Request::Txn(txn) => {
            let mut requests = txn.success.iter().chain(&txn.failure);
            // Of ranges that are all serializable, or of nothing, is a local read; a nested one never is.
            requests.any(|request| !matches!(request, Request::Range(range) if range.serializable))
        }
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Compact { .. }
        | Request::LeaseGrant { .. }
        | Request::LeaseRevoke { .. } => true,
        // Their headers are filled in before or beside what they do.
        Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } | Request::MoveLeader { .. } => false,
    }
}

pub fn check(history: &[Record], claims: &Claims, floors: &Floors) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut local: BTreeMap<(u32, u32, u32), Vec<(u64, i64, usize)>> = BTreeMap::new();
    for (place, operation) in operations(history) {
        let Outcome::Ok(reply) = &operation.outcome else {
            continue;
        };
        let Some(revision) = revision_of(reply) else { continue };
        if is_linearizable(&operation.request) {
            let changed = claims.revision_of(place).is_some();
            let (floor, seen_at) = floors.before(operation.invoked);
            if revision < floor {
                let name = if changed { "write before its call" } else { "stale read" };
                anomalies.push(early(name, operation, floor, &[seen_at, place]));
            } else if changed && revision == floor {
                anomalies.push(early("write before its call", operation, floor, &[seen_at, place]));
            }
        }
        local
            .entry(connection(operation))
            .or_default()
            .push((operation.returned, revision, place));
    }
    let local: BTreeMap<_, _> = local
        .into_iter()
        .map(|(key, seen)| (key, Floors::from_seen(seen)))
        .collect();
    for (place, operation) in operations(history) {
        let (Outcome::Ok(reply), false) = (&operation.outcome, is_linearizable(&operation.request)) else {
            continue;
        };
        let is_read = matches!(operation.request, Request::Range(_) | Request::Txn(_));
        let (Some(revision), Some(floors)) = (revision_of(reply), local.get(&connection(operation))) else {
            continue;
        };
        let (floor, seen_at) = floors.before(operation.invoked);
        if is_read && revision < floor {
            anomalies.push(early("member went back in time", operation, floor, &[seen_at, place]));
        }
    }
    anomalies
}

/// One client's connection to one life of one member.
fn connection(operation: &Operation) -> (u32, u32, u32) {
    (operation.process, operation.member, operation.incarnation)
}

fn early(name: &str, operation: &Operation, floor: i64, places: &[usize]) -> Anomaly {
    let at = describe::time(operation.invoked);
    let text = format!(
        "{}: called at {at}, when revision {floor} had been seen",
        about(operation)
    );
    anomaly(name, text, places)
}
