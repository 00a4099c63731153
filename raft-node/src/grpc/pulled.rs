//! A response stream that is computed when the connection asks for its next message, and not before. The
//! connection asks when HTTP/2 flow control lets it send, so a client that does not read costs the one message
//! that it did not read: there is no channel to fill, and no task that runs ahead. Dropping the stream (the
//! client went away) drops the source at whatever it awaits.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio_stream::Stream;
use tonic::Status;

/// Something that computes a stream's next message; `None` ends it. Never called again after an error.
pub trait Source: Send + 'static {
    /// The message.
    type Item: Send + 'static;

    /// The next message.
    fn next(&mut self) -> impl Future<Output = Option<Result<Self::Item, Status>>> + Send;
}

type Turn<S> = Pin<Box<dyn Future<Output = (S, Option<Result<<S as Source>::Item, Status>>)> + Send>>;

/// The response stream of a [`Source`].
pub struct Pulled<S: Source> {
    turn: Option<Turn<S>>,
}

impl<S: Source> Pulled<S> {
    /// A stream that has not computed anything yet.
    pub fn new(source: S) -> Self {
        Self {
            turn: Some(turn(source)),
        }
    }
}

fn turn<S: Source>(mut source: S) -> Turn<S> {
    Box::pin(async move {
        let item = source.next().await;
        (source, item)
    })
}

impl<S: Source> Stream for Pulled<S> {
    type Item = Result<S::Item, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(current) = &mut self.turn else {
            return Poll::Ready(None);
        };
        let (source, item) = ready!(current.as_mut().poll(cx));
        self.turn = matches!(item, Some(Ok(_))).then(|| turn(source));
        Poll::Ready(item)
    }
}
