//! A member as a value: raft-rs, and who waits for what.
//!
//! A [`Replica`] turns [`Input`]s into an [`Output`] and does nothing else: no I/O, no clock, no thread, no
//! randomness. Time and the completion of disk writes are inputs, so a simulator can crash a member between
//! a write and its sync, and the same inputs always give the same outputs. The driver is the only other
//! user.
//!
//! ```text
//!   handle(now, input)*            anything that happened since the last turn
//!   take_output() -> Output        what to send, write, apply and answer
//!     frames      to peers, in order per lane        committed   to the apply thread, with their waiters
//!     writes      to the log thread; then            answers     to whoever waits
//!                 Input::Persisted
//!   rest() -> Rest                 what need not make a turn, and until when
//! ```

mod config;
mod election;
mod leadership;
mod lessor;
mod peers;
mod pending;
mod proposals;
mod reads;
mod ready;
#[allow(clippy::module_inception)]
mod replica;
mod snapshot;
mod storage;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use kv::{LeaseChange, LogEntry};
use proto::{
    Error,
    node::{Command, Lane, PeerFrame, PeerRequest, peer_frame::Body, peer_request::Body as RequestBody},
};
use raft::eraftpb::MessageType;

pub use election::mix;
pub use proposals::Rest;
pub use replica::{Replica, ReplicaConfig};
pub use storage::{LogStart, initial_conf_state, start_of};

use crate::log::{EntryId, LogWrite};

/// Monotonic time since the process (or the simulation) began.
pub type Time = Duration;

/// All that can happen to a member. `W` is whoever waits for an answer: the replica only hands it on.
pub enum Input<W> {
    /// The clock moved on by one tick. Never more than one for a pause, however long.
    Tick,
    /// The time has come that [`Replica::rest`] named.
    Wake,
    /// The member stops: whoever still waits is told now that nothing will come of it here.
    GiveUp,
    /// A client's write. Answered through [`Committed`], or with [`Answer::Failed`].
    Propose {
        command: Command,
        waiter: W,
        deadline: Time,
    },
    /// A linearizable read wants to know from when on this member's state is new enough.
    Read { waiter: W, deadline: Time },
    /// A lease is to live on.
    LeaseRenew { id: i64, waiter: W, deadline: Time },
    /// How long has a lease to live?
    LeaseRemaining { id: i64, waiter: W, deadline: Time },
    /// Leadership is to move to `target`, or to whoever is best when this member stops.
    MoveLeader {
        target: Option<u64>,
        waiter: W,
        deadline: Time,
    },
    /// A peer said something.
    Frame { from: u64, frame: PeerFrame },
    /// A forwarded request found no way to its peer: nobody has seen it, or ever will.
    NotForwarded { request: u64 },
    /// The connection to a peer is gone: what was on its way may be lost.
    Unreachable { member: u64 },
    /// Every [`Write`] up to this one is durable.
    Persisted { number: u64 },
    /// Every entry up to `index` is applied.
    Applied {
        index: u64,
        lease_changes: Vec<LeaseChange>,
    },
    /// The state as of this entry is durable: the log is no longer needed for it.
    Flushed { applied: EntryId },
    /// A snapshot was made for the peers that need one.
    SnapshotMade { at: EntryId },
    /// A snapshot reached its peer, or did not.
    SnapshotSent { to: u64, ok: bool },
    /// A snapshot's files arrived and were verified; `message` is the raft message that belongs to them.
    SnapshotArrived { from: u64, message: Bytes },
    /// State and log were replaced by the snapshot of [`Output::install`], which ends at `index`, and every
    /// [`Write`] up to its `number` is durable; these leases (id, TTL) are in it. One input, because an entry
    /// behind the snapshot must not be applied between the two halves.
    Installed {
        number: u64,
        index: u64,
        leases: Vec<(i64, i64)>,
    },
}

/// What a turn decided. Everything in it is to be done in the order of the fields.
pub struct Output<W> {
    pub frames: Vec<Outgoing>,
    pub writes: Vec<Write>,
    pub committed: Vec<Committed<W>>,
    pub answers: Vec<(W, Answer)>,
    /// The log is not needed up to this entry.
    pub truncate: Option<EntryId>,
    /// A peer needs a snapshot: make one and say [`Input::SnapshotMade`].
    pub snapshot_wanted: bool,
    /// Send the files of the snapshot that ends at the entry to these members, with the raft message that
    /// installs them; where they are gone already, say [`Input::SnapshotSent`] with `ok: false`.
    pub send_snapshots: Vec<(u64, EntryId, Bytes)>,
    /// Replace state and log by the snapshot that arrived, then say [`Input::Installed`].
    pub install: Option<Install>,
    /// Snapshots that arrived and are of no use: remove their files.
    pub discard_snapshots: Vec<EntryId>,
}

/// A frame to a peer.
#[derive(Debug)]
pub struct Outgoing {
    pub to: u64,
    pub lane: Lane,
    pub frame: PeerFrame,
}

impl Outgoing {
    /// The id of the request, if the frame forwards a client's writes.
    pub fn forward(&self) -> Option<u64> {
        match &self.frame.body {
            Some(Body::Request(PeerRequest {
                id,
                body: Some(RequestBody::Forward(_)),
            })) => Some(*id),
            _ => None,
        }
    }
}

/// How many writes of clients a frame forwards.
pub fn forwarded_writes(frame: &PeerFrame) -> usize {
    match &frame.body {
        Some(Body::Request(PeerRequest {
            body: Some(RequestBody::Forward(forward)),
            ..
        })) => forward.commands.len(),
        _ => 0,
    }
}

/// Whether a frame answers a heartbeat: it can wait for the next tick, unless a read waits for it.
pub fn is_heartbeat_answer(frame: &PeerFrame) -> bool {
    // The type is a raft message's first field.
    let answer = [8, MessageType::MsgHeartbeatResponse as u8];
    matches!(&frame.body, Some(Body::Raft(message)) if message.starts_with(&answer))
}

/// A group for the log thread. Numbers rise by one.
#[derive(Debug)]
pub struct Write {
    pub number: u64,
    pub group: LogWrite,
}

/// An entry that a quorum has, in the order of the log.
pub struct Committed<W> {
    pub entry: LogEntry,
    /// Who waits for which command of the entry.
    pub waiters: Vec<(usize, W)>,
}

/// The state machine and the log are to become what a snapshot says.
#[derive(Debug)]
pub struct Install {
    pub number: u64,
    pub at: EntryId,
    pub group: LogWrite,
}

/// What a waiter is told, unless the answer comes from applying its command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The state that is published from now on is new enough.
    Read,
    /// A lease's seconds: granted again, or remaining; 0 or -1 where it does not exist.
    Lease(i64),
    /// Leadership moved.
    Moved,
    Failed(Error),
}

/// A member's role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// What everybody may know of a replica; plain data, made once a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    pub term: u64,
    /// 0 while none is known.
    pub leader: u64,
    pub last_index: u64,
    pub committed: u64,
    pub applied: u64,
    pub truncated: u64,
    pub voters: Vec<u64>,
    /// Whether a current leader's commit index has been applied since this member started.
    pub serving: bool,
    pub leader_changes: u64,
    pub proposals_waiting: usize,
    pub proposals_sent: usize,
    pub proposals_failed: u64,
    pub reads_waiting: usize,
    pub read_rounds: u64,
    pub reads_asked_again: u64,
    pub slow_disk_handovers: u64,
    pub appends_refused: u64,
}
