//! One attempt of a key-value operation: as a unary call, or over the member's stream of operations.
//!
//! Not here: the stream (`lane`), and which member is asked when (`retry`).

use std::{future::Future, sync::atomic::Ordering};

use proto::{
    etcdserverpb::{
        DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, TxnRequest,
        TxnResponse, kv_client::KvClient,
    },
    operations::{operation::Op, outcome},
};
use tonic::{Request, Response, Status};

use crate::{
    Client,
    client::{Terms, request_under},
    kv::kv,
    lane::Refusal,
    route::Endpoint,
    wire::Wire,
};

type Called<R> = Result<Response<R>, Status>;

/// A request that can go either way.
pub(crate) trait Operation: Clone + Send {
    type Reply;

    fn call(self, kv: KvClient<Wire>, terms: Terms) -> impl Future<Output = Called<Self::Reply>> + Send;
    fn into_op(self) -> Op;
    fn reply(result: outcome::Result) -> Option<Self::Reply>;
}

macro_rules! operations {
    ($($request:ty => $method:ident, $op:ident, $reply:ty;)*) => {
        $(impl Operation for $request {
            type Reply = $reply;

            async fn call(self, mut kv: KvClient<Wire>, terms: Terms) -> Called<$reply> {
                let request: Request<Self> = request_under(self, terms);
                kv.$method(request).await
            }

            fn into_op(self) -> Op {
                Op::$op(self)
            }

            fn reply(result: outcome::Result) -> Option<$reply> {
                match result {
                    outcome::Result::$op(reply) => Some(reply),
                    _ => None,
                }
            }
        })*
    };
}

operations! {
    PutRequest => put, Put, PutResponse;
    RangeRequest => range, Range, RangeResponse;
    DeleteRangeRequest => delete_range, DeleteRange, DeleteRangeResponse;
    TxnRequest => txn, Txn, TxnResponse;
}

impl Client {
    /// Asks one endpoint, once.
    pub(crate) async fn attempt<O: Operation>(
        &self,
        endpoint: &Endpoint,
        operation: O,
        terms: Terms,
    ) -> Called<O::Reply> {
        if self.options.streams && !endpoint.has_no_streams.load(Ordering::Relaxed) {
            let op = operation.clone().into_op();
            match endpoint.lane.operate(&endpoint.wire, op, terms).await {
                Ok(result) => {
                    let reply = O::reply(result).map(Response::new);
                    return reply.ok_or_else(|| Status::internal("the outcome of another operation"));
                }
                Err(Refusal::Status(status)) => return Err(status),
                Err(Refusal::NoStreams) => endpoint.has_no_streams.store(true, Ordering::Relaxed),
            }
        }
        operation.call(kv(endpoint), terms).await
    }
}
