//! KV, and the checks, headers and errors that all services share.

use crate::fake::{CLUSTER, OWN, Served, TERM, get, limits, put, refusal, row};
use bytes::Bytes;
use http_body::{Body, Frame};
use prost::Message;
use proto::{
    Error,
    etcdserverpb::{
        CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
        ResponseHeader, TxnRequest, compare, kv_client::KvClient, request_op::Request, response_op::Response,
    },
};
use raft_node::grpc::{Limits, counters::Rpc};
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{
    Code, Status,
    codegen::{Service, http},
    transport::Channel,
};

fn all() -> RangeRequest {
    RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..RangeRequest::default()
    }
}

/// As the field holds it.
#[allow(clippy::unnecessary_wraps)]
fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: CLUSTER,
        member_id: OWN,
        revision,
        raft_term: TERM,
    })
}

fn client(served: &Served) -> KvClient<Channel> {
    KvClient::new(served.channel.clone()).max_decoding_message_size(usize::MAX)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_carry_full_headers() {
    let served = Served::start();
    let mut kv = client(&served);
    assert_eq!(kv.range(get("a")).await.unwrap().into_inner().header, header(1));
    assert_eq!(kv.put(put("a", "1")).await.unwrap().into_inner().header, header(2));
    let range = kv.range(get("a")).await.unwrap().into_inner();
    assert_eq!(
        (range.header, range.count, &range.kvs[0].value[..]),
        (header(2), 1, &b"1"[..])
    );
    let delete = DeleteRangeRequest {
        key: "a".into(),
        prev_kv: true,
        ..DeleteRangeRequest::default()
    };
    let deleted = kv.delete_range(delete).await.unwrap().into_inner();
    assert_eq!(
        (deleted.header, deleted.deleted, deleted.prev_kvs.len()),
        (header(3), 1, 1)
    );
    let compacted = kv
        .compact(CompactionRequest {
            revision: 3,
            physical: true,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(compacted.header, header(3));
    assert_eq!(served.counters.handled(Rpc::Range, Code::Ok), 2);
    assert_eq!(served.counters.started(Rpc::Put), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_etcds_codes_and_texts() {
    let served = Served::start();
    let mut kv = client(&served);
    kv.put(put("a", "1")).await.unwrap();
    assert_eq!(refusal(kv.put(put("", "1")).await), row(&Error::EmptyKey));
    assert_eq!(refusal(kv.range(get("")).await), row(&Error::EmptyKey));
    assert_eq!(
        refusal(
            kv.put(PutRequest {
                ignore_value: true,
                ..put("a", "1")
            })
            .await
        ),
        row(&Error::ValueProvided)
    );
    assert_eq!(
        refusal(
            kv.put(PutRequest {
                lease: 9,
                ..put("a", "1")
            })
            .await
        ),
        row(&Error::LeaseNotFound)
    );
    assert_eq!(
        refusal(
            kv.range(RangeRequest {
                revision: 9,
                ..get("a")
            })
            .await
        ),
        row(&Error::FutureRev)
    );
    assert_eq!(
        refusal(
            kv.range(RangeRequest {
                sort_order: 9,
                ..get("a")
            })
            .await
        ),
        row(&Error::InvalidSortOption)
    );
    kv.compact(CompactionRequest {
        revision: 2,
        physical: false,
    })
    .await
    .unwrap();
    assert_eq!(
        refusal(
            kv.range(RangeRequest {
                revision: 1,
                ..get("a")
            })
            .await
        ),
        row(&Error::Compacted)
    );
    assert_eq!(served.counters.handled(Rpc::Put, Code::InvalidArgument), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_write_or_only_read() {
    let served = Served::start();
    let mut kv = client(&served);
    let range = RequestOp {
        request: Some(Request::RequestRange(get("a"))),
    };
    let write = RequestOp {
        request: Some(Request::RequestPut(put("a", "1"))),
    };
    let absent = Compare {
        key: "a".into(),
        target: compare::CompareTarget::Version as i32,
        target_union: Some(compare::TargetUnion::Version(0)),
        ..Compare::default()
    };
    let txn = TxnRequest {
        compare: vec![absent],
        success: vec![write.clone(), range.clone()],
        failure: vec![range],
    };
    let done = kv.txn(txn.clone()).await.unwrap().into_inner();
    assert_eq!((done.header, done.succeeded), (header(2), true));
    let nested = ResponseHeader {
        revision: 2,
        ..ResponseHeader::default()
    };
    match done.responses[1].response.clone().unwrap() {
        Response::ResponseRange(range) => assert_eq!((range.header, range.count), (Some(nested), 1)),
        other => panic!("{other:?}"),
    }
    assert!(!kv.txn(txn.clone()).await.unwrap().into_inner().succeeded);
    let read_only = TxnRequest {
        success: txn.failure.clone(),
        ..txn
    };
    let read = kv.txn(read_only.clone()).await.unwrap().into_inner();
    assert_eq!((read.header, read.succeeded), (header(2), false));
    let twice = TxnRequest {
        success: vec![write.clone(), write.clone()],
        ..TxnRequest::default()
    };
    assert_eq!(refusal(kv.txn(twice).await), row(&Error::DuplicateKey));
    let many = TxnRequest {
        success: vec![write; 129],
        ..TxnRequest::default()
    };
    assert_eq!(refusal(kv.txn(many).await), row(&Error::TooManyOps));

    // Without a leader: a serializable one is answered, a linearizable one is not.
    served.fake.leader.send_replace(0);
    assert_eq!(refusal(kv.txn(read_only).await), row(&Error::Timeout));
    kv.txn(TxnRequest::default()).await.unwrap();
    kv.range(RangeRequest {
        serializable: true,
        ..get("a")
    })
    .await
    .unwrap();
    assert_eq!(refusal(kv.range(get("a")).await), row(&Error::Timeout));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_requests_are_refused_in_two_ways() {
    let served = Served::start();
    let mut kv = client(&served).max_encoding_message_size(usize::MAX);
    let of = |bytes: usize| PutRequest {
        key: "a".into(),
        value: vec![7; bytes].into(),
        ..PutRequest::default()
    };
    kv.put(of(1_572_000)).await.unwrap();
    assert_eq!(refusal(kv.put(of(1_572_864)).await), row(&Error::RequestTooLarge));
    // 512 KiB above the limit nothing is decoded any more: three tags, key, value and their lengths are 8 bytes.
    let text = "grpc: received message larger than max (3000008 vs. 2097152)".to_owned();
    assert_eq!(refusal(kv.put(of(3_000_000)).await), (Code::ResourceExhausted, text));
}

/// A request's body as it goes over the wire, in as many frames.
struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }
}

async fn framed(served: &Served, frames: &[&[u8]]) -> Status {
    let frames = frames.iter().map(|frame| Bytes::copy_from_slice(frame)).collect();
    let request = http::Request::post("/etcdserverpb.KV/Put").header("content-type", "application/grpc");
    let request = request.body(tonic::body::Body::new(Frames(frames))).unwrap();
    let mut channel = served.channel.clone();
    poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let (head, mut body) = channel.call(request).await.unwrap().into_parts();
    let mut status = Status::from_header_map(&head.headers);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(trailers) = frame.unwrap().into_trailers() {
            status = Status::from_header_map(&trailers);
        }
    }
    status.expect("every answer has a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_read_from_frames_of_any_size_and_broken_ones_refused() {
    let served = Served::start();
    let message = put("a", "1").encode_to_vec();
    let prefix = |flag: u8, length: usize| [&[flag][..], &(length as u32).to_be_bytes()].concat();
    let whole = [prefix(0, message.len()), message.clone()].concat();
    for at in 0..=whole.len() {
        let (first, second) = whole.split_at(at);
        assert_eq!(
            framed(&served, &[first, second]).await.code(),
            Code::Ok,
            "in two, at {at}"
        );
    }
    let single: Vec<_> = whole.chunks(1).collect();
    assert_eq!(framed(&served, &single).await.code(), Code::Ok);
    for (frames, code, text) in [
        (vec![], Code::Internal, "Missing request message."),
        (
            vec![whole[..3].to_vec()],
            Code::Internal,
            "Unexpected EOF decoding stream.",
        ),
        (
            vec![whole[..7].to_vec()],
            Code::Internal,
            "Unexpected EOF decoding stream.",
        ),
        (
            vec![prefix(1, message.len()), message.clone()],
            Code::Internal,
            "compressed-flag",
        ),
        (
            vec![prefix(9, message.len()), message.clone()],
            Code::Internal,
            "invalid compression flag: 9",
        ),
        (
            vec![prefix(0, 1 << 30)],
            Code::ResourceExhausted,
            "received message larger than max (1073741824 vs. ",
        ),
    ] {
        let frames: Vec<_> = frames.iter().map(|frame| &frame[..]).collect();
        let status = framed(&served, &frames).await;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_refuses_only_what_grows() {
    let served = Served::with(
        Limits {
            quota_bytes: Some(1000),
            ..limits()
        },
        1 << 20,
    );
    let mut kv = client(&served);
    kv.put(put("a", "1")).await.unwrap();
    assert_eq!(refusal(kv.put(put("b", &"x".repeat(800))).await), row(&Error::NoSpace));
    kv.range(get("a")).await.unwrap();
    kv.delete_range(DeleteRangeRequest {
        key: "a".into(),
        ..DeleteRangeRequest::default()
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_stream_merges_to_the_range() {
    let served = Served::start();
    let mut kv = client(&served);
    // More than the unary answer holds at once.
    for i in 0..2600 {
        kv.put(put(&format!("k{i:04}"), &"v".repeat(2000))).await.unwrap();
    }
    for request in [
        all(),
        RangeRequest { limit: 777, ..all() },
        RangeRequest {
            count_only: true,
            ..all()
        },
        RangeRequest {
            keys_only: true,
            revision: 1500,
            ..all()
        },
        get("k0007"),
        get("missing"),
    ] {
        let unary = kv.range(request.clone()).await.unwrap().into_inner();
        let mut stream = kv.range_stream(request.clone()).await.unwrap().into_inner();
        let mut merged = RangeResponse::default();
        let mut chunks = 0;
        while let Some(chunk) = stream.message().await.unwrap() {
            let chunk = chunk.range_response.unwrap();
            assert_eq!(merged.header, None, "the header is in the last chunk only");
            merged.kvs.extend(chunk.kvs);
            (merged.header, merged.more, merged.count) = (chunk.header, chunk.more, chunk.count);
            chunks += 1;
        }
        assert_eq!(merged, unary);
        assert!(request.limit == 0 || chunks > 1);
    }
    let sorted = RangeRequest { sort_order: 2, ..all() };
    let text = "RangeStream does not support custom sort orders".to_owned();
    assert_eq!(refusal(kv.range_stream(sorted).await), (Code::Unimplemented, text));
    let filtered = RangeRequest {
        min_mod_revision: 2,
        ..all()
    };
    let text = "RangeStream does not support revision filters".to_owned();
    assert_eq!(refusal(kv.range_stream(filtered).await), (Code::Unimplemented, text));
    assert_eq!(served.counters.handled(Rpc::RangeStream, Code::Ok), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_checked_and_errors_name_the_leader() {
    let served = Served::start();
    let mut kv = client(&served);
    let with = |key: &'static str, value: &str| {
        let mut request = tonic::Request::new(RangeRequest {
            serializable: true,
            ..get("a")
        });
        request.metadata_mut().insert(key, value.parse().unwrap());
        request
    };
    kv.range(with("hasleader", "true")).await.unwrap();
    kv.range(with("client-api-version", "3.5")).await.unwrap();
    let old = kv.range(with("client-api-version", "2.3")).await;
    assert_eq!(refusal(old), row(&Error::InvalidClientAPIVersion));

    served.fake.leader.send_replace(0);
    assert_eq!(
        refusal(kv.range(with("hasleader", "true")).await),
        row(&Error::NoLeader)
    );
    kv.range(with("hasleader", "false")).await.unwrap();

    served.fake.stopping.send_replace(false);
    served.fake.leader.send_replace(crate::fake::OTHER);
    let status = proto_maintenance(&served)
        .move_leader(proto::etcdserverpb::MoveLeaderRequest::default())
        .await;
    let status = status.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, Error::NotLeader.text())
    );
    assert_eq!(status.metadata().get("dipper-leader").unwrap(), "http://leader:1");
}

fn proto_maintenance(served: &Served) -> proto::etcdserverpb::maintenance_client::MaintenanceClient<Channel> {
    proto::etcdserverpb::maintenance_client::MaintenanceClient::new(served.channel.clone())
}
