//! A naive store: every revision is a whole map. It shares no code with `kv` but the check of a request's form.

use bytes::Bytes;
use proto::{
    Error, KeyRange,
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
        RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, compare, request_op::Request,
        response_op::Response,
    },
    mvccpb::{Event, KeyValue},
};
use std::collections::{BTreeMap, BTreeSet};

pub type Keys = BTreeMap<Bytes, KeyValue>;

#[allow(clippy::unnecessary_wraps)]
pub fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..Default::default()
    })
}

/// `revisions[r]` is the state at revision r; the first is 1.
#[derive(Clone)]
pub struct Model {
    pub revisions: Vec<Keys>,
    /// (revision, event with what it replaced).
    pub events: Vec<(i64, Event)>,
    pub compact: i64,
    pub leases: BTreeSet<i64>,
    now: Keys,
    changes: Vec<Event>,
}

impl Model {
    pub fn new() -> Self {
        let revisions = vec![Keys::new(), Keys::new()];
        Self {
            revisions,
            events: vec![],
            compact: -1,
            leases: BTreeSet::new(),
            now: Keys::new(),
            changes: vec![],
        }
    }

    pub fn revision(&self) -> i64 {
        self.revisions.len() as i64 - 1
    }

    pub fn latest(&self) -> &Keys {
        self.revisions.last().unwrap()
    }

    fn pending(&self) -> i64 {
        self.revision() + i64::from(!self.changes.is_empty())
    }

    fn end(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        self.revisions.push(self.now.clone());
        let revision = self.revision();
        self.events.extend(
            std::mem::take(&mut self.changes)
                .into_iter()
                .map(|event| (revision, event)),
        );
    }

    pub fn put(&mut self, put: &PutRequest) -> Result<PutResponse, Error> {
        kv::check_put(put)?;
        if put.lease != 0 && !self.leases.contains(&put.lease) {
            return Err(Error::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && !self.now.contains_key(&put.key) {
            return Err(Error::KeyNotFound);
        }
        let reply = self.do_put(put);
        self.end();
        Ok(reply)
    }

    fn do_put(&mut self, put: &PutRequest) -> PutResponse {
        let revision = self.revision() + 1;
        let prev = self.now.get(&put.key).cloned();
        let kept = prev.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: if prev.is_some() { kept.create_revision } else { revision },
            mod_revision: revision,
            version: kept.version + 1,
            value: if put.ignore_value {
                kept.value
            } else {
                put.value.clone()
            },
            lease: if put.ignore_lease { kept.lease } else { put.lease },
        };
        self.now.insert(put.key.clone(), kv.clone());
        self.changes.push(Event {
            r#type: 0,
            kv: Some(kv),
            prev_kv: prev.clone(),
        });
        PutResponse {
            header: header(revision),
            prev_kv: prev.filter(|_| put.prev_kv),
        }
    }

    pub fn delete(&mut self, delete: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        kv::check_delete(delete)?;
        let reply = self.do_delete(delete);
        self.end();
        Ok(reply)
    }

    fn do_delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
        let keys: Vec<Bytes> = self.now.keys().filter(|key| range.contains(key)).cloned().collect();
        let prev_kvs: Vec<_> = keys.into_iter().map(|key| self.remove(&key)).collect();
        DeleteRangeResponse {
            header: header(self.pending()),
            deleted: prev_kvs.len() as i64,
            prev_kvs: if delete.prev_kv { prev_kvs } else { vec![] },
        }
    }

    fn remove(&mut self, key: &Bytes) -> KeyValue {
        let prev = self.now.remove(key).unwrap();
        let kv = KeyValue {
            key: key.clone(),
            mod_revision: self.revision() + 1,
            ..Default::default()
        };
        self.changes.push(Event {
            r#type: 1,
            kv: Some(kv),
            prev_kv: Some(prev.clone()),
        });
        prev
    }

    pub fn revoke(&mut self, lease: i64) -> Result<i64, Error> {
        if !self.leases.remove(&lease) {
            return Err(Error::LeaseNotFound);
        }
        let keys: Vec<Bytes> = self
            .now
            .values()
            .filter(|kv| kv.lease == lease)
            .map(|kv| kv.key.clone())
            .collect();
        for key in &keys {
            self.remove(key);
        }
        self.end();
        Ok(self.revision())
    }

    pub fn grant(&mut self, lease: i64) -> Result<(), Error> {
        if self.leases.insert(lease) {
            Ok(())
        } else {
            Err(Error::LeaseExist)
        }
    }

    pub fn compact(&mut self, revision: i64) -> Result<i64, Error> {
        if revision <= self.compact {
            return Err(Error::Compacted);
        } else if revision > self.revision() {
            return Err(Error::FutureRev);
        }
        self.compact = revision;
        Ok(self.revision())
    }

    pub fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, Error> {
        kv::check_txn(txn, 128)?;
        let before = self.now.clone();
        self.check(txn, &before)?;
        let mut reply = self.run(txn, &before);
        reply.header = header(self.pending());
        self.end();
        Ok(reply)
    }

    fn branch<'a>(txn: &'a TxnRequest, before: &Keys) -> (bool, &'a [RequestOp]) {
        let succeeded = txn.compare.iter().all(|compare| holds(before, compare));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    /// As etcd: all puts on the path first, then all ranges.
    fn check(&self, txn: &TxnRequest, before: &Keys) -> Result<(), Error> {
        let mut path = vec![];
        Self::path(txn, before, &mut path);
        for op in &path {
            if let Request::RequestPut(put) = op {
                if (put.ignore_lease || put.ignore_value) && !before.contains_key(&put.key) {
                    return Err(Error::KeyNotFound);
                }
                if put.lease != 0 && !self.leases.contains(&put.lease) {
                    return Err(Error::LeaseNotFound);
                }
            }
        }
        for op in &path {
            if let Request::RequestRange(range) = op {
                if range.revision > self.revision() {
                    return Err(Error::FutureRev);
                }
                if range.revision != 0 && range.revision < self.compact {
                    return Err(Error::Compacted);
                }
            }
        }
        Ok(())
    }

    fn path<'a>(txn: &'a TxnRequest, before: &Keys, path: &mut Vec<&'a Request>) {
        for op in Self::branch(txn, before).1 {
            match op.request.as_ref().unwrap() {
                Request::RequestTxn(txn) => Self::path(txn, before, path),
                request => path.push(request),
            }
        }
    }

    fn run(&mut self, txn: &TxnRequest, before: &Keys) -> TxnResponse {
        let (succeeded, ops) = Self::branch(txn, before);
        let mut responses = vec![];
        for op in ops {
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(request) => {
                    let past = (request.revision > 0).then(|| &self.revisions[request.revision as usize]);
                    Response::ResponseRange(range(past.unwrap_or(&self.now), request, self.pending()))
                }
                Request::RequestPut(put) => Response::ResponsePut(self.do_put(put)),
                Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(self.do_delete(delete)),
                Request::RequestTxn(txn) => Response::ResponseTxn(self.run(txn, before)),
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        TxnResponse {
            header: header(0),
            succeeded,
            responses,
        }
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        kv::check_range(request)?;
        if request.revision > self.revision() {
            return Err(Error::FutureRev);
        }
        if request.revision > 0 && request.revision < self.compact {
            return Err(Error::Compacted);
        }
        let at = if request.revision <= 0 {
            self.revision()
        } else {
            request.revision
        };
        Ok(range(&self.revisions[at as usize], request, self.revision()))
    }

    pub fn events_from(&self, range: &KeyRange, revision: i64) -> Vec<Event> {
        let wanted = self
            .events
            .iter()
            .filter(|(at, event)| *at >= revision && range.contains(&event.kv.as_ref().unwrap().key));
        let event = |(at, event): &(i64, Event)| {
            let prev_kv = event.prev_kv.clone().filter(|_| *at != self.compact);
            Event {
                prev_kv,
                ..event.clone()
            }
        };
        wanted.map(event).collect()
    }
}

fn holds(keys: &Keys, compare: &Compare) -> bool {
    use compare::{CompareResult, CompareTarget, TargetUnion};
    let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    let mut kvs: Vec<KeyValue> = keys.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
    if kvs.is_empty() {
        if compare.target() == CompareTarget::Value {
            return false;
        }
        kvs.push(KeyValue::default());
    }
    kvs.iter().all(|kv| {
        let union = compare.target_union.clone();
        let ordering = match (compare.target(), union) {
            (CompareTarget::Version, Some(TargetUnion::Version(wanted))) => kv.version.cmp(&wanted),
            (CompareTarget::Version, _) => kv.version.cmp(&0),
            (CompareTarget::Create, Some(TargetUnion::CreateRevision(wanted))) => kv.create_revision.cmp(&wanted),
            (CompareTarget::Create, _) => kv.create_revision.cmp(&0),
            (CompareTarget::Mod, Some(TargetUnion::ModRevision(wanted))) => kv.mod_revision.cmp(&wanted),
            (CompareTarget::Mod, _) => kv.mod_revision.cmp(&0),
            (CompareTarget::Lease, Some(TargetUnion::Lease(wanted))) => kv.lease.cmp(&wanted),
            (CompareTarget::Lease, _) => kv.lease.cmp(&0),
            (CompareTarget::Value, Some(TargetUnion::Value(wanted))) => kv.value.cmp(&wanted),
            (CompareTarget::Value, _) => kv.value.cmp(&Bytes::new()),
        };
        match compare.result() {
            CompareResult::Equal => ordering.is_eq(),
            CompareResult::NotEqual => ordering.is_ne(),
            CompareResult::Greater => ordering.is_gt(),
            CompareResult::Less => ordering.is_lt(),
        }
    })
}

fn range(keys: &Keys, request: &RangeRequest, revision: i64) -> RangeResponse {
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    let mut kvs: Vec<KeyValue> = keys.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
    let mut reply = RangeResponse {
        header: header(revision),
        count: kvs.len() as i64,
        ..Default::default()
    };
    if request.count_only {
        return reply;
    }
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    let limit = request.limit.max(0) as usize;
    if request.sort_order == 0 && bounds == [0; 4] && limit > 0 {
        kvs.truncate(limit + 1);
    }
    kvs.retain(|kv| bounds[0] == 0 || kv.mod_revision >= bounds[0]);
    kvs.retain(|kv| bounds[1] == 0 || kv.mod_revision <= bounds[1]);
    kvs.retain(|kv| bounds[2] == 0 || kv.create_revision >= bounds[2]);
    kvs.retain(|kv| bounds[3] == 0 || kv.create_revision <= bounds[3]);
    let compare = |a: &KeyValue, b: &KeyValue| match request.sort_target {
        0 => a.key.cmp(&b.key),
        1 => a.version.cmp(&b.version),
        2 => a.create_revision.cmp(&b.create_revision),
        3 => a.mod_revision.cmp(&b.mod_revision),
        _ => a.value.cmp(&b.value),
    };
    if request.sort_order == 2 {
        kvs.sort_by(|a, b| compare(b, a));
    } else {
        kvs.sort_by(compare);
    }
    reply.more = limit > 0 && kvs.len() > limit;
    if limit > 0 {
        kvs.truncate(limit);
    }
    for kv in kvs.iter_mut().filter(|_| request.keys_only) {
        kv.value = Bytes::new();
        kv.lease = if request.sort_target == 4 { kv.lease } else { 0 };
    }
    reply.kvs = kvs;
    reply
}
