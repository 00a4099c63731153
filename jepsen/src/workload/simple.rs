//! Registers, a set, Kubernetes' objects, and writes for watchers to see.

use super::{Step, Values, appended, end_of, found, get, if_unchanged, list, put};
use crate::{
    history::{CompareTarget, DeleteRange, Outcome, Range, Reply, Request, Txn, WatchRequest},
    rng::Rng,
};

const REGISTERS: u64 = 5;
const OBJECTS: u64 = 6;
const WATCHED: u64 = 6;
/// A set grows by copies of itself: beyond this the next one is begun.
const SET_ELEMENTS_MAX: usize = 100;

/// What a client last read of one key.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    key: String,
    value: Option<String>,
    modified: i64,
    known: bool,
    /// Which set is added to.
    round: u64,
}

impl Seen {
    pub fn next_of_register(&mut self, values: &mut Values, rng: &mut Rng) -> Step {
        let key = format!("register/{}", rng.below(REGISTERS));
        let request = match rng.below(10) {
            0..=3 => get(key),
            4 => Request::Range(Range {
                key,
                serializable: true,
                ..Range::default()
            }),
            5 | 6 => put(key, values.next()),
            _ if self.known => {
                let compare = match &self.value {
                    Some(value) if rng.permille(500) => CompareTarget::Value(value.clone()),
                    _ => CompareTarget::Mod(self.modified),
                };
                Request::Txn(Txn {
                    compares: vec![super::equal(self.key.clone(), compare)],
                    success: vec![put(self.key.clone(), values.next())],
                    failure: vec![get(self.key.clone())],
                })
            }
            _ => get(key),
        };
        Step::Ask(request)
    }

    pub fn next_of_set(&mut self, values: &mut Values, rng: &mut Rng) -> Step {
        let set = format!("set/{}", self.round);
        if !self.known || self.key != set || rng.permille(200) {
            return Step::Ask(get(set));
        }
        self.known = false;
        let elements = self.value.as_deref().unwrap_or_default();
        if elements.split(',').count() >= SET_ELEMENTS_MAX {
            self.round += 1;
        }
        let more = appended(elements, &values.next());
        Step::Ask(if_unchanged(&set, self.modified, vec![put(set.clone(), more)]))
    }

    pub fn done(&mut self, request: &Request, outcome: &Outcome) {
        let (key, reply) = match (request, outcome) {
            (Request::Range(range), Outcome::Ok(Reply::Range(reply))) if !range.serializable => (&range.key, reply),
            (Request::Txn(txn), Outcome::Ok(Reply::Txn { replies, .. })) => match replies.first() {
                Some(Reply::Range(reply)) => (&txn.compares[0].key, reply),
                _ => return,
            },
            _ => return,
        };
        let (value, modified) = found(reply);
        *self = Self {
            key: key.clone(),
            value: value.map(str::to_owned),
            modified,
            known: true,
            round: self.round,
        };
    }
}

/// What a controller knows of the objects it keeps.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    listed: Vec<(String, i64)>,
    watch_from: Option<i64>,
}

impl Objects {
    pub fn next(&mut self, values: &mut Values, rng: &mut Rng) -> Step {
        if let Some(start_revision) = self.watch_from.take() {
            return Step::Watch(WatchRequest {
                key: "pods/".to_owned(),
                range_end: end_of("pods/"),
                start_revision,
                prev_kv: true,
                progress_notify: true,
                ..WatchRequest::default()
            });
        }
        let known = |rng: &mut Rng, listed: &[(String, i64)]| listed[rng.below(listed.len() as u64) as usize].clone();
        let request = match rng.below(20) {
            0 | 1 => Request::Range(list("pods/")),
            2 => Request::Range(Range {
                limit: 2,
                ..list("pods/")
            }),
            3..=5 => get(format!("pods/{}", rng.below(OBJECTS))),
            6..=9 => {
                let key = format!("pods/{}", rng.below(OBJECTS));
                let success = vec![put(key.clone(), values.next())];
                if_unchanged(&key, 0, success)
            }
            10..=12 if !self.listed.is_empty() => {
                let (key, modified) = known(rng, &self.listed);
                let delete = Request::DeleteRange(DeleteRange {
                    key: key.clone(),
                    ..DeleteRange::default()
                });
                if_unchanged(&key, modified, vec![delete])
            }
            _ if !self.listed.is_empty() => {
                let (key, modified) = known(rng, &self.listed);
                let success = vec![put(key.clone(), values.next())];
                if_unchanged(&key, modified, success)
            }
            _ => Request::Range(list("pods/")),
        };
        Step::Ask(request)
    }

    pub fn done(&mut self, outcome: &Outcome) {
        let Outcome::Ok(reply) = outcome else { return };
        match reply {
            Reply::Range(reply) => {
                // A whole list is where a watch begins; a page or a single object is not.
                if !reply.more && reply.kvs.len() as i64 == reply.count && reply.count > 1 && self.listed.is_empty() {
                    self.watch_from = Some(reply.revision + 1);
                }
                self.learn(reply.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)));
            }
            Reply::Txn { replies, .. } => {
                if let Some(Reply::Range(reply)) = replies.first() {
                    self.learn(reply.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)));
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, found: impl Iterator<Item = (String, i64)>) {
        for (key, modified) in found {
            self.listed.retain(|(own, _)| *own != key);
            self.listed.push((key, modified));
        }
    }
}

/// Writes of few keys, with watches of every shape now and then.
pub fn write_and_watch(values: &mut Values, rng: &mut Rng) -> Step {
    let key = format!("watch/{}", rng.below(WATCHED));
    match rng.below(100) {
        0 | 1 => Step::Watch(any_watch(key, rng)),
        2..=70 => Step::Ask(put(key, values.next())),
        71..=85 => Step::Ask(Request::DeleteRange(DeleteRange {
            key,
            prev_kv: true,
            ..DeleteRange::default()
        })),
        _ => {
            // One revision of several events, one key of them twice removed from the others.
            let other = format!("watch/{}", WATCHED + rng.below(WATCHED));
            let delete = Request::DeleteRange(DeleteRange {
                key: other,
                ..DeleteRange::default()
            });
            let success = vec![put(key, values.next()), put("watch/both", values.next()), delete];
            Step::Ask(Request::Txn(Txn {
                success,
                ..Txn::default()
            }))
        }
    }
}

fn any_watch(key: String, rng: &mut Rng) -> WatchRequest {
    let (key, range_end) = match rng.below(3) {
        0 => (key, String::new()),
        1 => ("watch/".to_owned(), end_of("watch/")),
        _ => ("\0".to_owned(), "\0".to_owned()),
    };
    WatchRequest {
        key,
        range_end,
        start_revision: rng.pick(&[0, 0, 1, 5, 50, 500]),
        prev_kv: rng.permille(500),
        no_put: rng.permille(100),
        no_delete: rng.permille(100),
        progress_notify: rng.permille(500),
        fragment: rng.permille(200),
    }
}
