//! What members ask of each other, and how reads and lease questions get their answer.
//!
//! A follower serves every request by asking the leader: it forwards writes and is told their entry, asks
//! for a read index, or passes a lease question on. Everything asked carries an id that is never used
//! twice; an answer to an id that is not open any more is dropped.

use bytes::Bytes;
use proto::node::{
    Accepted, Forward, Lane, LeaseRemaining, LeaseRenew, LeaseTimes, NotDone, PeerFrame, PeerReply, PeerRequest,
    ReadIndex, peer_frame::Body, peer_reply::Body as ReplyBody, peer_request::Body as RequestBody,
};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::{
    Answer, Outgoing, Time,
    lessor::Renewal,
    proposals::FromPeer,
    reads::{Asker, Question, Read},
    replica::Replica,
    snapshot::encode,
};
use crate::{
    limits,
    log::{EntryId, LogReader},
};

impl<W, R: LogReader> Replica<W, R> {
    pub(super) fn frame(&mut self, now: Time, from: u64, frame: PeerFrame) {
        if from == self.unheard {
            self.unheard = 0;
        }
        match frame.body {
            Some(Body::Raft(bytes)) => self.raft_frame(now, from, &bytes),
            Some(Body::Request(request)) => self.request(now, from, request),
            Some(Body::Reply(reply)) => self.reply(reply),
            // Snapshots' files are peer/'s affair.
            _ => {}
        }
    }

    fn raft_frame(&mut self, now: Time, from: u64, bytes: &Bytes) {
        let mut message = Message::default();
        // merge_from_carllerche_bytes would share the buffer; parsing copies, and cannot keep a frame alive.
        if message.merge_from_bytes(bytes).is_err() || message.from != from || message.to != self.id {
            return;
        }
        match message.get_msg_type() {
            // Never asked over the network here (see reads.rs and pending.rs), so these are not from a Dipper.
            MessageType::MsgPropose
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp
            | MessageType::MsgTransferLeader
            // Stepped when its files are here, see snapshot.rs.
            | MessageType::MsgSnapshot => {}
            _ => self.step(now, message),
        }
    }

    fn request(&mut self, now: Time, from: u64, request: PeerRequest) {
        let question = match request.body {
            Some(RequestBody::Forward(forward)) => {
                // A command of a kind that this build does not know would stop every member that applies it.
                let is_known = forward.commands.iter().all(|command| command.op.is_some());
                if self.leads() && is_known && !forward.commands.is_empty() {
                    self.from_peers.push_back(FromPeer {
                        member: from,
                        request: request.id,
                        commands: forward.commands,
                    });
                } else {
                    self.not_done(from, request.id, false);
                }
                return;
            }
            Some(RequestBody::ReadIndex(_)) => Question::Index,
            Some(RequestBody::LeaseRenew(renew)) => Question::Renew(renew.ids),
            Some(RequestBody::LeaseRemaining(remaining)) => Question::Remaining(remaining.id),
            None => return,
        };
        if self.leads() && self.reads.open() < limits::READS_WAITING_MAX {
            let asker = Asker::Peer {
                member: from,
                request: request.id,
            };
            let deadline = now + limits::READ_RETRY * 5;
            self.reads.waiting.push_back(Read {
                question,
                asker,
                deadline,
            });
        } else {
            self.not_done(from, request.id, self.leads());
        }
    }

    fn reply(&mut self, reply: PeerReply) {
        match reply.body {
            Some(ReplyBody::Accepted(accepted)) => {
                let id = (accepted.index, accepted.term);
                let failed = self
                    .pending
                    .accepted(reply.id, id, accepted.offset as usize, self.handed_out);
                self.fail(failed);
            }
            Some(ReplyBody::NotDone(_)) => {
                self.pending.not_done(reply.id);
                let reads = self.reads.answered(reply.id);
                self.standing.reads_asked_again += self.reads.put_back(reads) as u64;
            }
            Some(ReplyBody::ReadIndex(index)) => {
                let reads = self.reads.answered(reply.id);
                self.confirm(index, reads);
            }
            Some(ReplyBody::LeaseTimes(times)) => {
                for (read, seconds) in self.reads.answered(reply.id).into_iter().zip(times.seconds) {
                    if let Asker::Local(waiter) = read.asker {
                        self.answers.push((waiter, Answer::Lease(seconds)));
                    }
                }
            }
            None => {}
        }
    }

    /// What the entry of a peer's writes is, or that there is none.
    pub(super) fn answer_forward(&mut self, member: u64, request: u64, id: Option<EntryId>, offset: u64) {
        match id {
            Some(EntryId { index, term }) => {
                let accepted = Accepted { index, term, offset };
                self.reply_to(member, request, ReplyBody::Accepted(accepted), Lane::Bulk);
            }
            None => self.not_done(member, request, true),
        }
    }

    /// This member does not lead any more.
    pub(super) fn refuse_peers(&mut self) {
        for FromPeer { member, request, .. } in std::mem::take(&mut self.from_peers) {
            self.not_done(member, request, false);
        }
        for read in self.reads.take_of_peers() {
            if let Asker::Peer { member, request } = read.asker {
                self.not_done(member, request, false);
            }
        }
    }

    fn not_done(&mut self, member: u64, request: u64, busy: bool) {
        let body = ReplyBody::NotDone(NotDone {
            busy,
            leader: self.leader(),
        });
        self.reply_to(member, request, body, Lane::Urgent);
    }

    /// Sends waiting writes to the leader.
    pub(super) fn forward_waiting(&mut self) {
        let leader = self.leader();
        if leader == 0 || leader == self.id || leader == self.unheard || self.forwards_pause {
            return;
        }
        while self.pending.waiting() > 0 && self.pending.forwards(self.now()) < limits::FORWARDS_MAX {
            let writes = self.pending.take_waiting(limits::ENTRY_BYTES_MAX);
            let commands = writes.iter().map(|write| write.command.clone()).collect();
            let request = self.new_request();
            self.pending.forwarded(request, leader, self.now(), writes);
            self.ask_peer(leader, request, RequestBody::Forward(Forward { commands }), Lane::Bulk);
        }
    }

    /// One round, or one question to the leader, for all reads that wait.
    pub(super) fn ask_waiting(&mut self, now: Time) {
        if kv::mutants::is("read-without-index") {
            for read in std::mem::take(&mut self.reads.waiting) {
                self.answer_read(read);
            }
        }
        if self.reads.waiting.is_empty() || self.leader() == 0 {
            return;
        }
        if self.leads() {
            self.begin_round();
        } else {
            self.ask_leader(now);
        }
    }

    fn begin_round(&mut self) {
        if kv::mutants::is("read-before-noop") && !self.raw.raft.commit_to_current_term() {
            let context = self.new_context();
            self.reads.begin_round(context.clone());
            self.round_confirmed(&context, self.raw.raft.raft_log.committed);
            return;
        }
        // raft-rs drops a read before the first commit of the term: it waits here instead.
        if !self.raw.raft.commit_to_current_term() || self.reads.rounds() >= limits::READ_ROUNDS_MAX {
            return;
        }
        let context = self.new_context();
        let taken = |replica: &Self| replica.raw.raft.pending_read_count() + replica.raw.raft.ready_read_count();
        let before = taken(self);
        self.raw.read_index(context.clone());
        if taken(self) > before {
            self.standing.read_rounds += 1;
            self.reads.begin_round(context);
        }
    }

    fn ask_leader(&mut self, now: Time) {
        if self.reads.asked() >= limits::READS_ASKED_MAX {
            return;
        }
        let leader = self.leader();
        let (mut index, mut renew) = (Vec::new(), Vec::new());
        for read in std::mem::take(&mut self.reads.waiting) {
            match &read.question {
                Question::Index => index.push(read),
                Question::Renew(_) => renew.push(read),
                Question::Remaining(id) => {
                    let body = RequestBody::LeaseRemaining(LeaseRemaining { id: *id });
                    self.ask(now, leader, body, vec![read]);
                }
            }
        }
        if !index.is_empty() {
            self.ask(now, leader, RequestBody::ReadIndex(ReadIndex {}), index);
        }
        if !renew.is_empty() {
            let ids = renew.iter().flat_map(|read| match &read.question {
                Question::Renew(ids) => ids.clone(),
                _ => Vec::new(),
            });
            let body = RequestBody::LeaseRenew(LeaseRenew { ids: ids.collect() });
            self.ask(now, leader, body, renew);
        }
    }

    fn ask(&mut self, now: Time, leader: u64, body: RequestBody, reads: Vec<Read<W>>) {
        let request = self.new_request();
        self.reads.ask(request, leader, now, reads);
        self.ask_peer(leader, request, body, Lane::Urgent);
    }

    /// A quorum confirmed that this member led after the round began.
    pub(super) fn round_confirmed(&mut self, context: &[u8], index: u64) {
        let mut reads = self.reads.end_round(context);
        for read in reads.extract_if(.., |read| read.question == Question::Index && is_peer(read)) {
            if let Asker::Peer { member, request } = read.asker {
                self.reply_to(member, request, ReplyBody::ReadIndex(index), Lane::Urgent);
            }
        }
        self.confirm(index, reads);
    }

    fn confirm(&mut self, index: u64, reads: Vec<Read<W>>) {
        self.reads.confirm(index, reads);
        for read in self.reads.applied(self.raw.raft.raft_log.applied) {
            self.answer_read(read);
        }
    }

    /// The state has applied what the read was confirmed at.
    pub(super) fn answer_read(&mut self, read: Read<W>) {
        match read.question.clone() {
            Question::Index => match read.asker {
                Asker::Local(waiter) => self.answers.push((waiter, Answer::Read)),
                Asker::Boot => self.standing.serving = true,
                Asker::Peer { .. } => {}
            },
            _ if !self.leads() => {
                self.reads.put_back(vec![read]);
                self.refuse_peers();
            }
            Question::Remaining(id) => {
                let seconds = vec![self.lessor.remaining(id, self.now())];
                self.answer_lease(read.asker, seconds);
            }
            Question::Renew(ids) => self.renew(&ids, read),
        }
    }

    fn renew(&mut self, ids: &[i64], read: Read<W>) {
        let now = self.now();
        let mut seconds = Vec::with_capacity(ids.len());
        for id in ids {
            match self.lessor.renew(*id, now) {
                Renewal::Renewed(ttl) => seconds.push(ttl),
                Renewal::Unknown => seconds.push(0),
                Renewal::Expiring => {
                    // Renewing the others again later does no harm.
                    self.reads.expiring.push((*id, read));
                    return;
                }
            }
        }
        self.answer_lease(read.asker, seconds);
    }

    /// Entries were applied: an expiry that a renewal waited for may be decided.
    pub(super) fn renewals_decided(&mut self) {
        if !self.reads.expiring.is_empty() {
            for (_, read) in std::mem::take(&mut self.reads.expiring) {
                self.answer_read(read);
            }
        }
    }

    fn answer_lease(&mut self, asker: Asker<W>, seconds: Vec<i64>) {
        match asker {
            Asker::Local(waiter) => {
                self.answers
                    .push((waiter, Answer::Lease(seconds.first().copied().unwrap_or(0))));
            }
            Asker::Peer { member, request } => {
                let times = LeaseTimes {
                    seconds,
                    index: self.raw.raft.raft_log.applied,
                };
                self.reply_to(member, request, ReplyBody::LeaseTimes(times), Lane::Urgent);
            }
            Asker::Boot => {}
        }
    }

    /// Queues raft's messages for their peers; snapshots leave with their files instead.
    pub(super) fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            if self.snapshot_leaves(&message) {
                continue;
            }
            let lane = match message.get_msg_type() {
                MessageType::MsgAppend => Lane::Bulk,
                _ => Lane::Urgent,
            };
            let frame = PeerFrame {
                body: Some(Body::Raft(encode(&message))),
            };
            self.frames.push(Outgoing {
                to: message.to,
                lane,
                frame,
            });
        }
    }

    fn reply_to(&mut self, to: u64, id: u64, body: ReplyBody, lane: Lane) {
        let frame = PeerFrame {
            body: Some(Body::Reply(PeerReply { id, body: Some(body) })),
        };
        self.frames.push(Outgoing { to, lane, frame });
    }

    pub(super) fn ask_peer(&mut self, to: u64, id: u64, body: RequestBody, lane: Lane) {
        let frame = PeerFrame {
            body: Some(Body::Request(PeerRequest { id, body: Some(body) })),
        };
        self.frames.push(Outgoing { to, lane, frame });
    }
}

fn is_peer<W>(read: &Read<W>) -> bool {
    matches!(read.asker, Asker::Peer { .. })
}
