//! The canonical log: what happened, in the only order, as every member's watch from revision 1 tells it.
//!
//! ```text
//!   member 0   2:put a   3:put b   4:del a
//!   member 1   2:put a   3:put b   4:del a   5:put c        -> 2 3 4 5, all agree
//!   member 2   2:put a   3:put X                            -> "members disagree" at 3
//! ```
//! A watcher may come back after a broken stream; whoever was cut off by a compaction leaves a hole that the
//! others fill. Where members disagree most of them are believed, so that the rest can still be judged.
//! Not here: whether a single watch kept its promises (`watch`), and whether anybody asked for these changes
//! (`revision`).

use super::Anomaly;
use crate::expectations::Expectations;
use crate::history::{Event, KeyValue, Record, Watch, WatchRequest, WatchStep};
use crate::model::{Snapshot, Timeline};
use std::collections::{BTreeMap, BTreeSet};

const CHECKER: &str = "canonical";

/// Every revision's events, and every state between them.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Revision 2 first.
    revisions: Vec<Vec<Event>>,
    timeline: Timeline,
}

impl Log {
    /// Of known revisions, from 2 on.
    pub fn new(revisions: Vec<Vec<Event>>) -> Log {
        let mut timeline = Timeline::default();
        for events in &revisions {
            timeline.append(events);
        }
        Log { revisions, timeline }
    }

    /// The newest revision; 1 when nothing was ever written.
    pub fn last(&self) -> i64 {
        self.timeline.revision()
    }

    /// What `revision` changed, in order; nothing for what is outside of the log.
    pub fn events(&self, revision: i64) -> &[Event] {
        usize::try_from(revision - 2)
            .ok()
            .and_then(|at| self.revisions.get(at))
            .map_or(&[], Vec::as_slice)
    }

    /// All revisions with their events, from `revision` on.
    pub fn from(&self, revision: i64) -> impl Iterator<Item = (i64, &[Event])> {
        (revision.max(2)..=self.last()).map(|revision| (revision, self.events(revision)))
    }

    pub fn at(&self, revision: i64) -> Snapshot<'_> {
        self.timeline.at(revision)
    }
}

/// Whether this watch sees everything that ever happens.
pub fn is_full(request: &WatchRequest) -> bool {
    let everything = matches!(request.key.as_str(), "" | "\0") && request.range_end == "\0";
    everything && !request.no_put && !request.no_delete
}

/// The log that the full watches agree on, and what they do not agree on.
pub fn read(history: &[Record], expectations: &Expectations) -> (Log, Vec<Anomaly>) {
    let mut anomalies = Vec::new();
    let mut witnesses = Witnesses::default();
    for (place, record) in history.iter().enumerate() {
        if let Record::Watch(watch) = record {
            witnesses.hear(place, watch);
        }
    }
    for member in 0..expectations.members {
        if !witnesses.members.contains(&member) {
            let text = format!("no watch of everything from revision 1 on member {member}: the run proves nothing");
            anomalies.push(Anomaly::new(CHECKER, "no witness", text, &[]));
        }
    }
    let mut log = Log::default();
    let last = witnesses.heard.keys().next_back().copied().unwrap_or(1);
    for revision in 2..=last {
        let Some(versions) = witnesses.heard.get(&revision) else {
            let text = format!("nobody has heard of revision {revision}, but of {last}");
            anomalies.push(Anomaly::new(CHECKER, "gap in the log", text, &[]));
            log.push(&[]);
            continue;
        };
        let told = versions.iter().rev().max_by_key(|told| told.places.len());
        let told = told.map_or(&[][..], |told| &told.events);
        if versions.len() > 1 {
            anomalies.push(disagreement(revision, versions));
        }
        if let Some(wrong) = first_inconsistency(log.at(revision - 1), revision, told) {
            let places: Vec<_> = versions.iter().flat_map(|told| told.places.clone()).collect();
            anomalies.push(Anomaly::new(CHECKER, "impossible change", wrong, &places));
        }
        log.push(told);
    }
    (log, anomalies)
}

impl Log {
    fn push(&mut self, events: &[Event]) {
        self.timeline.append(events);
        self.revisions.push(events.to_vec());
    }
}

/// One account of a revision and where it is told.
struct Told {
    events: Vec<Event>,
    places: Vec<usize>,
}

#[derive(Default)]
struct Witnesses {
    /// By watcher: whether it is a full one, and fragments that wait for their end.
    sessions: BTreeMap<u32, Session>,
    members: BTreeSet<u32>,
    heard: BTreeMap<i64, Vec<Told>>,
}

#[derive(Default)]
struct Session {
    /// It asked for everything from the beginning, and each time it came back, for everything.
    is_full: bool,
    pending: Vec<Event>,
}

impl Witnesses {
    fn hear(&mut self, place: usize, watch: &Watch) {
        match &watch.step {
            WatchStep::Asked(request) => {
                let comes_back = self.sessions.contains_key(&watch.watcher);
                let from_the_beginning = (1..=2).contains(&request.start_revision);
                let session = self.sessions.entry(watch.watcher).or_default();
                session.pending.clear();
                session.is_full = is_full(request) && (from_the_beginning || (comes_back && session.is_full));
                if session.is_full && from_the_beginning {
                    self.members.insert(watch.member);
                }
            }
            WatchStep::Events { events, fragment, .. } => {
                let Some(session) = self.sessions.get_mut(&watch.watcher).filter(|session| session.is_full) else {
                    return;
                };
                session.pending.extend(events.iter().cloned());
                if !fragment {
                    let whole = std::mem::take(&mut session.pending);
                    self.note(place, &whole);
                }
            }
            WatchStep::Lost | WatchStep::Canceled { .. } => {
                if let Some(session) = self.sessions.get_mut(&watch.watcher) {
                    session.pending.clear();
                }
            }
            WatchStep::Created { .. } | WatchStep::Progress { .. } => {}
        }
    }

    /// Takes note of a whole response: one account for each of its revisions.
    fn note(&mut self, place: usize, events: &[Event]) {
        for events in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
            let events: Vec<_> = events.iter().map(without_prev).collect();
            let versions = self.heard.entry(events[0].kv.mod_revision).or_default();
            match versions.iter_mut().find(|told| told.events == events) {
                Some(told) => told.places.push(place),
                None => versions.push(Told {
                    events,
                    places: vec![place],
                }),
            }
        }
    }
}

/// Whether prev_kv is told depends on who asked.
fn without_prev(event: &Event) -> Event {
    Event {
        prev_kv: None,
        ..event.clone()
    }
}

fn disagreement(revision: i64, versions: &[Told]) -> Anomaly {
    let accounts: Vec<_> = versions
        .iter()
        .map(|told| format!("{} times {}", told.places.len(), describe(&told.events)))
        .collect();
    let places: Vec<_> = versions
        .iter()
        .filter_map(|told| told.places.first().copied())
        .collect();
    let text = format!("revision {revision} is told as {}", accounts.join(" and as "));
    Anomaly::new(CHECKER, "members disagree", text, &places)
}

/// More events than this are counted, not told: one response may hold a thousand.
const DESCRIBED_MAX: usize = 20;

/// For people: `put a=1, delete b`.
pub fn describe(events: &[Event]) -> String {
    let told = events.iter().take(DESCRIBED_MAX).map(|Event { is_delete, kv, .. }| {
        if *is_delete {
            format!("delete {}", kv.key)
        } else {
            format!("put {}={}", kv.key, kv.value)
        }
    });
    let mut told: Vec<_> = told.collect();
    if let Some(untold @ 1..) = events.len().checked_sub(DESCRIBED_MAX) {
        told.push(format!("and {untold} more"));
    }
    if told.is_empty() {
        "nothing".to_owned()
    } else {
        told.join(", ")
    }
}

/// What is wrong with `events` as the step from `before` to `revision`.
fn first_inconsistency(before: Snapshot<'_>, revision: i64, events: &[Event]) -> Option<String> {
    let mut seen = BTreeSet::new();
    for event in events {
        let kv = &event.kv;
        let old = before.get(&kv.key);
        if !seen.insert(&kv.key) {
            return Some(format!("revision {revision} changes {} twice", kv.key));
        }
        let expected = if event.is_delete {
            if old.is_none() {
                return Some(format!("revision {revision} deletes {}, which did not exist", kv.key));
            }
            KeyValue {
                key: kv.key.clone(),
                mod_revision: revision,
                ..KeyValue::default()
            }
        } else {
            KeyValue {
                create_revision: old.map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.map_or(1, |old| old.version + 1),
                ..kv.clone()
            }
        };
        if *kv != expected {
            return Some(format!(
                "revision {revision}: {kv:?} where {expected:?} must follow {old:?}"
            ));
        }
    }
    None
}
