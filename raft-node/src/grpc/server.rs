//! The threads that serve clients: one accepts, and hands connections round-robin to N current-thread runtimes.
//!
//! A connection and all its requests stay on one thread: nothing is stolen, nothing contends for HTTP/2's locks
//! (measured: 8 us of CPU a call against 13 on a multi-threaded runtime). Listening N times on the port was
//! rejected: the kernel spreads few connections unevenly, and Kubernetes has few.
//!
//! Stopping: no new connections, every open one is told to finish, streams end by the member's `stopping`; at
//! the deadline the rest is cut.

use super::{
    call::Context,
    connection::{Connection, Place, Traffic},
    counters::RpcCounters,
    member::Member,
    services::Services,
};
use crate::limits::{
    ACCEPT_PAUSE, CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, CONNECTIONS_WAITING_MAX, FRAME_BYTES_MAX,
    KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, RESET_STREAMS_MAX, STREAM_WINDOW_BYTES, STREAMS_PER_CONNECTION_MAX,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{
    future::Future,
    io,
    net::TcpListener,
    pin::pin,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
};
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, HealthService},
};

/// The name under which gRPC health speaks of the whole member.
const WHOLE_MEMBER: &str = "";

type Accepted = (std::net::TcpStream, Place);
type StopAt = Option<Instant>;

/// The running threads.
pub struct ServerHandle {
    stop: watch::Sender<StopAt>,
    threads: Vec<JoinHandle<()>>,
    traffic: Arc<Traffic>,
}

impl ServerHandle {
    /// What the clients' connections did.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Ends serving: open requests may finish until `deadline`. Blocks until every thread is gone.
    pub fn stop(self, deadline: Instant) {
        self.stop.send_replace(Some(deadline));
        for thread in self.threads {
            thread
                .join()
                .expect("a panic on a thread ends the process, so it cannot be met here");
        }
    }
}

/// Serves `member`'s gRPC services, and `http` beside them, on `listeners`. `http` must have no fallback.
#[allow(clippy::needless_pass_by_value)] // each runtime gets a copy, and nobody else needs it any more
pub fn serve<M: Member>(
    member: Arc<M>,
    counters: Arc<RpcCounters>,
    listeners: Vec<TcpListener>,
    http: axum::Router,
    threads: usize,
) -> io::Result<ServerHandle> {
    let (stop, stopping) = watch::channel(None);
    let traffic = Arc::new(Traffic::default());
    let health = HealthReporter::new();
    let context = Context {
        member: Arc::clone(&member),
        counters,
    };
    let mut handles = Vec::new();
    let mut workers = Vec::new();
    for number in 0..threads.max(1) {
        let (accepted, waiting) = mpsc::channel(CONNECTIONS_WAITING_MAX);
        let services = Services::new(
            &context,
            HealthService::from_health_reporter(health.clone()),
            http.clone(),
        );
        let stopping = stopping.clone();
        let resting = Arc::clone(&member);
        handles.push(spawn(
            &format!("grpc-{number}"),
            move || resting.resting(),
            move || work(services, waiting, stopping),
        )?);
        workers.push(accepted);
    }
    let acceptor = Acceptor {
        workers,
        traffic: Arc::clone(&traffic),
    };
    handles.push(spawn(
        "grpc-accept",
        || {},
        move || accept(listeners, acceptor, health, member, stopping),
    )?);
    Ok(ServerHandle {
        stop,
        threads: handles,
        traffic,
    })
}

fn spawn<F: Future<Output = io::Result<()>>>(
    name: &str,
    resting: impl Fn() + Send + Sync + 'static,
    serve: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let runtime: Runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(resting)
        .build()?;
    let run = move || {
        runtime
            .block_on(serve())
            .expect("listeners and connections were set up by the caller");
    };
    thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// One runtime's part: serves the connections that it is given.
async fn work<M: Member>(
    services: Services<M>,
    mut waiting: mpsc::Receiver<Accepted>,
    stopping: watch::Receiver<StopAt>,
) -> io::Result<()> {
    let (http, open) = (http(), GracefulShutdown::new());
    let mut stop = pin!(stop_asked(stopping));
    let deadline = loop {
        tokio::select! {
            deadline = &mut stop => break deadline,
            Some((stream, place)) = waiting.recv() => {
                let Ok(connection) = Connection::new(stream, place) else { continue };
                let served = http.serve_connection(TokioIo::new(connection), services.clone());
                let served = open.watch(served.into_owned());
                // How a connection ended is its client's affair: requests and streams had their own ends.
                tokio::spawn(async move { drop(served.await) });
            }
        }
    };
    drop(waiting);
    tokio::select! {
        () = open.shutdown() => {}
        () = tokio::time::sleep_until(deadline.into()) => {}
    }
    Ok(())
}

/// HTTP/2 with our bounds, and HTTP/1.1 for the pages.
fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http2()
        .timer(TokioTimer::new())
        // gRPC has no use for it, and it would be encoded with every reply.
        .auto_date_header(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    // With it, a client that never ends its headers is cut off after hyper's 30 s.
    http.http1().timer(TokioTimer::new());
    http
}

/// When to cut, once stopping has been asked for; never completes otherwise.
async fn stop_asked(mut stopping: watch::Receiver<StopAt>) -> Instant {
    match stopping.wait_for(Option::is_some).await.map(|deadline| *deadline) {
        Ok(Some(deadline)) => deadline,
        // The handle was dropped without a stop: the threads serve as long as the process lives.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

struct Acceptor {
    workers: Vec<mpsc::Sender<Accepted>>,
    traffic: Arc<Traffic>,
}

async fn accept<M: Member>(
    listeners: Vec<TcpListener>,
    acceptor: Acceptor,
    health: HealthReporter,
    member: Arc<M>,
    stopping: watch::Receiver<StopAt>,
) -> io::Result<()> {
    // Before anyone can ask.
    health.set_service_status(WHOLE_MEMBER, ServingStatus::NotServing).await;
    let acceptor = Arc::new(acceptor);
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let acceptor = Arc::clone(&acceptor);
        tasks.spawn(async move { acceptor.accept_from(&listener).await });
    }
    drop(acceptor);
    tasks.spawn(report_health(health, member));
    stop_asked(stopping).await;
    tasks.shutdown().await;
    Ok(())
}

impl Acceptor {
    async fn accept_from(&self, listener: &tokio::net::TcpListener) {
        let mut next = 0;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    next = (next + 1) % self.workers.len();
                    if self.hand_over(stream, next).is_none() {
                        self.traffic.count_refused();
                    }
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Gives a connection to a worker; `None` when there are too many, and it is closed.
    fn hand_over(&self, stream: tokio::net::TcpStream, worker: usize) -> Option<()> {
        let place = self.traffic.place(CONNECTIONS_MAX)?;
        stream.set_nodelay(true).ok()?;
        let stream = stream.into_std().ok()?;
        self.workers[worker].try_send((stream, place)).ok()
    }
}

/// Keeps gRPC health at what the member says of itself.
async fn report_health<M: Member>(health: HealthReporter, member: Arc<M>) {
    let (mut serving, mut stopping) = (member.serving(), member.stopping());
    loop {
        let is_serving = *serving.borrow_and_update() && !*stopping.borrow_and_update();
        let status = if is_serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        health.set_service_status(WHOLE_MEMBER, status).await;
        let changed = tokio::select! {
            changed = serving.changed() => changed,
            changed = stopping.changed() => changed,
        };
        if changed.is_err() {
            health.set_service_status(WHOLE_MEMBER, ServingStatus::NotServing).await;
            return;
        }
    }
}
