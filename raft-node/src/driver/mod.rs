//! The threads that turn a replica: raft, log and apply, each with a bounded inbox and nothing shared.
//!
//! ```text
//!   grpc, peers --Input--> [raft] --LogTask----> [log]   --Persisted--> [raft]
//!                          turn() --ApplyTask--> [apply] --Applied----> [raft]
//!                            |                      |
//!                            +--frames--> peers     +--View, wake-ups, replies--> grpc
//! ```
//! Consensus never waits for a sync or an apply: the raft thread writes what is written fast by itself, and the log
//! thread stands in for it (`desk.rs`). An apply never waits for a flush (`flusher.rs`). What queued while a thread
//! was busy is its next batch. Decisions are the replica's, also that a batch is worth a moment's wait; here is only
//! carrying out.

mod apply;
mod checkpoints;
mod desk;
mod flusher;
mod log;
mod replies;
mod turns;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicU64},
    thread::{self, JoinHandle},
    time::Instant,
};

use arc_swap::ArcSwap;
use kv::{RocksEngine, Store};
use proto::node::PeerFrame;
use slog::Logger;
use tokio::sync::watch;

pub use self::{
    apply::ApplyTask,
    replies::{Outcome, Reply},
};
use self::{
    apply::ApplyThread,
    checkpoints::Checkpoints,
    desk::{Desk, LogQueue},
    log::LogWriter,
    replies::Outcomes,
    turns::{Ticks, Turns},
};
use crate::{
    error::StartError,
    ids::MemberId,
    inbox::{Inbox, StandIn},
    log::{EntryId, Log},
    peer::{PeerNet, PeerSink, ReceivedSnapshot},
    replica::{Input, Replica, Standing, Time, forwarded_writes, is_heartbeat_answer},
    state_directory::StateDirectory,
    status::{Status, Timings},
    watchers::Watchers,
};

/// The state machine's View, as this member keeps it.
pub type View = kv::View<RocksEngine>;

/// What the threads publish and everybody reads.
pub struct Published {
    /// The engine of the state that counts; a snapshot brings another one.
    pub engine: ArcSwap<RocksEngine>,
    pub view: ArcSwap<View>,
    pub status: ArcSwap<Status>,
    pub leader: watch::Sender<u64>,
    pub serving: watch::Sender<bool>,
    pub watchers: Watchers,
    /// Why this member has to stop, when it has to.
    pub fatal: watch::Sender<Option<String>>,
    timings: Mutex<Timings>,
    flushed: AtomicU64,
    log_bytes: AtomicU64,
    installing: AtomicU64,
    installed: AtomicU64,
    slow_applies: AtomicU64,
}

impl Published {
    pub fn new(engine: RocksEngine, view: Arc<View>, status: Status) -> Self {
        let watchers = Watchers::new(view.revision());
        Self {
            engine: ArcSwap::from_pointee(engine),
            view: ArcSwap::new(view),
            status: ArcSwap::from_pointee(status),
            leader: watch::Sender::new(0),
            serving: watch::Sender::new(false),
            watchers,
            fatal: watch::Sender::new(None),
            timings: Mutex::default(),
            flushed: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            installing: AtomicU64::new(0),
            installed: AtomicU64::new(0),
            slow_applies: AtomicU64::new(0),
        }
    }

    fn time(&self, observe: impl FnOnce(&mut Timings)) {
        observe(&mut self.timings.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The way into the raft thread.
pub type RaftInbox = Inbox<Input<Reply>>;

/// What the driver is made from.
pub struct DriverParts<L: Log> {
    pub replica: Replica<Reply, L::Reader>,
    pub log: L,
    pub store: Store<RocksEngine>,
    pub state_directory: StateDirectory,
    pub published: Arc<Published>,
    pub inbox: Arc<RaftInbox>,
    pub peers: Arc<PeerNet>,
    pub clock: Instant,
    /// Entries between two flushes of the state.
    pub snapshot_count: u64,
    /// Random: no other start of this or another member may give a checkpoint the same number, or a receiver
    /// would take one's files for the other's.
    pub first_checkpoint: u64,
    pub logger: Logger,
}

/// The running threads.
pub struct Driver {
    raft: JoinHandle<()>,
    log: JoinHandle<()>,
    apply: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Driver {
    pub fn start<L: Log>(parts: DriverParts<L>) -> io::Result<Self> {
        let apply_inbox = Arc::new(Inbox::new(usize::MAX));
        let (stop, stopping) = watch::channel(false);
        let checkpoints = Checkpoints::new(parts.state_directory.clone(), parts.first_checkpoint);
        let apply = ApplyThread::new(
            parts.store,
            parts.state_directory,
            Arc::clone(&apply_inbox),
            Arc::clone(&parts.inbox),
            Arc::clone(&parts.published),
            parts.snapshot_count,
            parts.logger.clone(),
        )?;
        let writer = LogWriter {
            log: parts.log,
            raft: Arc::clone(&parts.inbox),
            apply: Arc::clone(&apply_inbox),
            published: Arc::clone(&parts.published),
            marked_at: Instant::now(),
            is_marked: true,
            written_at: Instant::now(),
            written_bytes: 0,
        };
        let log_queue = Arc::new(LogQueue::default());
        let bench = Arc::clone(&parts.inbox);
        let inbox = Arc::clone(&parts.inbox);
        let turns = Turns {
            rest: parts.replica.rest(),
            replica: parts.replica,
            inbox: parts.inbox,
            inputs: Vec::new(),
            outcomes: Outcomes::default(),
            log: Arc::clone(&log_queue),
            apply: Arc::clone(&apply_inbox),
            peers: parts.peers,
            published: parts.published,
            checkpoints,
            clock: parts.clock,
            ticks: Ticks::default(),
            published_at: Time::ZERO,
            heartbeats_dropped: 0,
            last: Standing::default(),
            stopping,
            logger: parts.logger,
        };
        let desk = Arc::new(Desk::new(log_queue, bench, writer, turns));
        let stand_in = Arc::downgrade(&desk);
        inbox.let_stand_in(stand_in as Weak<dyn StandIn>);
        let raft = Arc::clone(&desk);
        Ok(Self {
            raft: spawn("raft", move || {
                raft.run_raft();
                apply_inbox.push_completion(ApplyTask::Stop);
            })?,
            log: spawn("log", move || desk.run_log())?,
            apply: spawn("apply", move || apply.run())?,
            stop,
        })
    }

    /// Stops in the order that loses nothing: no more turns, then every write synced, then the state flushed.
    pub fn stop(self) {
        self.stop.send_replace(true);
        for thread in [self.raft, self.log, self.apply] {
            thread
                .join()
                .expect("a panic on a thread ends the process, so it cannot be met here");
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// What peers say goes into the raft thread's inbox; when that is full it is dropped, and raft asks again.
pub struct Sink {
    pub inbox: Arc<RaftInbox>,
    pub published: Arc<Published>,
    pub state_directory: StateDirectory,
    pub member: MemberId,
}

impl PeerSink for Sink {
    fn frame(&self, from: u64, frame: PeerFrame) {
        let writes = forwarded_writes(&frame);
        let can_wait = is_heartbeat_answer(&frame);
        let input = Input::Frame { from, frame };
        drop(match writes {
            0 if can_wait => self.inbox.offer_quietly(input),
            0 => self.inbox.push_unannounced(input),
            writes => self.inbox.push_patiently(input, writes),
        });
    }

    fn resting(&self) {
        self.inbox.announce();
    }

    fn connected(&self, _peer: u64) {}

    fn unreachable(&self, member: u64) {
        drop(self.inbox.push(Input::Unreachable { member }));
    }

    fn amnesia(&self, reason: String) {
        let refusal = StartError::amnesia(self.member, &reason);
        self.published.fatal.send_replace(Some(refusal.to_string()));
    }

    fn snapshot_received(&self, from: u64, snapshot: ReceivedSnapshot) {
        let at = EntryId {
            index: snapshot.index,
            term: snapshot.term,
        };
        if let Err(why) = self.state_directory.take_in(&snapshot.directory, at) {
            self.published.fatal.send_replace(Some(why));
            return;
        }
        self.inbox.push_completion(Input::SnapshotArrived {
            from,
            message: snapshot.install,
        });
    }

    fn snapshot_sent(&self, to: u64, ok: bool) {
        self.inbox.push_completion(Input::SnapshotSent { to, ok });
    }
}
