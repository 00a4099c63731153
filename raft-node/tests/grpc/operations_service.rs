//! The stream of operations, as a client sees it.

use crate::fake::{OWN, Served, TERM, get, put, row};
use proto::{
    Error,
    etcdserverpb::{DeleteRangeRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest, request_op::Request},
    operations::{
        Failure, Operation, OperationsRequest, OperationsResponse, Outcome, operation::Op,
        operations_client::OperationsClient, outcome::Result as Outcomes,
    },
};
use raft_node::limits::OPERATIONS_IN_FLIGHT_MAX;
use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

struct Stream {
    requests: mpsc::Sender<OperationsRequest>,
    responses: Streaming<OperationsResponse>,
}

impl Stream {
    async fn open(served: &Served) -> Self {
        let (requests, messages) = mpsc::channel(16);
        let mut client = OperationsClient::new(served.channel.clone());
        let responses = client.stream(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn send(&self, operations: Vec<Operation>) {
        let cancels = Vec::new();
        self.requests
            .send(OperationsRequest { operations, cancels })
            .await
            .unwrap();
    }

    async fn next(&mut self) -> Result<Option<OperationsResponse>, Status> {
        timeout(Duration::from_secs(10), self.responses.message())
            .await
            .unwrap()
    }

    /// Exactly so many outcomes, by their ids.
    async fn outcomes(&mut self, count: usize) -> BTreeMap<u64, Outcomes> {
        let mut outcomes = BTreeMap::new();
        while outcomes.len() < count {
            for Outcome { id, result } in self.next().await.unwrap().unwrap().outcomes {
                assert!(outcomes.insert(id, result.unwrap()).is_none(), "two outcomes of {id}");
            }
        }
        assert_eq!(outcomes.len(), count);
        outcomes
    }
}

fn operation(id: u64, op: Op) -> Operation {
    Operation {
        id,
        op: Some(op),
        ..Operation::default()
    }
}

fn refused(error: &Error, leader: &str) -> Outcomes {
    let (code, message) = row(error);
    Outcomes::Failure(Failure {
        code: code as i32,
        message,
        leader: leader.to_owned(),
    })
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    let header = header.unwrap();
    assert_eq!((header.member_id, header.raft_term), (OWN, TERM));
    header.revision
}

/// Until the member has been given so many writes.
async fn submitted(served: &Served, count: u64) {
    let given = async {
        while served.fake.submitted.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), given).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_of_a_request_has_its_own_outcome() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    stream
        .send(vec![
            operation(1, Op::Put(put("a", "1"))),
            operation(2, Op::Put(put("b", "2"))),
        ])
        .await;
    let written = stream.outcomes(2).await;
    for (id, at) in [(1, 2), (2, 3)] {
        let Outcomes::Put(reply) = &written[&id] else {
            panic!("{written:?}")
        };
        assert_eq!(revision(reply.header.as_ref()), at);
    }
    let read_only = TxnRequest {
        success: vec![RequestOp {
            request: Some(Request::RequestRange(get("b"))),
        }],
        ..TxnRequest::default()
    };
    let deletes = TxnRequest {
        success: vec![RequestOp {
            request: Some(Request::RequestDeleteRange(DeleteRangeRequest {
                key: "b".into(),
                ..DeleteRangeRequest::default()
            })),
        }],
        ..TxnRequest::default()
    };
    stream
        .send(vec![
            operation(3, Op::Range(get("a"))),
            operation(4, Op::Txn(read_only)),
            operation(5, Op::Put(put("", "no key"))),
            operation(6, Op::Range(get(""))),
            Operation {
                id: 7,
                ..Operation::default()
            },
        ])
        .await;
    let read = stream.outcomes(5).await;
    let Outcomes::Range(range) = &read[&3] else {
        panic!("{read:?}")
    };
    assert_eq!(
        (revision(range.header.as_ref()), &range.kvs[0].value[..]),
        (3, &b"1"[..])
    );
    assert!(matches!(&read[&4], Outcomes::Txn(txn) if txn.succeeded && txn.responses.len() == 1));
    assert_eq!(read[&5], refused(&Error::EmptyKey, ""));
    assert_eq!(read[&6], refused(&Error::EmptyKey, ""));
    assert!(matches!(&read[&7], Outcomes::Failure(failure) if failure.code == Code::Unimplemented as i32));
    stream.send(vec![operation(8, Op::Txn(deletes))]).await;
    assert!(matches!(&stream.outcomes(1).await[&8], Outcomes::Txn(txn) if revision(txn.header.as_ref()) == 4));
    // The end of the requests is the end of the stream.
    drop(stream.requests);
    assert_eq!(stream.responses.message().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_flight_is_not_taken_again() {
    let served = Served::start();
    served.fake.silent.store(true, Ordering::SeqCst);
    let mut stream = Stream::open(&served).await;
    stream
        .send(vec![
            operation(1, Op::Put(put("a", "1"))),
            operation(1, Op::Put(put("b", "2"))),
        ])
        .await;
    let status = stream.next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("operation 1 is in flight"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_leader_refuses_whoever_needs_one() {
    let served = Served::start();
    served.fake.leader.send_replace(0);
    let mut stream = Stream::open(&served).await;
    let mut needs = operation(1, Op::Put(put("a", "1")));
    needs.requires_leader = true;
    let local = RangeRequest {
        serializable: true,
        ..get("a")
    };
    stream.send(vec![needs, operation(2, Op::Range(local))]).await;
    let outcomes = stream.outcomes(2).await;
    assert_eq!(outcomes[&1], refused(&Error::NoLeader, ""));
    assert!(matches!(&outcomes[&2], Outcomes::Range(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_taken_than_may_be_in_flight() {
    let served = Served::start();
    served.fake.silent.store(true, Ordering::SeqCst);
    let mut stream = Stream::open(&served).await;
    let mut id = 0;
    // In requests of 64, until the member takes no more and the windows are full.
    let full = loop {
        let operations = (0..64)
            .map(|i| operation(id + i, Op::Put(put("k", &"v".repeat(512)))))
            .collect();
        let cancels = Vec::new();
        let request = OperationsRequest { operations, cancels };
        if timeout(Duration::from_secs(1), stream.requests.send(request))
            .await
            .is_err()
        {
            break id;
        }
        id += 64;
    };
    let taken = served.fake.submitted.load(Ordering::SeqCst) as usize;
    assert!(
        (OPERATIONS_IN_FLIGHT_MAX..OPERATIONS_IN_FLIGHT_MAX + 64).contains(&taken),
        "{taken}"
    );
    assert!(full as usize > taken, "the client was not held back");
    // Nothing is lost: it goes on where it stood.
    served.fake.release();
    assert_eq!(stream.outcomes(full as usize).await.len(), full as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_of_what_was_canceled() {
    let served = Served::start();
    served.fake.silent.store(true, Ordering::SeqCst);
    let mut stream = Stream::open(&served).await;
    stream
        .send(vec![
            operation(1, Op::Put(put("a", "1"))),
            operation(2, Op::Put(put("a", "2"))),
        ])
        .await;
    submitted(&served, 2).await;
    let request = OperationsRequest {
        operations: vec![operation(3, Op::Put(put("a", "3")))],
        cancels: vec![1, 77],
    };
    stream.requests.send(request).await.unwrap();
    submitted(&served, 3).await;
    served.fake.release();
    let ids: Vec<u64> = stream.outcomes(2).await.into_keys().collect();
    assert_eq!(ids, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_says_so_and_answers_what_it_is_sent() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    stream.send(vec![operation(1, Op::Put(put("a", "1")))]).await;
    stream.outcomes(1).await;
    served.fake.stopping.send_replace(true);
    let notice = stream.next().await.unwrap().unwrap();
    assert!(notice.closing && notice.outcomes.is_empty());
    // It had left before the notice came.
    stream.send(vec![operation(2, Op::Put(put("a", "2")))]).await;
    assert!(matches!(stream.outcomes(1).await[&2], Outcomes::Put(_)));
    drop(stream.requests);
    assert_eq!(stream.responses.message().await.unwrap(), None);
}
