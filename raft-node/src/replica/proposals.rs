//! How waiting writes, this member's and those that peers forwarded, become entries.
//!
//! A batch is one entry: each entry costs every member a message, a synced write and several wake-ups, whatever
//! is in it. One batch is on its way at a time, and what arrives meanwhile is the next one. That alone makes
//! batches of eight on a machine whose processors are all busy, because a sync is short and the clients' replies
//! wait for a processor, not for the disk. So under load a leader gathers a little longer:
//!
//! ```text
//!   cut at once    batches have been small lately (nobody else is expected), or most of as many as came
//!                  together lately are here, at most GATHER_WRITES
//!   else wait      until they are, or nobody came for GATHER_GAP, or GATHER_MAX after the last cut
//! ```
//! The largest of the last batches says how many clients there are: each waits for its reply, so more cannot come.
//! Measured on two cores with three members and 64 clients: 8.8 -> 31 writes an entry, 140 -> 100 us of CPU each.
//!
//! Not here: writes that wait for their entry (`pending`), forwarding them (`peers`).

use proto::node::{Command, CommandBatch};
use raft::eraftpb::{Entry, Message, MessageType};

use prost::Message as _;

use super::{Time, pending::Waiting, replica::Replica};
use crate::{
    limits,
    log::{EntryId, LogReader},
};

/// Batches of which the largest says how many clients there are.
const CUTS: usize = 16;

/// Writes that a peer forwarded in one request.
pub struct FromPeer {
    pub member: u64,
    pub request: u64,
    pub commands: Vec<Command>,
}

/// Where the writes of a batch came from, and where in it they begin.
struct Part<W> {
    offset: usize,
    from: From<W>,
}

enum From<W> {
    Peer { member: u64, request: u64 },
    Here(Vec<Waiting<W>>),
}

/// When the last batch was cut, and how the next one grows.
#[derive(Debug, Default)]
pub struct Gathering {
    cut_at: Time,
    /// Writes in the batches before, a ring.
    cuts: [usize; CUTS],
    cut: usize,
    grew_at: Time,
    /// Writes that waited when they were counted last.
    seen: usize,
}

impl Gathering {
    fn saw(&mut self, now: Time, writes: usize) {
        if writes != self.seen {
            (self.seen, self.grew_at) = (writes, now);
        }
    }

    fn cut(&mut self, now: Time, writes: usize) {
        (self.cut_at, self.seen) = (now, 0);
        self.cuts[self.cut % CUTS] = writes;
        self.cut += 1;
    }

    /// How many writes are worth waiting for: most of as many as came together lately. All of them would make
    /// everybody wait for the last one.
    fn wanted(&self) -> usize {
        match self.cuts.iter().fold(0, |most, writes| most.max(*writes)) {
            most if most < limits::GATHER_FROM_WRITES => 0,
            most => most.min(limits::GATHER_WRITES) * 3 / 4,
        }
    }

    /// Until when more writes are worth waiting for; in the past: cut.
    fn until(&self) -> Time {
        let wanted = self.wanted();
        if self.seen >= wanted {
            return Time::ZERO;
        }
        (self.grew_at + limits::GATHER_GAP).min(self.cut_at + limits::GATHER_MAX)
    }
}

/// How long a replica has nothing to do unless something happens, see [`Replica::rest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Then it wants an [`Input::Wake`](super::Input::Wake).
    pub until: Time,
    /// Fewer writes than this can wait.
    pub writes: usize,
    /// [`Input::Applied`](super::Input::Applied) can wait.
    pub applied: bool,
    /// So many ticks may pass at once, if nothing happens before.
    pub ticks: u32,
}

impl<W, R: LogReader> Replica<W, R> {
    /// What may wait for the next turn.
    pub fn rest(&self) -> Rest {
        let applied = self.reads.open() == 0;
        let ticks = self.idle_ticks();
        let rest = |until, writes| Rest {
            until,
            writes,
            applied,
            ticks,
        };
        if !self.leads() {
            let is_waiting = self.forwards_pause || self.pending.forwards(self.now) >= limits::FORWARDS_MAX;
            return rest(Time::MAX, if is_waiting { usize::MAX } else { 1 });
        }
        if self.is_writing() {
            return rest(Time::MAX, usize::MAX);
        }
        let until = self.gathering.until();
        if self.gathering.seen == 0 || until <= self.now {
            return rest(Time::MAX, 1);
        }
        rest(until, self.gathering.wanted() - self.gathering.seen)
    }

    /// A tick costs a wake-up, a hundred times a second. Of a member with nothing to do a leader needs the next one
    /// that brings a heartbeat, and a follower the last but one before an election: a heartbeat wakes it, and may wait
    /// behind the ticks of a pause.
    fn idle_ticks(&self) -> u32 {
        let has_nothing_open = self.pending.waiting() + self.pending.sent() + self.reads.open() == 0
            && self.unpersisted.is_empty()
            && self.moves.is_empty()
            && self.snapshots_in_flight.is_empty();
        let is_settled = self.leader() != 0 && self.handed_over_at.is_none() && self.installing.is_none();
        if !has_nothing_open || !is_settled {
            return 1;
        }
        let ticks = if self.leads() {
            self.raw.raft.heartbeat_timeout()
        } else {
            let to_election = self.election_timeout().saturating_sub(self.raw.raft.election_elapsed);
            to_election.saturating_sub(1).max(1)
        } as u32;
        let is_due = self.lessor.is_due(self.now + limits::TICK * ticks);
        if is_due { 1 } else { ticks }
    }

    /// Whether a batch is on its way, so that writes that arrive now could only wait: its end is an input.
    fn is_writing(&self) -> bool {
        self.unpersisted.len() >= limits::WRITES_IN_FLIGHT_MAX
    }

    /// Whether writes wait, and a batch of them will be cut in a moment.
    pub(super) fn is_gathering(&self) -> bool {
        let is_free = self.leads() && self.raw.raft.lead_transferee.is_none() && !self.is_writing();
        is_free && self.gathering.seen > 0 && self.gathering.until() > self.now
    }

    /// Cuts a batch, if it is time.
    pub(super) fn propose_waiting(&mut self) {
        if !self.leads() || self.raw.raft.lead_transferee.is_some() || self.is_writing() {
            return;
        }
        let forwarded: usize = self.from_peers.iter().map(|theirs| theirs.commands.len()).sum();
        self.gathering.saw(self.now, forwarded + self.pending.waiting());
        if self.gathering.seen == 0 || self.gathering.until() > self.now {
            return;
        }
        let (mut bytes, mut writes) = (0, 0);
        while bytes < limits::PROPOSED_BYTES_PER_TURN_MAX {
            let (commands, parts) = self.take_batch();
            if commands.is_empty() {
                break;
            }
            bytes += commands.iter().map(Command::encoded_len).sum::<usize>();
            writes += commands.len();
            let id = self.append(commands);
            for part in parts {
                self.settle(part, id);
            }
            if id.is_none() {
                break;
            }
        }
        self.gathering.cut(self.now, writes);
    }

    fn take_batch(&mut self) -> (Vec<Command>, Vec<Part<W>>) {
        let (mut commands, mut parts, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < limits::ENTRY_BYTES_MAX
            && let Some(theirs) = self.from_peers.pop_front()
        {
            bytes += theirs.commands.iter().map(Command::encoded_len).sum::<usize>();
            let (member, request) = (theirs.member, theirs.request);
            let from = From::Peer { member, request };
            let offset = commands.len();
            parts.push(Part { offset, from });
            commands.extend(theirs.commands);
        }
        if bytes < limits::ENTRY_BYTES_MAX {
            let room = if commands.is_empty() {
                usize::MAX
            } else {
                limits::ENTRY_BYTES_MAX - bytes
            };
            let writes = self.pending.take_waiting(room);
            let offset = commands.len();
            commands.extend(writes.iter().map(|write| write.command.clone()));
            let from = From::Here(writes);
            parts.push(Part { offset, from });
        }
        (commands, parts)
    }

    /// Says what became of a part of a batch: the entry it is in, or nothing.
    fn settle(&mut self, part: Part<W>, id: Option<EntryId>) {
        match (part.from, id) {
            (From::Peer { member, request }, id) => self.answer_forward(member, request, id, part.offset as u64),
            (From::Here(writes), None) => self.pending.put_back(writes),
            (From::Here(writes), Some(EntryId { index, term })) => {
                for (position, write) in writes.into_iter().enumerate() {
                    let offset = part.offset + position;
                    self.pending
                        .record_sent((index, term), offset, write.waiter, write.deadline);
                }
            }
        }
    }

    /// Appends one entry; its id, or `None` if raft-rs wants no more now.
    pub(super) fn append(&mut self, commands: Vec<Command>) -> Option<EntryId> {
        let batch = CommandBatch {
            version: proto::COMMAND_VERSION,
            commands,
        };
        let entry = Entry {
            data: batch.encode_to_vec().into(),
            ..Entry::default()
        };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id;
        message.mut_entries().push(entry);
        // Stepped past RawNode, which refuses MsgPropose as a message from the network.
        self.raw.raft.step(message).ok()?;
        Some(EntryId {
            index: self.raw.raft.raft_log.last_index(),
            term: self.raw.raft.term,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Time = Duration::from_secs(5);
    const LARGE: usize = limits::GATHER_FROM_WRITES;

    fn after(cuts: &[usize]) -> Gathering {
        let mut gathering = Gathering::default();
        for writes in cuts {
            gathering.cut(NOW, *writes);
        }
        gathering
    }

    #[test]
    fn behind_small_batches_nobody_is_waited_for() {
        let mut gathering = after(&[LARGE - 1]);
        gathering.saw(NOW, 1);
        assert!(gathering.until() <= NOW);
        let mut gathering = after(&[[LARGE].as_slice(), &[1; CUTS]].concat());
        gathering.saw(NOW, 1);
        assert!(
            gathering.until() <= NOW,
            "a large batch is forgotten after {CUTS} small ones"
        );
    }

    #[test]
    fn as_many_as_came_together_lately_are_waited_for_while_they_come() {
        let mut gathering = after(&[LARGE, 1, 1]);
        gathering.saw(NOW, 1);
        assert_eq!(gathering.until(), NOW + limits::GATHER_GAP);
        let later = NOW + limits::GATHER_GAP / 2;
        gathering.saw(later, 1);
        assert_eq!(gathering.until(), NOW + limits::GATHER_GAP, "nothing came");
        gathering.saw(later, 2);
        assert_eq!(gathering.until(), later + limits::GATHER_GAP);
        gathering.saw(later, LARGE);
        assert!(gathering.until() <= later, "everybody is there");
    }

    #[test]
    fn a_batch_that_is_good_or_late_waits_no_more() {
        let mut gathering = after(&[10 * limits::GATHER_WRITES]);
        gathering.saw(NOW, limits::GATHER_WRITES);
        assert!(gathering.until() <= NOW);
        gathering.saw(NOW + limits::GATHER_MAX, 1);
        assert!(gathering.until() <= NOW + limits::GATHER_MAX);
    }
}
