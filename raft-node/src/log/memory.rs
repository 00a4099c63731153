//! The log on a simulated disk: a write and its sync are two steps, and a crash may come between them.
//!
//! ```text
//!   write_unsynced(g1)  write_unsynced(g2)  crash(1)   ->  the log holds g1, g2 never happened
//!   write_unsynced(g1)  sync()  crash(0)               ->  the log holds g1
//! ```
//!
//! A group survives whole or not at all and only with those before it, as RocksDB's batches do. There is no clock,
//! no randomness and no file: the same calls give the same log. It is deliberately not a model of damage, which is
//! tested on real files, and not fast: a simulated log is short.

use super::{EntryId, InstallIntent, Log, LogReader, LogWrite, MergedWrite, Recovered};
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A log on a simulated disk, as its writer.
#[derive(Default)]
pub struct MemoryLog {
    /// What every reader sees: the durable state and the groups that are not yet synced.
    current: MemoryReader,
    /// What a crash leaves at least.
    durable: State,
    unsynced: VecDeque<Vec<LogWrite>>,
    recovered: Recovered,
}

/// A reader of a `MemoryLog`.
#[derive(Clone, Default)]
pub struct MemoryReader(Arc<Mutex<State>>);

#[derive(Clone, Default)]
#[allow(clippy::struct_field_names)] // HardState is Raft's name.
struct State {
    truncated: EntryId,
    entries: VecDeque<Entry>,
    hard_state: HardState,
    install_intent: Option<InstallIntent>,
}

impl MemoryLog {
    /// A new, empty log.
    pub fn new() -> MemoryLog {
        MemoryLog::default()
    }

    /// Writes a group that a crash may still undo.
    pub fn write_unsynced(&mut self, group: &[LogWrite]) {
        self.current.state().write(group);
        self.unsynced.push_back(group.to_vec());
    }

    /// Makes every group written so far survive a crash.
    pub fn sync(&mut self) {
        for group in self.unsynced.drain(..) {
            self.durable.write(&group);
        }
    }

    /// How many groups are written but not synced.
    pub fn unsynced_groups(&self) -> usize {
        self.unsynced.len()
    }

    /// The machine dies: the first `keep` unsynced groups had reached the disk, the others had not.
    pub fn crash(&mut self, keep: usize) {
        for group in self.unsynced.drain(..).take(keep) {
            self.durable.write(&group);
        }
        *self.current.state() = self.durable.clone();
        self.recovered = self.durable.recovered();
    }

    /// Changes that are always synced, and with them all that was written before.
    fn change(&mut self, change: impl Fn(&mut State)) {
        self.sync();
        change(&mut self.current.state());
        change(&mut self.durable);
    }
}

impl Log for MemoryLog {
    type Reader = MemoryReader;

    fn reader(&self) -> MemoryReader {
        self.current.clone()
    }

    fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    fn write(&mut self, group: &[LogWrite]) {
        self.write_unsynced(group);
        self.sync();
    }

    /// A simulated disk tears nothing that was synced, so there is nothing to vouch for.
    fn mark(&mut self) {}

    fn settle(&mut self) {}

    fn truncate(&mut self, to: EntryId) {
        self.change(|state| state.truncate(to));
    }

    fn reset(&mut self, to: EntryId, hard_state: &HardState) {
        self.change(|state| {
            assert!(
                to.index >= state.truncated.index,
                "a snapshot at {to:?} is older than {:?}",
                state.truncated
            );
            *state = State {
                truncated: to,
                hard_state: hard_state.clone(),
                ..State::default()
            };
        });
    }

    fn set_install_intent(&mut self, intent: Option<InstallIntent>) {
        self.change(|state| state.install_intent.clone_from(&intent));
    }

    fn bytes(&self) -> u64 {
        self.current
            .state()
            .entries
            .iter()
            .map(|entry| u64::from(entry.compute_size()))
            .sum()
    }
}

impl LogReader for MemoryReader {
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Vec<Entry> {
        let state = self.state();
        let mut bytes = 0;
        let wanted = (low..high).map_while(|index| state.entry(index));
        let within = wanted.enumerate().take_while(|(position, entry)| {
            bytes += u64::from(entry.compute_size());
            *position == 0 || bytes <= bytes_max
        });
        within.map(|(_, entry)| entry.clone()).collect()
    }

    fn term(&self, index: u64) -> Option<u64> {
        let state = self.state();
        let truncated = (index == state.truncated.index).then_some(state.truncated.term);
        truncated.or_else(|| state.entry(index).map(|entry| entry.term))
    }
}

impl MemoryReader {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn last(&self) -> EntryId {
        self.entries.back().map_or(self.truncated, |entry| EntryId {
            index: entry.index,
            term: entry.term,
        })
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.truncated.index + 1)? as usize)
    }

    fn write(&mut self, group: &[LogWrite]) {
        let merged = MergedWrite::of(group);
        merged.assert_allowed(
            self.truncated,
            self.last(),
            &self.hard_state,
            self.install_intent.as_ref(),
        );
        if let Some(first) = merged.entries.first() {
            self.entries.truncate((first.index - self.truncated.index - 1) as usize);
        }
        self.entries.extend(merged.entries.into_iter().cloned());
        if let Some(hard_state) = merged.hard_state {
            self.hard_state.clone_from(hard_state);
        }
    }

    fn truncate(&mut self, to: EntryId) {
        if to.index <= self.truncated.index {
            return;
        }
        let term = self.entry(to.index).map(|entry| entry.term);
        assert_eq!(
            term,
            Some(to.term),
            "cannot truncate at {to:?}, the log ends at {:?}",
            self.last()
        );
        self.entries.drain(..(to.index - self.truncated.index) as usize);
        self.truncated = to;
    }

    fn recovered(&self) -> Recovered {
        Recovered {
            hard_state: self.hard_state.clone(),
            truncated: self.truncated,
            last: self.last(),
            torn_tail_cut: 0,
            install_intent: self.install_intent.clone(),
        }
    }
}
