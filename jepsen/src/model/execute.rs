//! What one request does to one state: its reply and its events, as a pure function.
//!
//! ```text
//!   execute(state at 7, Txn{a==1 -> Put b, Get b})  ->  reply at revision 8, events [put b]
//!   execute(state at 7, Get a)                      ->  reply at revision 7, no events
//! ```
//! Events carry prev_kv always; who compares knows whether it was asked for. Not here: leases and compaction,
//! which are no part of a state by revision (`Etcd` has them).

use super::timeline::{FIRST_REVISION, Snapshot, contains};
use crate::history::{
    Compare, CompareResult, CompareTarget, DeleteRange, Event, KeyValue, Put, Range, RangeReply, Reply, Request, Txn,
};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What a request that was not refused does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    pub reply: Reply,
    /// In the order of their sub revisions; empty: the revision stays.
    pub events: Vec<Event>,
}

/// Why a request has no effect, in etcd's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
}

/// etcd's `--max-txn-ops`.
const TXN_OPS_MAX: usize = 128;

impl Refusal {
    /// The text on the wire.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::EmptyKey => "etcdserver: key is not provided",
            Refusal::KeyNotFound => "etcdserver: key not found",
            Refusal::ValueProvided => "etcdserver: value is provided",
            Refusal::LeaseProvided => "etcdserver: lease is provided",
            Refusal::TooManyOps => "etcdserver: too many operations in txn request",
            Refusal::DuplicateKey => "etcdserver: duplicate key given in txn request",
            Refusal::Compacted => "etcdserver: mvcc: required revision has been compacted",
            Refusal::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
            Refusal::LeaseNotFound => "etcdserver: requested lease not found",
            Refusal::LeaseExists => "etcdserver: lease already exists",
            Refusal::LeaseTtlTooLarge => "etcdserver: too large lease TTL",
        }
    }

    /// Clients decorate: `status: OutOfRange, message: "etcdserver: ..."`.
    pub fn is_said_by(self, text: &str) -> bool {
        text.contains(self.text())
    }
}

/// The revision in a reply's header; None for those without one.
pub fn revision_of(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::Range(RangeReply { revision, .. })
        | Reply::Put { revision, .. }
        | Reply::DeleteRange { revision, .. }
        | Reply::Txn { revision, .. }
        | Reply::Compact { revision }
        | Reply::LeaseGrant { revision, .. }
        | Reply::LeaseRevoke { revision }
        | Reply::LeaseKeepAlive { revision, .. }
        | Reply::LeaseTimeToLive { revision, .. } => Some(*revision),
        Reply::MoveLeader => None,
    }
}

/// What `request` does to `base`. Only for requests about keys; leases and the like are `Etcd`'s.
///
/// # Panics
/// On a request that is not about keys: that is a mistake of the caller.
pub fn execute(base: Snapshot<'_>, request: &Request) -> Result<Effect, Refusal> {
    validate(request)?;
    let mut draft = Draft {
        base,
        changed: BTreeMap::new(),
        events: Vec::new(),
    };
    let reply = draft.run(request)?;
    Ok(Effect {
        reply,
        events: draft.events,
    })
}

/// What is refused whatever the state.
pub fn validate(request: &Request) -> Result<(), Refusal> {
    validate_within(request, TXN_OPS_MAX)
}

fn validate_within(request: &Request, ops_max: usize) -> Result<(), Refusal> {
    let key = match request {
        Request::Range(range) => &range.key,
        Request::DeleteRange(delete) => &delete.key,
        Request::Put(put) => {
            if !put.key.is_empty() && put.ignore_value && !put.value.is_empty() {
                return Err(Refusal::ValueProvided);
            }
            if !put.key.is_empty() && put.ignore_lease && put.lease != 0 {
                return Err(Refusal::LeaseProvided);
            }
            &put.key
        }
        Request::Txn(txn) => return validate_txn(txn, ops_max),
        _ => return Ok(()),
    };
    if key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    Ok(())
}

fn validate_txn(txn: &Txn, ops_max: usize) -> Result<(), Refusal> {
    let ops = txn.compares.len().max(txn.success.len()).max(txn.failure.len());
    if ops > ops_max {
        return Err(Refusal::TooManyOps);
    }
    if txn.compares.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    for branch in [&txn.success, &txn.failure] {
        for request in branch {
            validate_within(request, ops_max - ops)?;
        }
    }
    for branch in [&txn.success, &txn.failure] {
        writes_of(branch)?;
    }
    Ok(())
}

/// Keys put and ranges deleted on any path through `branch`.
type Writes = (Vec<String>, Vec<(String, String)>);

/// Two puts of one key, or a put within a deleted range, may not meet on one path; deletes may overlap.
fn writes_of(branch: &[Request]) -> Result<Writes, Refusal> {
    let (mut puts, mut deletes) = (Vec::<String>::new(), Vec::<(String, String)>::new());
    for request in branch {
        let (more_puts, more_deletes) = match request {
            Request::Put(put) => (vec![put.key.clone()], Vec::new()),
            Request::DeleteRange(delete) => (Vec::new(), vec![(delete.key.clone(), delete.range_end.clone())]),
            Request::Txn(txn) => {
                // One of the two is taken: they may overlap each other, but nothing around them.
                let (mut either_puts, mut either_deletes) = writes_of(&txn.success)?;
                let (failure_puts, failure_deletes) = writes_of(&txn.failure)?;
                either_puts.extend(failure_puts);
                either_deletes.extend(failure_deletes);
                (either_puts, either_deletes)
            }
            _ => continue,
        };
        let meets = |puts: &[String], deletes: &[(String, String)]| {
            deletes
                .iter()
                .any(|(start, end)| puts.iter().any(|key| contains(start, end, key)))
        };
        if more_puts.iter().any(|key| puts.contains(key)) || meets(&more_puts, &deletes) || meets(&puts, &more_deletes)
        {
            return Err(Refusal::DuplicateKey);
        }
        puts.extend(more_puts);
        deletes.extend(more_deletes);
    }
    Ok((puts, deletes))
}

/// A state with what one request has changed so far.
struct Draft<'a> {
    base: Snapshot<'a>,
    changed: BTreeMap<String, Option<KeyValue>>,
    events: Vec<Event>,
}

impl Draft<'_> {
    fn revision(&self) -> i64 {
        self.base.revision + i64::from(!self.events.is_empty())
    }

    fn run(&mut self, request: &Request) -> Result<Reply, Refusal> {
        match request {
            Request::Range(range) => self.range(range),
            Request::Put(put) => self.put(put),
            Request::DeleteRange(delete) => Ok(self.delete_range(delete)),
            Request::Txn(txn) => self.txn(txn),
            other => panic!("no request about keys: {other:?}"),
        }
    }

    fn get(&self, key: &str) -> Option<&KeyValue> {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.base.get(key),
        }
    }

    fn list(&self, key: &str, range_end: &str) -> Vec<KeyValue> {
        if range_end.is_empty() {
            return self.get(key).cloned().into_iter().collect();
        }
        let mut found: BTreeMap<&str, &KeyValue> = self
            .base
            .range(key, range_end)
            .map(|kv| (kv.key.as_str(), kv))
            .collect();
        for (changed, kv) in &self.changed {
            if contains(key, range_end, changed) {
                match kv {
                    Some(kv) => found.insert(changed, kv),
                    None => found.remove(changed.as_str()),
                };
            }
        }
        found.into_values().cloned().collect()
    }

    fn range(&self, range: &Range) -> Result<Reply, Refusal> {
        if range.revision > self.base.revision {
            return Err(Refusal::FutureRevision);
        }
        let mut kvs = if range.revision > 0 {
            let old = self.base.at(range.revision.max(FIRST_REVISION));
            old.range(&range.key, &range.range_end).cloned().collect()
        } else {
            self.list(&range.key, &range.range_end)
        };
        let count = kvs.len() as i64;
        let mut more = false;
        if range.count_only {
            kvs.clear();
        } else if range.limit > 0 && count > range.limit {
            kvs.truncate(range.limit as usize);
            more = true;
        }
        if range.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
            }
        }
        Ok(Reply::Range(RangeReply {
            revision: self.revision(),
            kvs,
            more,
            count,
        }))
    }

    fn put(&mut self, put: &Put) -> Result<Reply, Refusal> {
        let old = self.get(&put.key).cloned();
        if old.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Refusal::KeyNotFound);
        }
        let revision = self.base.revision + 1;
        let before = old.as_ref();
        let kv = KeyValue {
            key: put.key.clone(),
            value: match before {
                Some(old) if put.ignore_value => old.value.clone(),
                _ => put.value.clone(),
            },
            create_revision: before.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |old| old.version + 1),
            lease: match before {
                Some(old) if put.ignore_lease => old.lease,
                _ => put.lease,
            },
        };
        self.changed.insert(put.key.clone(), Some(kv.clone()));
        self.events.push(Event {
            is_delete: false,
            kv,
            prev_kv: old.clone(),
        });
        Ok(Reply::Put {
            revision,
            prev_kv: old.filter(|_| put.prev_kv),
        })
    }

    fn delete_range(&mut self, delete: &DeleteRange) -> Reply {
        let gone = self.list(&delete.key, &delete.range_end);
        let revision = self.base.revision + 1;
        for old in &gone {
            self.changed.insert(old.key.clone(), None);
            self.events.push(Event {
                is_delete: true,
                kv: KeyValue {
                    key: old.key.clone(),
                    mod_revision: revision,
                    ..KeyValue::default()
                },
                prev_kv: Some(old.clone()),
            });
        }
        Reply::DeleteRange {
            revision: self.revision(),
            deleted: gone.len() as i64,
            prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<Reply, Refusal> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let mut replies = Vec::with_capacity(branch.len());
        for request in branch {
            replies.push(self.run(request)?);
        }
        Ok(Reply::Txn {
            revision: self.revision(),
            succeeded,
            replies,
        })
    }

    /// Against the state before the request: a nested transaction does not see what the outer one wrote.
    fn holds(&self, compare: &Compare) -> bool {
        let single = self.base.get(&compare.key).filter(|_| compare.range_end.is_empty());
        let range = (!compare.range_end.is_empty()).then(|| self.base.range(&compare.key, &compare.range_end));
        let mut found = single.into_iter().chain(range.into_iter().flatten()).peekable();
        if found.peek().is_none() {
            return holds_for(compare, None);
        }
        found.all(|kv| holds_for(compare, Some(kv)))
    }
}

/// A missing key has version, revisions and lease 0, but no value: no comparison with one holds.
fn holds_for(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let number = |field: fn(&KeyValue) -> i64, wanted: &i64| kv.map_or(0, field).cmp(wanted);
    let ordering = match (&compare.target, kv) {
        (CompareTarget::Version(wanted), _) => number(|kv| kv.version, wanted),
        (CompareTarget::Create(wanted), _) => number(|kv| kv.create_revision, wanted),
        (CompareTarget::Mod(wanted), _) => number(|kv| kv.mod_revision, wanted),
        (CompareTarget::Lease(wanted), _) => number(|kv| kv.lease, wanted),
        (CompareTarget::Value(wanted), Some(kv)) => kv.value.cmp(wanted),
        (CompareTarget::Value(_), None) => return false,
    };
    match compare.result {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
    }
}
