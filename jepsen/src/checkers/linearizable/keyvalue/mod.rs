//! A history of key-value requests as partitions to search.
//!
//! ```text
//!   get a   put a   txn{a, b}   |   put c   get c        two partitions: {a, b} and {c}
//! ```
//! A key alone is a partition, unless a transaction or a range connects it with others. Revisions are names here
//! and no order: a read must tell the name that the write before it got, and a compare of mod revisions compares
//! names; so a header that lies consistently is still found out by what was read.
//! Lost outcomes: what the canonical log shows to have happened has happened by the time it was first seen; what
//! a complete log does not show is left out. That only narrows them down. Of equal writes that may both have made a
//! revision either will do: both were called before anybody saw it. Whatever was acknowledged is searched for as it
//! was, whether the log has it or not.
//! ```text
//!   put 1   |------- ?            log: 5 is put 1, first seen by C       happened between its call and C's return
//!   put 2      |---- ?            log: nowhere, and complete             never happened
//!   C              |- get: 1 at 5 -|
//! ```
//! Revisions are a hint as well: operations are tried in the order that their headers claim. In a right history that
//! order fits at once, however many overlap. The hint is no premise: the machine has to accept each step, real time
//! holds, and when the order does not fit all others are tried. So headers that lie cannot make a wrong history pass.
//! Left out: serializable reads, reads of old revisions, and partitions with keys on leases, which change by
//! themselves. The revision checker has all of them.

mod cells;
mod compile;
mod machine;

use super::{Interval, Verdict, check_partitions};
use crate::checkers::canonical::Log;
use crate::checkers::revision::{Claims, Floors, operations};
use crate::checkers::{Anomaly, describe};
use crate::expectations::Expectations;
use crate::history::{NEVER, Operation, Outcome, Record, Reply, Request};
use crate::model::{contains, revision_of};
use compile::Names;
use machine::{KeyValues, Step};
use std::collections::BTreeMap;
use std::ops::Bound;

const CHECKER: &str = "linearizable";

pub fn check(history: &[Record], log: &Log, claims: &Claims, expectations: &Expectations) -> Vec<Anomaly> {
    let timed = timed_operations(history, log, claims, expectations);
    let partitions = Partitions::of(&timed).compile(&timed);
    match check_partitions(partitions, expectations.search) {
        Verdict::Linearizable => Vec::new(),
        Verdict::Illegal(dead) => {
            let record = describe::record(&history[dead.blocked]);
            let count = dead.linearized.len();
            let text =
                format!("no order fits: {count} operations can be ordered, and then this cannot follow: {record}");
            // The last ones before it are what it must be compared with.
            let mut places: Vec<_> = dead.linearized[count.saturating_sub(6)..].to_vec();
            places.push(dead.blocked);
            vec![Anomaly::new(CHECKER, "not linearizable", text, &places)]
        }
        Verdict::Unknown(why) => vec![Anomaly::new(CHECKER, "not judged", why, &[])],
    }
}

/// An operation, when it happened, and the name of what it wrote.
struct Timed<'a> {
    place: usize,
    operation: &'a Operation,
    end: u64,
    /// Below 0 when nobody knows it yet.
    name: i64,
    /// Where it claims to be: at its revision, behind the write, reads in the order of their calls; at the end if it
    /// claims nothing.
    turn: (i64, bool, u64),
}

fn timed_operations<'a>(
    history: &'a [Record],
    log: &Log,
    claims: &Claims,
    expectations: &Expectations,
) -> Vec<Timed<'a>> {
    let floors = Floors::of(history);
    let log_is_complete = expectations.members > 0 && expectations.drained && log.last() > 1;
    let timed = operations(history).filter(|(_, operation)| is_judged(operation));
    let timed = timed.filter_map(|(place, operation)| {
        let unnamed = -1 - place as i64;
        let (name, end) = match &operation.outcome {
            Outcome::Ok(reply) => (revision_of(reply).unwrap_or(unnamed), operation.returned),
            Outcome::Failed(_) => return None,
            Outcome::Unknown(_) => match claims.revision_of(place) {
                Some(revision) => (revision, floors.first_seen(revision)),
                None if log_is_complete => return None,
                None => (unnamed, NEVER),
            },
        };
        let revision = if name < 0 { i64::MAX } else { name };
        let is_read = claims.revision_of(place) != Some(revision);
        Some(Timed {
            place,
            operation,
            end,
            name,
            turn: (revision, is_read, operation.invoked),
        })
    });
    let mut timed: Vec<_> = timed.collect();
    timed.sort_by_key(|timed| timed.turn);
    timed
}

fn is_judged(operation: &Operation) -> bool {
    let is_unknown_read = matches!(
        (&operation.request, &operation.outcome),
        (Request::Range(_), Outcome::Unknown(_))
    );
    let is_about_now = match &operation.request {
        Request::Range(range) => !range.serializable && range.revision <= 0,
        Request::Txn(_) => crate::checkers::revision::is_linearizable(&operation.request),
        Request::Put(_) | Request::DeleteRange(_) => true,
        _ => false,
    };
    is_about_now && !is_unknown_read
}

/// Keys, and which of them are connected.
struct Partitions {
    keys: BTreeMap<String, usize>,
    /// By key, another one of its partition, or itself: a forest.
    parents: Vec<usize>,
    /// By key, whether it was ever on a lease.
    leased: Vec<bool>,
}

impl Partitions {
    fn of(timed: &[Timed<'_>]) -> Partitions {
        let mut keys = BTreeMap::new();
        for timed in timed {
            keys_of_request(&timed.operation.request, &mut keys);
            if let Outcome::Ok(reply) = &timed.operation.outcome {
                keys_of_reply(reply, &mut keys);
            }
        }
        for (number, slot) in keys.values_mut().enumerate() {
            *slot = number;
        }
        let mut partitions = Partitions {
            parents: (0..keys.len()).collect(),
            leased: vec![false; keys.len()],
            keys,
        };
        for timed in timed {
            partitions.connect(&timed.operation.request);
        }
        partitions
    }

    fn connect(&mut self, request: &Request) {
        let touched = self.touched(request);
        for pair in touched.windows(2) {
            let (a, b) = (self.root(pair[0]), self.root(pair[1]));
            self.parents[a] = b;
        }
        self.mark_leased(request);
    }

    fn mark_leased(&mut self, request: &Request) {
        match request {
            Request::Put(put) if put.lease != 0 => {
                let key = self.keys[&put.key];
                self.leased[key] = true;
            }
            Request::Txn(txn) => {
                for request in txn.success.iter().chain(&txn.failure) {
                    self.mark_leased(request);
                }
            }
            _ => {}
        }
    }

    fn touched(&self, request: &Request) -> Vec<usize> {
        let within = |key: &str, range_end: &str| -> Vec<usize> {
            let keys = self.keys.range::<str, _>((Bound::Included(key), Bound::Unbounded));
            keys.take_while(|(known, _)| contains(key, range_end, known))
                .map(|(_, number)| *number)
                .collect()
        };
        match request {
            Request::Range(range) if range.range_end.is_empty() => vec![self.keys[&range.key]],
            Request::Range(range) => within(&range.key, &range.range_end),
            Request::DeleteRange(delete) => within(&delete.key, &delete.range_end),
            Request::Put(put) => vec![self.keys[&put.key]],
            Request::Txn(txn) => {
                let compared = txn
                    .compares
                    .iter()
                    .flat_map(|compare| within(&compare.key, &compare.range_end));
                let nested = txn.success.iter().chain(&txn.failure);
                compared
                    .chain(nested.flat_map(|request| self.touched(request)))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    fn root(&self, mut key: usize) -> usize {
        while self.parents[key] != key {
            key = self.parents[key];
        }
        key
    }

    fn compile(&self, timed: &[Timed<'_>]) -> Vec<(KeyValues, Vec<Interval<Step>>)> {
        let mut members: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        let mut leased = BTreeMap::new();
        for (key, number) in &self.keys {
            let root = self.root(*number);
            members.entry(root).or_default().push(key);
            *leased.entry(root).or_insert(false) |= self.leased[*number];
        }
        let mut operations: BTreeMap<usize, Vec<&Timed<'_>>> = BTreeMap::new();
        for timed in timed {
            // Without any key it reads nothing where nothing ever was.
            if let Some(first) = self.touched(&timed.operation.request).first() {
                operations.entry(self.root(*first)).or_default().push(timed);
            }
        }
        let free = operations.into_iter().filter(|(root, _)| !leased[root]);
        free.map(|(root, operations)| {
            let mut names = Names::new(members[&root].clone());
            let intervals = operations
                .into_iter()
                .map(|timed| Interval {
                    call: timed.operation.invoked,
                    end: timed.end,
                    place: timed.place,
                    operation: names.compile(timed.operation, timed.name),
                })
                .collect();
            (names.into_machine(), intervals)
        })
        .collect()
    }
}

fn keys_of_request(request: &Request, keys: &mut BTreeMap<String, usize>) {
    let mut note = |key: &String| {
        keys.entry(key.clone()).or_default();
    };
    match request {
        Request::Range(range) if range.range_end.is_empty() => note(&range.key),
        Request::DeleteRange(delete) if delete.range_end.is_empty() => note(&delete.key),
        Request::Put(put) => note(&put.key),
        Request::Txn(txn) => {
            for compare in txn.compares.iter().filter(|compare| compare.range_end.is_empty()) {
                note(&compare.key);
            }
            for request in txn.success.iter().chain(&txn.failure) {
                keys_of_request(request, keys);
            }
        }
        _ => {}
    }
}

fn keys_of_reply(reply: &Reply, keys: &mut BTreeMap<String, usize>) {
    match reply {
        Reply::Range(range) => {
            for kv in &range.kvs {
                keys.entry(kv.key.clone()).or_default();
            }
        }
        Reply::Txn { replies, .. } => replies.iter().for_each(|reply| keys_of_reply(reply, keys)),
        _ => {}
    }
}
