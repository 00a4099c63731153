//! What raft-rs gets to know of a replica's configuration. raft-rs's own defaults are not safe to
//! run with: one entry a message, no pre-vote, no bound on anything.

use raft::Config;

use super::{election::Stagger, replica::ReplicaConfig};
use crate::limits;

impl ReplicaConfig {
    /// The configuration of raft-rs.
    pub(super) fn raft(&self, stagger: &Stagger) -> Config {
        Config {
            id: self.id,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied: self.applied,
            max_size_per_msg: limits::APPEND_BYTES_MAX,
            max_inflight_msgs: limits::APPENDS_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: self.election_ticks,
            max_election_tick: stagger.upper_bound(),
            // See step: it makes appends with a gap.
            batch_append: false,
            // Under load followers learn the commit index from the next append; see announce_commit.
            skip_bcast_commit: true,
            max_uncommitted_size: limits::UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: limits::COMMITTED_BYTES_PER_TURN_MAX,
            ..Config::default()
        }
    }
}
