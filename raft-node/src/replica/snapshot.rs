//! The raft side of snapshots: metadata in, metadata out. Files travel beside raft's messages.
//!
//! Sending: raft-rs asks the log view for a snapshot, which wants one made; the driver makes a checkpoint
//! and says at which entry; raft-rs asks again and its MsgSnapshot leaves together with the files, to be
//! stepped by the receiver only after every file has been verified there.

use bytes::Bytes;
use protobuf::Message as _;
use raft::{
    SnapshotStatus,
    eraftpb::{Message, MessageType, SnapshotMetadata},
};

use super::{Time, replica::Replica};
use crate::{
    limits,
    log::{EntryId, LogReader},
};

/// A snapshot that a member has not caught up from.
pub(super) struct InFlight {
    index: u64,
    /// When its files had arrived there.
    sent_at: Option<Time>,
}

impl<W, R: LogReader> Replica<W, R> {
    pub(super) fn snapshot_made(&mut self, at: EntryId) {
        let conf_state = self.raw.raft.prs().conf().to_conf_state();
        let mut metadata = SnapshotMetadata {
            index: at.index,
            term: at.term,
            ..SnapshotMetadata::default()
        };
        metadata.set_conf_state(conf_state);
        self.raw.mut_store().set_snapshot(Some(metadata));
    }

    pub(super) fn snapshot_sent(&mut self, to: u64, ok: bool) {
        // The next peer in need gets a fresh one: these files may be removed now.
        self.raw.mut_store().set_snapshot(None);
        self.raw.report_snapshot(
            to,
            if ok {
                SnapshotStatus::Finish
            } else {
                SnapshotStatus::Failure
            },
        );
        let now = self.now();
        match self.snapshots_in_flight.get_mut(&to) {
            Some(snapshot) if ok => snapshot.sent_at = Some(now),
            _ => drop(self.snapshots_in_flight.remove(&to)),
        }
    }

    /// From where on the log is kept for members that have a snapshot on its way or are about to install one:
    /// without it, entries written meanwhile would be truncated, and the next snapshot would follow this one.
    pub(super) fn kept_for_snapshots(&mut self, last: u64) -> u64 {
        let (now, leads, catch_up) = (self.now(), self.leads(), self.catch_up_entries);
        let progress = self.raw.raft.prs();
        self.snapshots_in_flight.retain(|member, snapshot| {
            let Some(sent_at) = snapshot.sent_at else { return true };
            let has_caught_up = progress.get(*member).is_none_or(|p| p.matched + catch_up >= last);
            leads && !has_caught_up && now.saturating_sub(sent_at) < limits::SNAPSHOT_SETTLES_IN
        });
        self.snapshots_in_flight
            .values()
            .map(|snapshot| snapshot.index)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Separates MsgSnapshot from what leaves as a frame.
    pub(super) fn snapshot_leaves(&mut self, message: &Message) -> bool {
        if message.get_msg_type() != MessageType::MsgSnapshot {
            return false;
        }
        let at = end_of(message);
        let (index, sent_at) = (at.index, None);
        self.snapshots_in_flight.insert(message.to, InFlight { index, sent_at });
        self.send_snapshots.push((message.to, at, encode(message)));
        true
    }

    /// The files of a snapshot are here and verified. raft-rs decides whether it is news.
    pub(super) fn snapshot_arrived(&mut self, now: Time, from: u64, bytes: &Bytes) {
        let Ok(message) = Message::parse_from_bytes(bytes) else {
            return;
        };
        let at = end_of(&message);
        if message.from == from && message.to == self.id && message.get_msg_type() == MessageType::MsgSnapshot {
            self.step(now, message);
        }
        let is_news = self
            .raw
            .snap()
            .is_some_and(|snapshot| snapshot.get_metadata().index > 0);
        // What is being installed is needed, also when it arrives once more.
        if !is_news && self.installing.is_none() && !self.untimely_snapshots.contains(&at) {
            self.untimely_snapshots.push(at);
        }
    }

    /// Snapshots that never will be news. One that came in another term may come again and be news then, and its
    /// files must not be removed under the installation; so each is kept until the log has passed it.
    pub(super) fn useless_snapshots(&mut self) -> Vec<EntryId> {
        if self.installing.is_some() {
            return Vec::new();
        }
        let committed = self.raw.raft.raft_log.committed;
        self.untimely_snapshots
            .extract_if(.., |at| at.index <= committed)
            .collect()
    }

    /// From now on the log begins behind the snapshot; the state follows with `Installed`.
    pub(super) fn begin_install(&mut self, number: u64, metadata: &SnapshotMetadata) -> EntryId {
        let at = EntryId {
            index: metadata.index,
            term: metadata.term,
        };
        self.raw.mut_store().reset(at);
        self.untimely_snapshots.retain(|untimely| *untimely != at);
        self.handed_out = at.index;
        let skipped = self.pending.skipped(at.index);
        self.fail(skipped);
        self.installing = Some(number);
        if kv::mutants::is("serve-while-installing") {
            for read in self.reads.applied(at.index) {
                self.answer_read(read);
            }
        }
        at
    }
}

/// The last entry of the snapshot that a message announces.
fn end_of(message: &Message) -> EntryId {
    let metadata = message.get_snapshot().get_metadata();
    EntryId {
        index: metadata.index,
        term: metadata.term,
    }
}

pub(super) fn encode(message: &Message) -> Bytes {
    Bytes::from(
        message
            .write_to_bytes()
            .expect("a message that raft-rs made can be encoded"),
    )
}
