//! What depends on who leads: whose word pending requests wait for, when leases end, and when a leader should
//! not be one any more.

use proto::{
    Error,
    node::{Command, Forward, Lane, LeaseExpire, command::Op, peer_request::Body as RequestBody},
};

use super::{Answer, Time, replica::Replica};
use crate::{limits, log::LogReader};

impl<W, R: LogReader> Replica<W, R> {
    /// Leaders come and go inside of raft-rs; what depends on it is set right here.
    pub(super) fn notice_leader(&mut self) {
        let leader = self.leader();
        if leader == self.last_leader {
            return;
        }
        if leader != 0 {
            self.standing.leader_changes += 1;
        }
        self.pending.doubt(leader, self.now);
        self.standing.reads_asked_again += self.reads.ask_again() as u64;
        if leader == self.id {
            self.lessor.promote(self.now);
        } else {
            self.lessor.expiry_failed();
            self.handed_over_at = None;
            self.refuse_peers();
        }
        if leader != 0 {
            for (target, waiter, _) in std::mem::take(&mut self.moves) {
                let answer = if target == leader {
                    Answer::Moved
                } else {
                    Answer::Failed(Error::LeaderChanged)
                };
                self.answers.push((waiter, answer));
            }
        }
        self.last_leader = leader;
        self.leaderless_since = (leader == 0).then_some(self.now);
    }

    /// Clients of a member that has lost its leader for long are told, and may go elsewhere. At a start they
    /// wait for the first one.
    pub(super) fn abandon_if_leaderless(&mut self) {
        let patience = limits::LEADERLESS_MAX.max(limits::TICK * 3 * self.stagger.base as u32);
        if self
            .leaderless_since
            .is_some_and(|since| self.now.saturating_sub(since) >= patience)
        {
            let failed = self.pending.abandon_sent(&Error::TimeoutDueToLeaderFail);
            self.fail(failed);
            let failed = self.reads.abandon();
            self.fail_reads(failed);
        }
    }

    pub(super) fn expire_leases(&mut self) {
        if kv::mutants::is("stale-leader-revokes") && !self.leads() && self.leader() != 0 {
            self.revoke_though_deposed();
        }
        // Not before everything of earlier terms is applied: a lease may just have been revoked there.
        if !self.leads() || !self.raw.raft.apply_to_current_term() {
            return;
        }
        let ids = self.lessor.take_expired(self.now, limits::LEASES_EXPIRED_PER_TURN_MAX);
        if ids.is_empty() {
            return;
        }
        let expire = LeaseExpire {
            term: self.raw.raft.term,
            ids: ids.clone(),
        };
        let command = Command {
            op: Some(Op::LeaseExpire(expire)),
        };
        if self.append(vec![command]).is_none() {
            self.lessor.expiry_refused(&ids);
        }
    }

    /// A seeded bug: by a clock that knows of no renewal, and past the term in the command.
    fn revoke_though_deposed(&mut self) {
        let ids = self.lessor.take_expired(self.now, limits::LEASES_EXPIRED_PER_TURN_MAX);
        if ids.is_empty() {
            return;
        }
        let term = self.raw.raft.term;
        let command = Command {
            op: Some(Op::LeaseExpire(LeaseExpire { term, ids })),
        };
        let request = self.new_request();
        let forward = RequestBody::Forward(Forward {
            commands: vec![command],
        });
        self.ask_peer(self.leader(), request, forward, Lane::Bulk);
    }

    pub(super) fn move_leader(&mut self, target: Option<u64>, waiter: W, deadline: Time) {
        if !self.leads() {
            self.answers.push((waiter, Answer::Failed(Error::NotLeader)));
            return;
        }
        let Some(target) = target.or_else(|| self.best_follower()) else {
            self.answers.push((waiter, Answer::Failed(Error::Unhealthy)));
            return;
        };
        if target == self.id {
            self.answers.push((waiter, Answer::Moved));
        } else if self.voters().contains(&target) {
            self.raw.transfer_leader(target);
            self.moves.push((target, waiter, deadline));
        } else {
            self.answers.push((waiter, Answer::Failed(Error::BadLeaderTransferee)));
        }
    }

    /// The voter that needs the least to lead, of those that were heard of lately if there are any: check-quorum
    /// forgets whom it has heard several times a second, so right now it may be nobody.
    pub(super) fn best_follower(&self) -> Option<u64> {
        let others = self.voters().into_iter().filter(|voter| *voter != self.id);
        others
            .filter_map(|voter| Some((voter, self.raw.raft.prs().get(voter)?)))
            .max_by_key(|(voter, progress)| (progress.recent_active, progress.matched, std::cmp::Reverse(*voter)))
            .map(|(voter, _)| voter)
    }

    /// Asks the best follower to lead, or another one if that has become doubtful.
    fn hand_over(&mut self) {
        let was_heard = |voter: u64| {
            self.raw
                .raft
                .prs()
                .get(voter)
                .is_some_and(|progress| progress.recent_active)
        };
        let asked = self.raw.raft.lead_transferee;
        let Some(target) = self.best_follower() else { return };
        if asked.is_none_or(|asked| !was_heard(asked) && was_heard(target)) {
            self.raw.transfer_leader(target);
        }
    }

    /// A leader whose disk hangs hands over; if nobody takes over in time, it steps down. It stays when the others
    /// commit nothing either: then their disks hang too, and a vote would take as long as a write.
    pub(super) fn watch_disk(&mut self) {
        self.abandon_if_hung();
        let since = self.unpersisted.front().map(|(_, since, _)| *since);
        let hangs = since.is_some_and(|since| self.now.saturating_sub(since) >= limits::SLOW_SYNC);
        if !hangs || !self.leads() || !self.is_overtaken() {
            self.handed_over_at = None;
            return;
        }
        if self.handed_over_at.is_none() {
            self.hung_write = self.unpersisted.front().map(|(number, ..)| *number);
            self.standing.slow_disk_handovers += 1;
        }
        let since = *self.handed_over_at.get_or_insert(self.now);
        if self.now.saturating_sub(since) < limits::HAND_OVER_SLOW_DISK {
            self.hand_over();
            return;
        }
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, 0);
        self.handed_over_at = None;
    }

    /// Whether the others commit without this member: their disks are better than its own.
    fn is_overtaken(&self) -> bool {
        self.raw.raft.raft_log.committed > self.raw.raft.raft_log.persisted
    }

    /// A leader that handed over because of its disk cannot say what became of its writes while the disk hangs.
    /// Once for each time: as a follower it is slow, and whoever asks it waits.
    fn abandon_if_hung(&mut self) {
        let Some(hung) = self.hung_write else { return };
        match self.unpersisted.front() {
            Some((number, since, _)) if *number == hung => {
                if !self.leads() && self.now.saturating_sub(*since) >= limits::HUNG_SYNC {
                    self.hung_write = None;
                    // Not the error of a lost leader: that would tell clients that this member is a good one to stay with.
                    let failed = self.pending.abandon_sent(&Error::Timeout);
                    self.fail(failed);
                    // They came while this member led. Sent now, they too would wait for its disk.
                    let failed = self.pending.abandon_waiting(&Error::NoLeader);
                    self.fail(failed);
                }
            }
            _ => self.hung_write = None,
        }
    }
}
