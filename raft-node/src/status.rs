//! What a member is doing, as one value: the driver publishes a `Status` a turn, everything that reports
//! (metrics, health, Maintenance.Status, response headers) renders the last one.
//!
//! Plain data only. Nothing here is counted by those who read it, and nothing here decides anything; what
//! the state machine holds (revision, keys, alarms) is in its View, not here.

use crate::histogram::Histogram;
use std::sync::Arc;

/// Durations with the bounds that etcd gives to syncs, commits and requests: 1 ms to 8 s.
pub type SlowHistogram = Histogram<1000, 14>;
/// Durations with the bounds that etcd gives to applies: 0.1 ms to 52 s.
pub type FineHistogram = Histogram<100, 20>;

/// One member at the end of one turn of its driver.
// Each of them is a fact of its own, not a state of one machine.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Of the cluster, by etcd's algorithm.
    pub cluster_id: u64,
    /// Of this member.
    pub member_id: u64,
    /// The leader that this member follows, or 0.
    pub leader: u64,
    /// The current term.
    pub term: u64,
    /// What this member is in that term.
    pub state: State,
    /// Whether it takes part without a vote.
    pub is_learner: bool,
    /// Whether the commit index of a current leader has been applied since the start: before that,
    /// nothing is served.
    pub ready: bool,
    /// Whether new work is refused because the member stops.
    pub stopping: bool,
    /// The newest entry in the log, synced or not.
    pub last_index: u64,
    /// The newest entry that a majority holds.
    pub committed_index: u64,
    /// The newest entry that the state machine holds.
    pub applied_index: u64,
    /// The newest entry that the state machine holds on disk.
    pub flushed_index: u64,
    /// The first entry that is still in the log.
    pub first_index: u64,
    /// What the log takes on disk.
    pub log_bytes: u64,
    /// Who votes, sorted.
    pub voters: Vec<u64>,
    /// Proposals by what became of them.
    pub proposals: Proposals,
    /// Linearizable reads by what became of them.
    pub reads: Reads,
    /// Elections that this member has seen the winner of.
    pub leader_changes_seen: u64,
    /// Heartbeats that were dropped on the way to a peer.
    pub heartbeat_send_failures: u64,
    /// Applies of a batch that took longer than the limit for a warning.
    pub slow_applies: u64,
    /// Snapshots that replaced the state of this member since it started.
    pub snapshots_installed: u64,
    /// Whether one is replacing it now.
    pub snapshot_installing: bool,
    /// Unsynced bytes behind MARK that were cut at this start.
    pub torn_tail_cut_bytes: u64,
    /// Every bounded queue of the member.
    pub queues: Vec<Queue>,
    /// What took how long.
    pub timings: Timings,
    /// Why the member stops or stepped down last.
    pub last_stop_reason: Option<Arc<str>>,
}

/// What a member is in its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether an election could be won.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// Counts of what clients proposed through this member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proposals {
    /// Accepted and not yet answered.
    pub pending: u64,
    /// Answered with an error that is not the state machine's.
    pub failed: u64,
}

/// Counts of linearizable reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Waiting for a read index.
    pub pending: u64,
    /// Given up without a read index.
    pub failed: u64,
    /// Read indexes that took longer than the limit for a warning.
    pub slow: u64,
}

/// One bounded queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// As in `limits.rs`.
    pub name: &'static str,
    /// How many wait in it.
    pub depth: u64,
    /// How many may wait.
    pub capacity: u64,
    /// How many were refused or dropped because it was full.
    pub dropped: u64,
}

/// Durations, each observed by one thread and copied here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// One synced write of the log.
    pub log_sync: SlowHistogram,
    /// One WriteBatch of the state machine.
    pub backend_commit: SlowHistogram,
    /// One batch of entries, from the first to the published View.
    pub apply: FineHistogram,
    /// From the inbox's door until the driver takes it.
    pub queue_wait: FineHistogram,
    /// A proposal, from acceptance to its answer.
    pub proposal: SlowHistogram,
}

impl Status {
    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.leader != 0
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.state == State::Leader
    }
}

impl Timings {
    /// Adds what another thread observed.
    pub fn merge(&mut self, other: &Timings) {
        self.log_sync.merge(&other.log_sync);
        self.backend_commit.merge(&other.backend_commit);
        self.apply.merge(&other.apply);
        self.queue_wait.merge(&other.queue_wait);
        self.proposal.merge(&other.proposal);
    }
}
