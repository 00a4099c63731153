//! The log as raft-rs sees it: recent entries in memory, older ones through a [`LogReader`].
//!
//! raft-rs asks for an entry the moment it has handed it out, long before it is synced, so everything that
//! is not yet persisted or not yet applied lives here; what is behind both may be dropped from memory.
//! Not here: writing. The driver does that, and says `Persisted` when it is done.

use std::{cell::Cell, cmp::min, collections::VecDeque};

use bytes::Bytes;
use protobuf::Message as _;
use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata},
};

use crate::log::{EntryId, LogReader, Recovered};

/// The log of one member: see the file's essay.
pub struct LogView<R> {
    reader: R,
    start: RaftState,
    /// The entry before the first one that exists.
    truncated: EntryId,
    last: EntryId,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// Set by raft-rs when a peer needs a snapshot and none is prepared.
    snapshot_wanted: Cell<Option<u64>>,
    snapshot: Option<SnapshotMetadata>,
}

/// What a [`LogView`] starts from.
pub struct LogStart {
    pub hard_state: HardState,
    pub conf_state: ConfState,
    pub truncated: EntryId,
    pub last: EntryId,
}

/// raft's first configuration of a cluster, encoded as the state machine keeps it.
pub fn initial_conf_state(voters: Vec<u64>) -> Bytes {
    let conf_state = ConfState {
        voters,
        ..ConfState::default()
    };
    Bytes::from(conf_state.write_to_bytes().expect("a ConfState of ours can be encoded"))
}

/// Where a replica goes on: what the log recovered, under the configuration that the state has applied.
pub fn start_of(recovered: &Recovered, conf_state: &[u8]) -> LogStart {
    let conf_state = ConfState::parse_from_bytes(conf_state).expect("the state keeps what a replica encoded");
    let hard_state = recovered.hard_state.clone();
    LogStart {
        hard_state,
        conf_state,
        truncated: recovered.truncated,
        last: recovered.last,
    }
}

impl<R: LogReader> LogView<R> {
    pub fn new(reader: R, start: LogStart, cache_bytes_max: usize) -> Self {
        Self {
            reader,
            start: RaftState {
                hard_state: start.hard_state,
                conf_state: start.conf_state,
            },
            truncated: start.truncated,
            last: start.last,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            snapshot_wanted: Cell::new(None),
            snapshot: None,
        }
    }

    pub fn truncated(&self) -> EntryId {
        self.truncated
    }

    pub fn last(&self) -> EntryId {
        self.last
    }

    /// Takes entries that raft-rs handed out; they replace a conflicting suffix.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            self.truncated.index < first.index && first.index <= self.last.index + 1,
            "entries from {} on do not continue a log of {}..={}",
            first.index,
            self.truncated.index + 1,
            self.last.index
        );
        while self.cache.back().is_some_and(|entry| entry.index >= first.index) {
            self.cache_bytes -= self.cache.pop_back().map_or(0, |entry| cost(&entry));
        }
        if self.cache.back().is_some_and(|entry| entry.index + 1 != first.index) {
            self.cache.clear();
            self.cache_bytes = 0;
        }
        for entry in entries {
            self.cache_bytes += cost(entry);
            self.cache.push_back(entry.clone());
            self.last = EntryId {
                index: entry.index,
                term: entry.term,
            };
        }
    }

    /// Forgets cached entries that are both persisted and applied, as long as the cache is over its bound.
    pub fn evict(&mut self, persisted: u64, applied: u64) {
        let until = min(persisted, applied);
        while self.cache_bytes > self.cache_bytes_max && self.cache.front().is_some_and(|entry| entry.index <= until) {
            self.cache_bytes -= self.cache.pop_front().map_or(0, |entry| cost(&entry));
        }
    }

    /// Drops everything up to `to`.
    pub fn truncate(&mut self, to: EntryId) {
        assert!(
            self.truncated <= to && to.index <= self.last.index,
            "truncation to {to:?} is outside of the log"
        );
        self.truncated = to;
        while self.cache.front().is_some_and(|entry| entry.index <= to.index) {
            self.cache_bytes -= self.cache.pop_front().map_or(0, |entry| cost(&entry));
        }
    }

    /// Begins anew behind an installed snapshot.
    pub fn reset(&mut self, to: EntryId) {
        self.cache.clear();
        self.cache_bytes = 0;
        self.truncated = to;
        self.last = to;
        self.snapshot = None;
    }

    /// The peer that waits for a snapshot to be made, once.
    pub fn take_snapshot_wanted(&self) -> Option<u64> {
        self.snapshot_wanted.take()
    }

    /// The snapshot that the next peer in need gets; `None` when its files are gone.
    pub fn set_snapshot(&mut self, snapshot: Option<SnapshotMetadata>) {
        self.snapshot = snapshot;
    }

    fn cached(&self, index: u64) -> Option<&Entry> {
        let first = self.cache.front()?.index;
        self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + size_of::<Entry>()
}

impl<R: LogReader> Storage for LogView<R> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.start.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        assert!(
            high <= self.last.index + 1,
            "entries up to {high} are asked for, the last is {}",
            self.last.index
        );
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let Some(first_cached) = self
            .cache
            .front()
            .map(|entry| entry.index)
            .filter(|first| *first <= low)
        else {
            let high = self.cache.front().map_or(high, |entry| min(high, entry.index));
            return Ok(self.reader.entries(low, high, bytes_max));
        };
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self
            .cache
            .range((low - first_cached) as usize..(high - first_cached) as usize)
        {
            bytes += cost(entry) as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if index < self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        if index > self.last.index {
            return Err(StorageError::Unavailable.into());
        }
        match self.cached(index) {
            Some(entry) => Ok(entry.term),
            None => self.reader.term(index).ok_or_else(|| StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        match &self.snapshot {
            // A snapshot that the log no longer reaches would only be followed by another one.
            Some(metadata) if metadata.index >= request_index && metadata.index >= self.truncated.index => {
                let mut snapshot = Snapshot::default();
                snapshot.set_metadata(metadata.clone());
                Ok(snapshot)
            }
            _ => {
                self.snapshot_wanted.set(Some(to));
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}
