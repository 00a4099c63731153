//! A response stream that is computed when the connection asks for its next message, and not before. The
//! connection asks when HTTP/2 flow control lets it send, so a client that does not read costs the one message
//! that it did not read: there is no channel to fill, and no task that runs ahead. Dropping the stream (the
//! client went away) drops the source at whatever it awaits.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
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

type Item<S> = Result<<S as Source>::Item, Status>;
/// From the source to whoever asked: at most one message.
type Slot<S> = Arc<Mutex<Option<Item<S>>>>;

/// The response stream of a [`Source`].
pub struct Pulled<S: Source> {
    /// One future for the stream's whole life: a source is large, and is not moved for each message.
    run: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    slot: Slot<S>,
}

impl<S: Source> Pulled<S> {
    /// A stream that has not computed anything yet.
    pub fn new(source: S) -> Self {
        let slot = Slot::<S>::default();
        Self {
            run: Some(Box::pin(run(source, Arc::clone(&slot)))),
            slot,
        }
    }
}

async fn run<S: Source>(mut source: S, slot: Slot<S>) {
    while let Some(item) = source.next().await {
        let is_last = item.is_err();
        *slot.lock().expect("no panic is survived, so no lock is poisoned") = Some(item);
        if is_last {
            return;
        }
        pause().await;
    }
}

/// Pending once, and without a wake-up: whoever takes the message asks again when he wants the next one.
async fn pause() {
    let mut paused = false;
    poll_fn(|_| {
        if std::mem::replace(&mut paused, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

impl<S: Source> Stream for Pulled<S> {
    type Item = Item<S>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(run) = &mut self.run else {
            return Poll::Ready(None);
        };
        let has_ended = run.as_mut().poll(cx).is_ready();
        if has_ended {
            self.run = None;
        }
        let item = self
            .slot
            .lock()
            .expect("no panic is survived, so no lock is poisoned")
            .take();
        if item.is_some() || has_ended {
            Poll::Ready(item)
        } else {
            Poll::Pending
        }
    }
}
