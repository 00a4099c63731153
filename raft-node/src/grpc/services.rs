//! Which service answers a request: the KV service by a look at the path, everything else by a table of routes.
//!
//! A put spends as long in a general router and tonic's layers (matching, boxes, a timer for its deadline, which
//! `call` observes anyway) as in its handler, so KV goes past them, and its most frequent calls past tonic (`unary`). Where one request is many messages, as in
//! Watch and Lease, the way to the service does not matter.

use super::{
    call::Context,
    cluster,
    exact::{self, Exact, ExactReply},
    kv, lease, maintenance,
    member::Member,
    operations,
    unary::{self, Method, Pieces},
    unimplemented, watch,
};
use crate::limits::GRPC_OVERHEAD_BYTES;
use bytes::Bytes;
use hyper::{body::Incoming, service::Service};
use proto::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer,
};
use proto::{
    operations::operations_server::OperationsServer, v3electionpb::election_server::ElectionServer,
    v3lockpb::lock_server::LockServer,
};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service as _, http},
    server::NamedService,
    service::Routes,
};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

/// Everything that the client port serves.
pub(super) struct Services<M: Member> {
    context: Context<M>,
    request_bytes_max: usize,
    kv: Exact<KvServer<kv::Kv<M>>>,
    others: axum::Router,
}

impl<M: Member> Clone for Services<M> {
    fn clone(&self) -> Self {
        Self {
            context: self.context.clone(),
            request_bytes_max: self.request_bytes_max,
            kv: self.kv.clone(),
            others: self.others.clone(),
        }
    }
}

impl<M: Member> Services<M> {
    /// etcd's services and our own, and `http` beside them, which has no fallback.
    pub(super) fn new(context: &Context<M>, health: HealthService, http: axum::Router) -> Self {
        let limit = context.member.limits().max_request_bytes + GRPC_OVERHEAD_BYTES;
        // A macro, because tonic generates the two setters on each server and on no trait.
        macro_rules! sized {
            ($server:ident, $service:expr) => {
                Exact::new(
                    $server::new($service)
                        .max_decoding_message_size(limit)
                        .max_encoding_message_size(u32::MAX as usize),
                )
            };
        }
        let others = Routes::default()
            .add_service(Exact::new(watch::Watch::new(context.clone(), limit)))
            .add_service(sized!(OperationsServer, operations::Operations(context.clone())))
            .add_service(sized!(LeaseServer, lease::Lease(context.clone())))
            .add_service(sized!(ClusterServer, cluster::Cluster(context.clone())))
            .add_service(sized!(MaintenanceServer, maintenance::Maintenance(context.clone())))
            .add_service(sized!(AuthServer, unimplemented::Auth(Arc::clone(&context.counters))))
            .add_service(sized!(LockServer, unimplemented::Lock(Arc::clone(&context.counters))))
            .add_service(sized!(
                ElectionServer,
                unimplemented::Election(Arc::clone(&context.counters))
            ))
            .add_service(HealthServer::new(health))
            .into_axum_router()
            .fallback(exact::unknown_path)
            .merge(http);
        Self {
            context: context.clone(),
            request_bytes_max: limit,
            kv: sized!(KvServer, kv::Kv(context.clone())),
            others,
        }
    }
}

impl<M: Member> Service<http::Request<Incoming>> for Services<M> {
    type Response = Reply;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: http::Request<Incoming>) -> Answer {
        if let Some(method) = Method::of(&request) {
            let context = self.context.clone();
            return Answer::Unary(Box::pin(unary::answer(
                context,
                method,
                request,
                self.request_bytes_max,
            )));
        }
        if is_of::<Exact<KvServer<kv::Kv<M>>>>(request.uri().path()) {
            return Answer::Kv(self.kv.clone().call(request));
        }
        let routed = self.others.clone().call(request);
        Answer::Other(Box::pin(async move { routed.await.map(|reply| reply.map(Body::new)) }))
    }
}

/// Whether the path is `/package.Service/Method` of this service.
fn is_of<S: NamedService>(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(S::NAME));
    method.is_some_and(|method| method.starts_with('/'))
}

/// What goes back.
pub(super) type Reply = http::Response<ReplyBody>;

/// Its body.
pub(super) enum ReplyBody {
    Pieces(Pieces),
    Other(Body),
}

impl Default for ReplyBody {
    fn default() -> Self {
        Self::Other(Body::default())
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Pieces(pieces) => Pin::new(pieces).poll_frame(cx),
            Self::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Pieces(pieces) => pieces.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Pieces(_) => http_body::SizeHint::default(),
            Self::Other(body) => body.size_hint(),
        }
    }
}

/// A reply to come.
pub(super) enum Answer {
    Unary(Pin<Box<dyn Future<Output = Reply> + Send>>),
    Kv(ExactReply),
    Other(BoxFuture<http::Response<Body>, Infallible>),
}

fn others(reply: http::Response<Body>) -> Reply {
    reply.map(ReplyBody::Other)
}

impl Future for Answer {
    type Output = Result<Reply, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Unary(reply) => reply.as_mut().poll(cx).map(Ok),
            Self::Kv(reply) => Pin::new(reply).poll(cx).map_ok(others),
            Self::Other(reply) => reply.as_mut().poll(cx).map_ok(others),
        }
    }
}
