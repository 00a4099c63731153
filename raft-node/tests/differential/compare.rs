//! When two answers are the same: ids and terms masked, ties of a sort as sets, seconds with tolerance, and
//! the differences between etcd's versions that the contract (3.7) decides, one line each.

use std::cmp::Ordering;

use proto::{
    etcdserverpb::{
        RangeRequest, RangeResponse, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, request_op::Request as Op,
        response_op::Response as OpAnswer,
    },
    mvccpb::KeyValue,
};

use super::request::{Answer, Request};

/// The clocks of the two systems, and the moments at which they granted, may differ by this.
const TTL_TOLERANCE_S: i64 = 5;

/// A difference between versions of etcd: what an older one answered, rewritten to what `since` answers.
pub struct Allowed {
    pub name: &'static str,
    pub since: (u32, u32),
    pub changed: &'static str,
    /// Sees the newer answer too, for what the older one cannot know.
    pub rewrite: fn(&Request, &mut Answer, &Answer),
}

/// Every difference that is accepted, with the version that made it.
pub const ALLOWED: &[Allowed] = &[
    Allowed {
        name: "keys_only answers without the lease",
        since: (3, 7),
        changed: "etcd 3.7.0 answers keys_only from the index in memory, unless sorted by value: lease = 0",
        rewrite: keys_only_lease,
    },
    Allowed {
        name: "hash_revision",
        since: (3, 6),
        changed: "etcd 3.6.0 added HashKVResponse.hash_revision: the revision that was hashed",
        rewrite: hash_revision,
    },
    Allowed {
        name: "HashKV at the compaction revision",
        since: (3, 6),
        changed: "etcd 3.6.0 hashes at exactly the compaction revision; before, it answered ErrCompacted",
        rewrite: hash_at_compaction,
    },
    Allowed {
        name: "a list of alarms without a header",
        since: (3, 5),
        changed: "etcd 3.5.0 fills the header of AlarmResponse",
        rewrite: alarm_header,
    },
    Allowed {
        name: "unknown sort order",
        since: (3, 6),
        changed: "etcd 3.6.0 refuses enum values that it does not know with ErrInvalidSortOption",
        rewrite: invalid_sort_option,
    },
];

/// Brings both answers to the form in which equal means equal. `oracle` may follow an older version.
pub fn canonical(
    request: &Request,
    oracle: Answer,
    oracle_version: (u32, u32),
    subject: Answer,
    version: (u32, u32),
) -> (Answer, Answer) {
    let mut oracle = oracle;
    for allowed in ALLOWED
        .iter()
        .filter(|allowed| oracle_version < allowed.since && allowed.since <= version)
    {
        (allowed.rewrite)(request, &mut oracle, &subject);
    }
    let oracle = masked(request, oracle);
    let mut subject = masked(request, subject);
    if let (Answer::TimeToLive(a), Answer::TimeToLive(b)) = (&oracle, &mut subject)
        && (a.ttl - b.ttl).abs() <= TTL_TOLERANCE_S
        && (a.ttl >= 0) == (b.ttl >= 0)
    {
        b.ttl = a.ttl;
    }
    (oracle, subject)
}

/// What differs by version between these two, for the reader of a run.
pub fn print_allowed(oracle_version: (u32, u32), version: (u32, u32)) {
    for allowed in ALLOWED
        .iter()
        .filter(|allowed| oracle_version < allowed.since && allowed.since <= version)
    {
        println!("allowed difference: {} ({})", allowed.name, allowed.changed);
    }
}

/// One side's answer without what may differ between any two clusters.
fn masked(request: &Request, mut answer: Answer) -> Answer {
    if let Some(header) = answer.header() {
        if header.cluster_id == 0 || header.member_id == 0 || header.raft_term == 0 {
            return Answer::Wrong(format!("a header without ids or term: {header:?}"));
        }
        *header = ResponseHeader {
            revision: header.revision,
            ..ResponseHeader::default()
        };
    } else if !matches!(answer, Answer::Refused { .. } | Answer::Wrong(_)) {
        return Answer::Wrong(format!("no header: {answer:?}"));
    }
    match (request, &mut answer) {
        (Request::Range(range) | Request::RangeStream(range), Answer::Range(found)) => ties_as_sets(range, found),
        (Request::Txn(txn), Answer::Txn(done)) => txn_ties_as_sets(txn, done),
        (_, Answer::TimeToLive(lease)) => lease.keys.sort(),
        // Ordered by expiry, of which only a leader knows; equal members must not differ by who leads.
        (_, Answer::Leases(leases)) => leases.leases.sort_by_key(|lease| lease.id),
        // The hash is each implementation's own; members of one cluster are compared elsewhere.
        (_, Answer::HashKv(hash)) => hash.hash = 0,
        _ => {}
    }
    answer
}

/// Walks the executed branch of a txn next to its responses.
fn txn_ties_as_sets(txn: &TxnRequest, done: &mut TxnResponse) {
    each_response(txn, done, &mut |range, found| ties_as_sets(range, found));
}

/// Calls `visit` for each range that a txn executed, nested ones too.
fn each_response(txn: &TxnRequest, done: &mut TxnResponse, visit: &mut dyn FnMut(&RangeRequest, &mut RangeResponse)) {
    let ops = if done.succeeded { &txn.success } else { &txn.failure };
    for (op, ResponseOp { response }) in ops.iter().zip(&mut done.responses) {
        match (&op.request, response) {
            (Some(Op::RequestRange(range)), Some(OpAnswer::ResponseRange(found))) => visit(range, found),
            (Some(Op::RequestTxn(txn)), Some(OpAnswer::ResponseTxn(done))) => each_response(txn, done, visit),
            _ => {}
        }
    }
}

/// Orders keys within ties by key. Where a limit cut through the last tie, which of its keys came back is
/// anyone's choice: there only the sort field is kept.
fn ties_as_sets(range: &RangeRequest, found: &mut RangeResponse) {
    // Sorted by values that are not in the answer: nothing in it tells where a tie ends.
    if range.keys_only && range.sort_target == 4 {
        if found.more {
            found.kvs.iter_mut().for_each(|kv| *kv = KeyValue::default());
        }
        found.kvs.sort_by(|a, b| a.key.cmp(&b.key));
        return;
    }
    let tie = |a: &KeyValue, b: &KeyValue| match range.sort_target {
        1 => a.version.cmp(&b.version),
        2 => a.create_revision.cmp(&b.create_revision),
        3 => a.mod_revision.cmp(&b.mod_revision),
        4 => a.value.cmp(&b.value),
        _ => a.key.cmp(&b.key),
    };
    for group in found.kvs.chunk_by_mut(|a, b| tie(a, b) == Ordering::Equal) {
        group.sort_by(|a, b| a.key.cmp(&b.key));
    }
    if !found.more {
        return;
    }
    let Some(last) = found.kvs.last().cloned() else { return };
    if range.sort_target == 0 {
        return;
    }
    for kv in found.kvs.iter_mut().filter(|kv| tie(kv, &last) == Ordering::Equal) {
        let mut kept = KeyValue::default();
        match range.sort_target {
            1 => kept.version = kv.version,
            2 => kept.create_revision = kv.create_revision,
            3 => kept.mod_revision = kv.mod_revision,
            _ => kept.value = kv.value.clone(),
        }
        *kv = kept;
    }
}

fn keys_only_lease(request: &Request, answer: &mut Answer, _: &Answer) {
    let mut drop_leases = |range: &RangeRequest, found: &mut RangeResponse| {
        if range.keys_only && range.sort_target != 4 {
            found.kvs.iter_mut().for_each(|kv| kv.lease = 0);
        }
    };
    match (request, answer) {
        (Request::Range(range) | Request::RangeStream(range), Answer::Range(found)) => drop_leases(range, found),
        (Request::Txn(txn), Answer::Txn(done)) => each_response(txn, done, &mut drop_leases),
        _ => {}
    }
}

fn hash_revision(request: &Request, answer: &mut Answer, _: &Answer) {
    if let (Request::HashKv(revision), Answer::HashKv(hash)) = (request, answer) {
        let current = hash.header.as_ref().map_or(0, |header| header.revision);
        hash.hash_revision = if *revision == 0 { current } else { *revision };
    }
}

fn invalid_sort_option(request: &Request, answer: &mut Answer, _: &Answer) {
    if let Request::Range(range) = request
        && !range.key.is_empty()
        && !((0..=2).contains(&range.sort_order) && (0..=4).contains(&range.sort_target))
    {
        *answer = Answer::Refused {
            code: 3,
            text: "etcdserver: invalid sort option".to_owned(),
        };
    }
}

fn alarm_header(_: &Request, answer: &mut Answer, newer: &Answer) {
    if let (Answer::Alarms(alarms), Answer::Alarms(newer)) = (answer, newer)
        && alarms.header.is_none()
    {
        alarms.header = newer.header;
    }
}

fn hash_at_compaction(request: &Request, answer: &mut Answer, newer: &Answer) {
    let compacted = matches!(answer, Answer::Refused { text, .. } if text.ends_with("has been compacted"));
    if let (Request::HashKv(revision), true, Answer::HashKv(hash)) = (request, compacted, newer)
        && *revision == hash.compact_revision
        && *revision == hash.hash_revision
    {
        *answer = newer.clone();
    }
}
