//! One call: a message there, a message back.
//!
//! tonic's client takes it through boxes, tasks and buffers of 8 KiB, which costs as much again as HTTP/2 does. Here it
//! is one frame each way. Streams, and calls that are few, go tonic's way.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use prost::Message;
use tonic::{
    Code, Response, Status,
    codegen::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, response},
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
};

use crate::{client::Terms, wire::Wire};

/// gRPC's prefix: whether it is compressed, and the message's length.
const PREFIX_BYTES: usize = 5;
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
/// Timeouts are told in steps: a value that was told before costs a byte on the wire.
const TIMEOUT_STEP: Duration = Duration::from_millis(100);

/// What a request carries.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// One message.
    Message(Option<Bytes>),
    /// As tonic makes it.
    Tonic(tonic::body::Body),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Message(message) => Poll::Ready(message.take().map(|message| Ok(Frame::data(message)))),
            Self::Tonic(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(message) => message.is_none(),
            Self::Tonic(body) => body.is_end_stream(),
        }
    }
}

/// Calls `method`, which is a path.
pub(crate) async fn call<Q: Message, R: Message + Default>(
    wire: &Wire,
    method: &'static str,
    message: &Q,
    terms: Terms,
) -> Result<Response<R>, Status> {
    let answer = wire.send(request(method, message, terms)?).await;
    let (head, body) = answer.map_err(Status::from_error)?.into_parts();
    let message = reply(&head, body).await?;
    let message = R::decode(message).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Response::from_parts(
        MetadataMap::from_headers(head.headers),
        message,
        head.extensions,
    ))
}

fn request<Q: Message>(method: &'static str, message: &Q, terms: Terms) -> Result<Request<Outgoing>, Status> {
    let length = message.encoded_len();
    let Ok(prefix) = u32::try_from(length) else {
        return Err(Status::resource_exhausted("a request of more than 4 GiB"));
    };
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + length);
    body.put_u8(0);
    body.put_u32(prefix);
    message.encode(&mut body).expect("the buffer grows as it must");
    let mut request = Request::new(Outgoing::Message(Some(body.freeze())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(method);
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::TE, TRAILERS);
    headers.insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    headers.insert(GRPC_TIMEOUT, timeout(terms.left()));
    if terms.requires_leader {
        headers.insert(HAS_LEADER, TRUE);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// A `grpc-timeout` of at least `left`: at most eight digits and a unit.
fn timeout(left: Duration) -> HeaderValue {
    let step = TIMEOUT_STEP.as_millis();
    let millis = left.as_millis().div_ceil(step) * step;
    let text = match millis {
        millis if millis < 100_000_000 => format!("{millis}m"),
        millis => format!("{}S", (millis / 1000).min(99_999_999)),
    };
    HeaderValue::try_from(text).expect("digits and a letter")
}

/// The one message of an answer whose status is good.
async fn reply(head: &response::Parts, mut body: Incoming) -> Result<Bytes, Status> {
    let mut status = Status::from_header_map(&head.headers);
    if status.is_none() && head.status != StatusCode::OK {
        return Err(status_of_http(head.status));
    }
    let mut read = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.map_err(|error| Status::from_error(Box::new(error)))?.into_data() {
            Ok(data) if read.is_empty() && more.is_empty() => read = data,
            Ok(data) => {
                if more.is_empty() {
                    // The prefix says how much comes.
                    let length = read
                        .get(1..PREFIX_BYTES)
                        .map_or(0, |mut length| length.get_u32() as usize);
                    more.reserve(PREFIX_BYTES + length);
                    more.extend_from_slice(&std::mem::take(&mut read));
                }
                more.extend_from_slice(&data);
            }
            Err(frame) => {
                let trailers = frame.into_trailers().ok();
                status = trailers.and_then(|trailers| Status::from_header_map(&trailers));
            }
        }
    }
    match status {
        None => return Err(Status::internal("the answer ended without a status")),
        Some(status) if status.code() != Code::Ok => return Err(status),
        Some(_) => {}
    }
    let mut message = if more.is_empty() { read } else { more.freeze() };
    if message.len() < PREFIX_BYTES {
        return Err(Status::internal("Missing response message."));
    }
    let (flag, length) = (message.get_u8(), message.get_u32() as usize);
    if flag != 0 || length != message.len() {
        let found = message.len();
        let text = format!("an answer of {found} bytes with the flag {flag} that says it has {length}");
        return Err(Status::internal(text));
    }
    Ok(message)
}

/// As gRPC maps what answers in the place of a gRPC server.
fn status_of_http(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("no gRPC answer, but HTTP status {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_never_shorter_and_seldom_another() {
        for (millis, text) in [
            (0, "0m"),
            (1, "100m"),
            (5_999, "6000m"),
            (6_000, "6000m"),
            (99_999_950, "100000S"),
        ] {
            assert_eq!(timeout(Duration::from_millis(millis)), text);
        }
        assert_eq!(timeout(Duration::from_secs(1 << 40)), "99999999S");
    }
}
