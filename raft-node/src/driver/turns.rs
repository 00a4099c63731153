//! A turn of the raft thread: what happened goes into the replica, and what it decided is carried out.
//!
//! Not here: which thread takes the turns, see `desk.rs`.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use proto::node::Lane;
use slog::{Logger, info, warn};
use tokio::sync::watch;

use super::{
    ApplyTask, Outcome, Published, RaftInbox, Reply,
    checkpoints::Checkpoints,
    desk::{Bench, LogQueue, Turn},
    log::LogTask,
    replies::Outcomes,
};
use crate::{
    inbox::{Inbox, Patience},
    limits,
    log::LogReader,
    peer::PeerNet,
    replica::{Input, Output, Replica, Rest, Role, Standing, Time},
    status::{Proposals, Queue, Reads, State, Status},
};

/// The status is made anew so often at least.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Raft's clock: as many ticks as were meant to pass, never more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ticks {
    last: Time,
}

impl Ticks {
    /// When there will be something to take, if `planned` ticks may pass at once.
    fn next(self, planned: u32) -> Time {
        self.last + limits::TICK * planned
    }

    /// The ticks that have passed, of those that were planned. A pause brings no more than that, however long: a burst
    /// would end elections and leases early.
    fn take(&mut self, now: Time, planned: u32) -> u32 {
        let passed = now.saturating_sub(self.last).as_nanos() / limits::TICK.as_nanos();
        let ticks = planned.min(u32::try_from(passed).unwrap_or(u32::MAX));
        if ticks > 0 {
            self.last = (self.last + limits::TICK * ticks).max(now.saturating_sub(limits::TICK));
        }
        ticks
    }
}

/// The raft thread's work, one turn at a time.
pub struct Turns<R: LogReader> {
    pub replica: Replica<Reply, R>,
    pub inbox: Arc<RaftInbox>,
    pub inputs: Vec<Input<Reply>>,
    pub outcomes: Outcomes,
    pub log: Arc<LogQueue>,
    pub apply: Arc<Inbox<ApplyTask>>,
    pub peers: Arc<PeerNet>,
    pub published: Arc<Published>,
    pub checkpoints: Checkpoints,
    pub clock: Instant,
    pub ticks: Ticks,
    /// As the last turn left the replica.
    pub rest: Rest,
    pub published_at: Time,
    pub heartbeats_dropped: u64,
    pub last: Standing,
    pub stopping: watch::Receiver<bool>,
    pub logger: Logger,
}

impl<R: LogReader> Turn for Turns<R> {
    /// Everything that happened becomes everything there is to do. False when there are no more turns.
    fn turn(&mut self) -> bool {
        if *self.stopping.borrow() {
            return false;
        }
        self.inbox.take(&mut self.inputs);
        let now = self.clock.elapsed();
        let rest = self.rest;
        if now >= rest.until {
            self.inputs.push(Input::Wake);
        }
        // What arrives after a time is judged by that time: a vote may be given that could not before it.
        let ticks = self.ticks.take(now, rest.ticks);
        for _ in 0..ticks {
            self.replica.handle(now, Input::Tick);
        }
        let mut inputs = std::mem::take(&mut self.inputs);
        for input in inputs.drain(..) {
            self.note_snapshot(&input);
            self.replica.handle(now, input);
        }
        self.inputs = inputs;
        let output = self.replica.take_output();
        self.carry_out(output);
        self.publish(ticks > 0);
        self.rest = self.replica.rest();
        let until = self.ticks.next(self.rest.ticks).min(self.rest.until);
        let patience = Patience {
            below: self.rest.writes,
            is_deaf: self.rest.applied,
        };
        self.inbox.rest(self.clock + until, patience);
        true
    }
}

impl Bench for RaftInbox {
    fn sleep(&self) {
        Self::sleep(self);
    }

    fn call(&self) {
        Self::call(self);
    }
}

impl<R: LogReader> Turns<R> {
    fn note_snapshot(&mut self, input: &Input<Reply>) {
        match input {
            Input::SnapshotMade { at } => self.checkpoints.made(*at),
            Input::SnapshotSent { to, .. } => {
                if let Some(directory) = self.checkpoints.sent(*to) {
                    self.apply.push_completion(ApplyTask::Remove(directory));
                }
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, output: Output<Reply>) {
        let sends = !output.frames.is_empty();
        for frame in output.frames {
            let urgent = frame.lane == Lane::Urgent;
            let forward = frame.forward();
            let sent = self.peers.send(frame.to, frame.lane, frame.frame);
            if sent == crate::peer::Sent::Dropped {
                self.heartbeats_dropped += u64::from(urgent);
                if let Some(request) = forward {
                    self.inbox.push_completion(Input::NotForwarded { request });
                }
            }
        }
        if sends {
            self.peers.flush();
        }
        for write in output.writes {
            self.log.push(LogTask::Write(write));
        }
        if !output.committed.is_empty() {
            self.apply
                .push_completion(ApplyTask::Entries(output.committed, Instant::now()));
        }
        for (waiter, answer) in output.answers {
            self.outcomes.add(waiter, Outcome::Answered(answer));
        }
        self.outcomes.send();
        if let Some(to) = output.truncate {
            self.log.push(LogTask::Truncate(to));
        }
        if output.snapshot_wanted && self.checkpoints.begin() {
            self.apply
                .push_completion(ApplyTask::Checkpoint(self.checkpoints.directory()));
        }
        for (to, at, message) in output.send_snapshots {
            if let Some(source) = self.checkpoints.source(to, at, message) {
                info!(self.logger, "sending snapshot"; "to" => format!("{to:x}"), "index" => source.index);
                self.peers.send_snapshot(to, source);
            } else {
                // Without a word raft would wait for its end for ever.
                self.inbox.push_completion(Input::SnapshotSent { to, ok: false });
            }
        }
        if let Some(install) = output.install {
            self.published.installing.store(1, Ordering::Relaxed);
            info!(self.logger, "installing snapshot"; "index" => install.at.index);
            self.log.push(LogTask::Install(install));
        }
        for at in output.discard_snapshots {
            warn!(self.logger, "discarding a snapshot that is not news"; "index" => at.index);
            self.apply.push_completion(ApplyTask::Forget(at));
        }
    }

    fn publish(&mut self, ticked: bool) {
        let standing = self.replica.standing();
        let led = (standing.leader, standing.term, standing.role, standing.serving);
        let was = (self.last.leader, self.last.term, self.last.role, self.last.serving);
        // What others count beside the standing may be a second old.
        let now = self.clock.elapsed();
        let is_old = now.saturating_sub(self.published_at) >= PUBLISH_EVERY;
        if led == was && (!ticked || (*standing == self.last && !is_old)) {
            return;
        }
        self.published_at = now;
        if standing.leader != self.last.leader || standing.role != self.last.role {
            info!(self.logger, "raft standing changed"; "role" => format!("{:?}", standing.role),
                "term" => standing.term, "leader" => format!("{:x}", standing.leader),
                "committed" => standing.committed, "last" => standing.last_index);
        }
        self.last = standing.clone();
        self.published.status.store(Arc::new(self.status()));
        set_if_new(&self.published.leader, self.last.leader);
        set_if_new(&self.published.serving, self.last.serving);
    }

    fn status(&self) -> Status {
        let previous = self.published.status.load();
        let standing = &self.last;
        Status {
            leader: standing.leader,
            term: standing.term,
            state: match standing.role {
                Role::Follower => State::Follower,
                Role::PreCandidate => State::PreCandidate,
                Role::Candidate => State::Candidate,
                Role::Leader => State::Leader,
            },
            ready: standing.serving,
            last_index: standing.last_index,
            committed_index: standing.committed,
            applied_index: standing.applied,
            flushed_index: self.published.flushed.load(Ordering::Relaxed),
            first_index: standing.truncated + 1,
            log_bytes: self.published.log_bytes.load(Ordering::Relaxed),
            voters: standing.voters.clone(),
            proposals: Proposals {
                pending: (standing.proposals_waiting + standing.proposals_sent) as u64,
                failed: standing.proposals_failed,
            },
            reads: Reads {
                pending: standing.reads_waiting as u64,
                ..previous.reads
            },
            leader_changes_seen: standing.leader_changes,
            heartbeat_send_failures: self.heartbeats_dropped,
            slow_applies: self.published.slow_applies.load(Ordering::Relaxed),
            snapshot_installing: self.published.installing.load(Ordering::Relaxed) > 0,
            snapshots_installed: self.published.installed.load(Ordering::Relaxed),
            queues: self.queues(),
            timings: self
                .published
                .timings
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            ..(**previous).clone()
        }
    }

    fn queues(&self) -> Vec<Queue> {
        let queue = |name, depth: usize, capacity: usize, dropped| Queue {
            name,
            depth: depth as u64,
            capacity: capacity as u64,
            dropped,
        };
        vec![
            queue("raft", self.inbox.len(), limits::RAFT_INBOX_MAX, self.inbox.refused()),
            queue("log", self.log.len(), 0, 0),
            queue("apply", self.apply.len(), 0, 0),
            queue(
                "proposals",
                self.last.proposals_waiting,
                limits::PROPOSALS_WAITING_MAX,
                0,
            ),
            queue("reads", self.last.reads_waiting, limits::READS_WAITING_MAX, 0),
        ]
    }
}

fn set_if_new<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|old| {
        let is_new = *old != value;
        *old = value;
        is_new
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planned_ticks_are_counted_and_a_pause_is_not() {
        let tick = limits::TICK;
        let mut ticks = Ticks::default();
        assert_eq!(ticks.take(tick / 2, 1), 0);
        assert_eq!(ticks.take(tick, 1), 1);
        // An input came before the three planned ones were over.
        assert_eq!(ticks.next(3), 4 * tick);
        assert_eq!(ticks.take(3 * tick + tick / 2, 3), 2);
        assert_eq!((ticks.next(1), ticks.take(4 * tick, 1)), (4 * tick, 1));
        // A second of silence that nobody planned.
        assert_eq!(ticks.take(100 * tick, 3), 3);
        assert_eq!(ticks.take(100 * tick, 1), 1, "at most one more to catch up");
        assert_eq!(ticks.take(100 * tick, 1), 0);
    }
}
