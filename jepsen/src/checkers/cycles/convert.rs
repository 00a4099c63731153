//! Histories of etcd's requests as transactions on lists and registers, by the conventions of `Promise`.
//!
//! ```text
//!   Txn{mod(l/1) == 7 -> Put l/1 = "1,4,9"}  succeeded      read l/1 [1,4], append l/1 9
//!                                            did not        (aborted) append l/1 9
//!   Get l/1 -> "1,4"                                        read l/1 [1,4]
//! ```
//! The compare is what makes the client's own read of the list part of its transaction: if it held, the list was
//! still what the client had read. A blind put claims no read. Left out: serializable and partial reads.

use super::{ListOperation, RegisterOperation, Status, Transaction};
use crate::checkers::revision::{is_linearizable, operations};
use crate::history::{CompareResult, CompareTarget, Operation, Outcome, RangeReply, Record, Reply, Request, Txn};
use crate::model::contains;
use std::collections::BTreeSet;

/// Transactions on the lists under `prefix`.
pub fn list_transactions(history: &[Record], prefix: &str) -> Vec<Transaction<ListOperation>> {
    transactions(history, prefix, &Lists)
}

/// Transactions on the registers under `prefix`.
pub fn register_transactions(history: &[Record], prefix: &str) -> Vec<Transaction<RegisterOperation>> {
    transactions(history, prefix, &Registers)
}

/// What reads and writes mean.
trait Meaning {
    type Operation;

    fn read(&self, key: &str, value: Option<&str>) -> Self::Operation;

    /// A put, and the guard's target if the transaction compares the key for equality.
    fn write(&self, key: &str, value: &str, guard: Option<&CompareTarget>) -> Vec<Self::Operation>;
}

struct Lists;

/// The elements of a list's text.
pub fn elements(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|element| !element.is_empty())
        .map(str::to_owned)
        .collect()
}

impl Meaning for Lists {
    type Operation = ListOperation;

    fn read(&self, key: &str, value: Option<&str>) -> ListOperation {
        ListOperation::Read {
            key: key.to_owned(),
            list: elements(value.unwrap_or_default()),
        }
    }

    fn write(&self, key: &str, value: &str, guard: Option<&CompareTarget>) -> Vec<ListOperation> {
        let mut list = elements(value);
        let Some(element) = list.pop() else { return Vec::new() };
        let append = ListOperation::Append {
            key: key.to_owned(),
            element,
        };
        match guard {
            Some(CompareTarget::Mod(_) | CompareTarget::Value(_)) => {
                let key = key.to_owned();
                vec![ListOperation::Read { key, list }, append]
            }
            _ => vec![append],
        }
    }
}

struct Registers;

impl Meaning for Registers {
    type Operation = RegisterOperation;

    fn read(&self, key: &str, value: Option<&str>) -> RegisterOperation {
        RegisterOperation::Read {
            key: key.to_owned(),
            value: value.map(str::to_owned),
        }
    }

    fn write(&self, key: &str, value: &str, guard: Option<&CompareTarget>) -> Vec<RegisterOperation> {
        let mut operations = Vec::new();
        if let Some(CompareTarget::Value(read)) = guard {
            operations.push(self.read(key, Some(read)));
        }
        operations.push(RegisterOperation::Write {
            key: key.to_owned(),
            value: value.to_owned(),
        });
        operations
    }
}

fn transactions<M: Meaning>(history: &[Record], prefix: &str, meaning: &M) -> Vec<Transaction<M::Operation>> {
    let convert = Convert {
        prefix,
        keys: keys_under(history, prefix),
        meaning,
    };
    let mut all = Vec::new();
    for (place, operation) in operations(history).filter(|(_, operation)| is_linearizable(&operation.request)) {
        for (status, operations) in convert.operation(operation) {
            if !operations.is_empty() {
                all.push(Transaction {
                    place,
                    invoked: operation.invoked,
                    returned: operation.returned,
                    status,
                    operations,
                });
            }
        }
    }
    all
}

/// Keys that anybody ever wrote: a range that does not show one of them has read that it is not there.
fn keys_under(history: &[Record], prefix: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (_, operation) in operations(history) {
        put_keys(&operation.request, &mut keys);
    }
    keys.retain(|key| key.starts_with(prefix));
    keys
}

fn put_keys(request: &Request, keys: &mut BTreeSet<String>) {
    match request {
        Request::Put(put) => {
            keys.insert(put.key.clone());
        }
        Request::Txn(txn) => {
            for request in txn.success.iter().chain(&txn.failure) {
                put_keys(request, keys);
            }
        }
        _ => {}
    }
}

struct Convert<'a, M> {
    prefix: &'a str,
    keys: BTreeSet<String>,
    meaning: &'a M,
}

impl<M: Meaning> Convert<'_, M> {
    fn operation(&self, operation: &Operation) -> Vec<(Status, Vec<M::Operation>)> {
        let request = &operation.request;
        match &operation.outcome {
            Outcome::Failed(_) => vec![(Status::Aborted, self.would_write(request))],
            Outcome::Unknown(_) => vec![(Status::Unknown, self.would_write(request))],
            Outcome::Ok(reply) => {
                let mut done = Vec::new();
                self.done(request, reply, None, &mut done);
                let mut both = vec![(Status::Committed, done)];
                if let (Request::Txn(_), Reply::Txn { succeeded: false, .. }) = (request, reply) {
                    both.push((Status::Aborted, self.would_write(request)));
                }
                both
            }
        }
    }

    /// What the request did, by its reply.
    fn done(&self, request: &Request, reply: &Reply, txn: Option<&Txn>, done: &mut Vec<M::Operation>) {
        match (request, reply) {
            (Request::Range(range), Reply::Range(reply)) if range.revision <= 0 => {
                self.reads(&range.key, &range.range_end, reply, done);
            }
            (Request::Put(put), _) if put.key.starts_with(self.prefix) => {
                let guard = txn.and_then(|txn| guard_of(txn, &put.key));
                done.extend(self.meaning.write(&put.key, &put.value, guard));
            }
            (Request::Txn(txn), Reply::Txn { succeeded, replies, .. }) => {
                let branch = if *succeeded { &txn.success } else { &txn.failure };
                let guards = succeeded.then_some(txn);
                for (request, reply) in branch.iter().zip(replies) {
                    self.done(request, reply, guards, done);
                }
            }
            _ => {}
        }
    }

    fn reads(&self, key: &str, range_end: &str, reply: &RangeReply, done: &mut Vec<M::Operation>) {
        // Of a page or of keys without values nothing can be concluded.
        if reply.more || reply.kvs.len() as i64 != reply.count || reply.kvs.iter().any(|kv| kv.value.is_empty()) {
            return;
        }
        if range_end.is_empty() {
            if key.starts_with(self.prefix) {
                done.push(self.meaning.read(key, reply.kvs.first().map(|kv| kv.value.as_str())));
            }
            return;
        }
        for known in self.keys.iter().filter(|known| contains(key, range_end, known)) {
            let found = reply.kvs.iter().find(|kv| kv.key == *known);
            done.push(self.meaning.read(known, found.map(|kv| kv.value.as_str())));
        }
    }

    /// The writes of its first branch, if nobody knows what it did or it did not do them.
    fn would_write(&self, request: &Request) -> Vec<M::Operation> {
        match request {
            Request::Put(put) if put.key.starts_with(self.prefix) => self.meaning.write(&put.key, &put.value, None),
            Request::Txn(txn) => txn
                .success
                .iter()
                .flat_map(|request| self.would_write(request))
                .collect(),
            _ => Vec::new(),
        }
    }
}

fn guard_of<'a>(txn: &'a Txn, key: &str) -> Option<&'a CompareTarget> {
    let guards = txn
        .compares
        .iter()
        .filter(|compare| compare.key == key && compare.range_end.is_empty() && compare.result == CompareResult::Equal);
    guards.map(|compare| &compare.target).next()
}
