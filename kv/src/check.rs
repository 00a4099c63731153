//! What is wrong with a request by itself, in the order in which etcd looks: first mistake, first error. Used
//! before a request is proposed, and again at apply, where it must not matter who proposed it.
//!
//! Not here: what depends on the state (unknown leases, missing keys, compacted revisions: `txn`, `apply`).

use bytes::Bytes;
use proto::{
    Error, KeyRange,
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        range_request::{SortOrder, SortTarget},
        request_op::Request,
    },
    node::{Command, command::Op},
};
use std::collections::BTreeSet;

/// What etcd adds to the size of a put for its own bookkeeping.
const PUT_COST_BYTES: u64 = 256;
const LEASE_COST_BYTES: u64 = 64;

/// Checks a range.
pub fn check_range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    let order_is_known = SortOrder::try_from(request.sort_order).is_ok();
    if !order_is_known || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks a put.
pub fn check_put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(Error::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(Error::LeaseProvided)
    } else {
        Ok(())
    }
}

/// Checks a delete.
pub fn check_delete(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else {
        Ok(())
    }
}

/// Checks a transaction: its operations, their number, and that no key is written twice.
pub fn check_txn(request: &TxnRequest, max_txn_ops: usize) -> Result<(), Error> {
    check_ops(request, max_txn_ops)?;
    written(&request.success)?;
    written(&request.failure)?;
    Ok(())
}

/// A nested transaction has what its parent left of the number of operations; that also bounds the depth,
/// since a parent has at least the operation that is its child.
fn check_ops(request: &TxnRequest, max_txn_ops: usize) -> Result<(), Error> {
    let ops = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let left = max_txn_ops.checked_sub(ops).ok_or(Error::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    let mut ops = request.success.iter().chain(&request.failure);
    ops.try_for_each(|op| check_op(op, left))
}

fn check_op(op: &RequestOp, left: usize) -> Result<(), Error> {
    match &op.request {
        Some(Request::RequestRange(range)) => check_range(range),
        Some(Request::RequestPut(put)) => check_put(put),
        Some(Request::RequestDeleteRange(delete)) => check_delete(delete),
        Some(Request::RequestTxn(txn)) => check_ops(txn, left),
        None => Err(Error::KeyNotFound),
    }
}

#[derive(Default)]
struct Written {
    puts: BTreeSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Written {
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|range| range.contains(key))
    }
}

/// The keys that operations write, or that one is written twice. Exactly as strict as etcd, which looks at
/// the deletes of this level, then at nested transactions in order, then at the puts of this level: a delete
/// in one nested transaction of what an *earlier* one puts passes, and so does a put beside a delete without
/// an end, whose range etcd reads as one that ends before it starts.
fn written(ops: &[RequestOp]) -> Result<Written, Error> {
    let mut all = Written::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
            if !matches!(range, KeyRange::From(_)) {
                all.deletes.push(range);
            }
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            add_nested(&mut all, written(&txn.success)?, written(&txn.failure)?)?;
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && (all.deletes(&put.key) || !all.puts.insert(put.key.clone()))
        {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(all)
}

/// Only one branch of a nested transaction runs: both may put the same key.
fn add_nested(all: &mut Written, success: Written, failure: Written) -> Result<(), Error> {
    for branch in [&success, &failure] {
        if branch.puts.iter().any(|key| all.puts.contains(key) || all.deletes(key)) {
            return Err(Error::DuplicateKey);
        }
    }
    for branch in [success, failure] {
        all.puts.extend(branch.puts);
        all.deletes.extend(branch.deletes);
    }
    Ok(())
}

/// What a command may add to the state, as etcd reckons it. 0 is a command that a full store still serves.
pub fn quota_cost(command: &Command) -> u64 {
    match &command.op {
        Some(Op::Put(put)) => put_cost(put),
        Some(Op::Txn(txn)) => txn_cost(txn),
        Some(Op::LeaseGrant(_)) => LEASE_COST_BYTES,
        _ => 0,
    }
}

fn put_cost(put: &PutRequest) -> u64 {
    PUT_COST_BYTES + (put.key.len() + put.value.len()) as u64
}

fn txn_cost(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 {
        let cost = |op: &RequestOp| match &op.request {
            Some(Request::RequestPut(put)) => put_cost(put),
            Some(Request::RequestTxn(txn)) => txn_cost(txn),
            _ => 0,
        };
        ops.iter().map(cost).sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}
