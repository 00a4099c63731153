//! The durable Raft log: what a member has promised to remember.
//!
//! Three things live in it: entries, the HardState (term, vote, commit), and two notes about snapshots, namely the
//! entry the log begins behind (`truncated`) and the intent to install one. `Log` is the writer, of one thread at a
//! time; `LogReader` is what the raft thread reads old entries with.
//!
//! ```text
//!   truncated          first                         last
//!      |  (gone)        |                              |
//!   ---+----------------+------------------------------+     MARK lies somewhere in here: everything
//!      60              61            MARK 88          90     up to it was synced, so must still be there
//! ```
//!
//! `rocks` keeps the log in RocksDB, `memory` in a simulated disk that can crash between a write and its sync.
//! `row` is how one entry becomes bytes, `mark` the file MARK, `recover` the judgement of what a disk gave back.
//!
//! It is deliberately not a cache (the replica keeps recent entries), knows nothing of commands, and decides
//! nothing about Raft: it writes what it is told and panics when the disk fails, because a sync that failed once
//! can never be trusted again.

pub mod mark;
pub mod memory;
mod recover;
pub mod rocks;
mod row;

use raft::eraftpb::{Entry, HardState};

/// The place of an entry in the log together with the term that wrote it: equal ids mean equal entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// Position in the log; the first entry of a new cluster has 1.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
}

/// What one Raft Ready asks to be written; the entries may overwrite a conflicting suffix.
#[derive(Clone, Debug, Default)]
pub struct LogWrite {
    /// Consecutive entries; the first one's index is at most one behind the last entry of the log.
    pub entries: Vec<Entry>,
    /// The HardState, if it changed.
    pub hard_state: Option<HardState>,
}

/// The note that a snapshot's files are complete in `directory` and are about to become the member's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallIntent {
    /// Index of the last entry that the snapshot contains.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Where the verified files are, relative to the member's data directory.
    pub directory: String,
}

/// What a log held when it was opened (or, in the simulator, after a crash).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// The last HardState that survived; the default one on a new log.
    pub hard_state: HardState,
    /// The entry before the first one: (0, 0) on a new log, else where it was truncated or a snapshot's id.
    pub truncated: EntryId,
    /// The last entry; equals `truncated` when the log is empty.
    pub last: EntryId,
    /// Bytes or entries of a torn tail behind MARK that were cut, at least; 0 when nothing was seen to be torn.
    pub torn_tail_cut: u64,
    /// A snapshot whose installation was begun and not finished.
    pub install_intent: Option<InstallIntent>,
}

/// The writer; every method panics on the first failed write or sync and never retries.
pub trait Log: Send + 'static {
    /// How other threads read this log.
    type Reader: LogReader;

    /// A reader that sees every write from its return on.
    fn reader(&self) -> Self::Reader;

    /// What was found at open.
    fn recovered(&self) -> &Recovered;

    /// Writes all of `group` as one batch and returns once it is synced.
    fn write(&mut self, group: &[LogWrite]);

    /// Raises MARK to the last synced state; called off the critical path: when idle, every 100 ms under load, at stop.
    fn mark(&mut self);

    /// A burst of writes is over: gives back memory that only the next one would need. Does not wait for the disk.
    fn settle(&mut self);

    /// Drops the entries up to and including `to`, which must be in the log; an older `to` changes nothing.
    fn truncate(&mut self, to: EntryId);

    /// After a snapshot install: an empty log that begins behind `to`; clears the install intent in the same batch.
    fn reset(&mut self, to: EntryId, hard_state: &HardState);

    /// Writes or removes the install intent, synced.
    fn set_install_intent(&mut self, intent: Option<InstallIntent>);

    /// About how many bytes the log occupies.
    fn bytes(&self) -> u64;
}

/// Reads of old entries, from any thread.
pub trait LogReader: Clone + Send + 'static {
    /// The entries of [low, high) that exist, from `low` on, cut before `bytes_max` is exceeded but at least one.
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Vec<Entry>;

    /// The term of an entry of the log, or of the one it was truncated at.
    fn term(&self, index: u64) -> Option<u64>;
}

/// A group as one write: where a later part overwrites an earlier one, only the later one is left.
struct MergedWrite<'a> {
    entries: Vec<&'a Entry>,
    hard_state: Option<&'a HardState>,
}

impl<'a> MergedWrite<'a> {
    fn of(group: &'a [LogWrite]) -> MergedWrite<'a> {
        let mut merged = MergedWrite {
            entries: Vec::new(),
            hard_state: None,
        };
        for write in group {
            if let (Some(new), Some(first)) = (write.entries.first(), merged.entries.first()) {
                let kept = new.index.saturating_sub(first.index) as usize;
                assert!(
                    kept <= merged.entries.len(),
                    "entry {} of a group leaves a gap before it",
                    new.index
                );
                merged.entries.truncate(kept);
            }
            merged.entries.extend(&write.entries);
            merged.hard_state = write.hard_state.as_ref().or(merged.hard_state);
        }
        merged.assert_consecutive();
        merged
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.hard_state.is_none()
    }

    fn assert_consecutive(&self) {
        for pair in self.entries.windows(2) {
            assert!(
                pair[1].index == pair[0].index + 1 && pair[1].term >= pair[0].term,
                "entry ({}, term {}) cannot follow ({}, term {})",
                pair[1].index,
                pair[1].term,
                pair[0].index,
                pair[0].term
            );
        }
    }

    /// What must be true of every write, whatever it is written to; the replica already promises all of it.
    fn assert_allowed(
        &self,
        truncated: EntryId,
        last: EntryId,
        hard_state: &HardState,
        intent: Option<&InstallIntent>,
    ) {
        if let Some(first) = self.entries.first() {
            let (from, to) = (truncated.index.max(hard_state.commit) + 1, last.index + 1);
            assert!(
                (from..=to).contains(&first.index),
                "entry {} written to a log that takes {from} to {to} (truncated {truncated:?}, last {last:?}, commit {})",
                first.index,
                hard_state.commit
            );
        }
        let Some(new) = self.hard_state else { return };
        assert!(
            new.term >= hard_state.term && new.commit >= hard_state.commit,
            "HardState goes back from {hard_state:?} to {new:?}"
        );
        assert!(
            new.term > hard_state.term || hard_state.vote == 0 || new.vote == hard_state.vote,
            "second vote in one term: {hard_state:?}, then {new:?}"
        );
        let last = self.entries.last().map_or(last.index, |entry| entry.index);
        let last = intent.map_or(last, |intent| intent.index.max(last));
        assert!(
            new.commit <= last,
            "commit {} is behind the last entry {last}",
            new.commit
        );
    }
}
