//! Transactions over several keys, for the checker of cycles.
//!
//! etcd has no append: a list is a value, read by one transaction and written, longer, by a second one that
//! compares what the first saw. `append/KEY` holds its elements with commas between them.

use super::{Step, Values, appended, equal, found, get, put};
use crate::{
    history::{Compare, CompareTarget, Outcome, Reply, Request, Txn},
    rng::Rng,
};
use std::collections::BTreeMap;

const KEYS: u64 = 4;
/// A list is copied by every append: beyond this a client appends to the next one.
const ELEMENTS_MAX: usize = 60;

/// What the first of two transactions read: value and modification by key.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    seen: BTreeMap<String, (String, i64)>,
    /// Which generation of each list is appended to.
    round: u64,
}

impl Lists {
    pub fn next(&mut self, values: &mut Values, rng: &mut Rng) -> Step {
        let seen = std::mem::take(&mut self.seen);
        if seen.is_empty() {
            return Step::Ask(reads(&keys(self.round, rng)));
        }
        if seen.values().any(|(value, _)| value.split(',').count() >= ELEMENTS_MAX) {
            self.round += 1;
        }
        let compares: Vec<Compare> = seen
            .iter()
            .map(|(key, (_, modified))| equal(key.clone(), CompareTarget::Mod(*modified)))
            .collect();
        let mut success = Vec::new();
        for (key, (value, _)) in &seen {
            if rng.permille(600) || success.is_empty() {
                success.push(put(key.clone(), appended(value, &values.next())));
            } else {
                success.push(get(key.clone()));
            }
        }
        let failure = seen.keys().map(|key| get(key.clone())).collect();
        Step::Ask(Request::Txn(Txn {
            compares,
            success,
            failure,
        }))
    }

    pub fn done(&mut self, request: &Request, outcome: &Outcome) {
        let (Request::Txn(txn), Outcome::Ok(Reply::Txn { succeeded, replies, .. })) = (request, outcome) else {
            return;
        };
        if *succeeded && !txn.compares.is_empty() {
            return;
        }
        let read = if *succeeded { &txn.success } else { &txn.failure };
        for (request, reply) in read.iter().zip(replies) {
            if let (Request::Range(range), Reply::Range(reply)) = (request, reply) {
                let (value, modified) = found(reply);
                self.seen
                    .insert(range.key.clone(), (value.unwrap_or_default().to_owned(), modified));
            }
        }
    }
}

fn keys(round: u64, rng: &mut Rng) -> Vec<String> {
    let count = 1 + rng.below(3);
    let first = rng.below(KEYS);
    (0..count)
        .map(|offset| format!("append/{round}.{}", (first + offset) % KEYS))
        .collect()
}

fn reads(keys: &[String]) -> Request {
    Request::Txn(Txn {
        success: keys.iter().map(get).collect(),
        ..Txn::default()
    })
}

/// Up to four reads and writes of registers, in one transaction.
pub fn read_and_write(values: &mut Values, rng: &mut Rng) -> Step {
    let count = 1 + rng.below(4);
    let first = rng.below(KEYS);
    let success = (0..count.min(KEYS)).map(|offset| {
        let key = format!("rw/{}", (first + offset) % KEYS);
        if rng.permille(500) {
            put(key, values.next())
        } else {
            get(key)
        }
    });
    let success = success.collect();
    Step::Ask(Request::Txn(Txn {
        success,
        ..Txn::default()
    }))
}
