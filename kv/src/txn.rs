//! A transaction: compares choose branches, operations run, all or nothing.
//!
//! | step | sees |
//! |---|---|
//! | 1. compares, of nested transactions too, choose the path | the state before the transaction |
//! | 2. every operation on the path is checked | the state before the transaction |
//! | 3. operations run in order | the earlier ones of this transaction |
//!
//! Step 1 is etcd's: a nested compare does not see what the outer transaction puts. Step 2 finds everything
//! that can fail, so that step 3 cannot, and a transaction that fails has changed nothing.

use crate::{
    engine::{Engine, Rows},
    history::{self, Forgotten},
    mutants,
    range::{self, At, Failure, REPLY_BYTES_MAX},
    record::Record,
    state::header,
    view::{self, View},
    writer::Writer,
};
use proto::{
    Error, KeyRange,
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
        RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
};
use std::cmp::Ordering;

/// Keys that a delete looks at before it deletes them, and the bytes of their values: what it holds at once.
const DELETE_PAGE_KEYS: usize = 4096;
const DELETE_PAGE_BYTES: usize = 4 << 20;

/// The branches taken, parents before children, children in order.
type Path = Vec<bool>;

/// Applies a transaction whose form was checked.
pub(crate) fn apply<E: Engine>(writer: &mut Writer<'_, E>, request: &TxnRequest) -> Result<TxnResponse, Error> {
    let mut path = Path::new();
    choose(&*writer, request, &mut path);
    let has_lease = |id| writer.registry.leases.contains_key(&id);
    let state = (writer.state.revision, writer.state.compact_revision);
    check(&*writer, state, &has_lease, request, &path)?;
    measure(writer, request, &path)?;
    let mut reply = run(writer, request, &mut path.into_iter())?;
    reply.header = header(writer.revision());
    Ok(reply)
}

/// Answers a transaction without writes at a View's revision.
pub(crate) fn read_only<E: Engine>(view: &View<E>, request: &TxnRequest) -> Result<TxnResponse, Error> {
    let mut path = Path::new();
    choose(&view.snapshot, request, &mut path);
    check(
        &view.snapshot,
        (view.revision(), view.compact_revision()),
        &|_| false,
        request,
        &path,
    )?;
    let mut reply = TxnResponse {
        header: header(view.revision()),
        succeeded: path[0],
        responses: Vec::new(),
    };
    for op in branch(request, path[0]) {
        let Some(Request::RequestRange(range)) = &op.request else {
            return Err(Error::Unimplemented(
                "a transaction that does more than compare and read is not read-only",
            ));
        };
        let at = range::at(range.revision, view.revision(), view.compact_revision())?;
        let response = Response::ResponseRange(view.range_at(range, at)?);
        reply.responses.push(ResponseOp {
            response: Some(response),
        });
    }
    Ok(reply)
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

fn choose<R: Rows>(rows: &R, request: &TxnRequest, path: &mut Path) {
    let succeeded = request.compare.iter().all(|compare| holds(rows, compare));
    path.push(succeeded);
    for op in branch(request, succeeded) {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            choose(rows, txn, path);
        }
    }
}

/// Whether every key of the compare's range satisfies it. A range without keys is like a missing key, and a
/// missing key has no value: comparing that is false, whatever the operator.
fn holds<R: Rows>(rows: &R, compare: &Compare) -> bool {
    let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    let has_no_value = compare.target == CompareTarget::Value as i32 && !mutants::is("value-compare-missing");
    let missing = || !has_no_value && satisfies(compare, None);
    if let KeyRange::Key(key) = &range {
        let record = history::latest(rows, key);
        return record.map_or_else(missing, |record| satisfies(compare, Some(&record)));
    }
    if range.is_empty() {
        return missing();
    }
    let end = range.to();
    let mut is_missing = true;
    for live in history::scan_latest(rows, range.from(), end.as_deref()) {
        is_missing = false;
        if !live.is_ok_and(|(_, record)| satisfies(compare, Some(&record))) {
            return false;
        }
    }
    if is_missing { missing() } else { true }
}

/// Compares one record (a missing one counts as all zeros). A target of another kind than the union's counts
/// as zero; an operator that is not known holds: both as in etcd.
fn satisfies(compare: &Compare, record: Option<&Record>) -> bool {
    let number = |value: fn(&Record) -> i64| record.map_or(0, value);
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => {
            number(|record| record.version).cmp(&wanted(union, |u| matches!(u, TargetUnion::Version(_))))
        }
        Ok(CompareTarget::Create) => {
            number(|record| record.create_revision).cmp(&wanted(union, |u| matches!(u, TargetUnion::CreateRevision(_))))
        }
        Ok(CompareTarget::Mod) => {
            number(|record| record.modified.main).cmp(&wanted(union, |u| matches!(u, TargetUnion::ModRevision(_))))
        }
        Ok(CompareTarget::Lease) => {
            number(|record| record.lease).cmp(&wanted(union, |u| matches!(u, TargetUnion::Lease(_))))
        }
        Ok(CompareTarget::Value) => {
            let wanted = if let Some(TargetUnion::Value(value)) = union {
                value.as_ref()
            } else {
                &[]
            };
            record.map_or(&[][..], |record| &record.value).cmp(wanted)
        }
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

fn wanted(union: Option<&TargetUnion>, is_kind: impl Fn(&TargetUnion) -> bool) -> i64 {
    match union.filter(|union| is_kind(union)) {
        Some(
            TargetUnion::Version(number)
            | TargetUnion::CreateRevision(number)
            | TargetUnion::ModRevision(number)
            | TargetUnion::Lease(number),
        ) => *number,
        _ => 0,
    }
}

/// Refuses what cannot be done before anything of it is: all puts on the path first, then all ranges, as etcd.
fn check<R: Rows>(
    rows: &R,
    (revision, compact_revision): (i64, i64),
    has_lease: &dyn Fn(i64) -> bool,
    request: &TxnRequest,
    path: &[bool],
) -> Result<(), Error> {
    walk_path(request, &mut path.iter(), &mut |op| match op {
        Request::RequestPut(put) => check_put(rows, has_lease, put),
        _ => Ok(()),
    })?;
    walk_path(request, &mut path.iter(), &mut |op| match op {
        Request::RequestRange(range) if range.revision > revision => Err(Error::FutureRev),
        Request::RequestRange(range) if range.revision != 0 && range.revision < compact_revision => {
            Err(Error::Compacted)
        }
        _ => Ok(()),
    })
}

/// Visits the operations of the branches taken, nested ones in their place.
fn walk_path(
    request: &TxnRequest,
    path: &mut std::slice::Iter<'_, bool>,
    visit: &mut dyn FnMut(&Request) -> Result<(), Error>,
) -> Result<(), Error> {
    let succeeded = *path.next().expect("the path has a step for every transaction on it");
    for op in branch(request, succeeded) {
        match &op.request {
            Some(Request::RequestTxn(txn)) => walk_path(txn, path, visit)?,
            Some(op) => visit(op)?,
            None => {}
        }
    }
    Ok(())
}

fn check_put<R: Rows>(rows: &R, has_lease: &dyn Fn(i64) -> bool, put: &PutRequest) -> Result<(), Error> {
    if (put.ignore_value || put.ignore_lease) && history::latest(rows, &put.key).is_none() {
        return Err(Error::KeyNotFound);
    }
    if put.lease != 0 && !has_lease(put.lease) {
        return Err(Error::LeaseNotFound);
    }
    Ok(())
}

/// Refuses a transaction whose ranges would answer too much, while nothing is written yet.
fn measure<E: Engine>(writer: &Writer<'_, E>, request: &TxnRequest, path: &[bool]) -> Result<(), Error> {
    walk_path(request, &mut path.iter(), &mut |op| match op {
        Request::RequestRange(range) if !range.range_end.is_empty() && !range.count_only => {
            read(writer, range, REPLY_BYTES_MAX).map(drop)
        }
        _ => Ok(()),
    })
}

/// Runs a transaction's branch. Everything that can fail was looked at before.
fn run<E: Engine>(
    writer: &mut Writer<'_, E>,
    request: &TxnRequest,
    path: &mut std::vec::IntoIter<bool>,
) -> Result<TxnResponse, Error> {
    let succeeded = path.next().expect("the path has a step for every transaction on it");
    // Of nested transactions etcd leaves the header empty.
    let header = Some(ResponseHeader::default());
    let mut reply = TxnResponse {
        header,
        succeeded,
        responses: Vec::new(),
    };
    for op in branch(request, succeeded) {
        let response = match &op.request {
            Some(Request::RequestRange(range)) => Response::ResponseRange(read(writer, range, usize::MAX)?),
            Some(Request::RequestPut(put)) => Response::ResponsePut(run_put(writer, put)),
            Some(Request::RequestDeleteRange(delete)) => Response::ResponseDeleteRange(run_delete(writer, delete)),
            Some(Request::RequestTxn(txn)) if mutants::is("compare-after-write") => {
                let mut path = Path::new();
                choose(&*writer, txn, &mut path);
                Response::ResponseTxn(run(writer, txn, &mut path.into_iter())?)
            }
            Some(Request::RequestTxn(txn)) => Response::ResponseTxn(run(writer, txn, path)?),
            None => return Err(Error::KeyNotFound),
        };
        reply.responses.push(ResponseOp {
            response: Some(response),
        });
    }
    Ok(reply)
}

/// Sets a key. With `ignore_value` or `ignore_lease` on a key that this same transaction deleted (which etcd
/// lets through and dies of) nothing is left to keep.
pub(crate) fn run_put<E: Engine>(writer: &mut Writer<'_, E>, put: &PutRequest) -> PutResponse {
    let (mut value, mut lease) = (put.value.clone(), put.lease);
    if put.ignore_value || put.ignore_lease {
        let kept = history::latest(&*writer, &put.key);
        if put.ignore_value {
            value = kept.as_ref().map(|kept| kept.value.clone()).unwrap_or_default();
        }
        if put.ignore_lease {
            lease = kept.map_or(0, |kept| kept.lease);
        }
    }
    if mutants::is("reput-keeps-lease") && lease == 0 {
        lease = history::latest(&*writer, &put.key).map_or(0, |kept| kept.lease);
    }
    let prev = writer.put(&put.key, value, lease);
    let prev_kv = prev.filter(|_| put.prev_kv).map(|prev| prev.to_proto(put.key.clone()));
    PutResponse {
        header: header(writer.revision()),
        prev_kv,
    }
}

/// Deletes the keys of a range, a page at a time.
pub(crate) fn run_delete<E: Engine>(writer: &mut Writer<'_, E>, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
    let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
    let mut reply = DeleteRangeResponse::default();
    let mut from = (!range.is_empty()).then(|| range.from().clone());
    let end = range.to();
    while let Some(start) = from.take() {
        let (mut page, mut bytes) = (Vec::new(), 0);
        for live in history::scan_latest(&*writer, &start, end.as_deref()) {
            let Ok((key, record)) = live else {
                unreachable!("the latest state is never forgotten")
            };
            if page.len() == DELETE_PAGE_KEYS || bytes >= DELETE_PAGE_BYTES {
                from = Some(key);
                break;
            }
            bytes += key.len() + record.value.len();
            page.push((key, record));
        }
        for (key, record) in page {
            reply.deleted += 1;
            if delete.prev_kv {
                reply.prev_kvs.push(record.to_proto(key.clone()));
            }
            writer.delete(key, record);
        }
    }
    if mutants::is("noop-delete-bumps") && reply.deleted == 0 {
        writer.next_change();
    }
    reply.header = header(writer.revision());
    reply
}

/// Reads a range; how large the answer may be was measured before anything was written.
fn read<E: Engine>(writer: &Writer<'_, E>, request: &RangeRequest, bytes_max: usize) -> Result<RangeResponse, Error> {
    let current = writer.revision();
    let at = range::at(request.revision, current, writer.state.compact_revision)?;
    let count = |range: &KeyRange| {
        if at == At::Latest {
            Ok(count(writer, range))
        } else {
            walk(writer, range, at)
        }
    };
    range::range(writer, request, at, (current, bytes_max), count).map_err(|failure| match failure {
        Failure::Error(error) => error,
        Failure::Forgotten => panic!("an event is missing that a transaction's read at {at:?} needs"),
    })
}

fn walk<E: Engine>(writer: &Writer<'_, E>, range: &KeyRange, at: At) -> Result<i64, Forgotten> {
    range::walk(writer, range.from(), range.to().as_deref(), at)
}

fn count<E: Engine>(writer: &Writer<'_, E>, range: &KeyRange) -> i64 {
    let around = |key: &[u8]| writer.around(key);
    let (from, end) = view::widened(writer, range, At::Latest, around).expect("the latest state is never forgotten");
    let walk = |from: &[u8], to: Option<&[u8]>| writer.count(crate::engine::Family::Cur, from, to) as i64;
    match writer.whole(&from, end.as_deref()) {
        None => walk(&from, end.as_deref()),
        Some(whole) => {
            let behind = whole.to.as_ref().map_or(0, |to| walk(to, end.as_deref()));
            walk(&from, Some(&whole.from)) + whole.keys + behind
        }
    }
}
