//! The random sequence: small alphabets, so that keys, leases and revisions collide, and every option and
//! every refusal in reach. The same seed gives the same sequence as long as the oracle answers the same.

use bytes::Bytes;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, compare::TargetUnion, request_op::Request as Op,
};

use super::request::Request;

/// Watch streams that are open at a time.
pub const STREAMS: usize = 4;
/// Watches opened on one stream before it is closed.
const WATCHES_PER_STREAM: usize = 10;
/// Lease ids in play; grants and revokes collide on them.
const LEASES: [i64; 6] = [1, 7, 1001, -3, i64::MAX, 0x0123_4567_89ab];
const KEYS: [&[u8]; 14] = [
    b"a",
    b"a\0",
    b"ab",
    b"abc",
    b"b",
    b"b/1",
    b"b/2",
    b"b/3",
    b"c",
    b"d",
    b"e",
    b"\0",
    b"\xff",
    b"\xff\xff",
];
const VALUES: [&[u8]; 7] = [b"", b"v", b"w", b"x", b"0", b"longer value", b"\0\xff"];

/// SplitMix64: small, seedable, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What the generator knows of the state, learnt from the oracle's answers.
#[derive(Clone, Debug)]
pub struct Known {
    pub revision: i64,
    pub compact_revision: i64,
    /// Whether a range that fails inside a write txn has the same effect on all members (since etcd 3.7).
    pub txn_ranges_may_fail: bool,
    /// Watches opened per stream since it was opened.
    pub watches: [usize; STREAMS],
}

/// The next step.
pub fn request(random: &mut Random, known: &Known) -> Request {
    match random.below(1000) {
        0..260 => Request::Put(put(random)),
        260..500 => Request::Range(range(random, known)),
        500..530 => Request::RangeStream(stream_range(random, known)),
        530..600 => Request::DeleteRange(delete(random)),
        600..800 => Request::Txn(txn(random, known, 2)),
        800..808 => Request::Compact(compaction(random, known)),
        808..840 => Request::Grant(grant(random)),
        840..848 => Request::GrantThenRevoke(short_grant(random)),
        848..862 => Request::Revoke(lease(random)),
        862..890 => Request::TimeToLive(LeaseTimeToLiveRequest {
            id: lease(random),
            keys: random.percent(70),
        }),
        890..900 => Request::Leases,
        900..915 => Request::KeepAlive(lease(random)),
        915..920 => Request::HashKv(revision(random, known)),
        920..922 => Request::Alarms,
        922..970 => watch(random, known),
        970..985 => {
            let id = random.below(WATCHES_PER_STREAM as u64 + 2) as i64;
            Request::CancelWatch {
                stream: stream(random),
                id,
            }
        }
        985..995 => Request::Progress { stream: stream(random) },
        _ => Request::Put(wrong_put(random)),
    }
}

fn stream(random: &mut Random) -> usize {
    random.below(STREAMS as u64) as usize
}

fn key(random: &mut Random) -> Bytes {
    Bytes::from_static(random.pick(&KEYS))
}

/// One in fifty is empty: an error everywhere but in a watch.
fn key_or_none(random: &mut Random) -> Bytes {
    if random.percent(2) { Bytes::new() } else { key(random) }
}

fn value(random: &mut Random) -> Bytes {
    match random.below(40) {
        0 => Bytes::from(vec![b'z'; 3000]),
        1..6 => Bytes::from(random.next().to_be_bytes().to_vec()),
        _ => Bytes::from_static(random.pick(&VALUES)),
    }
}

/// Single keys, prefixes, everything from a key on, and ends at or before the key.
fn range_end(random: &mut Random, key: &[u8]) -> Bytes {
    match random.below(10) {
        0..4 => Bytes::new(),
        4 | 5 => Bytes::from_static(b"\0"),
        6 => Bytes::copy_from_slice(key),
        7 => {
            let mut end = key.to_vec();
            if let Some(last) = end.last_mut().filter(|last| **last < 0xff) {
                *last += 1;
            }
            Bytes::from(end)
        }
        _ => Bytes::from_static(random.pick(&KEYS)),
    }
}

/// Around every edge: now, the future, the compaction revision and what lies below it, negative ones.
fn revision(random: &mut Random, known: &Known) -> i64 {
    match random.below(20) {
        0..6 => 0,
        6..11 => known.revision - random.below(30) as i64,
        11 => known.revision,
        12 => known.revision + 1 + random.below(3) as i64,
        13..16 => known.compact_revision,
        16 => known.compact_revision - 1,
        17 => known.compact_revision + 1,
        18 => -(random.below(4) as i64),
        _ => 1 + random.below(known.revision.max(1) as u64) as i64,
    }
}

/// In a write txn a failing range fails the whole txn, so most of them ask for now.
fn txn_revision(random: &mut Random, known: &Known) -> i64 {
    if random.percent(80) || !known.txn_ranges_may_fail {
        0
    } else {
        revision(random, known)
    }
}

fn range(random: &mut Random, known: &Known) -> RangeRequest {
    let key = if random.percent(30) {
        Bytes::from_static(b"\0")
    } else {
        key_or_none(random)
    };
    let range_end = if key == b"\0"[..] {
        Bytes::from_static(b"\0")
    } else {
        range_end(random, &key)
    };
    let mut request = RangeRequest {
        key,
        range_end,
        ..RangeRequest::default()
    };
    request.revision = revision(random, known);
    if random.percent(40) {
        request.limit = random.below(6) as i64 - i64::from(random.percent(5));
    }
    if random.percent(40) {
        request.sort_order = random.below(3) as i32;
        request.sort_target = random.below(5) as i32;
    }
    if random.percent(2) {
        request.sort_order = 3 + random.below(5) as i32;
    }
    // Not an unknown sort_target: etcd before 3.6 dies of it.
    request.serializable = random.percent(25);
    request.keys_only = random.percent(15);
    request.count_only = random.percent(15);
    if random.percent(25) {
        for bound in [
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            if random.percent(40) {
                *bound = known.revision - random.below(60) as i64;
            }
        }
    }
    request
}

/// An unknown sort order fails a whole txn since 3.6, and nothing of it before: states would part.
fn known_sort_range(random: &mut Random, known: &Known) -> RangeRequest {
    let range = range(random, known);
    RangeRequest {
        sort_order: range.sort_order.min(2),
        ..range
    }
}

/// RangeStream refuses orders and filters (another text in 3.7, nothing to compare with): leave them out.
fn stream_range(random: &mut Random, known: &Known) -> RangeRequest {
    RangeRequest {
        sort_order: 0,
        sort_target: 0,
        min_mod_revision: 0,
        max_mod_revision: 0,
        min_create_revision: 0,
        max_create_revision: 0,
        ..range(random, known)
    }
}

fn put(random: &mut Random) -> PutRequest {
    let ignore_value = random.percent(5);
    let ignore_lease = random.percent(5);
    PutRequest {
        key: key(random),
        value: if ignore_value { Bytes::new() } else { value(random) },
        lease: if !ignore_lease && random.percent(20) {
            lease(random)
        } else {
            0
        },
        prev_kv: random.percent(30),
        ignore_value,
        ignore_lease,
    }
}

/// Puts that are refused before anything happens, and combinations of reasons: the order of checks shows.
fn wrong_put(random: &mut Random) -> PutRequest {
    PutRequest {
        key: if random.percent(30) { Bytes::new() } else { key(random) },
        value: value(random),
        lease: if random.percent(50) { 99_999 } else { 0 },
        prev_kv: random.percent(30),
        ignore_value: random.percent(60),
        ignore_lease: random.percent(60),
    }
}

fn delete(random: &mut Random) -> DeleteRangeRequest {
    let key = key_or_none(random);
    // Deleting everything each time would leave nothing to collide with.
    let range_end = if random.percent(60) {
        Bytes::new()
    } else {
        range_end(random, &key)
    };
    DeleteRangeRequest {
        key,
        range_end,
        prev_kv: random.percent(50),
    }
}

fn txn(random: &mut Random, known: &Known, depth: u32) -> TxnRequest {
    if random.below(300) == 0 {
        return long_txn(random);
    }
    let compares = random.below(3);
    let success = random.below(4);
    let failure = random.below(3);
    // Writing a key twice is refused: hand the keys of puts out from a shuffled deck, but not always.
    let mut deck = KEYS.to_vec();
    TxnRequest {
        compare: (0..compares).map(|_| compare(random, known)).collect(),
        success: (0..success).map(|_| txn_op(random, known, depth, &mut deck)).collect(),
        failure: (0..failure).map(|_| txn_op(random, known, depth, &mut deck)).collect(),
    }
}

/// At the limit of operations and one beyond it.
fn long_txn(random: &mut Random) -> TxnRequest {
    let ops = 127 + random.below(3);
    let op = |i: u64| {
        Op::RequestPut(PutRequest {
            key: format!("b/{i}").into(),
            ..PutRequest::default()
        })
    };
    TxnRequest {
        success: (0..ops).map(|i| RequestOp { request: Some(op(i)) }).collect(),
        ..TxnRequest::default()
    }
}

fn txn_op(random: &mut Random, known: &Known, depth: u32, deck: &mut Vec<&'static [u8]>) -> RequestOp {
    let request = match random.below(100) {
        0..40 => {
            let mut put = if random.percent(3) {
                wrong_put(random)
            } else {
                put(random)
            };
            if !deck.is_empty() && random.percent(95) {
                put.key = Bytes::from_static(deck.swap_remove(random.below(deck.len() as u64) as usize));
            }
            Some(Op::RequestPut(put))
        }
        40..70 => {
            let revision = txn_revision(random, known);
            Some(Op::RequestRange(RangeRequest {
                revision,
                ..known_sort_range(random, known)
            }))
        }
        70..84 => {
            let mut delete = delete(random);
            if !deck.is_empty() && random.percent(80) {
                delete.key = Bytes::from_static(deck.swap_remove(random.below(deck.len() as u64) as usize));
                delete.range_end = Bytes::new();
            }
            Some(Op::RequestDeleteRange(delete))
        }
        84..99 if depth > 0 => Some(Op::RequestTxn(txn(random, known, depth - 1))),
        84..99 => Some(Op::RequestRange(RangeRequest {
            revision: 0,
            ..known_sort_range(random, known)
        })),
        _ => None,
    };
    RequestOp { request }
}

fn compare(random: &mut Random, known: &Known) -> Compare {
    let key = key_or_none(random);
    let range_end = if random.percent(70) {
        Bytes::new()
    } else {
        range_end(random, &key)
    };
    let target = random.below(5) as i32;
    let near = |random: &mut Random| {
        if random.percent(30) {
            0
        } else {
            known.revision - random.below(20) as i64
        }
    };
    let union = match target {
        0 => TargetUnion::Version(random.below(5) as i64),
        1 => TargetUnion::CreateRevision(near(random)),
        2 => TargetUnion::ModRevision(near(random)),
        3 => TargetUnion::Value(value(random)),
        _ => TargetUnion::Lease(if random.percent(30) { 0 } else { lease(random) }),
    };
    let target_union = if random.percent(5) { None } else { Some(union) };
    let result = random.below(4) as i32;
    Compare {
        result,
        target,
        key,
        range_end,
        target_union,
    }
}

fn compaction(random: &mut Random, known: &Known) -> CompactionRequest {
    let revision = match random.below(10) {
        0 => known.compact_revision,
        1 => known.revision + 1,
        2 => -1,
        3 => 0,
        4 => known.revision,
        _ => known.revision - random.below(100) as i64,
    };
    CompactionRequest {
        revision,
        physical: random.percent(50),
    }
}

fn lease(random: &mut Random) -> i64 {
    if random.percent(3) {
        random.pick(&[0, 99_999, i64::MIN])
    } else {
        random.pick(&LEASES)
    }
}

/// Leases that outlive the test.
fn grant(random: &mut Random) -> LeaseGrantRequest {
    let ttl = match random.below(10) {
        0 => 9_000_000_001,
        1 => 9_000_000_000,
        _ => random.pick(&[3600, 7200, 100_000]),
    };
    LeaseGrantRequest {
        id: random.pick(&LEASES),
        ttl,
    }
}

fn short_grant(random: &mut Random) -> LeaseGrantRequest {
    let id = if random.percent(50) { 0 } else { 55_555 };
    LeaseGrantRequest {
        id,
        ttl: random.pick(&[-7, 0, 1, 2, 3600]),
    }
}

fn watch(random: &mut Random, known: &Known) -> Request {
    let stream = stream(random);
    if known.watches[stream] >= WATCHES_PER_STREAM {
        return Request::CloseStream { stream };
    }
    let key = if random.percent(30) {
        Bytes::from_static(b"\0")
    } else {
        key_or_none(random)
    };
    let range_end = if key == b"\0"[..] {
        Bytes::from_static(b"\0")
    } else {
        range_end(random, &key)
    };
    let start_revision = match random.below(10) {
        0..4 => 0,
        4 => known.revision + 1 + random.below(6) as i64,
        _ => revision(random, known),
    };
    let filters = match random.below(10) {
        0 => vec![0],
        1 => vec![1],
        2 => vec![1, 0],
        _ => vec![],
    };
    let request = WatchCreateRequest {
        key,
        range_end,
        start_revision,
        progress_notify: random.percent(20),
        filters,
        prev_kv: random.percent(50),
        watch_id: if random.percent(15) { random.below(8) as i64 } else { 0 },
        fragment: random.percent(20),
    };
    Request::Watch { stream, request }
}
