//! One attempt of a key-value operation: as a unary call, or over the member's stream of operations.
//!
//! Not here: the stream (`lane`), and which member is asked when (`retry`).

use std::{future::Future, sync::atomic::Ordering};

use proto::{
    etcdserverpb::{
        DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, TxnRequest,
        TxnResponse,
    },
    operations::{operation::Op, outcome},
};
use tonic::{Response, Status};

use crate::{Client, client::Terms, lane::Refusal, route::Endpoint, unary, wire::Wire};

type Called<R> = Result<Response<R>, Status>;

/// A request that can go either way.
pub(crate) trait Operation: Clone + Send {
    type Reply;

    fn call(&self, wire: &Wire, terms: Terms) -> impl Future<Output = Called<Self::Reply>> + Send;
    fn into_op(self) -> Op;
    fn reply(result: outcome::Result) -> Option<Self::Reply>;
}

macro_rules! operations {
    ($($request:ty => $op:ident, $reply:ty;)*) => {
        $(impl Operation for $request {
            type Reply = $reply;

            async fn call(&self, wire: &Wire, terms: Terms) -> Called<$reply> {
                unary::call(wire, concat!("/etcdserverpb.KV/", stringify!($op)), self, terms).await
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
    PutRequest => Put, PutResponse;
    RangeRequest => Range, RangeResponse;
    DeleteRangeRequest => DeleteRange, DeleteRangeResponse;
    TxnRequest => Txn, TxnResponse;
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
        operation.call(&endpoint.wire, terms).await
    }
}
