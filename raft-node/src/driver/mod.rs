//! The threads that turn a replica: raft, log and apply, each with a bounded inbox and nothing shared.
//!
//! ```text
//!   grpc, peers --Input--> [raft] --LogTask----> [log]   --Persisted--> [raft]
//!                          turn() --ApplyTask--> [apply] --Applied----> [raft]
//!                            |                      |
//!                            +--frames--> peers     +--View, wake-ups, replies--> grpc
//! ```
//! The raft thread never waits for a sync or an apply. What queued while a thread was busy is its next
//! batch. Decisions are the replica's, also that a batch is worth a moment's wait; here is only carrying out.

mod apply;
mod checkpoints;
mod log;
mod replies;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use arc_swap::ArcSwap;
use kv::{RocksEngine, Store};
use proto::node::{Lane, PeerFrame};
use slog::{Logger, info, warn};
use tokio::sync::watch;

pub use self::{
    apply::ApplyTask,
    replies::{Outcome, Reply},
};
use self::{apply::ApplyThread, checkpoints::Checkpoints, log::LogThread, replies::Outcomes};
use crate::{
    error::StartError,
    ids::MemberId,
    inbox::{Inbox, Patience},
    limits,
    log::{EntryId, Log, LogReader},
    peer::{PeerNet, PeerSink, ReceivedSnapshot},
    priority,
    replica::{Input, Output, Replica, Role, Standing, Time, forwarded_writes},
    state_directory::StateDirectory,
    status::{Proposals, Queue, Reads, State, Status, Timings},
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
        let log_inbox = Arc::new(Inbox::new(usize::MAX));
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
        );
        let log = LogThread {
            log: parts.log,
            inbox: Arc::clone(&log_inbox),
            raft: Arc::clone(&parts.inbox),
            apply: Arc::clone(&apply_inbox),
            published: Arc::clone(&parts.published),
        };
        let raft = RaftThread {
            replica: parts.replica,
            inbox: parts.inbox,
            inputs: Vec::new(),
            outcomes: Outcomes::default(),
            log: log_inbox,
            apply: apply_inbox,
            peers: parts.peers,
            published: parts.published,
            checkpoints,
            clock: parts.clock,
            next_tick: Time::ZERO,
            heartbeats_dropped: 0,
            last: Standing::default(),
            stopping,
            logger: parts.logger,
        };
        Ok(Self {
            raft: spawn("raft", move || raft.run())?,
            log: spawn("log", move || log.run())?,
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

struct RaftThread<R: LogReader> {
    replica: Replica<Reply, R>,
    inbox: Arc<RaftInbox>,
    inputs: Vec<Input<Reply>>,
    outcomes: Outcomes,
    log: Arc<Inbox<log::LogTask>>,
    apply: Arc<Inbox<ApplyTask>>,
    peers: Arc<PeerNet>,
    published: Arc<Published>,
    checkpoints: Checkpoints,
    clock: Instant,
    next_tick: Time,
    heartbeats_dropped: u64,
    last: Standing,
    stopping: watch::Receiver<bool>,
    logger: Logger,
}

impl<R: LogReader> RaftThread<R> {
    fn run(mut self) {
        priority::go_first();
        while !*self.stopping.borrow() {
            self.turn();
        }
        self.log.push_completion(log::LogTask::Stop);
        self.apply.push_completion(ApplyTask::Stop);
    }

    /// Everything that happened becomes everything there is to do.
    fn turn(&mut self) {
        let rest = self.replica.rest();
        let wait = self.next_tick.min(rest.until).saturating_sub(self.clock.elapsed());
        let patience = Patience {
            below: rest.writes,
            is_deaf: rest.applied,
        };
        self.inbox.drain(&mut self.inputs, wait, patience);
        let now = self.clock.elapsed();
        if now >= rest.until {
            self.inputs.push(Input::Wake);
        }
        let mut inputs = std::mem::take(&mut self.inputs);
        for input in inputs.drain(..) {
            self.note_snapshot(&input);
            self.replica.handle(now, input);
        }
        self.inputs = inputs;
        let ticked = now >= self.next_tick;
        if ticked {
            self.replica.handle(now, Input::Tick);
            // One tick for a pause, however long: a burst would end elections and leases early.
            self.next_tick = (self.next_tick + limits::TICK).max(now);
        }
        let output = self.replica.take_output();
        self.carry_out(output);
        self.publish(ticked);
    }

    fn note_snapshot(&mut self, input: &Input<Reply>) {
        match input {
            Input::SnapshotMade { at } => self.checkpoints.made(*at),
            Input::SnapshotSent { to, .. } => {
                if let Some(directory) = self.checkpoints.sent(*to) {
                    self.apply.push_completion(ApplyTask::Remove(directory));
                }
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, output: Output<Reply>) {
        let sends = !output.frames.is_empty();
        for frame in output.frames {
            let urgent = frame.lane == Lane::Urgent;
            let forward = frame.forward();
            let sent = self.peers.send(frame.to, frame.lane, frame.frame);
            if sent == crate::peer::Sent::Dropped {
                self.heartbeats_dropped += u64::from(urgent);
                if let Some(request) = forward {
                    self.inbox.push_completion(Input::NotForwarded { request });
                }
            }
        }
        if sends {
            self.peers.flush();
        }
        for write in output.writes {
            self.log.push_completion(log::LogTask::Write(write));
        }
        if !output.committed.is_empty() {
            self.apply
                .push_completion(ApplyTask::Entries(output.committed, Instant::now()));
        }
        for (waiter, answer) in output.answers {
            self.outcomes.add(waiter, Outcome::Answered(answer));
        }
        self.outcomes.send();
        if let Some(to) = output.truncate {
            self.log.push_completion(log::LogTask::Truncate(to));
        }
        if output.snapshot_wanted && self.checkpoints.begin() {
            self.apply
                .push_completion(ApplyTask::Checkpoint(self.checkpoints.directory()));
        }
        for (to, at, message) in output.send_snapshots {
            if let Some(source) = self.checkpoints.source(to, at, message) {
                info!(self.logger, "sending snapshot"; "to" => format!("{to:x}"), "index" => source.index);
                self.peers.send_snapshot(to, source);
            } else {
                // Without a word raft would wait for its end for ever.
                self.inbox.push_completion(Input::SnapshotSent { to, ok: false });
            }
        }
        if let Some(install) = output.install {
            self.published.installing.store(1, Ordering::Relaxed);
            info!(self.logger, "installing snapshot"; "index" => install.at.index);
            self.log.push_completion(log::LogTask::Install(install));
        }
        for at in output.discard_snapshots {
            warn!(self.logger, "discarding a snapshot that is not news"; "index" => at.index);
            self.apply.push_completion(ApplyTask::Forget(at));
        }
    }

    fn publish(&mut self, ticked: bool) {
        let standing = self.replica.standing();
        let led = (standing.leader, standing.term, standing.role, standing.serving);
        let was = (self.last.leader, self.last.term, self.last.role, self.last.serving);
        if led == was && !ticked {
            return;
        }
        if standing.leader != self.last.leader || standing.role != self.last.role {
            info!(self.logger, "raft standing changed"; "role" => format!("{:?}", standing.role),
                "term" => standing.term, "leader" => format!("{:x}", standing.leader),
                "committed" => standing.committed, "last" => standing.last_index);
        }
        self.last = standing.clone();
        self.published.status.store(Arc::new(self.status()));
        set_if_new(&self.published.leader, self.last.leader);
        set_if_new(&self.published.serving, self.last.serving);
    }

    fn status(&self) -> Status {
        let previous = self.published.status.load();
        let standing = &self.last;
        Status {
            leader: standing.leader,
            term: standing.term,
            state: match standing.role {
                Role::Follower => State::Follower,
                Role::PreCandidate => State::PreCandidate,
                Role::Candidate => State::Candidate,
                Role::Leader => State::Leader,
            },
            ready: standing.serving,
            last_index: standing.last_index,
            committed_index: standing.committed,
            applied_index: standing.applied,
            flushed_index: self.published.flushed.load(Ordering::Relaxed),
            first_index: standing.truncated + 1,
            log_bytes: self.published.log_bytes.load(Ordering::Relaxed),
            voters: standing.voters.clone(),
            proposals: Proposals {
                pending: (standing.proposals_waiting + standing.proposals_sent) as u64,
                failed: standing.proposals_failed,
            },
            reads: Reads {
                pending: standing.reads_waiting as u64,
                ..previous.reads
            },
            leader_changes_seen: standing.leader_changes,
            heartbeat_send_failures: self.heartbeats_dropped,
            slow_applies: self.published.slow_applies.load(Ordering::Relaxed),
            snapshot_installing: self.published.installing.load(Ordering::Relaxed) > 0,
            snapshots_installed: self.published.installed.load(Ordering::Relaxed),
            queues: self.queues(),
            timings: self
                .published
                .timings
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            ..(**previous).clone()
        }
    }

    fn queues(&self) -> Vec<Queue> {
        let queue = |name, depth: usize, capacity: usize, dropped| Queue {
            name,
            depth: depth as u64,
            capacity: capacity as u64,
            dropped,
        };
        vec![
            queue("raft", self.inbox.len(), limits::RAFT_INBOX_MAX, self.inbox.refused()),
            queue("log", self.log.len(), 0, 0),
            queue("apply", self.apply.len(), 0, 0),
            queue(
                "proposals",
                self.last.proposals_waiting,
                limits::PROPOSALS_WAITING_MAX,
                0,
            ),
            queue("reads", self.last.reads_waiting, limits::READS_WAITING_MAX, 0),
        ]
    }
}

fn set_if_new<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|old| {
        let is_new = *old != value;
        *old = value;
        is_new
    });
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
        let input = Input::Frame { from, frame };
        drop(match writes {
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
