//! A client's TCP connection, counted: how many are open (they take file descriptors that the state needs, too)
//! and how many bytes went each way. Below HTTP/2, so it sees what the wire sees.
//!
//! It is closed as a connection should be: first our half, and the rest when the client has closed his, too. A socket
//! that is closed while bytes still come (a window update is enough) answers them with a reset, and a client that
//! meets the reset before it has read the last replies takes its requests for lost.

use super::authority::FirstRequest;
use crate::limits::LINGER_MAX;
use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// What all client connections of a member did.
#[derive(Default)]
pub struct Traffic {
    connections: AtomicUsize,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    refused: AtomicU64,
}

impl Traffic {
    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Bytes that clients sent.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that clients were sent.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Connections that were closed at once, because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A place among at most `max` open connections.
    pub(super) fn place(self: &Arc<Self>, max: usize) -> Option<Place> {
        let take = |open: usize| (open < max).then_some(open + 1);
        self.connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .ok()?;
        Some(Place(Arc::clone(self)))
    }
}

/// A place among the open connections; dropping it frees it.
pub(super) struct Place(Arc<Traffic>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection with its place.
pub(super) struct Connection {
    stream: TcpStream,
    place: Place,
    first_request: FirstRequest,
    /// Since our half is closed: when the client's must be.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// Takes over an accepted connection on the calling runtime.
    pub(super) fn new(stream: std::net::TcpStream, place: Place) -> io::Result<Self> {
        Ok(Self {
            stream: TcpStream::from_std(stream)?,
            place,
            first_request: FirstRequest::Preface(0),
            lingering: None,
        })
    }

    fn count_sent(&self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = sent {
            self.place.0.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        sent
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.first_request.look_at(&mut buf.filled_mut()[before..]);
        let bytes = buf.filled().len() - before;
        self.place.0.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count_sent(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count_sent(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let until = this.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER_MAX)));
        let mut scratch = [0; 4096];
        loop {
            let mut unwanted = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut unwanted) {
                Poll::Ready(Ok(())) if !unwanted.filled().is_empty() => {}
                // He has closed it, or it is broken, which is the same now.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return until.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
