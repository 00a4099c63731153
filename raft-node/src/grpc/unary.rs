//! KV's most frequent calls on the shortest way between HTTP/2 and their handlers.
//!
//! ```text
//!   data frame --slice--> request --kv--> reply --> one piece: prefix, message --> data frame, trailers
//!                                   long ranges --> prefix | pieces that are encoded while they are read
//! ```
//! tonic's server copies a message through buffers of 8 KiB each way and boxes a call four times, which costs as much
//! as what the call is about. What differs from the plain case (compression, another method) is left to it.

use super::{
    call::Context,
    counters::Rpc,
    exact,
    kv::{self, Tail},
    member::Member,
    pulled::Pulled,
    services::{Reply, ReplyBody},
};
use ::kv::RangeTail;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Frame;
use hyper::body::Incoming;
use prost::Message;
use proto::etcdserverpb::{PutRequest, RangeRequest, TxnRequest};
use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    vec,
};
use tokio_stream::Stream;
use tonic::{
    Status,
    codegen::{
        Body, http,
        http::{HeaderMap, HeaderName, HeaderValue},
    },
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
};

/// gRPC's prefix: whether it is compressed, and the message's length.
const PREFIX_BYTES: usize = 5;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// A call that is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Range,
    Put,
    Txn,
}

impl Method {
    /// Of a request, if it is one of these and nothing about it is special.
    pub(super) fn of<B>(request: &http::Request<B>) -> Option<Self> {
        let method = match request.uri().path().strip_prefix("/etcdserverpb.KV/")? {
            "Range" => Self::Range,
            "Put" => Self::Put,
            "Txn" => Self::Txn,
            _ => return None,
        };
        (!request.headers().contains_key("grpc-encoding")).then_some(method)
    }
}

/// Answers one call. No message may be longer than `bytes_max`.
pub(super) async fn answer<M: Member>(
    context: Context<M>,
    method: Method,
    request: http::Request<Incoming>,
    bytes_max: usize,
) -> Reply {
    match answered(context, method, request, bytes_max).await {
        Ok(pieces) => {
            let mut reply = http::Response::new(ReplyBody::Pieces(pieces));
            reply
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
            reply
        }
        Err(status) => status.into_http(),
    }
}

async fn answered<M: Member>(
    context: Context<M>,
    method: Method,
    request: http::Request<Incoming>,
    bytes_max: usize,
) -> Result<Pieces, Status> {
    let (parts, body) = request.into_parts();
    let message = message(body, bytes_max).await?;
    let (member, metadata) = (&*context.member, MetadataMap::from_headers(parts.headers));
    match method {
        Method::Put => {
            let request: PutRequest = decoded(message)?;
            let call = context.begin(Rpc::Put, &metadata)?;
            let result = kv::put(member, request, call.deadline).await;
            Pieces::new(&call.end(result)?.into_inner())
        }
        Method::Range => {
            let request: RangeRequest = decoded(message)?;
            let call = context.begin(Rpc::Range, &metadata)?;
            let result = kv::range_encoded(member, request, call.deadline).await;
            let range = call.end(result)?.into_inner();
            let tail_bytes = range.tail.as_ref().map_or(0, RangeTail::bytes);
            let member = Arc::clone(&context.member);
            let tail = range.tail.map(|rows| {
                Pulled::new(Tail {
                    member,
                    rows: Some(rows),
                })
            });
            let tail = tail.map(|tail| Box::pin(tail) as _);
            Pieces::with_others(&range.rest, range.pieces, tail_bytes, tail)
        }
        Method::Txn => {
            let request: TxnRequest = decoded(message)?;
            let call = context.begin(Rpc::Txn, &metadata)?;
            let result = kv::txn(member, request, call.deadline).await;
            Pieces::new(&call.end(result)?.into_inner())
        }
    }
}

fn decoded<R: Message + Default>(message: Bytes) -> Result<R, Status> {
    R::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// The one message of a request. Nearly always it comes in one frame, and is a slice of that.
async fn message(mut body: Incoming, bytes_max: usize) -> Result<Bytes, Status> {
    let mut read = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Status::from_error(Box::new(error)))?;
        // Trailers of a request say nothing that anybody reads.
        let Ok(data) = frame.into_data() else { continue };
        if read.is_empty() && more.is_empty() {
            read = data;
        } else {
            more.extend_from_slice(&std::mem::take(&mut read));
            more.extend_from_slice(&data);
        }
        let begun = if more.is_empty() { &read[..] } else { &more[..] };
        check_prefix(begun, bytes_max)?;
    }
    let mut read = if more.is_empty() { read } else { more.freeze() };
    if read.is_empty() {
        return Err(Status::internal("Missing request message."));
    }
    let length = (read.len() >= PREFIX_BYTES).then(|| {
        read.advance(1);
        read.get_u32() as usize
    });
    match length {
        Some(length) if length <= read.len() => Ok(read.split_to(length)),
        _ => Err(Status::internal("Unexpected EOF decoding stream.")),
    }
}

/// Before more is read: what a message is said to be.
fn check_prefix(mut begun: &[u8], bytes_max: usize) -> Result<(), Status> {
    if begun.len() < PREFIX_BYTES {
        return Ok(());
    }
    match begun.get_u8() {
        0 => {}
        1 => {
            return Err(Status::internal(
                "protocol error: received message with compressed-flag but no grpc-encoding was specified",
            ));
        }
        flag => {
            return Err(Status::internal(format!(
                "protocol error: received message with invalid compression flag: {flag} (valid flags are 0 and 1), \
                 while sending request"
            )));
        }
    }
    let length = begun.get_u32() as usize;
    if length > bytes_max {
        return Err(exact::larger_than_max(length, bytes_max));
    }
    Ok(())
}

/// Pieces that are made when there is room for them.
type Later = Pin<Box<dyn Stream<Item = Result<Vec<Bytes>, Status>> + Send>>;

/// A message on its way out, and the trailers behind it.
pub(super) struct Pieces {
    first: Option<Bytes>,
    others: vec::IntoIter<Bytes>,
    later: Option<Later>,
    has_ended: bool,
}

impl Pieces {
    fn new(message: &impl Message) -> Result<Self, Status> {
        Self::with_others(message, Vec::new(), 0, None)
    }

    /// A message of a part that is still to be encoded, and others behind it that are, or will be.
    fn with_others(
        part: &impl Message,
        others: Vec<Bytes>,
        later_bytes: usize,
        later: Option<Later>,
    ) -> Result<Self, Status> {
        let length = part.encoded_len() + others.iter().map(Bytes::len).sum::<usize>() + later_bytes;
        let Ok(prefix) = u32::try_from(length) else {
            let text = format!("Cannot return body with more than 4GB of data but got {length} bytes");
            return Err(Status::resource_exhausted(text));
        };
        let mut first = BytesMut::with_capacity(PREFIX_BYTES + part.encoded_len());
        first.put_u8(0);
        first.put_u32(prefix);
        part.encode(&mut first).expect("the buffer grows as it must");
        Ok(Self {
            first: Some(first.freeze()),
            others: others.into_iter(),
            later,
            has_ended: false,
        })
    }

    fn next_here(&mut self) -> Option<Bytes> {
        self.first.take().or_else(|| self.others.next())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(piece) = this.next_here() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(later) = &mut this.later else { break };
            match ready!(later.as_mut().poll_next(cx)) {
                Some(Ok(pieces)) => this.others = pieces.into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => this.later = None,
            }
        }
        if this.has_ended {
            return Poll::Ready(None);
        }
        this.has_ended = true;
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, OK);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_parts_behind_one_prefix() {
        let part = PutRequest {
            key: "k".into(),
            ..PutRequest::default()
        };
        let others = PutRequest {
            value: "v".into(),
            lease: 7,
            ..PutRequest::default()
        };
        let others = vec![others.encode_to_vec().into()];
        let pieces = Pieces::with_others(&part, others, 0, None).expect("it is short");
        let wire: Vec<u8> = pieces.first.into_iter().chain(pieces.others).flatten().collect();
        assert_eq!(wire[..PREFIX_BYTES], [0, 0, 0, 0, (wire.len() - PREFIX_BYTES) as u8]);
        let whole = PutRequest::decode(&wire[PREFIX_BYTES..]).expect("a message");
        assert_eq!(
            (&whole.key[..], &whole.value[..], whole.lease),
            (&b"k"[..], &b"v"[..], 7)
        );
    }

    #[test]
    fn what_is_special_is_tonics() {
        let of = |path: &str, header: Option<(&str, &str)>| {
            let mut request = http::Request::builder().uri(path);
            if let Some((name, value)) = header {
                request = request.header(name, value);
            }
            Method::of(&request.body(()).expect("a request"))
        };
        assert_eq!(of("/etcdserverpb.KV/Put", None), Some(Method::Put));
        assert_eq!(of("/etcdserverpb.KV/Put", Some(("grpc-encoding", "gzip"))), None);
        for path in [
            "/etcdserverpb.KV/Compact",
            "/etcdserverpb.KV/",
            "/Put",
            "/etcdserverpb.Lease/Put",
        ] {
            assert_eq!(of(path, None), None, "{path}");
        }
    }
}
