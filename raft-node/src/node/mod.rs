//! A member put together: from a configuration to running threads, and back.
//!
//! ```text
//!   start   data directory -> log -> state -> replay -> replica -> driver -> peers -> gRPC and HTTP
//!   stop    hand leadership over -> no new connections, streams end -> drain requests -> driver (sync, flush) -> close
//! ```
//! The log is replayed into the state *before* the replica exists: raft-rs would otherwise load everything
//! that is unapplied at its first election. Listeners are bound first, so that a port in use is a refusal to
//! start and nothing else has happened yet.

mod chores;
mod facts;
mod member;
mod start;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::{Duration, Instant},
};

use proto::{Error, node::Command};
use slog::{Logger, info, warn};
use tokio::sync::{Semaphore, watch};

pub use self::start::start;
use crate::{
    config::Config,
    data_dir::DataDirLock,
    driver::{Driver, Outcome, Published, RaftInbox, Reply, View},
    grpc::{Identity, Limits, RpcCounters, ServerHandle},
    limits,
    peer::PeerNet,
    replica::{Answer, Input, Time},
};

/// What everything that serves clients holds of a member.
pub struct Node {
    identity: Identity,
    limits: Limits,
    inbox: Arc<RaftInbox>,
    clock: Instant,
    published: Arc<Published>,
    stopping: watch::Sender<bool>,
    /// Free space is so low that growing writes must be refused.
    disk_full: watch::Sender<bool>,
    disk_bytes: AtomicU64,
    lease_ids: AtomicU64,
    blocking: tokio::runtime::Handle,
    blocking_places: Arc<Semaphore>,
    peers: Arc<PeerNet>,
    counters: Arc<RpcCounters>,
    logger: Logger,
}

/// A running member.
pub struct Running {
    node: Arc<Node>,
    server: ServerHandle,
    driver: Driver,
    peers: Arc<PeerNet>,
    background: tokio::runtime::Runtime,
    /// Where clients reach it; differs from the flags where those say port 0.
    pub client_addresses: Vec<SocketAddr>,
    _lock: DataDirLock,
}

impl Node {
    /// Deadlines of requests in the replica's time.
    fn time(&self, deadline: tokio::time::Instant) -> Time {
        deadline.into_std().saturating_duration_since(self.clock)
    }

    async fn ask(
        &self,
        deadline: tokio::time::Instant,
        input: impl FnOnce(Reply, Time) -> Input<Reply>,
    ) -> Result<Outcome, Error> {
        // Also while stopping: a client may have asked before it heard that this connection closes, and a write that is
        // refused then is one whose outcome it cannot know. Streams and new connections end; the drain bounds the rest.
        let (reply, outcome) = Reply::new();
        let input = input(reply, self.time(deadline));
        // The runtime announces what its requests pushed when it rests: one wake-up for all of them.
        let pushed = match input {
            Input::Propose { .. } => self.inbox.push_patiently(input, 1),
            Input::Read { .. } | Input::LeaseRenew { .. } => self.inbox.push_unannounced(input),
            _ => self.inbox.push(input),
        };
        pushed.map_err(|_| Error::RequestTooManyRequests)?;
        // No timer of its own: the replica ends it at its deadline.
        outcome.await.map_err(|_| Error::Stopped)
    }

    async fn question(
        &self,
        deadline: tokio::time::Instant,
        input: impl FnOnce(Reply, Time) -> Input<Reply>,
    ) -> Result<Answer, Error> {
        match self.ask(deadline, input).await? {
            Outcome::Answered(Answer::Failed(error)) => Err(error),
            Outcome::Answered(answer) => Ok(answer),
            Outcome::Written(_) => unreachable!("a question is never applied"),
        }
    }

    async fn write(&self, command: Command, deadline: tokio::time::Instant) -> Result<kv::Response, Error> {
        let propose = |waiter, deadline| Input::Propose {
            command,
            waiter,
            deadline,
        };
        self.ask(deadline, propose).await?.written()
    }

    /// Replicates a command of this member's own.
    async fn propose_own(&self, command: Command) -> Result<kv::Response, Error> {
        let deadline = tokio::time::Instant::now() + self.limits.request_timeout;
        self.write(command, deadline).await
    }

    /// The state as it was published last.
    pub fn latest(&self) -> Arc<View> {
        self.published.view.load_full()
    }
}

impl Running {
    /// Resolves when the member cannot go on, with the reason.
    pub async fn broken(&self) -> String {
        let mut fatal = self.node.published.fatal.subscribe();
        loop {
            if let Some(reason) = fatal.borrow_and_update().clone() {
                return reason;
            }
            // The sender lives as long as the node.
            let _ = fatal.changed().await;
        }
    }

    /// Stops within [`limits::STOP_MAX`]: everything acknowledged is on disk, and another member leads.
    pub async fn stop(self, logger: &Logger) {
        info!(logger, "stopping: no new connections are taken");
        let give_up = tokio::time::Instant::now() + limits::STOP_DRAIN;
        let is_former_leader = self.node.hand_over(logger).await;
        let late_forwards = Instant::now() + limits::LATE_FORWARDS;
        self.node.stopping.send_replace(true);
        let inbox = Arc::clone(&self.node.inbox);
        self.background.spawn(async move {
            tokio::time::sleep_until(give_up).await;
            inbox.push_completion(Input::GiveUp);
        });
        let finish = move || {
            self.server.stop((give_up + limits::ANSWER_GRACE).into_std());
            self.background.shutdown_timeout(Duration::from_millis(500));
            if is_former_leader {
                thread::sleep(late_forwards.saturating_duration_since(Instant::now()));
            }
            self.driver.stop();
            drop(self.node);
            if let Ok(peers) = Arc::try_unwrap(self.peers) {
                peers.stop();
            }
        };
        tokio::task::spawn_blocking(finish)
            .await
            .expect("stopping does not panic");
        info!(logger, "stopped");
    }
}

impl Node {
    /// Gives leadership away, if this member has it; whether it had. Requests go on meanwhile: nobody needs to fail.
    async fn hand_over(&self, logger: &Logger) -> bool {
        let status = self.published.status.load_full();
        if !status.is_leader() || status.voters.len() < 2 {
            return false;
        }
        let deadline = tokio::time::Instant::now() + limits::HAND_OVER_MAX;
        let moved = self.question(deadline, |waiter, deadline| Input::MoveLeader {
            target: None,
            waiter,
            deadline,
        });
        match moved.await {
            Ok(_) => info!(logger, "leadership handed over"),
            Err(error) => warn!(logger, "leadership could not be handed over"; "error" => %error),
        }
        true
    }
}

/// Binds every URL of a flag, or says which one cannot be bound.
fn bind(flag: &'static str, urls: &[crate::config::ListenUrl]) -> Result<Vec<TcpListener>, crate::error::StartError> {
    urls.iter()
        .map(|listen| {
            TcpListener::bind(listen.addr)
                .map_err(|error| crate::error::StartError::cannot_listen(flag, listen.url.as_str(), &error))
        })
        .collect()
}

/// The bounds on requests that the flags set.
fn request_limits(config: &Config) -> Limits {
    let election = config.election_timeout;
    Limits {
        max_txn_ops: config.max_txn_ops,
        max_request_bytes: config.max_request_bytes,
        quota_bytes: config.quota_backend_bytes,
        progress_interval: config.watch_progress_notify_interval,
        // etcd derives both from its slower defaults; clients rely on those, so they are floors here.
        request_timeout: (Duration::from_secs(5) + 2 * election).max(Duration::from_secs(7)),
        require_leader_after: (3 * election).max(Duration::from_secs(3)),
    }
}
