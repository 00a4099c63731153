//! Data directories of earlier versions are opened by this one, and give the same answers; those of later versions
//! are refused by name. `fixtures/data-v1` was written by the first version and is never written again: a change of
//! format adds a `data-v2` beside it.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

#[path = "harness/files.rs"]
mod files;
mod harness;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use files::{Started, copy_tree, files_below, start};
use harness::{
    Cluster, Kind,
    rpc::{Rpc, block_on, within},
};
use prost::Message as _;
use proto::{
    COMMAND_VERSION,
    etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
        RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, request_op, watch_request::RequestUnion,
    },
    node::{Command, CommandBatch},
};
use raft::eraftpb::Entry;
use raft_node::{
    error::Cause,
    log::{Log as _, LogWrite, rocks::RocksLog},
};

const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// The whole fixture; it is in every clone of the repository.
const FIXTURE_BYTES_MAX: u64 = 200 << 10;
/// Ids are made from this URL, so it must be the one that the fixture was made with. Nobody listens there.
const PEER_URL: &str = "http://127.0.0.1:23800";
/// The revision that the fixture's history is compacted to, and one behind it.
const COMPACTED: i64 = 6;
const OLD: i64 = 9;
/// The lease of the fixture, for longer than anybody will run it.
const LEASE: i64 = 7;
const LEASE_SECONDS: i64 = 8_000_000_000;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-v1")
}

fn expected_answers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-v1.answers")
}

/// A single member that has the fixture's identity, not started.
fn member() -> Cluster {
    let mut cluster = Cluster::prepare(&std::env::temp_dir(), &Kind::Dipper, 1, &[]);
    for argument in &mut cluster.member_mut(0).arguments {
        if argument.starts_with("--initial-cluster=") {
            *argument = format!("--initial-cluster=m0={PEER_URL}");
        } else if argument.starts_with("--initial-advertise-peer-urls=") {
            *argument = format!("--initial-advertise-peer-urls={PEER_URL}");
        }
    }
    cluster
}

/// The same with a copy of the fixture as its directory.
fn member_with_fixture() -> Cluster {
    let cluster = member();
    copy_tree(&fixture(), &cluster.member(0).data_dir);
    cluster
}

fn refusal(cluster: &mut Cluster) -> String {
    match start(cluster.member_mut(0)) {
        Started::Refused(said) => said,
        Started::Serves => panic!("it serves what it cannot know:\n{}", cluster.member(0).log_tail()),
    }
}

/// Everything that a client can ask about the state, as text.
fn answers(rpc: &Rpc) -> String {
    let mut text = String::new();
    let all = |revision| RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        ..RangeRequest::default()
    };
    for revision in [0, OLD] {
        let reply = rpc.range(all(revision)).expect("a range");
        let now = reply.header.as_ref().map_or(0, |header| header.revision);
        writeln!(text, "range at {revision}: revision {now}, count {}", reply.count).expect("a String takes it");
        for kv in reply.kvs {
            let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
            let (create, modified, version, lease) = (kv.create_revision, kv.mod_revision, kv.version, kv.lease);
            writeln!(
                text,
                "  {key}={value} create {create} mod {modified} version {version} lease {lease}"
            )
            .expect("a String takes it");
        }
    }
    let compacted = rpc.range(all(COMPACTED - 1)).expect_err("it was compacted");
    writeln!(text, "range at {}: {}", COMPACTED - 1, compacted.message()).expect("a String takes it");
    let hash = rpc.hash_kv(0).expect("a hash");
    writeln!(
        text,
        "hash {:08x}, compacted {}, at {}",
        hash.hash, hash.compact_revision, hash.hash_revision
    )
    .expect("a String takes it");
    let mut lease = rpc.lease.clone();
    let reply = block_on(within(async move {
        lease
            .lease_time_to_live(LeaseTimeToLiveRequest { id: LEASE, keys: true })
            .await
    }));
    let reply = reply.expect("a lease");
    assert!(reply.ttl > 0 && reply.ttl <= reply.granted_ttl, "{reply:?}");
    let keys: Vec<_> = reply.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
    writeln!(text, "lease {LEASE}: granted {}, keys {keys:?}", reply.granted_ttl).expect("a String takes it");
    text + &events(rpc)
}

/// All events that are left, from the compaction on.
fn events(rpc: &Rpc) -> String {
    let create = WatchCreateRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        start_revision: COMPACTED,
        prev_kv: true,
        ..WatchCreateRequest::default()
    };
    let last = rpc
        .get(b"a")
        .expect("a read")
        .header
        .map_or(0, |header| header.revision);
    let mut watch = rpc.watch.clone();
    block_on(async move {
        let (requests, outgoing) = tokio::sync::mpsc::channel(1);
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        requests.send(request).await.expect("it has room");
        let replies = watch.watch(tokio_stream::wrappers::ReceiverStream::new(outgoing)).await;
        let mut replies = replies.expect("a watch").into_inner();
        let (mut text, mut seen) = (String::new(), 0);
        while seen < last {
            let reply = tokio::time::timeout(Duration::from_secs(20), replies.message())
                .await
                .expect("events in time");
            for event in reply.expect("no error").expect("no end").events {
                let (kind, kv) = (event.r#type, event.kv.unwrap_or_default());
                let before = event.prev_kv.map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
                let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
                writeln!(
                    text,
                    "event at {}: type {kind} {key}={value}, before it {before:?}",
                    kv.mod_revision
                )
                .expect("a String takes it");
                seen = kv.mod_revision;
            }
        }
        text
    })
}

#[test]
fn the_first_version_s_directory_is_opened_and_gives_the_same_answers() {
    let bytes: u64 = files_below(&fixture())
        .iter()
        .map(|file| fs::metadata(fixture().join(file)).map_or(0, |meta| meta.len()))
        .sum();
    assert!((1..FIXTURE_BYTES_MAX).contains(&bytes), "{bytes} bytes");
    let mut cluster = member_with_fixture();
    let expected = fs::read_to_string(expected_answers()).expect("the fixture's answers");
    // Twice: what this version writes at its first stop is a directory of its own.
    for _ in 0..2 {
        let started = start(cluster.member_mut(0));
        assert!(matches!(started, Started::Serves), "{started:?}");
        assert_eq!(answers(&Rpc::connect(cluster.client_url(0))), expected);
        assert!(cluster.stop(0, STOPS_WITHIN).success());
    }
    cluster.restart_ready(0);
    Rpc::connect(cluster.client_url(0))
        .put(b"a", b"goes on")
        .expect("it can be written to");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let mut cluster = member_with_fixture();
    let path = cluster.member(0).data_dir.join("FORMAT");
    let text = fs::read_to_string(&path).expect("FORMAT");
    assert!(text.contains("\nformat: 1\n"), "{text}");
    fs::write(&path, text.replace("\nformat: 1\n", "\nformat: 2\n")).expect("a newer FORMAT");
    let said = refusal(&mut cluster);
    for words in [Cause::Newer.phrase(), "FORMAT", "format 2", "this build reads up to 1"] {
        assert!(said.contains(words), "{words} is not said: {said}");
    }
    // Nothing was touched: the version that wrote it still opens it.
    fs::write(&path, text).expect("the old FORMAT");
    assert!(matches!(start(cluster.member_mut(0)), Started::Serves));
}

/// Appends a committed entry, as a newer version of the leader would have.
fn append_committed(raft: &Path, batch: &CommandBatch) -> u64 {
    let mut log = RocksLog::open(raft).expect("the log of a stopped member");
    let last = log.recovered().last;
    let mut hard_state = log.recovered().hard_state.clone();
    let entry = Entry {
        index: last.index + 1,
        term: last.term,
        data: batch.encode_to_vec().into(),
        ..Entry::default()
    };
    hard_state.commit = entry.index;
    log.write(&[LogWrite {
        entries: vec![entry],
        hard_state: Some(hard_state),
    }]);
    log.mark();
    last.index + 1
}

#[test]
fn an_unknown_command_stops_the_member_by_name() {
    let newer = CommandBatch {
        version: COMMAND_VERSION + 1,
        commands: Vec::new(),
    };
    let unknown = CommandBatch {
        version: COMMAND_VERSION,
        commands: vec![Command { op: None }],
    };
    for (batch, words) in [
        (newer, "its commands are of version 2"),
        (unknown, "a command of a kind that this build does not know"),
    ] {
        let mut cluster = member_with_fixture();
        let index = append_committed(&cluster.member(0).data_dir.join("raft"), &batch);
        for _ in 0..2 {
            let said = refusal(&mut cluster);
            assert!(
                said.contains(&format!("entry {index} was written by a newer dipper")) && said.contains(words),
                "{said}"
            );
        }
    }
}

/// Writes the fixture. Run by hand, once for each format:
/// `cargo test --release -p dipper-raft-node --test old_formats -- --ignored make_fixture`
#[test]
#[ignore = "writes the fixture that the other tests read"]
fn make_fixture() {
    assert!(!fixture().exists(), "a fixture is never written again");
    let mut cluster = member();
    cluster.restart_ready(0);
    let rpc = Rpc::connect(cluster.client_url(0));
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "1"), ("a", "2"), ("gone", "1")] {
        rpc.put(key.as_bytes(), value.as_bytes()).expect("a put");
    }
    rpc.delete(b"gone").expect("a delete");
    let op = |key: &str| {
        let put = PutRequest {
            key: key.to_owned().into(),
            value: "txn".into(),
            ..PutRequest::default()
        };
        RequestOp {
            request: Some(request_op::Request::RequestPut(put)),
        }
    };
    let txn = TxnRequest {
        success: vec![op("t1"), op("t2")],
        ..TxnRequest::default()
    };
    let leased = |key: &str| PutRequest {
        key: key.to_owned().into(),
        value: "leased".into(),
        lease: LEASE,
        ..PutRequest::default()
    };
    let (mut kv, mut lease) = (rpc.kv.clone(), rpc.lease.clone());
    block_on(async move {
        lease
            .lease_grant(LeaseGrantRequest {
                id: LEASE,
                ttl: LEASE_SECONDS,
            })
            .await
            .expect("a lease");
        kv.txn(txn).await.expect("a txn");
        kv.put(leased("l1")).await.expect("a put");
        kv.put(leased("l2")).await.expect("a put");
        kv.compact(CompactionRequest {
            revision: COMPACTED,
            physical: false,
        })
        .await
        .expect("a compaction");
        let delete = DeleteRangeRequest {
            key: "b".into(),
            range_end: "d".into(),
            ..DeleteRangeRequest::default()
        };
        kv.delete_range(delete).await.expect("a delete");
    });
    // Tables of the log and of the state, and behind them a write-ahead log.
    assert!(cluster.stop(0, STOPS_WITHIN).success());
    cluster.restart_ready(0);
    for (key, value) in [("a", "3"), ("c", "again"), ("z", "last")] {
        rpc.put(key.as_bytes(), value.as_bytes()).expect("a put");
    }
    fs::create_dir_all(fixture().parent().expect("it is in a directory")).expect("the fixtures' directory");
    fs::write(expected_answers(), answers(&rpc)).expect("the answers");
    assert!(cluster.stop(0, STOPS_WITHIN).success());
    copy_tree(&cluster.member(0).data_dir, &fixture());
    for file in files_below(&fixture()) {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        // Nothing reads them, and they name the directory that the fixture was made in.
        if name == "LOCK" || name.starts_with("LOG") || name.starts_with("OPTIONS-") {
            fs::remove_file(fixture().join(file)).expect("removing what nothing reads");
        }
    }
}
