//! The two places where tonic's own words would reach a client in place of gRPC-Go's, which etcd's clients and
//! tests match: a message above the size limit, and a path that nobody serves.

use axum::response::{IntoResponse, Response};
use std::{
    convert::Infallible,
    fmt::Display,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

/// A service whose refusals of too large messages carry etcd's code and text.
#[derive(Clone)]
pub struct Exact<S>(S);

impl<S> Exact<S> {
    /// Wraps a generated server.
    pub fn new(server: S) -> Self {
        Self(server)
    }
}

impl<S: NamedService> NamedService for Exact<S> {
    const NAME: &'static str = S::NAME;
}

/// What tonic's services answer with.
type Reply = http::Response<Body>;

impl<S, B> Service<http::Request<B>> for Exact<S>
where
    S: Service<http::Request<B>, Response = Reply, Error = Infallible, Future = BoxFuture<Reply, Infallible>>,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = ExactReply;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> ExactReply {
        ExactReply(self.0.call(request))
    }
}

/// The reply of an [`Exact`] service.
pub struct ExactReply(BoxFuture<Reply, Infallible>);

impl Future for ExactReply {
    type Output = Result<Reply, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(|reply| reply.map(exact_reply))
    }
}

/// Refusals are replies without a body whose status is in the headers; every other reply is left alone.
fn exact_reply(reply: Reply) -> Reply {
    if !reply.headers().contains_key("grpc-status") {
        return reply;
    }
    match Status::from_header_map(reply.headers()) {
        Some(status) if status.code() == Code::OutOfRange => match too_large(&status) {
            Some(exact) => exact.into_http(),
            None => reply,
        },
        _ => reply,
    }
}

/// The status of a stream's broken request side, in etcd's words.
pub fn exact_status(status: Status) -> Status {
    too_large(&status).unwrap_or(status)
}

/// `Error, decoded message length too large: found N bytes, the limit is: M bytes`, as gRPC-Go says it.
fn too_large(status: &Status) -> Option<Status> {
    let sizes = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = sizes.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    Some(larger_than_max(found, limit))
}

/// The refusal of a message by its size, in gRPC-Go's words.
pub fn larger_than_max(found: impl Display, limit: impl Display) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})"))
}

/// Answers a path that no service and no page has.
pub async fn unknown_path(request: axum::extract::Request) -> Response {
    let is_grpc = request
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return (http::StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let path = request.uri().path().trim_start_matches('/');
    let service = path.rsplit_once('/').map_or(path, |(service, _)| service);
    Status::unimplemented(format!("unknown service {service}")).into_http::<axum::body::Body>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_large_is_said_as_grpc_go_says_it() {
        let tonic = Status::out_of_range(
            "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes",
        );
        let exact = exact_status(tonic.clone());
        assert_eq!(exact.code(), Code::ResourceExhausted);
        assert_eq!(
            exact.message(),
            "grpc: received message larger than max (3000000 vs. 2097152)"
        );
        let reply = exact_reply(tonic.into_http());
        let status = Status::from_header_map(reply.headers()).expect("the refusal has a status");
        assert_eq!(status.message(), exact.message());
    }

    #[test]
    fn other_refusals_are_left_alone() {
        let compacted = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
        assert_eq!(exact_status(compacted.clone()).message(), compacted.message());
    }
}
