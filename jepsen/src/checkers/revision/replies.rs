//! Whether a reply is the one that the model gives, and whether it says that something changed.
//!
//! Where etcd's versions differ the checker is lenient: a keys-only read may tell the lease or 0, and the revision
//! inside of a transaction's replies may be 0.

use crate::history::{KeyValue, RangeReply, Reply, Request};

/// Whether the reply of a request about keys says that it made a revision.
pub fn says_changed(reply: &Reply) -> bool {
    match reply {
        Reply::Put { .. } => true,
        Reply::DeleteRange { deleted, .. } => *deleted > 0,
        Reply::Txn { replies, .. } => replies.iter().any(says_changed),
        _ => false,
    }
}

/// Whether `found` is `expected`, as the reply to `request`.
pub fn agree(request: &Request, expected: &Reply, found: &Reply) -> bool {
    agree_at(request, expected, found, false)
}

fn agree_at(request: &Request, expected: &Reply, found: &Reply, nested: bool) -> bool {
    let same_revision = |a: i64, b: i64| a == b || (nested && b == 0);
    match (request, expected, found) {
        (Request::Range(range), Reply::Range(a), Reply::Range(b)) => {
            same_revision(a.revision, b.revision) && same_range(a, b, range.keys_only)
        }
        (
            Request::Put(_),
            Reply::Put {
                revision: a,
                prev_kv: x,
            },
            Reply::Put {
                revision: b,
                prev_kv: y,
            },
        ) => same_revision(*a, *b) && x == y,
        (
            Request::DeleteRange(_),
            Reply::DeleteRange {
                revision: a,
                deleted: x,
                prev_kvs: before,
            },
            Reply::DeleteRange {
                revision: b,
                deleted: y,
                prev_kvs: told,
            },
        ) => same_revision(*a, *b) && x == y && before == told,
        (
            Request::Txn(txn),
            Reply::Txn {
                revision: a,
                succeeded: x,
                replies: wanted,
            },
            Reply::Txn {
                revision: b,
                succeeded: y,
                replies: told,
            },
        ) => {
            let branch = if *x { &txn.success } else { &txn.failure };
            same_revision(*a, *b)
                && x == y
                && wanted.len() == told.len()
                && branch
                    .iter()
                    .zip(wanted.iter().zip(told))
                    .all(|(request, (a, b))| agree_at(request, a, b, true))
        }
        _ => false,
    }
}

fn same_range(expected: &RangeReply, found: &RangeReply, keys_only: bool) -> bool {
    let same_kv = |a: &KeyValue, b: &KeyValue| {
        let lease = if keys_only && b.lease == 0 { 0 } else { a.lease };
        KeyValue { lease, ..a.clone() } == *b
    };
    expected.more == found.more
        && expected.count == found.count
        && expected.kvs.len() == found.kvs.len()
        && expected.kvs.iter().zip(&found.kvs).all(|(a, b)| same_kv(a, b))
}
