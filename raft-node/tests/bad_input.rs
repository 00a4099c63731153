//! Whatever a client or a stranger sends: a clear error, little memory, no panic, and the member goes on serving.
//! Every row of the error table that the served RPCs can give is provoked here or named where it is.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

#[path = "harness/files.rs"]
mod files;
mod harness;
#[path = "harness/raw.rs"]
mod raw;

use std::{
    collections::BTreeSet,
    future::Future,
    thread,
    time::{Duration, Instant},
};

use files::{metric, resident_bytes};
use harness::{
    Cluster, Kind,
    rpc::{Rpc, block_on, runtime, within},
};
use prost::Message as _;
use proto::{
    Error,
    etcdserverpb::{
        CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
        LeaseTimeToLiveRequest, MoveLeaderRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCancelRequest,
        WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        compare::{CompareResult, CompareTarget},
        request_op::Request as OpRequest,
        watch_request::RequestUnion,
    },
    node::{Command, Forward, Hello, Lane, PeerFrame, PeerRequest, Refusal, Welcome, peer_frame, peer_request},
};
use raft_node::{
    limits,
    log::{Log as _, LogWrite, memory::MemoryLog},
    replica::{Answer, Input, Replica, ReplicaConfig, Role, Time, initial_conf_state, start_of},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

/// What misuse may cost in memory.
const GROWTH_BYTES_MAX: u64 = 100 << 20;
const LEADER_WITHIN: Duration = Duration::from_secs(20);
/// A race that a test must win to provoke an error is lost now and then on a loaded machine.
const ATTEMPTS: usize = 8;

#[track_caller]
fn assert_is<T: std::fmt::Debug>(answer: Result<T, Status>, error: &Error) {
    let status = answer.expect_err(error.name());
    let expected = (error.code() as i32, error.text());
    assert_eq!((status.code() as i32, status.message()), expected, "{}", error.name());
}

fn assert_serves(rpc: &Rpc) {
    let put = rpc.put(b"still", b"here");
    assert!(put.is_ok(), "it does not serve any more: {put:?}");
    assert_eq!(rpc.get(b"still").expect("a read").kvs.len(), 1);
}

fn put(key: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: "v".into(),
        ..PutRequest::default()
    }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..RangeRequest::default()
    }
}

fn op(request: OpRequest) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn txn(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        success,
        ..TxnRequest::default()
    }
}

/// One kind of call on a raw client.
macro_rules! call {
    ($rpc:expr, $service:ident . $method:ident ( $request:expr )) => {{
        let (mut client, request) = ($rpc.$service.clone(), $request);
        block_on(within(async move { client.$method(request).await }))
    }};
}

#[test]
fn requests_that_are_wrong_by_themselves() {
    let flags = ["--max-txn-ops=8", "--max-request-bytes=16384"];
    let cluster = Cluster::start(Kind::Dipper, 1, &flags);
    let rpc = Rpc::connect(cluster.client_url(0));

    assert_is(call!(rpc, kv.range(RangeRequest::default())), &Error::EmptyKey);
    assert_is(call!(rpc, kv.put(PutRequest::default())), &Error::EmptyKey);
    assert_is(
        call!(rpc, kv.delete_range(DeleteRangeRequest::default())),
        &Error::EmptyKey,
    );
    let compare = TxnRequest {
        compare: vec![Compare::default()],
        ..TxnRequest::default()
    };
    assert_is(call!(rpc, kv.txn(compare)), &Error::EmptyKey);
    let nested = txn(vec![op(OpRequest::RequestTxn(txn(vec![op(OpRequest::RequestPut(
        PutRequest::default(),
    ))])))]);
    assert_is(call!(rpc, kv.txn(nested)), &Error::EmptyKey);

    let no_op = txn(vec![RequestOp { request: None }]);
    assert_is(call!(rpc, kv.txn(no_op)), &Error::KeyNotFound);
    let missing = PutRequest {
        ignore_value: true,
        value: "".into(),
        ..put("missing")
    };
    assert_is(call!(rpc, kv.put(missing)), &Error::KeyNotFound);
    let valued = PutRequest {
        ignore_value: true,
        ..put("a")
    };
    assert_is(call!(rpc, kv.put(valued)), &Error::ValueProvided);
    let leased = PutRequest {
        ignore_lease: true,
        lease: 7,
        ..put("a")
    };
    assert_is(call!(rpc, kv.put(leased)), &Error::LeaseProvided);

    let many = txn((0..9)
        .map(|i| op(OpRequest::RequestPut(put(&format!("k{i}")))))
        .collect());
    assert_is(call!(rpc, kv.txn(many)), &Error::TooManyOps);
    let many_compares = TxnRequest {
        compare: (0..9)
            .map(|i| Compare {
                key: format!("k{i}").into(),
                ..Compare::default()
            })
            .collect(),
        ..TxnRequest::default()
    };
    assert_is(call!(rpc, kv.txn(many_compares)), &Error::TooManyOps);
    let twice = txn(vec![
        op(OpRequest::RequestPut(put("a"))),
        op(OpRequest::RequestPut(put("a"))),
    ]);
    assert_is(call!(rpc, kv.txn(twice)), &Error::DuplicateKey);

    let unsorted = RangeRequest {
        sort_order: 99,
        ..range("a")
    };
    assert_is(call!(rpc, kv.range(unsorted)), &Error::InvalidSortOption);
    let untargeted = RangeRequest {
        sort_target: -1,
        ..range("a")
    };
    assert_is(call!(rpc, kv.range(untargeted)), &Error::InvalidSortOption);

    let mut old_client = Request::new(range("a"));
    old_client
        .metadata_mut()
        .insert("client-api-version", "2.3".parse().expect("ascii"));
    assert_is(call!(rpc, kv.range(old_client)), &Error::InvalidClientAPIVersion);

    let large = PutRequest {
        value: vec![b'x'; 20_000].into(),
        ..put("large")
    };
    assert_is(call!(rpc, kv.put(large)), &Error::RequestTooLarge);
    // The largest that passes, and that it is stored: the bound is on the request, not on the value.
    let fits = PutRequest {
        value: vec![b'x'; 16_000].into(),
        ..put("large")
    };
    assert!(call!(rpc, kv.put(fits)).is_ok());

    assert_serves(&rpc);
}

#[test]
fn requests_that_the_state_refuses() {
    let cluster = Cluster::start(Kind::Dipper, 1, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    for _ in 0..5 {
        rpc.put(b"a", b"v").expect("a put");
    }
    let compaction = |revision| CompactionRequest {
        revision,
        physical: false,
    };
    call!(rpc, kv.compact(compaction(4))).expect("a compaction");
    assert_is(call!(rpc, kv.compact(compaction(4))), &Error::Compacted);
    assert_is(call!(rpc, kv.compact(compaction(0))), &Error::Compacted);
    assert_is(call!(rpc, kv.compact(compaction(-5))), &Error::Compacted);
    assert_is(call!(rpc, kv.compact(compaction(1_000))), &Error::FutureRev);
    assert_is(call!(rpc, kv.compact(compaction(i64::MAX))), &Error::FutureRev);
    let at = |revision| RangeRequest { revision, ..range("a") };
    assert_is(call!(rpc, kv.range(at(3))), &Error::Compacted);
    assert_is(call!(rpc, kv.range(at(1_000))), &Error::FutureRev);
    assert_is(call!(rpc, kv.range(at(i64::MAX))), &Error::FutureRev);
    assert_is(rpc.hash_kv(i64::MAX), &Error::FutureRev);
    assert_is(rpc.hash_kv(1), &Error::Compacted);

    let grant = |id, ttl| LeaseGrantRequest { id, ttl };
    call!(rpc, lease.lease_grant(grant(7, 100))).expect("a lease");
    assert_is(call!(rpc, lease.lease_grant(grant(7, 100))), &Error::LeaseExist);
    assert_is(
        call!(rpc, lease.lease_grant(grant(8, 9_000_000_001))),
        &Error::LeaseTTLTooLarge,
    );
    assert_is(
        call!(rpc, lease.lease_grant(grant(8, i64::MAX))),
        &Error::LeaseTTLTooLarge,
    );
    assert_is(
        call!(rpc, lease.lease_revoke(LeaseRevokeRequest { id: 99 })),
        &Error::LeaseNotFound,
    );
    let leased = PutRequest { lease: 99, ..put("a") };
    assert_is(call!(rpc, kv.put(leased)), &Error::LeaseNotFound);

    assert_is(
        call!(rpc, maintenance.move_leader(MoveLeaderRequest { target_id: 4711 })),
        &Error::BadLeaderTransferee,
    );
    assert_is(
        call!(rpc, maintenance.move_leader(MoveLeaderRequest { target_id: 0 })),
        &Error::BadLeaderTransferee,
    );
    assert_serves(&rpc);
}

#[test]
fn numbers_that_make_no_sense_are_answered_all_the_same() {
    let cluster = Cluster::start(Kind::Dipper, 1, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    for key in ["a", "b", "c"] {
        rpc.put(key.as_bytes(), b"v").expect("a put");
    }
    let all = || RangeRequest {
        key: "a".into(),
        range_end: "z".into(),
        ..RangeRequest::default()
    };
    for limit in [-1, i64::MIN, i64::MAX] {
        let reply = call!(rpc, kv.range(RangeRequest { limit, ..all() })).expect("a range");
        assert_eq!((reply.kvs.len(), reply.more), (3, false), "limit {limit}");
    }
    for revision in [-1, i64::MIN] {
        let reply = call!(rpc, kv.range(RangeRequest { revision, ..all() })).expect("a range of now");
        assert_eq!(reply.kvs.len(), 3, "revision {revision}");
    }
    for bound in [-1, i64::MIN, i64::MAX] {
        let filtered = RangeRequest {
            min_mod_revision: bound,
            max_create_revision: bound,
            ..all()
        };
        call!(rpc, kv.range(filtered)).expect("a filtered range");
    }
    let backwards = RangeRequest {
        key: "z".into(),
        range_end: "a".into(),
        ..RangeRequest::default()
    };
    assert_eq!(call!(rpc, kv.range(backwards)).expect("an empty range").kvs.len(), 0);
    for ttl in [0, -1, i64::MIN] {
        let granted = call!(rpc, lease.lease_grant(LeaseGrantRequest { id: 0, ttl })).expect("the shortest lease");
        assert_eq!(granted.ttl, limits::LEASE_TTL_MIN, "TTL {ttl}");
    }
    for id in [-1, i64::MIN, i64::MAX, 0] {
        let reply = call!(rpc, lease.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }));
        assert_eq!(reply.expect("an answer about no lease").ttl, -1, "lease {id}");
    }
    let strange = Compare {
        result: 99,
        target: 77,
        key: "a".into(),
        ..Compare::default()
    };
    // etcd 3.4 answers this with a failed comparison or an error; all that matters is that there is an answer.
    println!(
        "an unknown comparison: {:?}",
        call!(
            rpc,
            kv.txn(TxnRequest {
                compare: vec![strange],
                ..TxnRequest::default()
            })
        )
        .map(|reply| reply.succeeded)
    );
    let typed = Compare {
        result: CompareResult::Greater as i32,
        target: CompareTarget::Version as i32,
        key: "a".into(),
        ..Compare::default()
    };
    assert!(
        call!(
            rpc,
            kv.txn(TxnRequest {
                compare: vec![typed],
                ..TxnRequest::default()
            })
        )
        .expect("a txn")
        .succeeded
    );
    let keep_alive = |id| {
        let mut client = rpc.lease.clone();
        block_on(async move {
            let requests = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
            let mut replies = client.lease_keep_alive(requests).await?.into_inner();
            replies.message().await
        })
    };
    for id in [0, -1, i64::MIN, 4711] {
        let reply = keep_alive(id).expect("an answer").expect("one for each request");
        assert_eq!(reply.ttl, 0, "lease {id}");
    }
    assert_serves(&rpc);
}

#[test]
fn a_full_member_answers_no_space_and_still_shrinks() {
    let cluster = Cluster::start(Kind::Dipper, 1, &["--quota-backend-bytes=100000"]);
    let rpc = Rpc::connect(cluster.client_url(0));
    let mut refusal = None;
    for i in 0..200 {
        if let Err(status) = rpc.put(format!("key-{i}").as_bytes(), &[b'x'; 1000]) {
            refusal = Some(status);
            break;
        }
    }
    assert_is::<()>(Err(refusal.expect("200 KB do not fit into 100")), &Error::NoSpace);
    let all = DeleteRangeRequest {
        key: "key-".into(),
        range_end: "key.".into(),
        ..DeleteRangeRequest::default()
    };
    call!(rpc, kv.delete_range(all)).expect("deleting makes room");
    let deadline = Instant::now() + Duration::from_secs(10);
    while rpc.put(b"again", b"v").is_err() {
        assert!(Instant::now() < deadline, "no room after everything was deleted");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn oversize_requests_are_refused_in_the_words_of_grpc() {
    let cluster = Cluster::start(Kind::Dipper, 1, &["--max-request-bytes=16384"]);
    let rpc = Rpc::connect(cluster.client_url(0));
    let bound = 16384 + limits::GRPC_OVERHEAD_BYTES;
    let request = PutRequest {
        value: vec![b'x'; bound].into(),
        ..put("large")
    };
    let size = request.encoded_len();
    let status = call!(rpc, kv.put(request)).expect_err("it is above the bound");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(
        status.message(),
        format!("grpc: received message larger than max ({size} vs. {bound})")
    );
    // A gigabyte is announced and never sent: nothing is allocated for it.
    let before = resident_bytes(cluster.pid(0));
    let channel = raw::channel(cluster.client_url(0));
    let status = raw::unary(&channel, "/etcdserverpb.KV/Put", vec![0; 64 << 20]).expect_err("it is above the bound");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let mut watch = rpc.watch.clone();
    let create = WatchCreateRequest {
        key: vec![b'k'; bound].into(),
        ..WatchCreateRequest::default()
    };
    let status = block_on(async move {
        let requests = tokio_stream::iter([WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        }]);
        let mut replies = watch.watch(requests).await?.into_inner();
        replies.message().await
    });
    let status = status.expect_err("it is above the bound");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(
        status.message().starts_with("grpc: received message larger than max ("),
        "{status:?}"
    );
    let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    assert_serves(&rpc);
}

/// A request nested so deeply, as bytes: transactions in transactions.
fn nested(depth: usize) -> Vec<u8> {
    let mut inner = txn(vec![op(OpRequest::RequestPut(put("deep")))]).encode_to_vec();
    for _ in 0..depth {
        // RequestOp { request_txn = 4 }, then TxnRequest { success = 2 }.
        for tag in [0x22, 0x12] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.append(&mut inner);
            inner = outer;
        }
    }
    inner
}

const PATHS: [&str; 14] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Maintenance/MoveLeader",
    "/grpc.health.v1.Health/Check",
];

#[test]
fn malformed_bodies_and_deep_nesting_end_in_errors() {
    let cluster = Cluster::start(Kind::Dipper, 1, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    let channel = raw::channel(cluster.client_url(0));
    let truncated = [0x0a, 0x7f, 1, 2, 3];
    let endless_varint = [0xff; 40];
    let wrong_type = [0x0d, 1, 2, 3, 4, 0x0b];
    for path in PATHS {
        for body in [&truncated[..], &endless_varint, &wrong_type] {
            let status = raw::unary(&channel, path, body.to_vec()).expect_err(path);
            assert_eq!(status.code(), Code::Internal, "{path} {body:?}: {status:?}");
            assert!(status.message().contains("decode"), "{path}: {status:?}");
        }
    }
    // Keys are bytes, but text fields must be text.
    let status = raw::unary(&channel, "/grpc.health.v1.Health/Check", vec![0x0a, 2, 0xff, 0xfe]).expect_err("no UTF-8");
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    // Shallow nesting is served, deep nesting refused, and no depth reaches the stack's end.
    raw::unary(&channel, "/etcdserverpb.KV/Txn", nested(3)).expect("three levels are served");
    for depth in [60, 200, 20_000] {
        let body = nested(depth);
        let status = raw::unary(&channel, "/etcdserverpb.KV/Txn", body).expect_err("deep nesting");
        assert!(
            matches!(status.code(), Code::Internal | Code::InvalidArgument),
            "depth {depth}: {status:?}"
        );
        println!("{depth} levels: {status:?}");
    }
    let status = raw::unary(&channel, "/etcdserverpb.KV/Nonsense", Vec::new()).expect_err("no such method");
    assert_eq!(status.code(), Code::Unimplemented);
    let status = raw::unary(&channel, "/no.such.Service/Call", Vec::new()).expect_err("no such service");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_serves(&rpc);
}

/// Reproducible noise.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|i| raft_node::replica::mix(seed.wrapping_mul(1 << 32) + i) as u8)
        .collect()
}

#[test]
fn garbage_on_the_client_port_costs_nothing() {
    let mut cluster = Cluster::start(Kind::Dipper, 1, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    assert_serves(&rpc);
    let before = resident_bytes(cluster.pid(0));
    let address = cluster.client_url(0).trim_start_matches("http://").to_owned();
    let patience = Duration::from_millis(200);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let with_preface = |bytes: Vec<u8>| [&preface[..], &bytes].concat();
    for seed in 0..20 {
        raw::poke(&address, &noise(seed, 4096), patience);
        raw::poke(&address, &with_preface(noise(seed, 4096)), patience);
    }
    let cases: Vec<Vec<u8>> = vec![
        Vec::new(),
        preface[..10].to_vec(),
        // A frame of 16 MiB is announced.
        with_preface(vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        // Settings whose length is no multiple of six, and headers of stream 0.
        with_preface(vec![0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]),
        with_preface(vec![0, 0, 1, 1, 4, 0, 0, 0, 0, 0x82]),
        b"GET / HTTP/1.1\r\n".repeat(2000),
        [&b"GET /"[..], &vec![b'a'; 2 << 20], b" HTTP/1.1\r\n\r\n"].concat(),
        [&b"GET / HTTP/1.1\r\nx: "[..], &vec![b'a'; 2 << 20], b"\r\n\r\n"].concat(),
        b"POST /etcdserverpb.KV/Range HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /etcdserverpb.KV/Range HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ];
    for bytes in &cases {
        raw::poke(&address, bytes, patience);
    }
    assert_serves(&rpc);
    let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    assert!(cluster.member_mut(0).exited().is_none());
    assert!(
        !cluster.member(0).log_text().contains("panicked"),
        "{}",
        cluster.member(0).log_text()
    );
}

fn frame(message: &impl prost::Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend(crc32fast::hash(&body).to_be_bytes());
    frame.extend(body);
    frame
}

fn hello(hello: &Hello) -> Vec<u8> {
    [b"DIPP".to_vec(), frame(hello)].concat()
}

fn welcome(answer: &[u8]) -> Welcome {
    Welcome::decode(answer.get(8..).unwrap_or_default()).expect("a Welcome")
}

/// What FORMAT says of a member: its cluster, its id, its incarnation.
fn identity(cluster: &Cluster, i: usize) -> (u64, u64, Vec<u8>) {
    let text = std::fs::read_to_string(cluster.member(i).data_dir.join("FORMAT")).expect("its FORMAT");
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        u128::from_str_radix(line.expect("a line of FORMAT"), 16).expect("hexadecimal digits")
    };
    let incarnation = field("incarnation").to_be_bytes().to_vec();
    (field("cluster") as u64, field("member") as u64, incarnation)
}

#[test]
fn garbage_and_strangers_on_the_peer_port_are_refused() {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    assert_serves(&rpc);
    let before = resident_bytes(cluster.pid(0));
    let address = cluster.member(0).peer_url.trim_start_matches("http://").to_owned();
    let patience = Duration::from_millis(200);
    let (cluster_id, own, _) = identity(&cluster, 0);
    let (_, peer, incarnation) = identity(&cluster, 1);
    let good = Hello {
        protocol_version: 1,
        cluster_id,
        from: peer,
        to: own,
        incarnation: incarnation.into(),
        lane: Lane::Bulk.into(),
    };

    for seed in 0..20 {
        raw::poke(&address, &noise(seed, 4096), patience);
        raw::poke(&address, &[b"DIPP".to_vec(), noise(seed, 4096)].concat(), patience);
    }
    // Four gigabytes are announced in a handshake, and in a frame behind a good one.
    raw::poke(&address, b"DIPP\xff\xff\xff\xff\x00\x00\x00\x00", patience);
    raw::poke(&address, &[hello(&good), vec![0xff; 8]].concat(), patience);

    let refused = |hello_: Hello| {
        let answer = welcome(&raw::poke(&address, &hello(&hello_), patience));
        assert!(!answer.reason.is_empty(), "{answer:?}");
        answer.refusal()
    };
    assert_eq!(
        refused(Hello {
            cluster_id: cluster_id ^ 1,
            ..good.clone()
        }),
        Refusal::OtherCluster
    );
    assert_eq!(
        refused(Hello {
            to: own ^ 1,
            ..good.clone()
        }),
        Refusal::OtherMember
    );
    assert_eq!(
        refused(Hello {
            from: 4711,
            ..good.clone()
        }),
        Refusal::NotAMember
    );
    assert_eq!(
        refused(Hello {
            protocol_version: 99,
            ..good.clone()
        }),
        Refusal::OtherProtocol
    );
    assert_eq!(
        refused(Hello {
            incarnation: vec![7; 16].into(),
            ..good.clone()
        }),
        Refusal::Amnesia
    );
    let strange = welcome(&raw::poke(
        &address,
        &hello(&Hello {
            incarnation: vec![7; 3].into(),
            ..good.clone()
        }),
        patience,
    ));
    assert_ne!(strange.refusal(), Refusal::Accepted, "an incarnation of three bytes");

    // Behind a good handshake: what decodes as a frame, but not as what is in it.
    let raft = |bytes: Vec<u8>| PeerFrame {
        body: Some(peer_frame::Body::Raft(bytes.into())),
    };
    let request = |body| PeerFrame {
        body: Some(peer_frame::Body::Request(PeerRequest { id: 1, body })),
    };
    let unknown = Command { op: None };
    let forward = Forward {
        commands: vec![unknown],
    };
    let frames = [
        raft(noise(1, 100)),
        raft(Vec::new()),
        raft(raft_message(0, peer, own)),
        raft(raft_message(1, peer, own)),
        raft(raft_message(2, peer, own)),
        raft(raft_message(15, peer, own)),
        raft(raft_message(7, 4711, 4712)),
        request(None),
        request(Some(peer_request::Body::Forward(Forward::default()))),
        request(Some(peer_request::Body::Forward(forward))),
        PeerFrame::default(),
    ];
    for target in 0..3 {
        let address = cluster.member(target).peer_url.trim_start_matches("http://").to_owned();
        let (_, own, _) = identity(&cluster, target);
        let from = (target + 1) % 3;
        let (_, peer, incarnation) = identity(&cluster, from);
        for lane in [Lane::Bulk, Lane::Urgent] {
            let greeting = Hello {
                from: peer,
                to: own,
                incarnation: incarnation.clone().into(),
                lane: lane.into(),
                ..good.clone()
            };
            for frame_ in &frames {
                raw::poke(
                    &address,
                    &[hello(&greeting), frame(frame_)].concat(),
                    Duration::from_millis(50),
                );
            }
            raw::poke(
                &address,
                &[hello(&greeting), frame(&PeerFrame::default()), noise(9, 300)].concat(),
                Duration::from_millis(50),
            );
        }
    }
    let (_, page) = cluster.http(0, "/metrics").expect("its metrics");
    println!(
        "{}",
        page.lines()
            .filter(|line| line.contains("peer") && !line.starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n")
    );
    cluster.await_ready(Duration::from_secs(30)).expect("all members serve");
    for i in 0..3 {
        assert!(cluster.member_mut(i).exited().is_none());
        assert_serves(&Rpc::connect(cluster.client_url(i)));
        assert!(
            !cluster.member(i).log_text().contains("panicked"),
            "{}",
            cluster.member(i).log_text()
        );
    }
    let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
}

/// A raft message with nothing but a type and addresses, as raft's codec writes it.
fn raft_message(kind: u8, from: u64, to: u64) -> Vec<u8> {
    let mut bytes = vec![0x08, kind];
    for (tag, number) in [(0x10, to), (0x18, from)] {
        bytes.push(tag);
        prost::encoding::encode_varint(number, &mut bytes);
    }
    bytes
}

/// A stream of watches that a test says requests on.
struct Watching {
    requests: tokio::sync::mpsc::Sender<WatchRequest>,
    replies: Streaming<WatchResponse>,
}

async fn watching(rpc: &Rpc) -> Result<Watching, Status> {
    let (requests, outgoing) = tokio::sync::mpsc::channel(1024);
    let mut client = rpc.watch.clone();
    let replies = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
    Ok(Watching { requests, replies })
}

impl Watching {
    async fn ask(&self, request: RequestUnion) {
        let request = WatchRequest {
            request_union: Some(request),
        };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn next(&mut self) -> WatchResponse {
        let reply = tokio::time::timeout(Duration::from_secs(20), self.replies.message()).await;
        reply.expect("an answer in time").expect("no error").expect("no end")
    }
}

fn create(key: &str, watch_id: i64) -> RequestUnion {
    RequestUnion::CreateRequest(WatchCreateRequest {
        key: key.to_owned().into(),
        watch_id,
        ..WatchCreateRequest::default()
    })
}

#[test]
fn unknown_and_strange_watches_are_answered_or_ignored() {
    let cluster = Cluster::start(Kind::Dipper, 1, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    block_on(async {
        let mut stream = watching(&rpc).await.expect("a stream");
        // Ids that are not there: no answer, and the stream lives.
        for watch_id in [0, 4711, -7, i64::MIN, i64::MAX] {
            stream
                .ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
                .await;
        }
        stream.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
        stream
            .requests
            .send(WatchRequest { request_union: None })
            .await
            .expect("the stream is open");
        stream.ask(create("a", 5)).await;
        let created = stream.next().await;
        assert!(created.created && created.watch_id == 5, "{created:?}");
        stream.ask(create("a", 5)).await;
        let twice = stream.next().await;
        assert!(twice.created && twice.canceled && twice.watch_id == -1, "{twice:?}");
        assert!(twice.cancel_reason.contains("duplicate watch ID"), "{twice:?}");
        for (start_revision, reason) in [(-1, Error::Compacted.text()), (i64::MIN, Error::Compacted.text())] {
            let strange = WatchCreateRequest {
                key: "a".into(),
                start_revision,
                ..WatchCreateRequest::default()
            };
            stream.ask(RequestUnion::CreateRequest(strange)).await;
            let refused = stream.next().await;
            assert!(refused.canceled && refused.cancel_reason == reason, "{refused:?}");
        }
        let backwards = WatchCreateRequest {
            key: "b".into(),
            range_end: "a".into(),
            ..WatchCreateRequest::default()
        };
        stream.ask(RequestUnion::CreateRequest(backwards)).await;
        let refused = stream.next().await;
        assert!(
            refused.canceled && refused.cancel_reason.contains("range is empty"),
            "{refused:?}"
        );
        let filters = WatchCreateRequest {
            key: "z".into(),
            filters: vec![99, -1],
            watch_id: i64::MIN,
            start_revision: i64::MAX,
            ..WatchCreateRequest::default()
        };
        stream.ask(RequestUnion::CreateRequest(filters)).await;
        assert!(stream.next().await.created);
    });
    rpc.put(b"a", b"v").expect("a put");
    assert_serves(&rpc);
}

/// Repeats `what` until it is true.
fn wait_until(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn open_watches(cluster: &Cluster) -> f64 {
    let (_, page) = cluster.http(0, "/metrics").expect("its metrics");
    metric(&page, "etcd_debugging_mvcc_watcher_total").expect("a gauge of watches")
}

const WATCHES: usize = 10_000;

#[test]
fn ten_thousand_watches_on_one_stream() {
    let cluster = Cluster::start(Kind::Dipper, 1, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    assert_serves(&rpc);
    let before = resident_bytes(cluster.pid(0));
    block_on(async {
        let mut stream = watching(&rpc).await.expect("a stream");
        let requests = stream.requests.clone();
        let asking = tokio::spawn(async move {
            for i in 0..WATCHES {
                let request = WatchRequest {
                    request_union: Some(create(&format!("w-{i:05}"), 0)),
                };
                requests.send(request).await.expect("the stream is open");
            }
        });
        let mut ids = BTreeSet::new();
        for _ in 0..WATCHES {
            let created = stream.next().await;
            assert!(created.created && !created.canceled, "{created:?}");
            ids.insert(created.watch_id);
        }
        asking.await.expect("asking");
        assert_eq!(ids.len(), WATCHES);
        let mut kv = rpc.kv.clone();
        kv.put(put("w-04711")).await.expect("a put");
        let event = stream.next().await;
        assert_eq!(event.events.len(), 1, "{event:?}");
    });
    // Dropped above: what it held is given back.
    wait_until("the watches are gone", Duration::from_secs(20), || {
        open_watches(&cluster) == 0.0
    });
    let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
    println!("{WATCHES} watches on one stream: {} KiB", grown >> 10);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    assert_serves(&rpc);
}

#[test]
fn ten_thousand_watches_on_as_many_streams() {
    let cluster = Cluster::start(Kind::Dipper, 1, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    assert_serves(&rpc);
    let before = resident_bytes(cluster.pid(0));
    block_on(async {
        let mut streams = Vec::new();
        for connection in 0..10 {
            let rpc = Rpc::connect(cluster.client_url(0));
            for i in 0..WATCHES / 10 {
                let stream = watching(&rpc).await.expect("a stream");
                stream.ask(create(&format!("w-{connection}-{i}"), 0)).await;
                streams.push(stream);
            }
        }
        for stream in &mut streams {
            assert!(stream.next().await.created);
        }
        let mut kv = rpc.kv.clone();
        kv.put(put("w-9-999")).await.expect("a put");
        let event = streams.last_mut().expect("a stream").next().await;
        assert_eq!(event.events.len(), 1, "{event:?}");
        let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
        println!("{WATCHES} streams of one watch each: {} KiB", grown >> 10);
        assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    });
    assert_serves(&rpc);
}

/// Values that are far larger than what a stream may hold for itself.
const LARGE_VALUE_BYTES: usize = 100_000;

#[test]
fn ten_thousand_watches_that_nobody_reads_share_large_values() {
    const PUTS: u64 = 8;
    let cluster = Cluster::start(Kind::Dipper, 1, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    assert_serves(&rpc);
    let before = resident_bytes(cluster.pid(0));
    let mut streams = block_on(async {
        let mut streams = Vec::new();
        // The two that read at last come first, on a connection of their own: the others would
        // have to be cancelled to give way in a shared one's window, and a client of h2 that
        // cancels a thousand streams with data under way takes its connection for broken.
        for watches in [2].into_iter().chain([WATCHES / 10; 10]) {
            let rpc = Rpc::connect(cluster.client_url(0));
            for i in 0..watches {
                let stream = watching(&rpc).await.expect("a stream");
                let request = WatchCreateRequest {
                    key: "large".into(),
                    prev_kv: i % 2 == 0,
                    ..WatchCreateRequest::default()
                };
                stream.ask(RequestUnion::CreateRequest(request)).await;
                streams.push(stream);
            }
        }
        streams
    });
    wait_until("all watches are open", Duration::from_mins(1), || {
        open_watches(&cluster) >= streams.len() as f64
    });
    let opened = resident_bytes(cluster.pid(0)).saturating_sub(before);
    for i in 0..PUTS {
        let value = noise(i, LARGE_VALUE_BYTES).into();
        call!(rpc, kv.put(PutRequest { value, ..put("large") })).expect("a put");
        // Everybody is told before the next one, as far as its client takes it.
        thread::sleep(Duration::from_millis(200));
    }
    let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
    println!(
        "{WATCHES} watches that nobody reads: {} KiB, with {PUTS} values of {LARGE_VALUE_BYTES} bytes {} KiB",
        opened >> 10,
        grown >> 10
    );
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    // What waited for them is whole: the first two get it, in both forms, when they read at last.
    block_on(async {
        for (stream, has_prev) in streams.iter_mut().zip([true, false]) {
            assert!(stream.next().await.created);
            let mut events = Vec::new();
            while events.len() < PUTS as usize {
                events.extend(stream.next().await.events);
            }
            for (i, event) in events.into_iter().enumerate() {
                let value = |i: usize| bytes::Bytes::from(noise(i as u64, LARGE_VALUE_BYTES));
                assert_eq!(event.kv.expect("a put has it").value, value(i));
                let prev = (has_prev && i > 0).then(|| value(i - 1));
                assert_eq!(event.prev_kv.map(|kv| kv.value), prev);
            }
        }
    });
    assert_serves(&rpc);
}

/// Writes `count` times 10 values of 10 KB, over and over on the same keys.
fn write_large(rpc: &Rpc, count: usize) {
    for i in 0..count {
        let ops = (0..10).map(|j| {
            let value = noise((i * 10 + j) as u64, 10_000).into();
            op(OpRequest::RequestPut(PutRequest {
                value,
                ..put(&format!("large-{:02}-{j}", i % 50))
            }))
        });
        call!(rpc, kv.txn(txn(ops.collect()))).expect("a txn");
    }
}

/// Each watch may hold one revision (here 200 KB), each RangeStream one piece.
const UNREAD_LARGE: usize = 60;

#[test]
fn clients_that_never_read_cost_little_and_hold_nobody_up() {
    let cluster = Cluster::start(Kind::Dipper, 1, &[]);
    let rpc = Rpc::connect(cluster.client_url(0));
    // Caches, memtables and the ring of events fill up first: those are bounded by themselves.
    let (mut before, mut quiet) = (0, 0);
    for _ in 0..40 {
        write_large(&rpc, 300);
        let resident = resident_bytes(cluster.pid(0));
        quiet = if resident > before + (2 << 20) { 0 } else { quiet + 1 };
        before = resident.max(before);
        if quiet == 3 {
            break;
        }
    }
    write_large(&rpc, 1_000);
    let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
    println!(
        "{} KiB resident; without anybody watching, 100 MB more bring {} KiB",
        before >> 10,
        grown >> 10
    );
    before += grown;
    let all = |watch_id| {
        let request = WatchCreateRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            prev_kv: true,
            watch_id,
            ..WatchCreateRequest::default()
        };
        RequestUnion::CreateRequest(request)
    };
    // They live on the runtime, which nobody polls their replies on.
    let idle: Vec<_> = (0..UNREAD_LARGE)
        .map(|_| {
            let rpc = Rpc::connect(cluster.client_url(0));
            let rpc_range = rpc.clone();
            block_on(async move {
                let stream = watching(&rpc).await.expect("a stream");
                stream.ask(all(0)).await;
                let mut kv = rpc_range.kv.clone();
                let everything = RangeRequest {
                    key: vec![0].into(),
                    range_end: vec![0].into(),
                    ..RangeRequest::default()
                };
                let chunks = kv
                    .range_stream(everything)
                    .await
                    .expect("a stream of chunks")
                    .into_inner();
                (stream, chunks, rpc)
            })
        })
        .collect();
    println!(
        "with their buffers full: {} KiB more",
        resident_bytes(cluster.pid(0)).saturating_sub(before) >> 10
    );
    write_large(&rpc, 1_000);
    let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
    println!(
        "{UNREAD_LARGE} watches and as many RangeStreams that nobody reads, over 100 MB of events: {} KiB",
        grown >> 10
    );
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    // Somebody who does read is not held up by them.
    block_on(async {
        let mut stream = watching(&rpc).await.expect("a stream");
        stream.ask(all(0)).await;
        assert!(stream.next().await.created);
        let mut kv = rpc.kv.clone();
        kv.put(put("small")).await.expect("a put");
        assert_eq!(stream.next().await.events.len(), 1);
    });
    drop(idle);
    a_thousand_idle_watches(&cluster, &rpc);
    assert_serves(&rpc);
}

/// Each may hold one message for its client, which is one revision at least: here 20 KB.
fn a_thousand_idle_watches(cluster: &Cluster, rpc: &Rpc) {
    const UNREAD: usize = 1_000;
    wait_until("the other watches are gone", Duration::from_secs(20), || {
        open_watches(cluster) == 0.0
    });
    let before = resident_bytes(cluster.pid(0));
    let idle = block_on(async {
        let mut streams = Vec::new();
        for _ in 0..10 {
            let rpc = Rpc::connect(cluster.client_url(0));
            for _ in 0..UNREAD / 10 {
                let stream = watching(&rpc).await.expect("a stream");
                let all = WatchCreateRequest {
                    key: "key-".into(),
                    range_end: "key.".into(),
                    ..WatchCreateRequest::default()
                };
                stream.ask(RequestUnion::CreateRequest(all)).await;
                streams.push(stream);
            }
        }
        streams
    });
    wait_until("all watches are open", Duration::from_mins(1), || {
        open_watches(cluster) >= UNREAD as f64
    });
    let began = Instant::now();
    for i in 0..1_000 {
        let ops = (0..20).map(|j| {
            op(OpRequest::RequestPut(PutRequest {
                value: noise(i * 20 + j, 1_000).into(),
                ..put(&format!("key-{j}"))
            }))
        });
        call!(rpc, kv.txn(txn(ops.collect()))).expect("a txn");
    }
    let grown = resident_bytes(cluster.pid(0)).saturating_sub(before);
    println!(
        "{UNREAD} watches that nobody reads, over 20 MB of events in {:?}: {} KiB",
        began.elapsed(),
        grown >> 10
    );
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    drop(idle);
}

/// A call that is answered later.
fn later<T: Send + 'static>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>> + Send + 'static,
) -> tokio::task::JoinHandle<Result<T, Status>> {
    runtime().spawn(async move { call.await.map(tonic::Response::into_inner) })
}

fn outcome<T>(call: tokio::task::JoinHandle<Result<T, Status>>) -> Result<T, Status> {
    let outcome = block_on(async { tokio::time::timeout(Duration::from_mins(1), call).await });
    outcome.expect("an answer in time").expect("the call does not panic")
}

fn with_timeout(request: PutRequest, timeout: Duration) -> Request<PutRequest> {
    let mut request = Request::new(request);
    request.set_timeout(timeout);
    request
}

#[test]
fn only_the_leader_moves_leadership_and_only_to_a_voter() {
    let cluster = Cluster::start(Kind::Dipper, 3, &[]);
    let leader = cluster.await_leader(LEADER_WITHIN);
    let follower = (leader + 1) % 3;
    let id = identity(&cluster, follower).1;
    let on = |i: usize| Rpc::connect(cluster.client_url(i));
    assert_is(
        call!(
            on(follower),
            maintenance.move_leader(MoveLeaderRequest { target_id: id })
        ),
        &Error::NotLeader,
    );
    assert_is(
        call!(
            on(leader),
            maintenance.move_leader(MoveLeaderRequest { target_id: 4711 })
        ),
        &Error::BadLeaderTransferee,
    );
    call!(on(leader), maintenance.move_leader(MoveLeaderRequest { target_id: id })).expect("it moves");
    wait_until("the follower leads", Duration::from_secs(5), || {
        cluster.leader() == Some(follower)
    });
}

#[test]
fn a_write_whose_entry_another_leader_replaced_says_so() {
    for attempt in 1..=ATTEMPTS {
        let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
        let leader = cluster.await_leader(LEADER_WITHIN);
        let rpc = Rpc::connect(cluster.client_url(leader));
        assert_serves(&rpc);
        let others = [(leader + 1) % 3, (leader + 2) % 3];
        for other in others {
            cluster.kill(other);
        }
        // In the leader's log, and nowhere else; before it notices that it is alone.
        let mut kv = rpc.kv.clone();
        let write = later(async move { kv.put(with_timeout(put("lost"), Duration::from_secs(50))).await });
        thread::sleep(Duration::from_millis(40));
        cluster.pause(leader);
        for other in others {
            cluster.restart(other);
        }
        for other in others {
            cluster
                .await_member(other, Instant::now() + Duration::from_secs(20))
                .expect("the others go on");
        }
        Rpc::connect(cluster.client_url(others[0]))
            .put(b"other", b"v")
            .expect("a write without the old leader");
        cluster.resume(leader);
        match outcome(write) {
            Err(status) => {
                assert_is::<()>(Err(status), &Error::LeaderChanged);
                let read = Rpc::connect(cluster.client_url(others[0]))
                    .get(b"lost")
                    .expect("a read");
                assert!(read.kvs.is_empty(), "what was said to be lost is there");
                return;
            }
            // The leader had stepped down before the write arrived, so it waited and was done by the next one.
            Ok(_) => println!("attempt {attempt}: the write came too late to be lost"),
        }
    }
    panic!("no write was lost in {ATTEMPTS} attempts");
}

/// Stops the leader's process, writes on a follower, which forwards it there, then ends the silence by `then`.
fn forward_into_silence(error: &Error, then: impl Fn(&mut Cluster, usize)) {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    for attempt in 1..=ATTEMPTS {
        cluster.await_ready(Duration::from_secs(30)).expect("all members serve");
        let leader = cluster.await_leader(LEADER_WITHIN);
        let rpc = Rpc::connect(cluster.client_url((leader + 1) % 3));
        assert_serves(&rpc);
        cluster.pause(leader);
        let mut kv = rpc.kv.clone();
        let write = later(async move { kv.put(with_timeout(put("forwarded"), Duration::from_secs(50))).await });
        thread::sleep(Duration::from_millis(20));
        then(&mut cluster, leader);
        match outcome(write) {
            Err(status) => return assert_is::<()>(Err(status), error),
            Ok(_) => println!("attempt {attempt}: the write was not on its way to the old leader"),
        }
        if cluster.member(leader).child.is_some() {
            cluster.resume(leader);
        } else {
            cluster.restart_ready(leader);
        }
    }
    panic!("{} was not provoked in {ATTEMPTS} attempts", error.name());
}

#[test]
fn a_forwarded_write_without_a_word_from_a_frozen_leader_times_out_by_its_failure() {
    forward_into_silence(&Error::TimeoutDueToLeaderFail, |_, _| {});
}

#[test]
fn a_forwarded_write_whose_leader_dies_times_out_by_the_lost_connection() {
    forward_into_silence(&Error::TimeoutDueToConnectionLost, Cluster::kill);
}

#[test]
fn a_member_without_leader_refuses_what_it_cannot_keep() {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    let alone = cluster.await_leader(LEADER_WITHIN);
    let rpc = Rpc::connect(cluster.client_url(alone));
    assert_serves(&rpc);
    cluster.kill((alone + 1) % 3);
    cluster.kill((alone + 2) % 3);
    wait_until("it has no leader", Duration::from_secs(10), || {
        rpc.status().is_ok_and(|status| status.leader == 0)
    });
    let mut required = Request::new(range("a"));
    required
        .metadata_mut()
        .insert("hasleader", "true".parse().expect("ascii"));
    assert_is(call!(rpc, kv.range(required)), &Error::NoLeader);
    assert_is(rpc.get(b"a"), &Error::NoLeader);

    // More than it may keep waiting for a leader: 64 MiB are kept, the rest is refused at once.
    let before = resident_bytes(cluster.pid(alone));
    let value = bytes::Bytes::from(noise(1, 1 << 20));
    let writes: Vec<_> = (0..90)
        .map(|i| {
            let (mut kv, value) = (rpc.kv.clone(), value.clone());
            let request = PutRequest {
                value,
                ..put(&format!("waiting-{i}"))
            };
            later(async move { kv.put(request).await })
        })
        .collect();
    let mut refused = 0;
    for write in writes {
        let status = outcome(write).expect_err("nobody leads");
        if status.message() == Error::RequestTooManyRequests.text() {
            assert_is::<()>(Err(status), &Error::RequestTooManyRequests);
            refused += 1;
        } else {
            assert_is::<()>(Err(status), &Error::NoLeader);
        }
    }
    let grown = resident_bytes(cluster.pid(alone)).saturating_sub(before);
    println!(
        "{refused} of 90 writes of 1 MiB were refused at once; memory grew by {} KiB",
        grown >> 10
    );
    assert!((20..40).contains(&refused), "{refused} of 90");
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
}

/// At the replica's door, because no wire can hold an apply up: a read whose index is confirmed and not applied.
#[test]
fn a_read_that_waits_too_long_for_its_index_to_be_applied_says_so() {
    let mut log = MemoryLog::new();
    let config = ReplicaConfig {
        id: 1,
        election_ticks: 15,
        heartbeat_ticks: 3,
        applied: 0,
        catch_up_entries: 1_000,
        seed: 1,
        logger: slog::Logger::root(slog::Discard, slog::o!()),
    };
    let start = start_of(log.recovered(), &initial_conf_state(vec![1]));
    let mut replica = Replica::<u32, _>::new(&config, start, log.reader(), &[]);
    let (mut now, mut applied, mut answers) = (Time::ZERO, 0, Vec::new());
    let mut turn = |replica: &mut Replica<u32, _>, input, applies: bool| {
        now += limits::TICK;
        replica.handle(now, Input::Tick);
        if let Some(input) = input {
            replica.handle(now, input);
        }
        let output = replica.take_output();
        for write in output.writes {
            log.write(&[LogWrite { ..write.group }]);
            replica.handle(now, Input::Persisted { number: write.number });
        }
        if let Some(last) = output.committed.last().filter(|_| applies) {
            applied = last.entry.index;
            replica.handle(
                now,
                Input::Applied {
                    index: applied,
                    lease_changes: Vec::new(),
                },
            );
        }
        answers.extend(output.answers);
        (now, answers.clone())
    };
    let mut turns = 0;
    while replica.standing().role != Role::Leader || !replica.standing().serving {
        turn(&mut replica, None, true);
        turns += 1;
        assert!(turns < 1_000, "a single voter does not lead: {:?}", replica.standing());
    }
    let command = Command {
        op: Some(proto::node::command::Op::Put(put("a"))),
    };
    turn(
        &mut replica,
        Some(Input::Propose {
            command,
            waiter: 1,
            deadline: Time::MAX,
        }),
        false,
    );
    let (now, _) = turn(&mut replica, None, false);
    turn(
        &mut replica,
        Some(Input::Read {
            waiter: 2,
            deadline: now + Duration::from_millis(100),
        }),
        false,
    );
    let mut said = Vec::new();
    for _ in 0..20 {
        said = turn(&mut replica, None, false).1;
    }
    assert_eq!(said, [(2, Answer::Failed(Error::TimeoutWaitAppliedIndex))]);
}
