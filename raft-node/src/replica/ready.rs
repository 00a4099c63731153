//! What raft-rs has ready, and what came back of it: entries to the log thread, committed ones to the apply
//! thread, and how far both have got.
//!
//! ```text
//!   Ready --entries--> log view (at once) --Write--> log thread --Persisted--> messages that waited for it
//!         --committed--> Committed, with its waiters --> apply thread --Applied--> reads that waited for it
//! ```

use kv::LogEntry;
use raft::{
    Ready,
    eraftpb::{Entry, EntryType, Message, MessageType},
};

use super::{Committed, Install, Output, Write, replica::Replica};
use crate::{
    limits,
    log::{EntryId, LogReader, LogWrite},
};

impl<W, R: LogReader> Replica<W, R> {
    pub(super) fn take_ready(&mut self, mut ready: Ready, output: &mut Output<W>) {
        let number = ready.number();
        for state in ready.take_read_states() {
            self.round_confirmed(&state.request_ctx, state.index);
        }
        self.send(ready.take_messages());
        let mut group = LogWrite {
            entries: ready.take_entries(),
            hard_state: None,
        };
        if let Some(hard_state) = ready.hs() {
            if hard_state.term != self.hard_state.term {
                self.term_since = number;
            }
            self.hard_state = hard_state.clone();
        }
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().get_metadata().clone());
        let must_sync = ready.must_sync();
        let is_forgotten = kv::mutants::is("vote-not-persisted") && group.entries.is_empty();
        if must_sync && !is_forgotten {
            // A commit index alone is not worth a write: it rides with the next one.
            group.hard_state = Some(self.hard_state.clone());
        }
        let installed = snapshot.map(|metadata| self.begin_install(number, &metadata));
        // Entries may follow the snapshot in the same Ready.
        self.raw.mut_store().append(&group.entries);
        let committed = ready.take_committed_entries();
        let mut messages = ready.take_persisted_messages();
        messages.retain(|message| !self.spares(message));
        // raft-rs holds back all that a follower says. That it lives and follows promises nothing that a sync has to
        // come before, but for the term's (etcd's raft says it at once, too); and when the disks of most followers
        // hang for a moment, their leader must not step down for it.
        if self.term_since < number && self.is_persisted(self.term_since) {
            self.send(
                messages
                    .extract_if(.., |message| is_heartbeat_response(message))
                    .collect(),
            );
        }
        if kv::mutants::is("ack-before-sync") {
            self.send(std::mem::take(&mut messages));
        }
        self.raw.advance_append_async(ready);
        self.hand_out(committed, output);
        if must_sync || !self.unpersisted.is_empty() {
            self.unpersisted.push_back((number, self.now, messages));
            match installed {
                Some(at) => output.install = Some(Install { number, at, group }),
                None => output.writes.push(Write { number, group }),
            }
        } else {
            self.raw.on_persist_ready(number);
            self.send(messages);
        }
    }

    /// Whether a leader can do without an answer: to every other heartbeat, as long as nothing happens.
    fn spares(&mut self, message: &Message) -> bool {
        if !is_heartbeat_response(message) {
            return false;
        }
        let log = &self.raw.raft.raft_log;
        let is_at_rest = self.unpersisted.is_empty() && log.committed == log.last_index();
        self.spared_answer = !self.spared_answer && is_at_rest && message.context.is_empty();
        self.spared_answer
    }

    /// Tells followers the commit index when nothing else is about to: with entries on their way the next
    /// append or its successor carries it, and a message of its own would double the traffic.
    pub(super) fn announce_commit(&mut self, output: &mut Output<W>) {
        let committed = self.raw.raft.raft_log.committed;
        let is_news = committed != self.announced_commit && committed == self.raw.raft.raft_log.last_index();
        if !self.leads() || !is_news || self.is_gathering() {
            return;
        }
        self.announced_commit = committed;
        self.raw.raft.bcast_append();
        while self.raw.has_ready() {
            let ready = self.raw.ready();
            self.take_ready(ready, output);
        }
    }

    pub(super) fn hand_out(&mut self, entries: Vec<Entry>, output: &mut Output<W>) {
        for entry in entries {
            assert_eq!(entry.index, self.handed_out + 1, "committed entries have a gap");
            assert_eq!(
                entry.get_entry_type(),
                EntryType::EntryNormal,
                "a configuration change was written by a newer dipper"
            );
            self.handed_out = entry.index;
            self.unapplied_bytes += entry.data.len();
            self.handed_out_bytes.push_back((entry.index, entry.data.len()));
            let (waiters, failed) = self.pending.committed(entry.index, entry.term);
            self.fail(failed);
            let entry = LogEntry {
                index: entry.index,
                term: entry.term,
                data: entry.data,
                conf_state: None,
            };
            output.committed.push(Committed { entry, waiters });
        }
    }

    fn is_persisted(&self, number: u64) -> bool {
        self.unpersisted.front().is_none_or(|(oldest, ..)| number < *oldest)
    }

    pub(super) fn persisted(&mut self, number: u64) {
        self.raw.on_persist_ready(number);
        while self.unpersisted.front().is_some_and(|(own, ..)| *own <= number) {
            if let Some((_, _, messages)) = self.unpersisted.pop_front() {
                self.send(messages);
            }
        }
        self.evict();
    }

    pub(super) fn applied(&mut self, index: u64) {
        self.raw.advance_apply_to(index);
        while self.handed_out_bytes.front().is_some_and(|(own, _)| *own <= index) {
            self.unapplied_bytes -= self.handed_out_bytes.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        self.evict();
        let ready = self.reads.applied(index);
        for read in ready {
            self.answer_read(read);
        }
        self.renewals_decided();
    }

    pub(super) fn evict(&mut self) {
        let (persisted, applied) = (self.raw.raft.raft_log.persisted, self.raw.raft.raft_log.applied);
        self.raw.mut_store().evict(persisted, applied);
    }

    /// How far the log may be truncated now.
    pub(super) fn truncate(&mut self) -> Option<EntryId> {
        let view = self.raw.store();
        let (first, last) = (view.truncated().index, view.last().index);
        let mut keep_from = last.saturating_sub(self.catch_up_entries);
        let progress = self.raw.raft.prs();
        // Check-quorum forgets who is active several times a second, and a member may be down only for a
        // moment: unless all of them are here, what they need to catch up stays.
        if self.leads() && progress.iter().all(|(_, p)| p.recent_active) {
            let slowest = progress.iter().map(|(_, p)| p.matched).min();
            keep_from = keep_from.max(slowest.unwrap_or(0).min(last));
        }
        let in_flight = self.kept_for_snapshots(last);
        let view = self.raw.store();
        let to = keep_from.min(self.flushed.index).min(in_flight);
        // In steps: a truncation is a write, and one entry is not worth it.
        if to < first + limits::TRUNCATE_STEP.min(self.catch_up_entries.max(1)) {
            return None;
        }
        let term = raft::Storage::term(view, to).expect("the entry lies between the first and the last");
        let to = EntryId { index: to, term };
        self.raw.mut_store().truncate(to);
        Some(to)
    }
}

fn is_heartbeat_response(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgHeartbeatResponse
}
