//! The KV service. A write is checked, proposed, and answered with what applying it returned. A read waits for a
//! View that is new enough, then reads it: inline when the answer is in memory, else on the blocking pool.

use super::{
    call::Context,
    check::{self, TxnRead},
    counters::{Rpc, Started},
    header::{filled, header},
    member::Member,
    pulled::{Pulled, Source},
};
use crate::limits::RANGE_CHUNK_BYTES;
use ::kv::{EncodedRange, RangeChunks, RangeTail, Response as Applied, View};
use bytes::Bytes;
use proto::{
    Error,
    etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
        RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse, kv_server,
    },
    node::{Command, command::Op},
};
use std::sync::Arc;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, async_trait};

/// The service.
pub struct Kv<M>(pub Context<M>);

#[async_trait]
impl<M: Member> kv_server::Kv for Kv<M> {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let call = self.0.begin(Rpc::Range, request.metadata())?;
        let result = range(&*self.0.member, request.into_inner(), call.deadline).await;
        call.end(result)
    }

    type RangeStreamStream = Pulled<Chunks<M>>;

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        let call = self.0.begin(Rpc::RangeStream, request.metadata())?;
        match range_stream(&*self.0.member, request.into_inner(), call.deadline).await {
            Ok(chunks) => {
                let (context, started) = (self.0.clone(), call.into_stream());
                Ok(Response::new(Pulled::new(Chunks {
                    context,
                    started,
                    range: Some(chunks),
                })))
            }
            Err(error) => Err(call.refuse(&error)),
        }
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let call = self.0.begin(Rpc::Put, request.metadata())?;
        let result = put(&*self.0.member, request.into_inner(), call.deadline).await;
        call.end(result)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let call = self.0.begin(Rpc::DeleteRange, request.metadata())?;
        let result = delete_range(&*self.0.member, request.into_inner(), call.deadline).await;
        call.end(result)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let call = self.0.begin(Rpc::Txn, request.metadata())?;
        let result = txn(&*self.0.member, request.into_inner(), call.deadline).await;
        call.end(result)
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let call = self.0.begin(Rpc::Compact, request.metadata())?;
        let result = compact(&*self.0.member, request.into_inner(), call.deadline).await;
        call.end(result)
    }
}

pub async fn put<M: Member>(member: &M, request: PutRequest, deadline: Instant) -> Result<PutResponse, Error> {
    match write(member, Op::Put(request), deadline).await? {
        Applied::Put(reply) => Ok(PutResponse {
            header: Some(filled(member, reply.header)),
            ..reply
        }),
        other => panic!("a put was applied as {other:?}"),
    }
}

async fn delete_range<M: Member>(
    member: &M,
    request: DeleteRangeRequest,
    deadline: Instant,
) -> Result<DeleteRangeResponse, Error> {
    match write(member, Op::DeleteRange(request), deadline).await? {
        // What was done is told, however long it is: a refusal would say that it was not done.
        Applied::DeleteRange(reply) => Ok(DeleteRangeResponse {
            header: Some(filled(member, reply.header)),
            ..reply
        }),
        other => panic!("a delete was applied as {other:?}"),
    }
}

async fn compact<M: Member>(
    member: &M,
    request: CompactionRequest,
    deadline: Instant,
) -> Result<CompactionResponse, Error> {
    match write(member, Op::Compact(request), deadline).await? {
        Applied::Compact(reply) => Ok(CompactionResponse {
            header: Some(filled(member, reply.header)),
        }),
        other => panic!("a compaction was applied as {other:?}"),
    }
}

pub async fn txn<M: Member>(member: &M, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
    let read = check::txn_read(&request);
    if read == TxnRead::No {
        return match write(member, Op::Txn(request), deadline).await? {
            Applied::Txn(reply) => Ok(TxnResponse {
                header: Some(filled(member, reply.header)),
                ..reply
            }),
            other => panic!("a transaction was applied as {other:?}"),
        };
    }
    ::kv::check_txn(&request, member.limits().max_txn_ops)?;
    let view = if read == TxnRead::Linearizable {
        member.read_index(deadline).await?
    } else {
        member.settled_view(deadline).await?
    };
    let reply = member.blocking(move || view.txn_read_only(&request)).await??;
    Ok(TxnResponse {
        header: Some(filled(member, reply.header)),
        ..reply
    })
}

/// Checks and proposes one write.
pub async fn write<M: Member>(member: &M, op: Op, deadline: Instant) -> Result<Applied, Error> {
    let command = admitted(member, op)?;
    member.propose(command, deadline).await
}

/// A write that may be proposed.
pub fn admitted<M: Member>(member: &M, op: Op) -> Result<Command, Error> {
    let command = Command { op: Some(op) };
    check::quota(member, &command)?;
    check::validity(member.limits(), &command)?;
    check::size(member.limits(), &command)?;
    Ok(command)
}

pub async fn range<M: Member>(member: &M, request: RangeRequest, deadline: Instant) -> Result<RangeResponse, Error> {
    ::kv::check_range(&request)?;
    let view = view_for(member, &request, deadline).await?;
    let result = match view.range_cached(&request) {
        Some(result) => result,
        None => member.blocking(move || view.range(&request)).await?,
    };
    let reply = result?;
    Ok(RangeResponse {
        header: Some(filled(member, reply.header)),
        ..reply
    })
}

/// As [`range`], with the rows encoded as they were read.
pub async fn range_encoded<M: Member>(
    member: &M,
    request: RangeRequest,
    deadline: Instant,
) -> Result<EncodedRange<M::Engine>, Error> {
    ::kv::check_range(&request)?;
    let view = view_for(member, &request, deadline).await?;
    let mut range = match view.range_cached(&request) {
        Some(reply) => EncodedRange {
            rest: reply?,
            pieces: Vec::new(),
            tail: None,
        },
        None => member.blocking(move || view.range_encoded(&request)).await??,
    };
    range.rest.header = Some(filled(member, range.rest.header));
    Ok(range)
}

async fn view_for<M: Member>(
    member: &M,
    request: &RangeRequest,
    deadline: Instant,
) -> Result<Arc<View<M::Engine>>, Error> {
    if request.serializable {
        member.settled_view(deadline).await
    } else {
        member.read_index(deadline).await
    }
}

async fn range_stream<M: Member>(
    member: &M,
    request: RangeRequest,
    deadline: Instant,
) -> Result<RangeChunks<M::Engine>, Error> {
    ::kv::check_range(&request)?;
    check::range_stream(&request)?;
    let view = view_for(member, &request, deadline).await?;
    member.blocking(move || view.range_chunks(request)).await?
}

/// The rows of a long answer that are encoded when there is room for them.
pub struct Tail<M: Member> {
    pub member: Arc<M>,
    pub rows: Option<RangeTail<M::Engine>>,
}

impl<M: Member> Source for Tail<M> {
    type Item = Vec<Bytes>;

    async fn next(&mut self) -> Option<Result<Vec<Bytes>, Status>> {
        let mut rows = self.rows.take().filter(|rows| rows.bytes() > 0)?;
        let read = move || {
            let pieces = rows.next_pieces();
            (rows, pieces)
        };
        match self.member.blocking(read).await {
            Ok((rows, pieces)) => {
                self.rows = Some(rows);
                Some(Ok(pieces))
            }
            // The message has begun: it breaks off, and so does its stream.
            Err(error) => Some(Err(Status::new(Code::from_i32(error.code() as i32), error.text()))),
        }
    }
}

/// A RangeStream's chunks; the header's ids are in the last, with its revision.
pub struct Chunks<M: Member> {
    context: Context<M>,
    started: Started,
    range: Option<RangeChunks<M::Engine>>,
}

impl<M: Member> Source for Chunks<M> {
    type Item = RangeStreamResponse;

    async fn next(&mut self) -> Option<Result<RangeStreamResponse, Status>> {
        let mut chunks = self.range.take()?;
        let member = &self.context.member;
        let read = move || {
            let chunk = chunks.next_chunk(RANGE_CHUNK_BYTES);
            (chunks, chunk)
        };
        let chunk = match member.blocking(read).await {
            Ok((chunks, chunk)) => {
                self.range = Some(chunks);
                chunk
            }
            Err(error) => Some(Err(error)),
        };
        match chunk {
            None => {
                self.started.end(Code::Ok);
                None
            }
            Some(Ok(mut reply)) => {
                reply.header = reply.header.map(|from_state| header(&**member, from_state.revision));
                Some(Ok(RangeStreamResponse {
                    range_response: Some(reply),
                }))
            }
            Some(Err(error)) => {
                let status = self.context.status(&error);
                self.started.end(status.code());
                Some(Err(status))
            }
        }
    }
}
