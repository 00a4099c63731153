//! The watch checker: ordered, unique, atomic, reliable, resumable, bookmarkable, filtered, with the right prev_kv.
//!
//! ```text
//!   log          2    3    4    5    6          a watch of a prefix from 3 on that matches 3, 5 and 6
//!   delivered         3         5    6          right: nothing left out, twice, or in another order
//!   progress 4             ^                    right: all up to 4 was there; nothing up to 4 may come later
//! ```
//! Every session of a watcher (from `Asked` to `Lost` or `Canceled`) is compared with the canonical log; one that
//! resumes begins where it asked to. A response in fragments is joined first.
//! Not here: whether the log is right (`canonical`, `revision`).

use super::canonical::{Log, describe as describe_events};
use super::compactions::Compactions;
use super::{Anomaly, describe};
use crate::expectations::Expectations;
use crate::history::{Event, Record, Watch, WatchRequest, WatchStep};
use crate::model::contains;
use std::collections::{BTreeMap, BTreeSet};

const CHECKER: &str = "watch";

pub fn check(history: &[Record], log: &Log, expectations: &Expectations) -> Vec<Anomaly> {
    let world = World {
        log,
        compactions: Compactions::of(history),
        closed: expectations.closed,
    };
    let mut anomalies = Vec::new();
    let mut sessions: BTreeMap<u32, Session<'_>> = BTreeMap::new();
    for (place, record) in history.iter().enumerate() {
        let Record::Watch(watch) = record else { continue };
        if let WatchStep::Asked(request) = &watch.step {
            sessions.insert(watch.watcher, Session::new(place, request));
            continue;
        }
        let Some(session) = sessions.get_mut(&watch.watcher) else {
            let text = format!("watcher {} never asked: {}", watch.watcher, describe::watch(watch));
            anomalies.push(Anomaly::new(CHECKER, "answer without a question", text, &[place]));
            continue;
        };
        for (name, text) in session.step(watch, &world) {
            let text = format!("watcher {}, {}: {text}", watch.watcher, describe::watch(watch));
            anomalies.push(Anomaly::new(CHECKER, name, text, &[session.asked, place]));
        }
    }
    if expectations.drained {
        for (watcher, session) in &sessions {
            anomalies.extend(session.end(*watcher, log));
        }
    }
    anomalies
}

struct World<'a> {
    log: &'a Log,
    compactions: Compactions<'a>,
    closed: bool,
}

type Broken = Vec<(&'static str, String)>;

/// One stream's life.
struct Session<'a> {
    /// Place of the request.
    asked: usize,
    request: &'a WatchRequest,
    created: bool,
    ended: bool,
    /// The lowest revision that was not looked at yet.
    next: i64,
    bookmark: i64,
    delivered: BTreeSet<i64>,
    /// Fragments that wait for their last.
    pending: Vec<&'a Event>,
    in_fragments: bool,
}

impl<'a> Session<'a> {
    fn new(asked: usize, request: &'a WatchRequest) -> Session<'a> {
        Session {
            asked,
            request,
            created: false,
            ended: false,
            next: request.start_revision.max(1),
            bookmark: 0,
            delivered: BTreeSet::new(),
            pending: Vec::new(),
            in_fragments: false,
        }
    }

    fn step(&mut self, watch: &'a Watch, world: &World<'_>) -> Broken {
        let mut broken = Broken::new();
        let is_loss = matches!(watch.step, WatchStep::Lost);
        if self.ended && !is_loss {
            broken.push(("answer after the end", String::new()));
            return broken;
        }
        let needs_created = matches!(watch.step, WatchStep::Events { .. } | WatchStep::Progress { .. });
        if needs_created && !self.created {
            broken.push(("event before created", String::new()));
            // Judged once for this; the rest as if it had been created where it asked to begin.
            self.created = true;
        }
        let continues = matches!(watch.step, WatchStep::Events { .. }) || is_loss;
        if self.in_fragments && !continues {
            broken.push(("interrupted fragments", String::new()));
        }
        match &watch.step {
            WatchStep::Asked(_) => {}
            WatchStep::Created { revision } => self.create(*revision, world.log, &mut broken),
            WatchStep::Events {
                revision,
                events,
                fragment,
            } => {
                if *fragment && !self.request.fragment {
                    broken.push(("fragment not asked for", String::new()));
                }
                self.pending.extend(events);
                self.in_fragments = *fragment;
                if !fragment {
                    let whole = std::mem::take(&mut self.pending);
                    self.response(*revision, &whole, watch.at, world, &mut broken);
                }
            }
            WatchStep::Progress { revision } => self.progress(*revision, world.log, &mut broken),
            WatchStep::Canceled { compact_revision, .. } => {
                self.ended = true;
                if *compact_revision != 0 {
                    self.compacted(*compact_revision, watch.at, world, &mut broken);
                }
            }
            WatchStep::Lost => self.ended = true,
        }
        broken
    }

    fn create(&mut self, revision: i64, log: &Log, broken: &mut Broken) {
        if revision > log.last() {
            broken.push((
                "created at a revision of nowhere",
                format!("the log ends at {}", log.last()),
            ));
        }
        if std::mem::replace(&mut self.created, true) {
            broken.push(("created twice", String::new()));
        } else if self.request.start_revision == 0 {
            self.next = revision + 1;
        }
    }

    fn matches(&self, event: &Event) -> bool {
        let key = if self.request.key.is_empty() {
            "\0"
        } else {
            &self.request.key
        };
        let is_filtered = if event.is_delete {
            self.request.no_delete
        } else {
            self.request.no_put
        };
        // "\0" means from the first key on, and the empty key cannot exist.
        !is_filtered && (contains(key, &self.request.range_end, &event.kv.key))
    }

    /// What the log has for this watch at `revision`.
    fn wanted<'l>(&self, log: &'l Log, revision: i64) -> Vec<&'l Event> {
        log.events(revision)
            .iter()
            .filter(|event| self.matches(event))
            .collect()
    }

    fn response(&mut self, header: i64, events: &[&Event], at: u64, world: &World<'_>, broken: &mut Broken) {
        if events.is_empty() {
            return self.progress(header, world.log, broken);
        }
        for events in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
            let revision = events[0].kv.mod_revision;
            if revision > header {
                broken.push(("header behind its events", format!("{header} < {revision}")));
            }
            self.revision(revision, events, world.log, broken);
            for event in events {
                self.prev_kv(event, at, world, broken);
            }
        }
    }

    /// All events of one revision in one response.
    fn revision(&mut self, revision: i64, events: &[&Event], log: &Log, broken: &mut Broken) {
        if revision > log.last() {
            broken.push(("event of nowhere", format!("the log ends at {}", log.last())));
            return;
        }
        let wanted = self.wanted(log, revision);
        if revision < self.request.start_revision {
            broken.push(("event before the start", format!("revision {revision}")));
            return;
        }
        if revision <= self.bookmark {
            broken.push(("event after its progress", format!("progress was {}", self.bookmark)));
        }
        if revision < self.next {
            let is_rest = self.delivered.contains(&revision) && events.len() < wanted.len();
            let name = match (is_rest, self.delivered.contains(&revision)) {
                (true, _) => "split revision",
                (_, true) => "event twice",
                _ => "events out of order",
            };
            broken.push((name, format!("revision {revision} when {} was next", self.next)));
            return;
        }
        self.no_gap(revision - 1, "missed event", log, broken);
        self.delivered.insert(revision);
        self.next = revision + 1;
        let same = |a: &Event, b: &Event| a.is_delete == b.is_delete && a.kv == b.kv;
        let all_same = wanted.len() == events.len() && wanted.iter().zip(events).all(|(a, b)| same(a, b));
        if all_same {
            return;
        }
        let of_log = |event: &Event| log.events(revision).iter().any(|known| same(known, event));
        let repeats = (1..events.len()).any(|at| events[..at].iter().any(|before| same(before, events[at])));
        let name = if events.iter().any(|event| !of_log(event)) {
            "wrong event"
        } else if events.iter().any(|event| !self.matches(event)) {
            "event not asked for"
        } else if repeats {
            "event twice"
        } else if events.len() < wanted.len() {
            "split revision"
        } else {
            "events out of order"
        };
        let told = describe_events(log.events(revision));
        broken.push((name, format!("revision {revision} of the log is {told}")));
    }

    /// Nothing that matches may have been left out up to `revision`.
    fn no_gap(&self, revision: i64, name: &'static str, log: &Log, broken: &mut Broken) {
        let missed = (self.next..=revision.min(log.last())).find(|between| !self.wanted(log, *between).is_empty());
        if let Some(missed) = missed {
            let events: Vec<_> = self.wanted(log, missed).into_iter().cloned().collect();
            broken.push((name, format!("revision {missed}: {}", describe_events(&events))));
        }
    }

    fn prev_kv(&self, event: &Event, at: u64, world: &World<'_>, broken: &mut Broken) {
        let revision = event.kv.mod_revision;
        let before = world.log.at(revision - 1).get(&event.kv.key);
        let told = event.prev_kv.as_ref();
        if !self.request.prev_kv {
            if told.is_some() {
                broken.push(("prev_kv not asked for", event.kv.key.clone()));
            }
        } else if told != before {
            // What was before a compaction need not be known any more.
            let is_excused = told.is_none() && world.compactions.begun_by(at) >= revision;
            if !is_excused {
                broken.push(("wrong prev_kv", format!("{told:?} where {before:?} was")));
            }
        }
    }

    fn progress(&mut self, revision: i64, log: &Log, broken: &mut Broken) {
        if revision > log.last() {
            broken.push(("progress of nowhere", format!("the log ends at {}", log.last())));
            return;
        }
        let last_delivered = self.delivered.last().copied().unwrap_or(0);
        if revision < self.bookmark.max(last_delivered) {
            broken.push(("progress went back", format!("{last_delivered} had been delivered")));
            return;
        }
        if revision < self.request.start_revision {
            broken.push(("progress before the start", String::new()));
            return;
        }
        self.no_gap(revision, "progress ahead of its events", log, broken);
        self.bookmark = revision;
        self.next = self.next.max(revision + 1);
    }

    fn compacted(&self, compact_revision: i64, at: u64, world: &World<'_>, broken: &mut Broken) {
        let is_begun = !world.closed || world.compactions.begun_by(at) >= compact_revision;
        if self.next >= compact_revision || !is_begun {
            let text = format!("{} was next, and compacted was {compact_revision}", self.next);
            broken.push(("canceled without a reason", text));
        }
    }

    /// At the end of a run that gave everybody time.
    fn end(&self, watcher: u32, log: &Log) -> Option<Anomaly> {
        if self.ended {
            return None;
        }
        let mut broken = Broken::new();
        if self.created {
            self.no_gap(log.last(), "missed event at the end", log, &mut broken);
        } else {
            broken.push(("watch never created", String::new()));
        }
        let (name, text) = broken.pop()?;
        let text = format!("watcher {watcher}: {text}");
        Some(Anomaly::new(CHECKER, name, text, &[self.asked]))
    }
}
