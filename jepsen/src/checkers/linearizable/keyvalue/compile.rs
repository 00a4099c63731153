//! Requests and replies of one partition, with its keys and values as numbers.
//!
//! Not here: what they do (`machine`).

use super::cells::Cell;
use super::machine::{Action, Condition, KeyValues, Step, Target, Told};
use crate::history::{Compare, CompareTarget, KeyValue, Operation, Outcome, Reply, Request, Txn};
use crate::model::contains;
use std::collections::HashMap;
use std::ops::Range;

/// Numbers of the keys and values of a partition.
pub struct Names<'a> {
    /// In their order, so that a range of keys is a range of numbers.
    keys: Vec<&'a str>,
    values: HashMap<String, u32>,
    texts: Vec<String>,
}

impl<'a> Names<'a> {
    /// `keys` in their order.
    pub fn new(keys: Vec<&'a str>) -> Names<'a> {
        Names {
            keys,
            values: HashMap::new(),
            texts: Vec::new(),
        }
    }

    pub fn into_machine(self) -> KeyValues {
        KeyValues {
            keys: self.keys.len(),
            values: self.texts,
        }
    }

    /// `name` is what others will call whatever it writes.
    pub fn compile(&mut self, operation: &Operation, name: i64) -> Step {
        let reply = match &operation.outcome {
            Outcome::Ok(reply) => Some(reply),
            _ => None,
        };
        let action = self.action(&operation.request, reply);
        Step { action, name }
    }

    fn range(&self, key: &str, range_end: &str) -> Range<usize> {
        let start = self.keys.partition_point(|known| *known < key);
        let count = self.keys[start..]
            .iter()
            .take_while(|known| contains(key, range_end, known))
            .count();
        start..start + count
    }

    fn value(&mut self, text: &str) -> u32 {
        if let Some(number) = self.values.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.to_owned());
        self.values.insert(text.to_owned(), number);
        number
    }

    fn cell(&mut self, kv: &KeyValue) -> Option<(usize, Cell)> {
        let key = self.keys.binary_search(&kv.key.as_str()).ok()?;
        let cell = Cell {
            value: self.value(&kv.value),
            version: kv.version,
            create: kv.create_revision,
            modified: kv.mod_revision,
        };
        Some((key, cell))
    }

    /// None: one of them is no key of this partition, so none of its states was read.
    fn cells(&mut self, kvs: &[KeyValue]) -> Option<Vec<(usize, Cell)>> {
        kvs.iter().map(|kv| self.cell(kv)).collect()
    }

    fn action(&mut self, request: &Request, reply: Option<&Reply>) -> Action {
        self.try_action(request, reply).unwrap_or(Action::Never)
    }

    fn try_action(&mut self, request: &Request, reply: Option<&Reply>) -> Option<Action> {
        Some(match (request, reply) {
            (Request::Range(range), reply) => {
                let told = match reply {
                    // An old state within a transaction says nothing about the present one.
                    None => None,
                    Some(_) if range.revision > 0 => None,
                    Some(Reply::Range(reply)) => Some(Told {
                        count: reply.count as usize,
                        more: reply.more,
                        cells: if range.count_only {
                            None
                        } else {
                            Some(self.cells(&reply.kvs)?)
                        },
                        keys_only: range.keys_only,
                    }),
                    Some(_) => return None,
                };
                Action::Get {
                    keys: self.range(&range.key, &range.range_end),
                    limit: range.limit.max(0) as usize,
                    told,
                }
            }
            (Request::Put(put), reply) => {
                let before = match reply {
                    Some(Reply::Put { prev_kv, .. }) if put.prev_kv => Some(self.cells(prev_kv.as_slice())?),
                    None | Some(Reply::Put { .. }) => None,
                    Some(_) => return None,
                };
                Action::Put {
                    key: self.keys.binary_search(&put.key.as_str()).ok()?,
                    value: if put.ignore_value {
                        None
                    } else {
                        Some(self.value(&put.value))
                    },
                    before,
                }
            }
            (Request::DeleteRange(delete), reply) => {
                let (deleted, before) = match reply {
                    Some(Reply::DeleteRange { deleted, prev_kvs, .. }) => {
                        let before = if delete.prev_kv {
                            Some(self.cells(prev_kvs)?)
                        } else {
                            None
                        };
                        (Some(*deleted as usize), before)
                    }
                    None => (None, None),
                    Some(_) => return None,
                };
                Action::Delete {
                    keys: self.range(&delete.key, &delete.range_end),
                    deleted,
                    before,
                }
            }
            (Request::Txn(txn), reply) => self.txn(txn, reply)?,
            _ => return None,
        })
    }

    fn txn(&mut self, txn: &Txn, reply: Option<&Reply>) -> Option<Action> {
        let (succeeded, replies) = match reply {
            Some(Reply::Txn { succeeded, replies, .. }) => (Some(*succeeded), Some(replies)),
            None => (None, None),
            Some(_) => return None,
        };
        let taken = if succeeded == Some(true) {
            &txn.success
        } else {
            &txn.failure
        };
        if replies.is_some_and(|replies| replies.len() != taken.len()) {
            return None;
        }
        let mut branch = |requests: &[Request], is_taken: bool| -> Vec<Action> {
            let actions = requests.iter().enumerate().map(|(at, request)| {
                let reply = replies.filter(|_| is_taken).map(|replies| &replies[at]);
                self.action(request, reply)
            });
            actions.collect()
        };
        let success = branch(&txn.success, succeeded == Some(true));
        let failure = branch(&txn.failure, succeeded == Some(false));
        Some(Action::Txn {
            compares: txn.compares.iter().map(|compare| self.condition(compare)).collect(),
            succeeded,
            success,
            failure,
        })
    }

    fn condition(&self, compare: &Compare) -> Condition {
        Condition {
            keys: self.range(&compare.key, &compare.range_end),
            result: compare.result,
            target: match &compare.target {
                CompareTarget::Version(version) => Target::Version(*version),
                CompareTarget::Create(revision) => Target::Create(*revision),
                CompareTarget::Mod(revision) => Target::Modified(*revision),
                CompareTarget::Value(value) => Target::Value(value.clone()),
                CompareTarget::Lease(lease) => Target::Lease(*lease),
            },
        }
    }
}
