//! The state machine as a value: entries in, outcomes out, a View for readers after every batch.
//!
//! ```text
//! apply(entries) -> decode -> commands (apply.rs) -> one write -> publish -> outcomes
//!                                                                  ring, fences, View
//! ```
//! Nothing here is durable before [`Store::flush`]: after a crash the engine reopens at its last flush and the
//! entries since are applied again, with the same results. No clock, no randomness, no thread.

use crate::{
    apply::{self, LeaseChange, Response},
    arena::Arena,
    engine::{Batch, Engine, Family, Rows},
    hash, layout, opening,
    record::Revision,
    registry::Registry,
    shared::{Recent, Shared},
    state::{Applied, State},
    view::View,
    writer::{PIECE_BYTES_MAX, Writer, Written},
};
use bytes::Bytes;
use prost::Message;
use proto::{
    COMMAND_VERSION, Error,
    node::{CommandBatch, Membership},
};
use std::sync::Arc;

/// Rows of forgotten deletes that are swept with one batch: about as long as applying some hundred puts.
const SWEEP_ROWS_MAX: usize = 1024;

/// What a member decides about its store. Nothing here changes what a command does.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Memory for recent events.
    pub ring_bytes: usize,
    /// Rows that are written at once; only tests choose another size.
    pub piece_bytes_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            ring_bytes: 48 << 20,
            piece_bytes_max: PIECE_BYTES_MAX,
        }
    }
}

/// An entry of the log, as the state machine needs it.
#[derive(Clone, Debug, Default)]
pub struct LogEntry {
    /// Its index: the one after the last applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// An encoded `CommandBatch`; empty for an entry of raft's own.
    pub data: Bytes,
    /// Raft's new configuration, encoded, if the entry changed it.
    pub conf_state: Option<Bytes>,
}

/// What an entry did.
#[derive(Debug)]
pub struct EntryOutcome {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// One per command, in order.
    pub results: Vec<Result<Response, Error>>,
    /// Leases that came and went, in order.
    pub lease_changes: Vec<LeaseChange>,
}

/// A flush that has begun: everything applied before is durable once it has run.
#[must_use = "nothing is durable before it runs"]
pub struct Flush<E> {
    engine: E,
    /// The last event that a compaction has made void.
    reclaim: Option<Bytes>,
}

impl<E: Engine> Flush<E> {
    /// Waits for the disk.
    pub fn run(self) {
        self.engine.flush();
        if let Some(last) = self.reclaim {
            self.engine.reclaim(Family::Ev, &last);
        }
    }
}

/// The state machine.
pub struct Store<E: Engine> {
    engine: E,
    options: StoreOptions,
    registry: Registry,
    state: State,
    shared: Arc<Shared>,
    view: Arc<View<E>>,
    /// For rows of events.
    arena: Arena,
    /// Whether forgotten deletes may be left to sweep.
    is_swept: bool,
    /// The compaction whose files were given back.
    reclaimed: i64,
}

impl<E: Engine> Store<E> {
    /// Opens what the engine holds. Panics on a row that no dipper wrote.
    pub fn open(engine: E, options: StoreOptions) -> Self {
        opening::undo_unpublished(&engine);
        let snapshot = engine.snapshot();
        let state = opening::state(&snapshot);
        let registry = Registry::open(&snapshot);
        let shared = opening::shared(&snapshot, state, options.ring_bytes);
        let membership = registry.membership.clone().unwrap_or_default();
        let alarms = Arc::new(registry.alarm_members());
        let view = Arc::new(View {
            snapshot,
            state,
            membership,
            alarms,
            shared: shared.clone(),
        });
        Self {
            engine,
            options,
            registry,
            state,
            shared,
            view,
            arena: Arena::default(),
            is_swept: false,
            reclaimed: -1,
        }
    }

    /// Whether it was never bootstrapped.
    pub fn is_empty(&self) -> bool {
        self.registry.membership.is_none()
    }

    /// Starts a new state machine with the membership as of index 0, durably.
    pub fn bootstrap(&mut self, membership: Membership) {
        assert!(self.is_empty(), "a store is bootstrapped once");
        let mut batch = Batch::default();
        batch.put(
            Family::Meta,
            Bytes::from_static(layout::MEMBERSHIP),
            membership.encode_to_vec().into(),
        );
        batch.put(Family::Meta, Bytes::from_static(layout::STATE), self.state.encode());
        self.engine.write(&batch);
        self.registry.membership = Some(Arc::new(membership));
        self.flush();
        self.publish_view(self.engine.snapshot());
    }

    /// The last entry applied.
    pub fn applied(&self) -> Applied {
        self.state.applied
    }

    /// The members, as of the last entry applied.
    pub fn membership(&self) -> &Membership {
        self.registry.membership()
    }

    /// The last entry applied in what a crash now would leave. Reads the disk.
    pub fn flushed(&self) -> Applied {
        let row = self.engine.get_persisted(Family::Meta, layout::STATE);
        row.map_or_else(Applied::default, |row| State::decode(&row).applied)
    }

    /// Makes everything applied so far durable.
    pub fn flush(&mut self) {
        self.begin_flush().run();
    }

    /// The same in two parts: the second takes as long as the disk does, and entries may be applied meanwhile.
    pub fn begin_flush(&mut self) -> Flush<E> {
        let rows = self.shared.write().fences.take_rows();
        let mut batch = Batch::default();
        for (low, row) in rows {
            match row {
                Some(row) => batch.put(Family::Meta, layout::fences(&low), row),
                None => batch.delete(Family::Meta, layout::fences(&low)),
            }
        }
        let revision = Bytes::copy_from_slice(&self.state.revision.to_be_bytes());
        batch.put(Family::Meta, Bytes::from_static(layout::FENCES_REVISION), revision);
        self.engine.write(&batch);
        let compacted = self.state.compact_revision;
        let is_news = compacted > self.reclaimed;
        self.reclaimed = self.reclaimed.max(compacted);
        // The event at exactly the compacted revision stays.
        let last = Revision {
            main: compacted - 1,
            sub: i64::MAX,
        };
        Flush {
            engine: self.engine.clone(),
            reclaim: (is_news && compacted > 1).then(|| layout::event_key(last)),
        }
    }

    /// Applies entries, which follow on the last one applied, and publishes the View that shows them.
    pub fn apply(&mut self, entries: &[LogEntry]) -> Vec<EntryOutcome> {
        let mut outcomes = Vec::with_capacity(entries.len());
        // Raft must not count on a configuration that a crash could take back: its change is the last of a
        // batch, and flushed before the next entry.
        for batch in entries.split_inclusive(|entry| entry.conf_state.is_some()) {
            outcomes.extend(self.apply_batch(batch));
            if batch.last().is_some_and(|entry| entry.conf_state.is_some()) {
                self.flush();
            }
        }
        outcomes
    }

    /// The state as of the last entry applied.
    pub fn view(&self) -> Arc<View<E>> {
        self.view.clone()
    }

    /// The same on all members that applied the same entries.
    pub fn state_hash(&self) -> u64 {
        hash::of_state(&self.state, self.registry.membership())
    }

    /// The engine below.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    fn apply_batch(&mut self, entries: &[LogEntry]) -> Vec<EntryOutcome> {
        let batches: Vec<CommandBatch> = entries.iter().map(decode).collect();
        let (shared, bounds) = (
            self.shared.clone(),
            (self.options.ring_bytes, self.options.piece_bytes_max),
        );
        let was_compacted = self.state.compact_revision;
        let arena = &mut self.arena;
        let mut writer = Writer::new(&self.engine, &shared, &mut self.registry, arena, self.state, bounds);
        let mut keys = Vec::new();
        for command in batches.iter().flat_map(|batch| &batch.commands) {
            apply::keys_of(command, &mut keys);
        }
        writer.prefetch(keys);
        let mut outcomes = Vec::with_capacity(entries.len());
        for (entry, batch) in entries.iter().zip(batches) {
            outcomes.push(apply_entry(&mut writer, entry, &batch));
        }
        let written = writer.finish();
        self.publish(written);
        self.is_swept &= self.state.compact_revision == was_compacted;
        self.sweep();
        outcomes
    }

    fn publish(&mut self, written: Written<E::Snapshot>) {
        self.state = written.state;
        let mut recent = self.shared.write();
        written.counted.add_to(&mut recent.fences);
        let Recent {
            ring,
            revision,
            compact_revision,
            ..
        } = &mut *recent;
        match written.recent {
            Some(changes) => ring.push(changes),
            None => ring.restart(self.state.revision + 1),
        }
        (*revision, *compact_revision) = (self.state.revision, self.state.compact_revision);
        drop(recent);
        self.publish_view(written.snapshot);
    }

    fn publish_view(&mut self, snapshot: E::Snapshot) {
        self.view = Arc::new(View {
            snapshot,
            state: self.state,
            membership: self.registry.membership().clone(),
            alarms: Arc::new(self.registry.alarm_members()),
            shared: self.shared.clone(),
        });
    }

    /// Removes some of the rows of deletes below the compaction. They mean nothing: when they go, and whether
    /// a crash brings them back, changes no answer and no hash.
    fn sweep(&mut self) {
        if self.is_swept || self.state.compact_revision <= 0 {
            return;
        }
        let end = layout::gone_at(Revision {
            main: self.state.compact_revision,
            sub: 0,
        });
        let mut batch = Batch::default();
        let rows = self.view.snapshot.scan(Family::Meta, &[layout::GONE_AT], Some(&end));
        let mut swept = 0;
        for (row, key) in rows.take(SWEEP_ROWS_MAX) {
            swept += 1;
            batch.delete(Family::Gone, key);
            batch.delete(Family::Meta, row);
        }
        self.is_swept = swept < SWEEP_ROWS_MAX;
        if swept > 0 {
            self.engine.write(&batch);
        }
    }
}

fn decode(entry: &LogEntry) -> CommandBatch {
    let batch = CommandBatch::decode(entry.data.clone())
        .unwrap_or_else(|error| panic!("corrupt entry {} of term {}: {error}", entry.index, entry.term));
    assert!(
        batch.version <= COMMAND_VERSION,
        "entry {} was written by a newer dipper: its commands are of version {}, this build knows up to {COMMAND_VERSION}",
        entry.index,
        batch.version
    );
    assert!(
        batch.commands.iter().all(|command| command.op.is_some()),
        "entry {} was written by a newer dipper: it holds a command of a kind that this build does not know",
        entry.index
    );
    batch
}

fn apply_entry<E: Engine>(writer: &mut Writer<'_, E>, entry: &LogEntry, batch: &CommandBatch) -> EntryOutcome {
    let after = writer.state.applied.index;
    assert!(
        entry.index == after + 1,
        "entry {} is to be applied after entry {after}",
        entry.index
    );
    let mut lease_changes = Vec::new();
    let commands = batch.commands.iter();
    let results = commands
        .map(|command| apply::command(writer, entry.term, command, &mut lease_changes))
        .collect();
    if let Some(conf_state) = &entry.conf_state {
        apply::conf_state(writer, conf_state.clone());
    }
    writer.state.applied = Applied {
        index: entry.index,
        term: entry.term,
    };
    EntryOutcome {
        index: entry.index,
        term: entry.term,
        results,
        lease_changes,
    }
}
