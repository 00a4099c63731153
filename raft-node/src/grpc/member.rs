//! What the services need of a member, as a trait: the running node is one, and the tests' single process that
//! applies at once is another. Everything that waits takes the deadline of its request.
//!
//! Not a second state machine: no method says what a command means.

use crate::{mailbox::Mailbox, watchers::Watchers};
use kv::{Response, View, engine::Engine};
use proto::{Error, node::Command};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Who answers: the ids in every response header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: u64,
    /// This member's id.
    pub member_id: u64,
}

/// What the flags say about requests.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Operations in one branch of a transaction.
    pub max_txn_ops: usize,
    /// Bytes of one proposal.
    pub max_request_bytes: usize,
    /// Live bytes above which growing writes are refused; `None` is no quota.
    pub quota_bytes: Option<u64>,
    /// How often a quiet watch that asked for it reports progress.
    pub progress_interval: Duration,
    /// How long a request without a deadline of its own waits.
    pub request_timeout: Duration,
    /// After how long without a leader a stream that requires one ends.
    pub require_leader_after: Duration,
}

/// What a member knows of the cluster at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// The leader's id; 0 is none.
    pub leader: u64,
    /// raft's term.
    pub term: u64,
    /// The last entry in this member's log.
    pub raft_index: u64,
    /// The last entry in this member's state.
    pub applied_index: u64,
    /// Bytes that the state takes on disk.
    pub disk_bytes: u64,
    /// Whether the disk has so little free space that growing writes must be refused.
    pub disk_full: bool,
    /// Whether a current leader's commit index has been applied since the start: before that a local read
    /// could go back behind what this member answered before it stopped.
    pub serving: bool,
}

/// A member, as the services see it.
pub trait Member: Send + Sync + 'static {
    /// Where its state is kept.
    type Engine: Engine;

    /// Its ids.
    fn identity(&self) -> Identity;
    /// Its bounds on requests.
    fn limits(&self) -> &Limits;
    /// Replicates and applies `command`; forwards it when another member leads.
    fn propose(&self, command: Command, deadline: Instant) -> impl Future<Output = Result<Response, Error>> + Send;
    /// As [`Self::propose`], for many commands: each outcome arrives in `to`, under its command's id. The ids of those
    /// that found no place are returned; they were not proposed.
    fn submit(&self, commands: Vec<(u64, Command, Instant)>, to: &Arc<Mailbox>) -> Vec<u64>;
    /// A View that holds every write that was acknowledged anywhere before the call.
    fn read_index(&self, deadline: Instant) -> impl Future<Output = Result<Arc<View<Self::Engine>>, Error>> + Send;
    /// The latest published View.
    fn view(&self) -> Arc<View<Self::Engine>>;
    /// The latest published View, once this member serves.
    fn settled_view(&self, deadline: Instant) -> impl Future<Output = Result<Arc<View<Self::Engine>>, Error>> + Send {
        async move {
            if !self.standing().serving {
                let mut serving = self.serving();
                let settled = tokio::time::timeout_at(deadline, serving.wait_for(|serving| *serving)).await;
                settled.map_err(|_| Error::NoLeader)?.map_err(|_| Error::Stopped)?;
            }
            Ok(self.view())
        }
    }
    /// Runs a read that may touch the disk on the bounded pool; `RequestTooManyRequests` when that is full.
    fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Error>> + Send;
    /// The member's latest published status.
    fn standing(&self) -> Standing;
    /// The leader's id as it changes; 0 is none.
    fn leader(&self) -> watch::Receiver<u64>;
    /// Whether the member has applied what a current leader had committed when it started.
    fn serving(&self) -> watch::Receiver<bool>;
    /// Turns true when the member begins to stop.
    fn stopping(&self) -> watch::Receiver<bool>;
    /// Who watches what on this member.
    fn watchers(&self) -> &Watchers;
    /// A lease id that no other call and no other member returns, positive.
    fn next_lease_id(&self) -> i64;
    /// Renews a lease on the leader: the TTL that it was granted, 0 when there is no such lease.
    fn lease_renew(&self, id: i64, deadline: Instant) -> impl Future<Output = Result<i64, Error>> + Send;
    /// Seconds that a lease has left, by the leader's clock; -1 when there is no such lease.
    fn lease_remaining(&self, id: i64, deadline: Instant) -> impl Future<Output = Result<i64, Error>> + Send;
    /// Hands leadership to `target`, a voter, and waits until it leads. Only on the leader.
    fn move_leader(&self, target: u64, deadline: Instant) -> impl Future<Output = Result<(), Error>> + Send;
    /// A runtime has done all it could for now: what its requests asked for is worth waking somebody.
    fn resting(&self);
}
