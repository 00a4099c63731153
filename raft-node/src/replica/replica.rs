//! The replica itself: how inputs become raft-rs's steps, and raft-rs's Ready becomes an output.
//!
//! One turn: every input is handled; then waiting writes become entries, waiting reads become one round;
//! then raft-rs is asked for its Ready until it has none. A Ready's entries go to the log view at once and
//! to the log thread for their sync (`advance_append_async`); messages that promise durability wait here
//! for `Persisted`. The leader's appends leave before its own sync.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proto::{Error, node::Command};
use raft::{
    RawNode, StateRole,
    eraftpb::{HardState, Message, MessageType},
};

use slog::Logger;

use super::{
    Answer, Input, Outgoing, Output, Role, Standing, Time,
    election::Stagger,
    lessor::Lessor,
    pending::{Failed, Pending, Waiting},
    proposals::{FromPeer, Gathering},
    reads::{Asker, Question, Read, Reads},
    snapshot::InFlight,
    storage::{LogStart, LogView},
};
use crate::{
    limits,
    log::{EntryId, LogReader},
};

/// What a replica is made from.
pub struct ReplicaConfig {
    pub id: u64,
    /// In ticks of [`limits::TICK`].
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// What the state machine has applied; the log is replayed up to there before.
    pub applied: u64,
    /// Entries kept behind the applied one for members that lag.
    pub catch_up_entries: u64,
    /// Spreads election timeouts and request ids. Different at every start, or given by a simulator.
    pub seed: u64,
    pub logger: Logger,
}

/// One member. See the module's essay.
pub struct Replica<W, R: LogReader> {
    pub(super) id: u64,
    pub(super) raw: RawNode<LogView<R>>,
    pub(super) pending: Pending<W>,
    pub(super) reads: Reads<W>,
    pub(super) lessor: Lessor,
    pub(super) snapshots_in_flight: BTreeMap<u64, InFlight>,
    pub(super) send_snapshots: Vec<(u64, EntryId, Bytes)>,
    /// Snapshots that arrived and were not news.
    pub(super) untimely_snapshots: Vec<EntryId>,
    /// The number of the last snapshot that took the place of the log in memory, while the state does not hold it.
    pub(super) installing: Option<u64>,
    /// The way to the leader is closed: writes wait for the next tick before they try again.
    pub(super) forwards_pause: bool,
    /// The last index that was handed to the apply thread.
    pub(super) handed_out: u64,
    pub(super) frames: Vec<Outgoing>,
    /// Requests of peers whose writes become entries this turn.
    pub(super) from_peers: VecDeque<FromPeer>,
    pub(super) gathering: Gathering,
    pub(super) answers: Vec<(W, Answer)>,
    pub(super) standing: Standing,
    next_request: u64,
    next_context: u64,
    pub(super) stagger: Stagger,
    pub(super) catch_up_entries: u64,
    pub(super) handed_out_bytes: VecDeque<(u64, usize)>,
    pub(super) unapplied_bytes: usize,
    /// Writes that are not durable yet, with the messages that wait for them.
    pub(super) unpersisted: VecDeque<(u64, Time, Vec<Message>)>,
    pub(super) handed_over_at: Option<Time>,
    /// The write whose sync hung when this member handed leadership over for it.
    pub(super) hung_write: Option<u64>,
    pub(super) moves: Vec<(u64, W, Time)>,
    pub(super) flushed: EntryId,
    pub(super) hard_state: HardState,
    /// The write that holds the hard state's term first.
    pub(super) term_since: u64,
    pub(super) announced_commit: u64,
    pub(super) last_leader: u64,
    /// Since when there is no leader, if there was one before.
    pub(super) leaderless_since: Option<Time>,
    /// The member whose connection broke and that has not been heard since; 0 is none. If it leads, it is
    /// probably gone, and writes wait for the next leader instead of being lost on the way to this one.
    pub(super) unheard: u64,
    /// The last heartbeat was not answered.
    pub(super) spared_answer: bool,
    pub(super) now: Time,
}

impl<W, R: LogReader> Replica<W, R> {
    /// A member as its log and state machine left it. `leases` are those of the state.
    pub fn new(config: &ReplicaConfig, start: LogStart, reader: R, leases: &[(i64, i64)]) -> Self {
        let stagger = Stagger {
            base: config.election_ticks,
            seed: config.seed,
        };
        let mut start = start;
        // The commit index is written lazily, the applied one is a proof of it.
        start.hard_state.commit = start.hard_state.commit.max(config.applied);
        let hard_state = start.hard_state.clone();
        let raft_config = config.raft(&stagger);
        let view = LogView::new(reader, start, limits::LOG_CACHE_BYTES);
        let raw = RawNode::new(&raft_config, view, &config.logger)
            .expect("the configuration was checked, and the log view answers initial_state");
        let mut lessor = Lessor::default();
        lessor.replace(leases, Time::ZERO);
        let mut reads = Reads::default();
        reads.waiting.push_back(Read {
            question: Question::Index,
            asker: Asker::Boot,
            deadline: Time::MAX,
        });
        Self {
            id: config.id,
            raw,
            pending: Pending::default(),
            reads,
            lessor,
            snapshots_in_flight: BTreeMap::new(),
            send_snapshots: Vec::new(),
            untimely_snapshots: Vec::new(),
            installing: None,
            forwards_pause: false,
            handed_out: config.applied,
            frames: Vec::new(),
            from_peers: VecDeque::new(),
            gathering: Gathering::default(),
            answers: Vec::new(),
            standing: Standing::default(),
            next_request: config.seed,
            next_context: 0,
            stagger,
            catch_up_entries: config.catch_up_entries,
            handed_out_bytes: VecDeque::new(),
            unapplied_bytes: 0,
            unpersisted: VecDeque::new(),
            handed_over_at: None,
            hung_write: None,
            moves: Vec::new(),
            flushed: EntryId::default(),
            hard_state,
            term_since: 0,
            announced_commit: 0,
            last_leader: 0,
            leaderless_since: None,
            unheard: 0,
            spared_answer: false,
            now: Time::ZERO,
        }
    }

    /// Takes in what happened. `now` never goes back.
    pub fn handle(&mut self, now: Time, input: Input<W>) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.tick(),
            Input::Wake => {}
            Input::GiveUp => self.expire(Time::MAX),
            Input::Propose {
                command,
                waiter,
                deadline,
            } => self.propose(command, waiter, deadline),
            Input::Read { waiter, deadline } => self.read(Question::Index, waiter, deadline),
            Input::LeaseRenew { id, waiter, deadline } => self.read(Question::Renew(vec![id]), waiter, deadline),
            Input::LeaseRemaining { id, waiter, deadline } => self.read(Question::Remaining(id), waiter, deadline),
            Input::MoveLeader {
                target,
                waiter,
                deadline,
            } => self.move_leader(target, waiter, deadline),
            Input::Frame { from, frame } => self.frame(self.now, from, frame),
            Input::NotForwarded { request } => {
                self.pending.not_done(request);
                self.forwards_pause = true;
            }
            Input::Unreachable { member } => self.unreachable(member),
            Input::Persisted { number } => self.persisted(number),
            Input::Applied { index, lease_changes } => {
                for change in &lease_changes {
                    self.lessor.change(change, self.now);
                }
                self.applied(index);
            }
            Input::Flushed { applied } => self.flushed = self.flushed.max(applied),
            Input::SnapshotMade { at } => self.snapshot_made(at),
            Input::SnapshotSent { to, ok } => self.snapshot_sent(to, ok),
            Input::SnapshotArrived { from, message } => self.snapshot_arrived(self.now, from, &message),
            Input::Installed { number, index, leases } => {
                self.installing = self.installing.filter(|last| *last > number);
                self.persisted(number);
                self.lessor.replace(&leases, self.now);
                self.applied(index);
            }
        }
    }

    /// Everything that this turn decided.
    pub fn take_output(&mut self) -> Output<W> {
        self.notice_leader();
        self.expire_leases();
        self.propose_waiting();
        self.forward_waiting();
        self.ask_waiting(self.now);
        let mut output = Output {
            frames: Vec::new(),
            writes: Vec::new(),
            committed: Vec::new(),
            answers: Vec::new(),
            truncate: None,
            snapshot_wanted: false,
            send_snapshots: Vec::new(),
            install: None,
            discard_snapshots: Vec::new(),
        };
        // What follows an installation must not be written before it.
        while self.raw.has_ready() && output.install.is_none() {
            let ready = self.raw.ready();
            self.take_ready(ready, &mut output);
        }
        self.announce_commit(&mut output);
        self.notice_leader();
        output.truncate = self.truncate();
        output.snapshot_wanted = self.raw.store().take_snapshot_wanted().is_some();
        output.send_snapshots = std::mem::take(&mut self.send_snapshots);
        output.discard_snapshots = self.useless_snapshots();
        output.frames = std::mem::take(&mut self.frames);
        output.answers = std::mem::take(&mut self.answers);
        self.note_standing();
        output
    }

    /// What this member is right now.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(super) fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(super) fn fail(&mut self, failed: Vec<Failed<W>>) {
        self.standing.proposals_failed += failed.len() as u64;
        self.answers.extend(
            failed
                .into_iter()
                .map(|(waiter, error)| (waiter, Answer::Failed(error))),
        );
    }

    pub(super) fn fail_reads(&mut self, failed: Vec<(W, Error)>) {
        let failed = failed.into_iter();
        self.answers
            .extend(failed.map(|(waiter, error)| (waiter, Answer::Failed(error))));
    }

    pub(super) fn new_request(&mut self) -> u64 {
        self.next_request = self.next_request.wrapping_add(1);
        self.next_request
    }

    pub(super) fn new_context(&mut self) -> Vec<u8> {
        self.next_context += u64::from(!kv::mutants::is("read-context-reused"));
        [self.raw.raft.term.to_be_bytes(), self.next_context.to_be_bytes()].concat()
    }

    /// Steps a raft message, with the guards that raft 0.7.0 needs.
    pub(super) fn step(&mut self, now: Time, mut message: Message) {
        self.now = self.now.max(now);
        if message.get_msg_type() == MessageType::MsgAppendResponse && message.reject {
            // raft-rs #557 is not in 0.7.0: a late rejection could set `next` below `matched`.
            let matched = self
                .raw
                .raft
                .prs()
                .get(message.from)
                .map_or(0, |progress| progress.matched);
            if message.index <= matched && message.request_snapshot == 0 {
                return;
            }
            message.reject_hint = message.reject_hint.max(matched);
            message.log_term = 0;
        }
        if message.get_msg_type() == MessageType::MsgAppend
            && !message.entries.is_empty()
            && self.unapplied_bytes > limits::UNAPPLIED_BYTES_MAX
        {
            // The apply thread is behind: the leader sends again later, memory does not grow meanwhile.
            self.standing.appends_refused += 1;
            return;
        }
        // raft-rs's batch_append joins entries to a queued empty append without a look at where that one begins:
        // after a rejection in the same turn the receiver would acknowledge an entry that it does not have.
        let has_gap = message
            .entries
            .first()
            .is_some_and(|first| first.index != message.index + 1);
        let is_untimely = message.get_msg_type() == MessageType::MsgTimeoutNow && self.installing.is_some();
        if has_gap || is_untimely {
            return;
        }
        let from = message.from;
        // Err means that the message is of no use here (an unknown sender, a dropped proposal).
        let _ = self.raw.step(message);
        if let Some(progress) = self.raw.raft.prs().get(from)
            && self.leads()
        {
            assert!(
                progress.next_idx > progress.matched,
                "raft: next {} of member {from:x} is not above matched {}",
                progress.next_idx,
                progress.matched
            );
        }
    }

    /// Ticks without a leader after which this member stands for election.
    pub(super) fn election_timeout(&self) -> usize {
        self.stagger.timeout(self.id, &self.voters(), self.raw.raft.term)
    }

    fn tick(&mut self) {
        let timeout = self.election_timeout();
        self.raw.raft.set_randomized_election_timeout(timeout);
        self.forwards_pause = false;
        if self.installing.is_none() {
            // A member between two states cannot stand for election: raft-rs would look for unapplied entries
            // that the snapshot has replaced.
            self.raw.tick();
        }
        self.watch_disk();
        self.expire(self.now);
        self.abandon_if_leaderless();
        let before = self.now.saturating_sub(limits::READ_RETRY);
        self.standing.reads_asked_again += self.reads.ask_again_if(|_| false, before) as u64;
        let failed = self
            .pending
            .expire_doubted(self.now.saturating_sub(limits::FORMER_LEADER_SILENCE));
        self.fail(failed);
    }

    /// Ends what has a deadline up to `now`.
    fn expire(&mut self, now: Time) {
        let unsent = if self.leader() == 0 {
            Error::NoLeader
        } else {
            Error::Timeout
        };
        let failed = self.pending.expire(now, &unsent);
        self.fail(failed);
        let failed = self.reads.expire(now, self.leader() == 0);
        self.fail_reads(failed);
        for (_, waiter, _) in self.moves.extract_if(.., |(_, _, deadline)| *deadline <= now) {
            self.answers.push((waiter, Answer::Failed(Error::Timeout)));
        }
    }

    fn propose(&mut self, command: Command, waiter: W, deadline: Time) {
        let behind = self
            .raw
            .raft
            .raft_log
            .committed
            .saturating_sub(self.raw.raft.raft_log.applied);
        if self.pending.waiting() >= limits::PROPOSALS_WAITING_MAX
            || self.pending.waiting_bytes() >= limits::PROPOSALS_WAITING_BYTES_MAX
            || behind > limits::APPLY_GAP_MAX
        {
            self.fail(vec![(waiter, Error::RequestTooManyRequests)]);
            return;
        }
        self.pending.wait(Waiting {
            command,
            waiter,
            deadline,
        });
    }

    fn read(&mut self, question: Question, waiter: W, deadline: Time) {
        if self.reads.open() >= limits::READS_WAITING_MAX {
            self.answers
                .push((waiter, Answer::Failed(Error::RequestTooManyRequests)));
            return;
        }
        self.reads.waiting.push_back(Read {
            question,
            asker: Asker::Local(waiter),
            deadline,
        });
    }

    fn unreachable(&mut self, member: u64) {
        self.raw.report_unreachable(member);
        self.unheard = member;
        let failed = self.pending.lost(member);
        self.fail(failed);
        self.standing.reads_asked_again += self.reads.ask_again_if(|to| to == member, Time::ZERO) as u64;
    }

    pub(super) fn voters(&self) -> Vec<u64> {
        let mut voters: Vec<u64> = self.raw.raft.prs().conf().voters().ids().iter().collect();
        voters.sort_unstable();
        voters
    }

    fn note_standing(&mut self) {
        let voters = self.voters();
        let raft = &self.raw.raft;
        let standing = &mut self.standing;
        standing.role = match raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        standing.term = raft.term;
        standing.leader = raft.leader_id;
        standing.last_index = raft.raft_log.last_index();
        standing.committed = raft.raft_log.committed;
        standing.applied = raft.raft_log.applied;
        standing.truncated = self.raw.store().truncated().index;
        standing.voters = voters;
        standing.proposals_waiting = self.pending.waiting();
        standing.proposals_sent = self.pending.sent();
        standing.reads_waiting = self.reads.open();
    }
}
