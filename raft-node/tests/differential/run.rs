//! The two systems side by side: each step asked of both, answers compared at once, watches at checkpoints.
//!
//! Revisions must be equal step by step, so nothing is mapped: a system that counts one revision too many
//! is found by the next answer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use proto::{
    KeyRange,
    etcdserverpb::{RangeRequest, WatchCreateRequest},
    mvccpb::{Event, event::EventType},
};

use super::{
    compare::{canonical, print_allowed},
    concurrent,
    generate::{self, Known, Random, STREAMS},
    request::{Answer, Request},
    side::{Side, refused},
    watching::WatchStream,
};

/// Steps between two comparisons of all watches and of the whole state.
const CHECKPOINT_EVERY: usize = 250;
/// Steps between two phases in which many tasks write at once.
const CONCURRENT_EVERY: usize = 4000;
/// Three of etcd's rounds over the watches that lag.
const SYNCED_WITHIN: Duration = Duration::from_millis(300);
/// How many steps before a difference are shown.
const SHOWN_BEFORE: usize = 4;

/// Two systems and what is known of their state.
pub struct Pair {
    pub oracle: Side,
    pub subject: Side,
    known: Known,
    /// Every event since revision 2, as the oracle's own watch told it.
    truth: WatchStream,
    opened: [Vec<Opened>; STREAMS],
    opened_in_the_past: Option<Instant>,
    recent: VecDeque<String>,
    pub differences: Vec<String>,
    differences_max: usize,
    pub asked: BTreeMap<&'static str, usize>,
}

/// A watch that was created.
struct Opened {
    id: i64,
    request: WatchCreateRequest,
    start: i64,
    /// Canceled after this revision.
    until: Option<i64>,
    /// The compaction revision when it was opened.
    compact_revision: i64,
}

impl Pair {
    /// Both systems must be fresh.
    pub async fn new(oracle: Side, subject: Side, differences_max: usize) -> Pair {
        let mut truth = WatchStream::open(&oracle.rpcs[0], 0);
        let everything = WatchCreateRequest {
            key: b"\0".to_vec().into(),
            range_end: b"\0".to_vec().into(),
            start_revision: 2,
            ..WatchCreateRequest::default()
        };
        truth.create(everything).await;
        Pair {
            oracle,
            known: Known {
                revision: 1,
                compact_revision: -1,
                // An older follower skips ranges whose answer nobody waits for, and applies the rest (#18667).
                txn_ranges_may_fail: subject.version >= (3, 7) || subject.rpcs.len() == 1,
                watches: [0; STREAMS],
            },
            subject,
            truth,
            opened: [const { Vec::new() }; STREAMS],
            opened_in_the_past: None,
            recent: VecDeque::new(),
            differences: Vec::new(),
            differences_max,
            asked: BTreeMap::new(),
        }
    }

    /// The revision of the last answer.
    pub fn revision(&self) -> i64 {
        self.known.revision
    }

    /// Runs a whole sequence; the differences are in `self.differences`.
    pub async fn run(&mut self, seed: u64, ops: usize) {
        let started = Instant::now();
        println!("seed {seed} (DIPPER_SEED), {ops} operations (DIPPER_OPS)");
        print_allowed(self.oracle.version, self.subject.version);
        let mut random = Random::new(seed);
        for i in 1..=ops {
            let request = generate::request(&mut random, &self.known);
            self.step(&request).await;
            if i % CHECKPOINT_EVERY == 0 || i == ops {
                self.checkpoint(&mut random).await;
            }
            if i % CONCURRENT_EVERY == CONCURRENT_EVERY / 2 {
                self.concurrent_phase(&mut random).await;
            }
            if self.differences.len() >= self.differences_max {
                println!("stopped after step {i}");
                break;
            }
        }
        println!(
            "asked in {:?}, up to revision {}: {:?}",
            started.elapsed(),
            self.known.revision,
            self.asked
        );
    }

    /// One step, asked of both at the same time.
    pub async fn step(&mut self, request: &Request) {
        *self.asked.entry(name(request)).or_default() += 1;
        match request {
            Request::Watch { stream, request } => self.open_watch(*stream, request).await,
            Request::CancelWatch { stream, id } => self.cancel_watch(*stream, *id).await,
            Request::Progress { stream } => self.progress(*stream).await,
            Request::CloseStream { stream } => self.close_stream(*stream).await,
            // Events that are delivered late lose their prev_kv to a compaction: deliver them first.
            Request::Compact(_) => {
                self.settle_all().await;
                self.await_synced().await;
                self.ask(request).await;
            }
            _ => self.ask(request).await,
        }
    }

    /// etcd cancels a watch from the past that it has not looked at yet when a compaction passes its start,
    /// and it looks every 100 ms. That it has looked cannot be seen from outside when no event is due.
    async fn await_synced(&self) {
        if let Some(opened) = self.opened_in_the_past {
            tokio::time::sleep_until(tokio::time::Instant::from_std(opened + SYNCED_WITHIN)).await;
        }
    }

    async fn ask(&mut self, request: &Request) {
        let (oracle, subject) = tokio::join!(self.oracle.answer(request), self.subject.answer(request));
        if let (Request::Compact(compact), Answer::Compact(_)) = (request, &oracle) {
            self.known.compact_revision = compact.revision;
        }
        self.known.revision = self.known.revision.max(oracle.revision());
        self.judge(request, oracle, subject);
    }

    fn judge(&mut self, request: &Request, oracle: Answer, subject: Answer) {
        let (oracle, subject) = canonical(request, oracle, self.oracle.version, subject, self.subject.version);
        if oracle == subject {
            if self.recent.len() == SHOWN_BEFORE {
                self.recent.pop_front();
            }
            self.recent.push_back(format!("{request:?}\n    -> {oracle:?}"));
            return;
        }
        self.difference(format!("{request:?}\n  oracle:  {oracle:?}\n  subject: {subject:?}"));
    }

    pub fn difference(&mut self, what: impl std::fmt::Display) {
        let before: Vec<String> = self
            .recent
            .drain(..)
            .map(|step| format!("  before: {step}\n"))
            .collect();
        let known = format!(
            "revision {}, compacted {}",
            self.known.revision, self.known.compact_revision
        );
        self.differences.push(format!("{}at {known}: {what}", before.concat()));
    }

    async fn open_watch(&mut self, slot: usize, request: &WatchCreateRequest) {
        // etcd 3.6.6 refuses negative starts; what older ones do with them is not a contract.
        let negative_refused = (3, 6);
        let negative = request.start_revision < 0;
        if negative && self.subject.version < negative_refused {
            return;
        }
        self.known.watches[slot] += 1;
        let oracle_version = self.oracle.version;
        let (oracle, subject) = tokio::join!(self.oracle.stream(slot), self.subject.stream(slot));
        if negative && oracle_version < negative_refused {
            subject.create(request.clone()).await;
            self.judge_negative_start(slot);
            return;
        }
        tokio::join!(oracle.create(request.clone()), subject.create(request.clone()));
        let created = oracle
            .log
            .controls
            .last()
            .filter(|created| created.created && !created.canceled)
            .cloned();
        let Some(created) = created else { return };
        let start = match request.start_revision {
            0 => created.header.as_ref().map_or(0, |header| header.revision) + 1,
            start => start,
        };
        let compact_revision = self.known.compact_revision;
        if request.start_revision > 0 && start < compact_revision {
            let (a, b) = (oracle.log.controls.len() + 1, subject.log.controls.len() + 1);
            tokio::join!(oracle.await_controls(a), subject.await_controls(b));
        }
        if request.start_revision > 0 {
            self.opened_in_the_past = Some(Instant::now());
        }
        let id = created.watch_id;
        let until = (start < compact_revision).then_some(0);
        self.opened[slot].push(Opened {
            id,
            request: request.clone(),
            start,
            until,
            compact_revision,
        });
    }

    /// The contract's answer, for an oracle that does not know it yet; taken out of the log again.
    fn judge_negative_start(&mut self, slot: usize) {
        let revision = self.known.revision;
        let stream = self.subject.streams[slot].as_mut().expect("opened by the caller");
        let Some(answer) = stream.log.controls.pop() else {
            return self.difference("no answer to a watch from a negative revision".to_owned());
        };
        let reason = "etcdserver: mvcc: required revision has been compacted";
        let right = answer.created
            && answer.canceled
            && answer.watch_id == -1
            && answer.cancel_reason == reason
            && answer.header.as_ref().is_some_and(|header| header.revision == revision);
        if !right {
            self.difference(format!("a watch from a negative revision is answered with {answer:?}"));
        }
    }

    async fn cancel_watch(&mut self, slot: usize, id: i64) {
        if self.oracle.streams[slot].is_none() {
            return;
        }
        self.settle(slot).await;
        let (oracle, subject) = tokio::join!(self.oracle.stream(slot), self.subject.stream(slot));
        tokio::join!(oracle.cancel(id), subject.cancel(id));
        for opened in self.opened[slot]
            .iter_mut()
            .filter(|opened| opened.id == id && opened.until.is_none())
        {
            opened.until = Some(self.known.revision);
        }
    }

    /// Progress is due at once when there is a watch and none waits for the future; else not, or later.
    async fn progress(&mut self, slot: usize) {
        self.settle(slot).await;
        let open: Vec<_> = self.opened[slot]
            .iter()
            .filter(|opened| opened.until.is_none())
            .collect();
        if open.is_empty() || open.iter().any(|opened| opened.start > self.known.revision) {
            return;
        }
        let (oracle, subject) = tokio::join!(self.oracle.stream(slot), self.subject.stream(slot));
        tokio::join!(oracle.progress(), subject.progress());
    }

    async fn close_stream(&mut self, slot: usize) {
        self.settle(slot).await;
        self.oracle.streams[slot] = None;
        self.subject.streams[slot] = None;
        self.opened[slot].clear();
        self.known.watches[slot] = 0;
    }

    async fn settle_all(&mut self) {
        for slot in 0..STREAMS {
            self.settle(slot).await;
        }
    }

    /// Waits until every event that is due on a stream has come on both sides, and compares the logs.
    async fn settle(&mut self, slot: usize) {
        self.await_truth().await;
        let truth = &self.truth.log.events[0];
        let (Some(oracle), Some(subject)) = (&mut self.oracle.streams[slot], &mut self.subject.streams[slot]) else {
            return;
        };
        let oracle_keeps = self.oracle.version >= (3, 6);
        let subject_keeps = self.subject.version >= (3, 6);
        let mut found = Vec::new();
        for (index, opened) in self.opened[slot].iter().enumerate() {
            if index >= oracle.log.events.len() || index >= subject.log.events.len() {
                break;
            }
            let due: Vec<&Event> = truth.iter().filter(|event| opened.is_due(event)).collect();
            // etcd before 3.6 loses the tombstone at exactly the compaction revision (#19179): then it is not
            // compared, but who keeps it must tell it.
            let lost = |event: &Event, kept: bool| !kept && opened.is_compacted_tombstone(event);
            let due_of_oracle = due.iter().filter(|event| !lost(event, oracle_keeps)).count();
            let due_of_subject = due.iter().filter(|event| !lost(event, subject_keeps)).count();
            tokio::join!(
                oracle.await_counted(index, due_of_oracle, |event| !lost(event, oracle_keeps)),
                subject.await_counted(index, due_of_subject, |event| !lost(event, subject_keeps))
            );
            let both = oracle_keeps && subject_keeps;
            let told = |side: &WatchStream, kept: bool| -> Vec<Event> {
                let events = side.log.events[index].iter();
                events.filter(|event| !lost(event, kept)).cloned().collect()
            };
            let (theirs, ours) = (told(oracle, both), told(subject, both));
            let due_of_both = due.iter().filter(|event| !lost(event, both)).count();
            let missing = told(subject, subject_keeps).len() < due_of_subject;
            if theirs != ours || missing || ours.len() != due_of_both {
                found.push(first_difference(opened, due.len(), &theirs, &ours));
            }
        }
        oracle.drain();
        subject.drain();
        if oracle.log.controls != subject.log.controls {
            let different = oracle
                .log
                .controls
                .iter()
                .zip(&subject.log.controls)
                .find(|(a, b)| a != b);
            let counts = (oracle.log.controls.len(), subject.log.controls.len());
            found.push(format!(
                "created, canceled, progress: first different {different:?}, counts {counts:?}"
            ));
        }
        for fault in oracle.log.faults.drain(..) {
            println!("note: the oracle's watch stream {slot}: {fault}");
        }
        found.append(&mut subject.log.faults);
        if !found.is_empty() {
            // What follows on this stream would only repeat it.
            self.oracle.streams[slot] = None;
            self.subject.streams[slot] = None;
            self.opened[slot].clear();
            self.known.watches[slot] = 0;
        }
        for what in found {
            self.difference(format!("watch stream {slot}: {what}"));
        }
    }

    /// Every revision has an event, so the truth is complete when it has reached the known revision.
    async fn await_truth(&mut self) {
        loop {
            let last = self.truth.log.events[0].last().map_or(1, mod_revision);
            if last >= self.known.revision {
                return;
            }
            let count = self.truth.log.events[0].len();
            self.truth.await_events(0, count + 1).await;
            if self.truth.log.events[0].len() == count {
                return self.difference(format!("the oracle's own watch stays at {last}"));
            }
        }
    }

    /// All watches, the whole state now and at some older revision, and one hash over the subject's members.
    async fn checkpoint(&mut self, random: &mut Random) {
        self.settle_all().await;
        let oldest = self.known.compact_revision.max(1);
        let older = oldest + random.below((self.known.revision - oldest + 1) as u64) as i64;
        for revision in [0, older, oldest] {
            let all = RangeRequest {
                key: b"\0".to_vec().into(),
                range_end: b"\0".to_vec().into(),
                revision,
                ..RangeRequest::default()
            };
            self.ask(&Request::Range(all)).await;
        }
        self.ask(&Request::Leases).await;
        self.compare_hashes().await;
    }

    async fn compare_hashes(&mut self) {
        let request = Request::HashKv(self.known.revision);
        let mut hashes = Vec::new();
        for member in 0..self.subject.rpcs.len() {
            self.subject.catch_up(member).await;
            let answer = self
                .subject
                .ask(self.subject.rpcs[member].clone(), &request)
                .await
                .unwrap_or_else(refused);
            hashes.push(match answer {
                Answer::HashKv(hash) => Ok((hash.hash, hash.compact_revision)),
                other => Err(other),
            });
        }
        if hashes.iter().any(|hash| hash.is_err() || *hash != hashes[0]) {
            self.difference(format!("HashKV of the subject's members: {hashes:?}"));
        }
    }

    /// Streams are closed before and history is compacted after: inside, revisions depend on who was first.
    async fn concurrent_phase(&mut self, random: &mut Random) {
        for slot in 0..STREAMS {
            self.close_stream(slot).await;
        }
        let found = concurrent::phase(&mut self.oracle, &mut self.subject, random).await;
        *self.asked.entry("concurrent").or_default() += concurrent::OPERATIONS;
        for what in found {
            self.difference(what);
        }
        for request in concurrent::clean_up() {
            self.ask(&request).await;
        }
        let everything = proto::etcdserverpb::CompactionRequest {
            revision: self.known.revision,
            physical: true,
        };
        self.ask(&Request::Compact(everything)).await;
    }
}

impl Opened {
    fn is_due(&self, event: &Event) -> bool {
        let key = event.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
        // 0 is NOPUT, 1 is NODELETE.
        let filter = i32::from(event.r#type == EventType::Delete as i32);
        // A watch's empty key means the smallest one.
        let from = if self.request.key.is_empty() {
            b"\0".to_vec().into()
        } else {
            self.request.key.clone()
        };
        mod_revision(event) >= self.start
            && self.until.is_none_or(|until| mod_revision(event) <= until)
            && !self.request.filters.contains(&filter)
            && in_range(&KeyRange::new(from, self.request.range_end.clone()), &key)
    }

    fn is_compacted_tombstone(&self, event: &Event) -> bool {
        event.r#type == EventType::Delete as i32 && mod_revision(event) == self.compact_revision
    }
}

fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn in_range(range: &KeyRange, key: &[u8]) -> bool {
    range.contains(key)
}

fn first_difference(opened: &Opened, due: usize, theirs: &[Event], ours: &[Event]) -> String {
    let at = theirs
        .iter()
        .zip(ours)
        .position(|(a, b)| a != b)
        .unwrap_or(theirs.len().min(ours.len()));
    format!(
        "watch {} {:?} from {}: {due} events are due, oracle told {}, subject {} (as far as comparable); \
         first difference at {at}:\n  oracle:  {:?}\n  subject: {:?}",
        opened.id,
        opened.request,
        opened.start,
        theirs.len(),
        ours.len(),
        theirs.get(at),
        ours.get(at)
    )
}

fn name(request: &Request) -> &'static str {
    match request {
        Request::Range(_) => "range",
        Request::RangeStream(_) => "range stream",
        Request::Put(_) => "put",
        Request::DeleteRange(_) => "delete",
        Request::Txn(_) => "txn",
        Request::Compact(_) => "compact",
        Request::Grant(_) | Request::GrantThenRevoke(_) => "grant",
        Request::Revoke(_) => "revoke",
        Request::TimeToLive(_) => "time to live",
        Request::Leases => "leases",
        Request::KeepAlive(_) => "keep-alive",
        Request::HashKv(_) => "hash kv",
        Request::Alarms => "alarms",
        Request::Watch { .. } => "watch",
        Request::CancelWatch { .. } => "cancel watch",
        Request::Progress { .. } => "progress",
        Request::CloseStream { .. } => "close stream",
    }
}
