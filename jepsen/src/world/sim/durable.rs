//! What a member's disk certainly holds, kept apart from the disk: the judge's own account, by which it tells
//! whether a restarted member found what it had promised to remember.

use super::world::Index;
use raft::eraftpb::HardState;
use raft_node::log::{EntryId, LogReader as _, LogWrite, Recovered, memory::MemoryReader};
use std::collections::BTreeMap;

/// What the disk of a member certainly holds, by its own account: only what a sync has made durable.
#[derive(Clone, Default)]
pub struct Durable {
    floor: u64,
    terms: BTreeMap<u64, u64>,
    pub term: u64,
    pub vote: u64,
    /// Written, and there after a crash or not.
    pub pending: Vec<LogWrite>,
}

impl Durable {
    pub fn sync(&mut self) {
        for write in std::mem::take(&mut self.pending) {
            if let Some(first) = write.entries.first() {
                drop(self.terms.split_off(&first.index));
            }
            let ids = write.entries.iter().map(|entry| (entry.index, entry.term));
            self.terms.extend(ids);
            if let Some(hard_state) = &write.hard_state {
                (self.term, self.vote) = (hard_state.term, hard_state.vote);
            }
        }
    }

    pub fn truncate(&mut self, to: u64) {
        self.floor = self.floor.max(to);
        self.terms = self.terms.split_off(&(to + 1));
    }

    pub fn reset(&mut self, at: EntryId, hard_state: &HardState) {
        self.terms.clear();
        self.floor = at.index;
        (self.term, self.vote) = (hard_state.term, hard_state.vote);
    }

    pub fn last(&self) -> u64 {
        self.terms.last_key_value().map_or(self.floor, |(index, _)| *index)
    }

    pub fn has(&self, index: u64, term: u64) -> bool {
        index <= self.floor || self.terms.get(&index) == Some(&term)
    }

    /// A restarted member must find what was synced, with what was pending or without.
    pub fn check_found(&mut self, index: Index, found: &Recovered, reader: &MemoryReader) {
        let mut with = self.clone();
        with.sync();
        let is = |of: &Self| {
            let hard_state = &found.hard_state;
            (hard_state.term, hard_state.vote, found.last.index) == (of.term, of.vote, of.last())
                && of
                    .terms
                    .range(found.truncated.index + 1..)
                    .all(|(index, term)| reader.term(*index) == Some(*term))
        };
        if is(&with) {
            *self = with;
            return;
        }
        assert!(
            is(self),
            "member {index}: (term, vote, last entry) are not what was synced: ({}, {:x}, {}), the log has {found:?}",
            self.term,
            self.vote,
            self.last()
        );
        self.pending.clear();
    }
}
