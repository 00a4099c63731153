//! Which checkpoint is on its way to whom. One is made at a time and shared by all members that lag; it is
//! removed when the last of them has it.

use std::{collections::BTreeSet, path::PathBuf};

use bytes::Bytes;

use crate::{log::EntryId, peer::SnapshotSource, state_directory::StateDirectory};

/// The checkpoint of the moment.
pub struct Checkpoints {
    state_directory: StateDirectory,
    number: u64,
    is_being_made: bool,
    made_at: Option<EntryId>,
    on_its_way_to: BTreeSet<u64>,
}

impl Checkpoints {
    /// `first` is random, so that a number names one checkpoint of one member: receivers resume by it.
    pub fn new(state_directory: StateDirectory, first: u64) -> Self {
        let on_its_way_to = BTreeSet::new();
        Self {
            state_directory,
            number: first,
            is_being_made: false,
            made_at: None,
            on_its_way_to,
        }
    }

    /// Whether a new one may be made now; if so, it is about to be.
    pub fn begin(&mut self) -> bool {
        if self.is_being_made || !self.on_its_way_to.is_empty() {
            return false;
        }
        self.number += 1;
        self.is_being_made = true;
        self.made_at = None;
        true
    }

    /// Where it goes.
    pub fn directory(&self) -> PathBuf {
        self.state_directory.outgoing(self.number)
    }

    pub fn made(&mut self, at: EntryId) {
        self.is_being_made = false;
        self.made_at = Some(at);
    }

    /// What is sent to `to`, together with raft's message about the snapshot at `at`; `None` when that is
    /// not there any more: it may have been removed in the turn in which raft decided to send it.
    pub fn source(&mut self, to: u64, at: EntryId, install: Bytes) -> Option<SnapshotSource> {
        if self.made_at != Some(at) {
            return None;
        }
        self.on_its_way_to.insert(to);
        Some(SnapshotSource {
            id: self.number,
            index: at.index,
            term: at.term,
            directory: self.directory(),
            install,
        })
    }

    /// It arrived at `to`, or never will; the directory to remove when nobody waits for it any more.
    pub fn sent(&mut self, to: u64) -> Option<PathBuf> {
        self.on_its_way_to.remove(&to);
        let is_done = self.on_its_way_to.is_empty() && !self.is_being_made;
        is_done.then(|| {
            self.made_at = None;
            self.directory()
        })
    }
}
