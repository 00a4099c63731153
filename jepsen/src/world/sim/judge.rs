//! What must be true after every event, whoever's fault it was. The numbers are those of the plan:
//!
//! ```text
//!    1 one leader in a term                        check_standing
//!    2 equal entries at equal indexes (hash chain) check_entry
//!    3 committed: durable on a quorum              check_committed
//!    4 applied <= committed <= last                check_standing
//!    5 vote and term never go back                 durable.rs, check_message
//!    6 an acknowledged write is in the log         ended, check_end
//!    7 a read is not older than what was told      check_fresh
//!    8 equal states at equal indexes               check_state, check_outcome
//!    9 what a member serves never goes back        check_served
//!   10 raft's voters are the member table          check_member_table
//!   11 next > matched                              asserted in the replica itself
//!   12 a read context is used once                 check_contexts
//!   13 leases end by their term's leader, in time  first_applied
//!   14 every member has the same events            check_events
//!   15 queues are bounded                          check_standing
//!   16 a healed quorum makes progress              liveness.rs
//! ```
//! Learners and configuration changes in 1, 3 and 10 are pending: membership change.

use super::{
    clients::Open,
    engine::SimEngine,
    swarm::S,
    world::{Index, World, id_of, tell},
};
use crate::{
    history::{Event, Outcome, Record, Request, WatchStep},
    rng::mix,
    world::messages,
};
use bytes::Bytes;
use kv::{EntryOutcome, LeaseChange, LogEntry, PrevKv, Response, Store};
use prost::Message as _;
use proto::{
    KeyRange,
    etcdserverpb::request_op,
    node::{Command, CommandBatch, command::Op},
};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use raft_node::{
    limits,
    replica::{Committed, Role, Time},
};
use std::collections::{BTreeMap, BTreeSet};

/// An entry as whoever applied it first did.
pub struct Canon {
    term: u64,
    chain: u64,
    outcome: u64,
    state: Option<u64>,
}

#[derive(Default)]
pub struct Judge {
    pub canon: Vec<Canon>,
    leaders: BTreeMap<u64, u64>,
    /// The newest revision that any client was told.
    pub floor: i64,
    changes_at: BTreeSet<i64>,
    /// How often each value that is written once is in the log, by its hash.
    in_log: BTreeMap<u64, u32>,
    /// Until when a lease has certainly to live.
    leases: BTreeMap<i64, Time>,
    /// When it was decided that a lease ends.
    ended: BTreeMap<i64, Time>,
    /// Writes that were said not to have happened.
    denied: Vec<(u64, String)>,
    acknowledged: Vec<u64>,
    /// The events of each revision, from 2 on, as one hash.
    events: Vec<u64>,
    pub history: Vec<Record>,
    pub elections: u64,
    pub crashes: u64,
    pub faults: u64,
    pub snapshots: u64,
    pub refusals: u64,
    pub operations: u64,
    pub unknown: u64,
    pub failed: u64,
    pub reads: u64,
    pub renewals: u64,
    pub expiries: u64,
}

impl Judge {
    /// A write was acknowledged.
    pub fn acknowledged(&mut self, invoked: Time, response: &Response) {
        let is_change = match response {
            Response::Put(_) => true,
            Response::DeleteRange(reply) => reply.deleted > 0,
            _ => false,
        };
        if let Response::LeaseGrant(grant) = response {
            self.leases.insert(grant.id, invoked + lifetime(grant.ttl));
        }
        let revision = revision_of(response);
        if is_change {
            assert!(
                self.changes_at.insert(revision),
                "two changes were acknowledged at revision {revision}"
            );
        }
        self.floor = self.floor.max(revision);
    }

    pub fn renewed(&mut self, id: i64, invoked: Time, seconds: i64) {
        if seconds > 0 {
            let ended = self.ended.get(&id);
            assert!(
                ended.is_none_or(|at| *at >= invoked),
                "lease {id} was renewed, but had ended before"
            );
            let until = self.leases.entry(id).or_default();
            *until = (*until).max(invoked + lifetime(seconds));
            self.renewals += 1;
        } else {
            assert!(
                self.ended.contains_key(&id),
                "lease {id} was said to be gone, but nothing ended it"
            );
        }
    }

    pub fn remaining(&self, id: i64, seconds: i64) {
        let is_known = seconds >= 0 || self.ended.contains_key(&id);
        assert!(is_known, "lease {id} was said to be gone, but nothing ended it");
    }

    /// An operation has its outcome.
    pub fn ended(&mut self, open: &Open, outcome: &Outcome) {
        self.operations += 1;
        let value = unique_value(&open.request).map(|value| hash(value.as_bytes()));
        match outcome {
            Outcome::Ok(_) => {
                self.acknowledged
                    .extend(value.filter(|_| matches!(open.request, Request::Put(_))));
                self.reads += u64::from(matches!(open.request, Request::Range(_)));
            }
            Outcome::Failed(text) => {
                let is_of_the_cluster =
                    text.contains("leader") || text.contains("timed out") || text.contains("too many requests");
                self.failed += u64::from(is_of_the_cluster && !matches!(open.request, Request::MoveLeader { .. }));
                self.denied.extend(value.map(|value| (value, text.clone())));
            }
            Outcome::Unknown(_) => self.unknown += u64::from(!matches!(open.request, Request::MoveLeader { .. })),
        }
    }

    /// At the end: what was acknowledged is in the log, once; what was denied is not.
    pub fn check_log(&self) {
        for value in &self.acknowledged {
            assert!(
                self.in_log.contains_key(value),
                "an acknowledged write is not in the log"
            );
        }
        for (value, text) in &self.denied {
            let is_raft = text.contains("leader") || text.contains("too many requests");
            assert!(
                !is_raft || !self.in_log.contains_key(value),
                "a write was said not to have happened ({text}), but is in the log"
            );
        }
    }

    pub fn lease_never_ends(&self, id: i64, now: Time) -> bool {
        self.leases.get(&id).is_some_and(|until| *until + 9 * S < now)
    }
}

impl World {
    pub fn check_standing(&mut self, index: Index) {
        let process = self.nodes[index].process.as_ref().expect("it has just had its turn");
        let standing = process.replica.standing();
        let (term, role) = (standing.term, standing.role);
        assert!(
            standing.applied <= standing.committed && standing.committed <= standing.last_index,
            "{standing:?}"
        );
        let are_bounded = process.inbox.len() <= limits::RAFT_INBOX_MAX
            && standing.reads_waiting <= limits::READS_WAITING_MAX
            && standing.proposals_waiting <= limits::PROPOSALS_WAITING_MAX
            && process.log_queue.len() <= 10_000
            && process.apply_queue.len() <= 10_000;
        assert!(are_bounded, "a queue of member {index} grows without end: {standing:?}");
        if role == Role::Leader {
            let is_new = !self.judge.leaders.contains_key(&term);
            let known = *self.judge.leaders.entry(term).or_insert(id_of(index));
            assert_eq!(known, id_of(index), "two leaders in term {term}");
            if is_new {
                self.judge.elections += 1;
                tell!(self, "{index} leads in term {term}");
            }
        }
    }

    /// Entries that a member takes for committed are durable on a quorum by then.
    pub fn check_committed(&self, index: Index, committed: &[Committed<u64>]) {
        for Committed { entry, .. } in committed {
            let durable = self
                .nodes
                .iter()
                .filter(|node| node.durable.has(entry.index, entry.term))
                .count();
            assert!(
                durable * 2 > self.members(),
                "member {index}: entry {} of term {} is committed, only {durable} have it durably",
                entry.index,
                entry.term
            );
        }
    }

    pub fn check_contexts(&self, index: Index) {
        let process = self.nodes[index].process.as_ref().expect("it has just had its turn");
        let standing = process.replica.standing();
        let used = process.contexts.len() as u64;
        // Alone, a leader asks nobody.
        assert!(
            standing.voters.len() == 1 || standing.read_rounds == used,
            "member {index} used a read context twice"
        );
    }

    /// What a member says must be true of its disk, whenever it may crash.
    pub fn check_message(&mut self, from: Index, bytes: &Bytes) {
        let message = Message::parse_from_bytes(bytes).expect("a replica encoded it");
        tell!(self, "{from} says {message:?}");
        let durable = &self.nodes[from].durable;
        let kind = message.get_msg_type();
        let is_promise = !matches!(
            kind,
            MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse
        );
        assert!(
            !is_promise || message.term <= durable.term,
            "member {from} says {kind:?} in term {} before that is durable",
            message.term
        );
        // In a later term the disk may say something else by the time that the word leaves.
        let is_of_now = message.term == durable.term;
        if kind == MessageType::MsgRequestVoteResponse && !message.reject && is_of_now {
            assert_eq!(durable.vote, message.to, "a vote of {from} is not durable");
        }
        if kind == MessageType::MsgAppendResponse && !message.reject && is_of_now {
            assert!(
                message.index <= durable.last(),
                "member {from} acknowledges entry {}, only {} are durable: {message:?}",
                message.index,
                durable.last()
            );
        }
        if kind == MessageType::MsgHeartbeat && !message.context.is_empty() {
            self.process(from).contexts.insert(message.context.to_vec());
        }
    }

    pub fn check_fresh(&mut self, index: Index, floor: i64) {
        let revision = self.process(index).store().view().revision();
        assert!(
            revision >= floor,
            "a stale read at {index}: revision {revision}, but {floor} had been acknowledged before it began"
        );
        self.judge.floor = self.judge.floor.max(revision);
    }

    pub fn check_served(&mut self, index: Index, revision: i64) {
        let served = &mut self.nodes[index].served;
        assert!(
            revision >= *served,
            "member {index} serves revision {revision}, and had served {served}"
        );
        *served = revision;
    }

    pub fn check_member_table(&self, index: Index, store: &Store<SimEngine>) {
        assert_eq!(
            store.membership(),
            &self.membership(),
            "member {index}: another configuration than its member table"
        );
    }

    pub fn check_entry(&mut self, index: Index, entry: &LogEntry) {
        let at = entry.index as usize;
        let before = match at {
            1 => 0,
            _ => {
                self.judge
                    .canon
                    .get(at - 2)
                    .expect("entries are applied in order")
                    .chain
            }
        };
        let chain = mix(before ^ hash(&entry.data) ^ entry.term.rotate_left(17));
        match self.judge.canon.get(at - 1) {
            Some(canon) => assert_eq!(
                (canon.term, canon.chain),
                (entry.term, chain),
                "member {index}: entry {at} differs"
            ),
            None => self.judge.canon.push(Canon {
                term: entry.term,
                chain,
                outcome: 0,
                state: None,
            }),
        }
    }

    pub fn check_outcome(&mut self, index: Index, at: u64, outcome: u64) {
        let canon = &mut self.judge.canon[at as usize - 1];
        if canon.state.is_none() {
            canon.outcome = outcome;
        }
        assert_eq!(canon.outcome, outcome, "member {index}: entry {at} had another outcome");
    }

    pub fn check_state(&mut self, index: Index, at: u64, state: u64) {
        let canon = &mut self.judge.canon[at as usize - 1];
        let known = *canon.state.get_or_insert(state);
        assert_eq!(known, state, "member {index}: another state after entry {at}");
    }

    /// Whether nobody has applied the entry yet; to be asked before its outcome is checked.
    pub fn is_first(&self, at: u64) -> bool {
        self.judge.canon[at as usize - 1].state.is_none()
    }

    /// The cluster decided an entry: what follows from it, once.
    pub fn first_applied(&mut self, entry: &LogEntry, outcome: &EntryOutcome) {
        let batch = CommandBatch::decode(entry.data.clone()).expect("it was applied");
        let now = self.now;
        let judge = &mut self.judge;
        for (command, result) in batch.commands.iter().zip(&outcome.results) {
            if let Some(value) = unique_value_of(command) {
                let times = judge.in_log.entry(hash(value)).or_default();
                *times += 1;
                let text = String::from_utf8_lossy(value);
                assert_eq!(*times, 1, "the write of {text} is in the log {times} times");
            }
            if let (Some(Op::LeaseExpire(expire)), Ok(Response::LeaseExpire(ended))) = (&command.op, result) {
                assert!(
                    ended.is_empty() || expire.term == entry.term,
                    "leases ended by a deposed leader"
                );
                for id in ended {
                    judge.expiries += 1;
                    let until = judge.leases.get(id).copied().unwrap_or_default();
                    assert!(
                        until <= now,
                        "lease {id} ended at {now:?}, it was to live until {until:?}"
                    );
                }
            }
        }
        for change in &outcome.lease_changes {
            if let LeaseChange::Revoked { id } = change {
                judge.ended.insert(*id, now);
            }
        }
    }

    /// The events of the revisions that an apply made are those that every other member made of them.
    pub fn check_events(&mut self, index: Index, store: &Store<SimEngine>, from: i64) {
        let view = store.view();
        if view.revision() < from {
            return;
        }
        let everything = KeyRange::new(Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        let page = view
            .events(&everything, from, usize::MAX)
            .unwrap_or_else(|_| panic!("member {index}: the events of the entry just applied are forgotten"));
        let mut by_revision: BTreeMap<i64, u64> = (from..=view.revision()).map(|revision| (revision, 0)).collect();
        for event in &page.events {
            let known = by_revision.entry(event.revision).or_default();
            let record = event.record.as_ref().map_or(&[][..], |record| &record.value);
            *known = mix(*known ^ hash(&event.key) ^ hash(record).rotate_left(9) ^ u64::from(event.record.is_some()));
        }
        let known = self.judge.events.len() as i64 + 2;
        for (revision, events) in by_revision {
            assert_ne!(events, 0, "member {index}: revision {revision} has no event");
            match self.judge.events.get(revision as usize - 2) {
                Some(known) => assert_eq!(*known, events, "member {index}: other events at revision {revision}"),
                None => self.judge.events.push(events),
            }
        }
        let new: Vec<Event> = page
            .events
            .iter()
            .filter(|event| event.revision >= known)
            .map(|event| messages::event(&event.to_proto(PrevKv::With)))
            .collect();
        if !new.is_empty() {
            self.record_canonical(WatchStep::Events {
                revision: view.revision(),
                events: new,
                fragment: false,
            });
        }
    }
}

/// How long a lease lives by any clock of the swarm.
fn lifetime(seconds: i64) -> Time {
    let granted = S * seconds as u32;
    granted - granted / 500
}

/// Values that are written once have a dot in them, and come first in what a write does.
fn unique_value(request: &Request) -> Option<&str> {
    let put = match request {
        Request::Put(put) => put,
        Request::Txn(txn) => txn.success.iter().find_map(|op| match op {
            Request::Put(put) => Some(put),
            _ => None,
        })?,
        _ => return None,
    };
    put.value.contains('.').then_some(&put.value)
}

fn unique_value_of(command: &Command) -> Option<&[u8]> {
    let value = match &command.op {
        Some(Op::Put(put)) => &put.value,
        Some(Op::Txn(txn)) => txn.success.iter().find_map(|op| match &op.request {
            Some(request_op::Request::RequestPut(put)) => Some(&put.value),
            _ => None,
        })?,
        _ => return None,
    };
    value.contains(&b'.').then_some(value)
}

pub fn revision_of(response: &Response) -> i64 {
    let header = match response {
        Response::Put(reply) => &reply.header,
        Response::DeleteRange(reply) => &reply.header,
        Response::Txn(reply) => &reply.header,
        Response::Compact(reply) => &reply.header,
        Response::LeaseGrant(reply) => &reply.header,
        Response::LeaseRevoke(reply) => &reply.header,
        _ => &None,
    };
    header.as_ref().map_or(0, |header| header.revision)
}

/// What an entry did, in one number.
pub fn outcome_hash(outcome: &EntryOutcome) -> u64 {
    let mut sum = outcome.index;
    for result in &outcome.results {
        let bytes = match result {
            Ok(Response::Put(reply)) => reply.encode_to_vec(),
            Ok(Response::DeleteRange(reply)) => reply.encode_to_vec(),
            Ok(Response::Txn(reply)) => reply.encode_to_vec(),
            Ok(other) => format!("{other:?}").into_bytes(),
            Err(error) => error.text().as_bytes().to_vec(),
        };
        sum = mix(sum ^ hash(&bytes));
    }
    for change in &outcome.lease_changes {
        let (id, ttl) = match change {
            LeaseChange::Granted { id, ttl } => (*id, *ttl),
            LeaseChange::Revoked { id } => (*id, -1),
        };
        sum = mix(sum ^ id as u64 ^ (ttl as u64).rotate_left(40));
    }
    sum
}

pub fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}
