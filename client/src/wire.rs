//! One HTTP/2 connection to a member: made when it is first needed, and again when it is lost.
//!
//! tonic's own channel takes each request through a queue, a task and a stack of layers: a quarter of what a call costs
//! its caller. Here it goes straight to the connection.
//!
//! A request that finds no connection and cannot make one fails with [`NotSent`], one that is refused before it left
//! with hyper's "canceled": the only proofs that it was not done.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};
use tonic::{
    body::Body,
    codegen::{Service, StdError, http},
};

use crate::{ConnectOptions, error::NotSent, unary::Outgoing};

const USER_AGENT: http::HeaderValue =
    http::HeaderValue::from_static(concat!("dipper-client/", env!("CARGO_PKG_VERSION")));

/// Of what a member sends.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// What may be on its way here: of one answer, and of all.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

type Sender = SendRequest<Outgoing>;
type Request = http::Request<Outgoing>;
type Response = http::Response<Incoming>;

/// A member's connection. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Wire(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    authority: http::uri::Authority,
    connect_timeout: Duration,
    keepalive_interval: Duration,
    keepalive_timeout: Duration,
    sender: Mutex<Option<Sender>>,
    /// Whether a connection was ever made.
    was_open: AtomicBool,
    /// Held while dialling; what the last dial that ended said, if it failed.
    dial: tokio::sync::Mutex<Option<String>>,
    /// Dials that have ended.
    dials: AtomicU64,
}

impl Wire {
    /// Towards `authority`, which has a port; nothing is sent yet.
    pub fn new(authority: http::uri::Authority, options: &ConnectOptions) -> Self {
        Self(Arc::new(Shared {
            authority,
            connect_timeout: options.connect_timeout,
            keepalive_interval: options.keepalive_interval,
            keepalive_timeout: options.keepalive_timeout,
            sender: Mutex::default(),
            was_open: AtomicBool::new(false),
            dial: tokio::sync::Mutex::default(),
            dials: AtomicU64::new(0),
        }))
    }

    /// Sends a request, which has a path and no host.
    pub async fn send(&self, mut request: Request) -> Result<Response, StdError> {
        self.0.address(&mut request);
        let mut sender = match self.0.open() {
            Some(sender) => sender,
            None => self.0.connect().await?,
        };
        Ok(sender.send_request(request).await?)
    }

    /// Whether no request can have left.
    pub fn never_connected(&self) -> bool {
        !self.0.was_open.load(Ordering::Acquire)
    }
}

impl Shared {
    fn open(&self) -> Option<Sender> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    /// The connection, made if there is none. Who waits while another one dials gets what that one got.
    async fn connect(&self) -> Result<Sender, NotSent> {
        let known = self.dials.load(Ordering::Acquire);
        let mut failure = self.dial.lock().await;
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        // The dial that was under way when this one came ended meanwhile.
        if self.dials.load(Ordering::Acquire) != known
            && let Some(failure) = &*failure
        {
            return Err(NotSent::new(failure));
        }
        let dialled = self.dial().await;
        *failure = dialled.as_ref().err().map(ToString::to_string);
        self.dials.fetch_add(1, Ordering::Release);
        let sender = dialled.map_err(NotSent::new)?;
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        Ok(sender)
    }

    async fn dial(&self) -> io::Result<Sender> {
        let host = self.authority.host().trim_matches(['[', ']']).to_owned();
        let port = self.authority.port_u16().unwrap_or_default();
        let made = timeout(self.connect_timeout, async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            let connection = Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                // Ten megabytes in a frame each of 16 KiB are six hundred reads, and as many writes of the other side.
                .max_frame_size(FRAME_BYTES_MAX)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .keep_alive_interval(self.keepalive_interval)
                .keep_alive_timeout(self.keepalive_timeout)
                // etcd counts a ping on a connection without a call as an offence, whatever its interval.
                .keep_alive_while_idle(false)
                // Frames for streams that were given up are no offence: it was us who did.
                .max_local_error_reset_streams(None)
                .handshake(TokioIo::new(stream));
            connection.await.map_err(io::Error::other)
        });
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "connect timed out");
        let (sender, connection) = made.await.map_err(late)??;
        self.was_open.store(true, Ordering::Release);
        // Ends with the last of its streams and senders; whoever waits for an answer hears why.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn address(&self, request: &mut Request) {
        let mut to = std::mem::take(request.uri_mut()).into_parts();
        to.scheme = Some(http::uri::Scheme::HTTP);
        to.authority = Some(self.authority.clone());
        *request.uri_mut() = http::Uri::from_parts(to).expect("a method's path is a path");
        request.headers_mut().insert(http::header::USER_AGENT, USER_AGENT);
    }
}

/// As tonic's clients send.
impl Service<http::Request<Body>> for Wire {
    type Response = Response;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Response, StdError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let wire = self.clone();
        Box::pin(async move { wire.send(request.map(Outgoing::Tonic)).await })
    }
}
