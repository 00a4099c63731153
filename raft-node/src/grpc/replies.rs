//! The body of a Watch's answer. tonic's own encodes each message into a buffer of each stream; this one hands HTTP/2
//! the shared bytes of an event by reference, so that ten thousand clients that do not read hold one copy.
//!
//! The server asks for a chunk when the one before it has got flow control, so a client that does not read costs two
//! small chunks and what its outbox refers to. Small messages are copied together: a frame costs more than a copy.

use super::{
    pulled::{Pulled, Source},
    reply::{Chunk, Chunks, Reply},
};
use crate::watchers::Encodings;
use bytes::Bytes;
use http_body::Frame;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio_stream::Stream;
use tonic::{
    Status,
    codegen::{Body, http::HeaderMap},
};

/// The responses of one stream, and its status behind them.
pub struct Replies<S: Source<Item = VecDeque<Reply>>> {
    source: Pulled<S>,
    chunks: Chunks,
    encodings: Arc<Encodings>,
    /// Known, and to be told when everything before it is.
    status: Option<Status>,
    has_ended: bool,
}

impl<S: Source<Item = VecDeque<Reply>>> Replies<S> {
    /// What `source` has to say.
    pub fn new(source: S, encodings: Arc<Encodings>) -> Self {
        Self {
            source: Pulled::new(source),
            chunks: Chunks::default(),
            encodings,
            status: None,
            has_ended: false,
        }
    }

    fn frame(&self, chunk: Chunk) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let bytes = match chunk {
            Chunk::Copied(copied) => self.encodings.copied(copied),
            Chunk::Shared(shared) => shared,
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl<S: Source<Item = VecDeque<Reply>>> Body for Replies<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.has_ended {
            return Poll::Ready(None);
        }
        while this.status.is_none() {
            match this.chunks.next_full(this.encodings.chunk_bytes()) {
                Ok(Some(chunk)) => return this.frame(chunk),
                Ok(None) => {}
                Err(status) => {
                    this.status = Some(status);
                    break;
                }
            }
            match Pin::new(&mut this.source).poll_next(cx) {
                Poll::Ready(Some(Ok(replies))) => this.chunks.extend(replies),
                Poll::Ready(Some(Err(status))) => this.status = Some(status),
                Poll::Ready(None) => this.status = Some(Status::ok("")),
                Poll::Pending => {
                    return match this.chunks.rest() {
                        Some(chunk) => this.frame(chunk),
                        None => Poll::Pending,
                    };
                }
            }
        }
        if let Some(chunk) = this.chunks.rest() {
            return this.frame(chunk);
        }
        this.has_ended = true;
        let mut trailers = HeaderMap::new();
        let status = this.status.take().unwrap_or_else(|| Status::ok(""));
        match status.add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(status) => Poll::Ready(Some(Err(status))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}
