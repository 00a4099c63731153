//! A gRPC service that does nothing: the limit of what any store can serve on this machine.
//!
//! It answers KV's Range, Put and Txn, and streams of operations, at once and alike: no Raft, no disk, no state. The
//! runtimes, the codec and the settings of a connection are the member's; the benchmark gives it the loads that it
//! gives to the systems.
//!
//! `null_service ADDRESS THREADS`, until it is killed.

use std::{io, net::SocketAddr, thread};

use futures_util::{Stream, StreamExt};
use proto::{
    etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
        RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        kv_server::{Kv, KvServer},
        response_op,
    },
    mvccpb::KeyValue,
    operations::{
        OperationsRequest, OperationsResponse, Outcome, operation,
        operations_server::{Operations, OperationsServer},
        outcome,
    },
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// Of the value that every range finds.
const VALUE_BYTES: usize = 256;
/// Connections that wait for their runtime.
const WAITING_MAX: usize = 1024;

/// As the field holds it.
#[allow(clippy::unnecessary_wraps)]
fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: 1,
        member_id: 1,
        revision: 1,
        raft_term: 1,
    })
}

fn put() -> PutResponse {
    PutResponse {
        header: header(),
        prev_kv: None,
    }
}

fn range(request: RangeRequest) -> RangeResponse {
    RangeResponse {
        header: header(),
        kvs: vec![KeyValue {
            key: request.key,
            value: vec![b'v'; VALUE_BYTES].into(),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            lease: 0,
        }],
        count: 1,
        ..RangeResponse::default()
    }
}

fn txn() -> TxnResponse {
    TxnResponse {
        header: header(),
        succeeded: true,
        responses: vec![ResponseOp {
            response: Some(response_op::Response::ResponsePut(PutResponse::default())),
        }],
    }
}

struct Null;

#[async_trait]
impl Kv for Null {
    type RangeStreamStream = tokio_stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        Ok(Response::new(range(request.into_inner())))
    }

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Ok(Response::new(put()))
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        Ok(Response::new(DeleteRangeResponse::default()))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Ok(Response::new(txn()))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        Ok(Response::new(CompactionResponse::default()))
    }
}

#[async_trait]
impl Operations for Null {
    type StreamStream = std::pin::Pin<Box<dyn Stream<Item = Result<OperationsResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<OperationsRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let answered = request.into_inner().map(|request| {
            let outcomes = request?.operations.into_iter().map(|operation| Outcome {
                id: operation.id,
                result: operation.op.map(|op| match op {
                    operation::Op::Put(_) => outcome::Result::Put(put()),
                    operation::Op::Range(request) => outcome::Result::Range(range(request)),
                    operation::Op::DeleteRange(_) => outcome::Result::DeleteRange(DeleteRangeResponse::default()),
                    operation::Op::Txn(_) => outcome::Result::Txn(txn()),
                }),
            });
            Ok(OperationsResponse {
                outcomes: outcomes.collect(),
                closing: false,
            })
        });
        Ok(Response::new(Box::pin(answered)))
    }
}

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: null_service ADDRESS THREADS");
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().and_then(|text| text.parse().ok()).ok_or_else(usage)?;
    let threads: usize = arguments.next().and_then(|text| text.parse().ok()).ok_or_else(usage)?;
    let mut workers = Vec::new();
    for _ in 0..threads.max(1) {
        let (accepted, waiting) = mpsc::channel::<std::net::TcpStream>(WAITING_MAX);
        workers.push(accepted);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            let served = runtime.block_on(
                tonic::transport::Server::builder()
                    .add_service(KvServer::new(Null))
                    .add_service(OperationsServer::new(Null))
                    // A socket belongs to the runtime that first polls it.
                    .serve_with_incoming(ReceiverStream::new(waiting).map(TcpStream::from_std)),
            );
            served.expect("the listener is not this runtime's");
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await?;
        for number in 0.. {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            if workers[number % workers.len()].send(stream.into_std()?).await.is_err() {
                return Err(io::Error::other("a runtime ended"));
            }
        }
        Ok(())
    })
}
