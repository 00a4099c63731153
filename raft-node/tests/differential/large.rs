//! Values near and beyond the size limits: fragments of watch responses, and the two refusals for size.

use bytes::Bytes;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, WatchCreateRequest};

use super::{request::Request, run::Pair, watching::WatchStream};

/// Below the request limit of 1.5 MiB; four of them exceed what one fragment may hold.
const LARGE: usize = 1_200_000;
const LARGE_KEYS: usize = 4;

/// Asks both; differences go into the pair's list.
pub async fn compare(pair: &mut Pair) {
    // Beyond the request limit, and beyond what gRPC receives at all.
    for bytes in [LARGE, 1_600_000, 2_200_000] {
        pair.step(&put(0, bytes)).await;
    }
    for i in 0..LARGE_KEYS {
        pair.step(&put(i, LARGE)).await;
    }
    pair.step(&Request::Range(all())).await;
    // One revision whose events, with what they replaced, exceed any single response.
    let RangeRequest { key, range_end, .. } = all();
    let prev_kv = true;
    pair.step(&Request::DeleteRange(DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    }))
    .await;
    for fragment in [true, false] {
        fragments(pair, fragment).await;
    }
}

/// A watch on both over the revision that deleted the large values.
async fn fragments(pair: &mut Pair, fragment: bool) {
    let request = WatchCreateRequest {
        key: all().key,
        range_end: all().range_end,
        start_revision: pair.revision(),
        prev_kv: true,
        fragment,
        ..WatchCreateRequest::default()
    };
    let mut theirs = WatchStream::open(&pair.oracle.rpcs[0], 0);
    pair.subject.catch_up(0).await;
    let mut ours = WatchStream::open(&pair.subject.rpcs[0], 0);
    tokio::join!(theirs.create(request.clone()), ours.create(request));
    if theirs.log.controls != ours.log.controls || theirs.log.events.is_empty() {
        let said = format!("{:?} and {:?}", theirs.log.controls, ours.log.controls);
        return pair.difference(format!("a watch over large values is created with {said}"));
    }
    tokio::join!(theirs.await_events(0, LARGE_KEYS), ours.await_events(0, LARGE_KEYS));
    let faults = ours.log.faults.join("; ");
    if theirs.log.events != ours.log.events || !faults.is_empty() {
        let counts = (theirs.log.events[0].len(), ours.log.events[0].len());
        pair.difference(format!(
            "events of large values differ (fragment {fragment}): {counts:?} events; {faults}"
        ));
    }
    let (theirs, ours) = (theirs.log.fragments, ours.log.fragments);
    println!("fragments asked for: {fragment}; oracle sent {theirs}, subject {ours}");
    if (theirs > 0) != (ours > 0) {
        pair.difference(format!(
            "fragments (asked for: {fragment}): oracle sent {theirs}, subject {ours}"
        ));
    }
}

fn all() -> RangeRequest {
    RangeRequest {
        key: b"large/".to_vec().into(),
        range_end: b"large0".to_vec().into(),
        ..RangeRequest::default()
    }
}

fn put(i: usize, bytes: usize) -> Request {
    let value = Bytes::from(vec![b'0' + i as u8; bytes]);
    Request::Put(PutRequest {
        key: Bytes::from(format!("large/{i}")),
        value,
        ..PutRequest::default()
    })
}
