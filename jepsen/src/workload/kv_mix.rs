//! Every operation of the KV service, with the arguments that have been somebody's bug; and the operator's.

use super::{Step, Values, end_of, get, list, put};
use crate::{
    history::{Compare, CompareResult, CompareTarget, DeleteRange, Outcome, Put, Range, Reply, Request, Txn},
    rng::Rng,
};

const KEYS: u64 = 8;

/// Revisions that were seen, to read from.
#[derive(Clone, Debug, Default)]
pub struct Past {
    newest: i64,
}

impl Past {
    pub fn next(&mut self, values: &mut Values, rng: &mut Rng) -> Step {
        let key = key(rng);
        let request = match rng.below(20) {
            0..=5 => Request::Put(Put {
                key,
                value: values.next(),
                prev_kv: rng.permille(300),
                ..Put::default()
            }),
            6 => Request::Put(Put {
                key,
                ignore_value: true,
                prev_kv: true,
                ..Put::default()
            }),
            7 | 8 => get(key),
            9..=11 => self.range(rng),
            12 | 13 => Request::DeleteRange(DeleteRange {
                key,
                prev_kv: rng.permille(500),
                ..DeleteRange::default()
            }),
            14 => Request::DeleteRange(DeleteRange {
                range_end: end_of("kv/"),
                key,
                prev_kv: rng.permille(500),
            }),
            15..=17 => self.txn(values, rng, 1),
            _ => self.txn(values, rng, 0),
        };
        Step::Ask(request)
    }

    pub fn next_of_admin(&mut self, values: &mut Values, rng: &mut Rng) -> Step {
        let request = match rng.below(100) {
            0..=59 => put(key(rng), values.next()),
            60..=79 => get(key(rng)),
            80..=86 if self.newest > 0 => Request::Compact {
                revision: self.newest - rng.pick(&[0, 0, 1, 5, 50]).min(self.newest - 1),
            },
            87..=90 => Request::MoveLeader {
                to: rng.below(5) as u32,
            },
            _ => return Step::Rest,
        };
        Step::Ask(request)
    }

    pub fn done(&mut self, outcome: &Outcome) {
        if let Outcome::Ok(reply) = outcome {
            let revision = match reply {
                Reply::Range(reply) => reply.revision,
                Reply::Put { revision, .. } | Reply::DeleteRange { revision, .. } | Reply::Txn { revision, .. } => {
                    *revision
                }
                _ => 0,
            };
            self.newest = self.newest.max(revision);
        }
    }

    fn range(&self, rng: &mut Rng) -> Request {
        let old = (self.newest - rng.below(60) as i64).max(1);
        Request::Range(Range {
            limit: rng.pick(&[0, 0, 1, 3]),
            revision: if rng.permille(400) { old } else { 0 },
            serializable: rng.permille(300),
            keys_only: rng.permille(150),
            count_only: rng.permille(150),
            ..list("kv/")
        })
    }

    fn txn(&self, values: &mut Values, rng: &mut Rng, depth: u32) -> Request {
        let key = key(rng);
        let target = match rng.below(5) {
            0 => CompareTarget::Version(rng.below(4) as i64),
            1 => CompareTarget::Create(self.newest - rng.below(50) as i64),
            2 => CompareTarget::Mod(self.newest - rng.below(50) as i64),
            3 => CompareTarget::Value(format!("{}.{}", rng.below(5), rng.below(50))),
            _ => CompareTarget::Lease(0),
        };
        let result = rng.pick(&[
            CompareResult::Equal,
            CompareResult::NotEqual,
            CompareResult::Greater,
            CompareResult::Less,
        ]);
        let range_end = if rng.permille(200) {
            end_of("kv/")
        } else {
            String::new()
        };
        let compares = vec![Compare {
            key: key.clone(),
            range_end,
            result,
            target,
        }];
        let mut success = vec![put(key.clone(), values.next()), get(key.clone())];
        if depth > 0 && rng.permille(400) {
            success.push(self.inner(key, values, rng));
        }
        let failure = vec![self.range(rng), put("kv/other", values.next())];
        Request::Txn(Txn {
            compares,
            success,
            failure,
        })
    }

    /// A transaction in a transaction: it compares what the outer one writes, and must not see that; the keys
    /// that it writes are others, since no key may be written twice.
    fn inner(&self, outer: String, values: &mut Values, rng: &mut Rng) -> Request {
        let compares = vec![Compare {
            key: outer,
            range_end: String::new(),
            result: CompareResult::Less,
            target: CompareTarget::Version(rng.below(9) as i64),
        }];
        Request::Txn(Txn {
            compares,
            success: vec![put("kv/inner", values.next()), self.range(rng)],
            failure: vec![Request::DeleteRange(DeleteRange {
                key: "kv/inner".to_owned(),
                ..DeleteRange::default()
            })],
        })
    }
}

fn key(rng: &mut Rng) -> String {
    format!("kv/{}", rng.below(KEYS))
}
