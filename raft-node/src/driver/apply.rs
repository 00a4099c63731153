//! The apply thread: the only writer of the state machine.
//!
//! A batch is everything that was committed while the last one was applied. After its write and before any
//! reply it publishes the View, so that whoever was answered reads what was written, and wakes the watches.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use kv::{LogEntry, RocksEngine, Store};
use slog::{Logger, info, warn};

use super::{
    Outcome, Published, RaftInbox, Reply,
    flusher::{After, Flusher},
    replies::Outcomes,
};
use crate::{
    inbox::{Inbox, Patience},
    limits,
    log::EntryId,
    replica::{Committed, Input},
    state_directory::StateDirectory,
};

/// Leases of a state: (id, TTL).
type Leases = Vec<(i64, i64)>;

/// An order to the apply thread. What waits is bounded by the replica: see `UNAPPLIED_BYTES_MAX`.
pub enum ApplyTask {
    Entries(Vec<Committed<Reply>>, Instant),
    /// Make a checkpoint in this directory.
    Checkpoint(PathBuf),
    /// Remove a checkpoint that nobody needs any more.
    Remove(PathBuf),
    /// Remove a state that arrived and is of no use.
    Forget(EntryId),
    /// Go on with the state of the snapshot that ends at this entry.
    Install(EntryId, mpsc::SyncSender<Leases>),
    Stop,
}

pub struct ApplyThread {
    store: Store<RocksEngine>,
    state_directory: StateDirectory,
    inbox: Arc<Inbox<ApplyTask>>,
    raft: Arc<RaftInbox>,
    published: Arc<Published>,
    flusher: Flusher<RocksEngine>,
    snapshot_count: u64,
    /// What a crash would leave, as far as is known here.
    flushed: u64,
    unflushed_bytes: usize,
    asked_at: Instant,
    applied_at: Instant,
    /// Applied since memory was last given back.
    burst_bytes: usize,
    /// When a snapshot took the place of the state before; readers may still hold that for a moment.
    superseded: Vec<(Instant, String)>,
    logger: Logger,
}

impl ApplyThread {
    pub fn new(
        store: Store<RocksEngine>,
        state_directory: StateDirectory,
        inbox: Arc<Inbox<ApplyTask>>,
        raft: Arc<RaftInbox>,
        published: Arc<Published>,
        snapshot_count: u64,
        logger: Logger,
    ) -> io::Result<Self> {
        let flushed = store.flushed().index;
        let asked_at = Instant::now();
        Ok(Self {
            store,
            state_directory,
            inbox,
            raft,
            published,
            flusher: Flusher::start()?,
            snapshot_count,
            flushed,
            unflushed_bytes: 0,
            asked_at,
            applied_at: asked_at,
            burst_bytes: 0,
            superseded: Vec::new(),
            logger,
        })
    }

    pub fn run(mut self) {
        let mut tasks = Vec::new();
        loop {
            self.inbox.drain(&mut tasks, limits::FLUSHED_ASK_EVERY, Patience::NONE);
            let mut batch: Vec<Committed<Reply>> = Vec::new();
            let mut committed_at = Instant::now();
            for task in tasks.drain(..) {
                if let ApplyTask::Entries(entries, since) = task {
                    self.published
                        .time(|timings| timings.queue_wait.observe(since.elapsed()));
                    committed_at = committed_at.min(since);
                    batch.extend(entries);
                    continue;
                }
                self.apply(&mut batch, committed_at);
                match task {
                    ApplyTask::Checkpoint(directory) => self.checkpoint(&directory),
                    ApplyTask::Install(at, done) => {
                        let leases = self.install(at);
                        // The log thread waits for it; it cannot be gone.
                        drop(done.send(leases));
                    }
                    ApplyTask::Remove(directory) => self.remove(&directory),
                    ApplyTask::Forget(at) => self.forget(&StateDirectory::name_of(at)),
                    ApplyTask::Stop => {
                        self.flusher.wait();
                        return self.store.flush();
                    }
                    ApplyTask::Entries(..) => {}
                }
            }
            self.apply(&mut batch, committed_at);
            self.flush_if_due();
        }
    }

    /// Applies in slices, so that the first replies do not wait for the last write.
    fn apply(&mut self, batch: &mut Vec<Committed<Reply>>, committed_at: Instant) {
        let mut batch = std::mem::take(batch).into_iter().peekable();
        while batch.peek().is_some() {
            let (mut entries, mut waiters, mut bytes) = (Vec::new(), Vec::new(), 0);
            while bytes < limits::APPLY_SLICE_BYTES
                && let Some(committed) = batch.next()
            {
                bytes += committed.entry.data.len();
                entries.push(committed.entry);
                waiters.push(committed.waiters);
            }
            self.apply_slice(&entries, waiters, bytes, committed_at);
        }
    }

    fn apply_slice(
        &mut self,
        entries: &[LogEntry],
        waiters: Vec<Vec<(usize, Reply)>>,
        bytes: usize,
        committed_at: Instant,
    ) {
        let began = Instant::now();
        let applied = self.store.apply(entries);
        let view = self.store.view();
        self.published.view.store(Arc::clone(&view));
        self.published.watchers.published(&view);
        self.note(began.elapsed(), entries.len());
        self.unflushed_bytes += bytes;
        self.burst_bytes += bytes;
        self.applied_at = Instant::now();
        let (mut lease_changes, mut outcomes, mut slowest) = (Vec::new(), Outcomes::default(), Duration::ZERO);
        for (outcome, waiters) in applied.into_iter().zip(waiters) {
            let mut results: Vec<_> = outcome.results.into_iter().map(Some).collect();
            for (offset, waiter) in waiters {
                let result = results.get_mut(offset).and_then(Option::take);
                let result = result.expect("a write waits at the position of its own command, alone");
                slowest = slowest.max(waiter.since.elapsed());
                outcomes.add(waiter, Outcome::Written(result));
            }
            lease_changes.extend(outcome.lease_changes);
        }
        outcomes.send();
        let index = self.store.applied().index;
        self.raft.push_quietly(Input::Applied { index, lease_changes });
        if slowest >= limits::SLOW_REQUEST {
            let (apply, waited) = (began.elapsed(), began.saturating_duration_since(committed_at));
            warn!(self.logger, "request took long"; "took_ms" => slowest.as_millis() as u64,
                "commit_ms" => slowest.saturating_sub(apply + waited).as_millis() as u64,
                "apply_wait_ms" => waited.as_millis() as u64, "apply_ms" => apply.as_millis() as u64,
                "entries" => entries.len());
        }
    }

    fn note(&self, took: Duration, entries: usize) {
        self.published.time(|timings| {
            timings.apply.observe(took);
            timings.backend_commit.observe(took);
        });
        if took >= limits::SLOW_APPLY {
            self.published.slow_applies.fetch_add(1, Ordering::Relaxed);
            warn!(self.logger, "apply took long"; "took_ms" => took.as_millis() as u64, "entries" => entries);
        }
    }

    fn flush_if_due(&mut self) {
        // RocksDB flushes by itself too, when its memtables are full.
        if self.flusher.has_ended() || self.asked_at.elapsed() >= limits::FLUSHED_ASK_EVERY {
            self.report_flushed();
        }
        let unflushed = self.store.applied().index.saturating_sub(self.flushed);
        let is_due = unflushed >= self.snapshot_count || self.unflushed_bytes >= limits::FLUSH_BYTES;
        let is_over = self.burst_bytes >= limits::SETTLE_BYTES && self.applied_at.elapsed() >= limits::SETTLE_AFTER;
        if (is_due || is_over) && !self.flusher.is_busy() {
            self.unflushed_bytes = 0;
            let after = if is_over {
                self.burst_bytes = 0;
                After::Silence
            } else {
                After::Writes
            };
            self.flusher.run(self.store.begin_flush(), after);
        }
        let is_over = |(at, _): &mut (Instant, String)| at.elapsed() >= limits::SUPERSEDED_KEPT;
        let over: Vec<_> = self.superseded.extract_if(.., is_over).collect();
        for (_, name) in over {
            self.forget(&name);
        }
    }

    fn report_flushed(&mut self) {
        self.asked_at = Instant::now();
        let flushed = self.store.flushed();
        if flushed.index > self.flushed {
            self.flushed = flushed.index;
            self.published.flushed.store(flushed.index, Ordering::Relaxed);
            let applied = EntryId {
                index: flushed.index,
                term: flushed.term,
            };
            self.raft.push_completion(Input::Flushed { applied });
        }
    }

    fn checkpoint(&mut self, directory: &Path) {
        let began = Instant::now();
        self.store.flush();
        self.unflushed_bytes = 0;
        let applied = self.store.applied();
        StateDirectory::checkpoint(self.store.engine(), directory);
        info!(self.logger, "made a checkpoint for members that lag"; "index" => applied.index,
            "took_ms" => began.elapsed().as_millis() as u64);
        self.report_flushed();
        self.raft.push_completion(Input::SnapshotMade {
            at: EntryId {
                index: applied.index,
                term: applied.term,
            },
        });
    }

    fn install(&mut self, at: EntryId) -> Leases {
        // Its state is about to be superseded, and its directory removed.
        self.flusher.wait();
        let (store, superseded) = self.state_directory.switch_to(at);
        self.store = store;
        self.superseded.push((Instant::now(), superseded));
        assert_eq!(
            self.store.applied().index,
            at.index,
            "a snapshot's state is not at the entry that it was sent for"
        );
        self.flushed = at.index;
        self.unflushed_bytes = 0;
        let view = self.store.view();
        let leases = view.lease_rows().iter().map(|lease| (lease.id, lease.ttl)).collect();
        self.published.engine.store(Arc::new(self.store.engine().clone()));
        self.published.view.store(Arc::clone(&view));
        self.published.watchers.published(&view);
        self.published.flushed.store(at.index, Ordering::Relaxed);
        info!(self.logger, "installed a snapshot"; "index" => at.index, "revision" => view.revision());
        leases
    }

    fn remove(&self, directory: &Path) {
        if let Err(error) = std::fs::remove_dir_all(directory) {
            warn!(self.logger, "cannot remove a checkpoint"; "path" => %directory.display(), "error" => %error);
        }
    }

    fn forget(&self, name: &str) {
        if let Err(error) = self.state_directory.forget(name) {
            warn!(self.logger, "cannot remove a state that does not count any more"; "error" => %error);
        }
    }
}
