//! Watchers: each a stream with one watch, as `grpc/watch.rs` serves it with the real index of watches and the real
//! cursor. What that file adds around them (reading requests, waiting, the socket) is modelled: a stream looks
//! at its marks now and then, and a client whose member dies goes on elsewhere from where it had got to.

use super::{
    swarm::{MS, US},
    world::{Event, Index, World},
};
use crate::{
    expectations::Expectations,
    history::{Record, Watch, WatchRequest, WatchStep},
    world::messages,
};
use prost::Message;
use proto::etcdserverpb::{ResponseHeader, WatchResponse};
use raft_node::{
    grpc::{
        cursor::{Cursor, requested_range},
        reply::Outbox,
    },
    watchers::Stream,
};
use std::sync::Arc;

/// Small pages, so that most catch-ups take several.
const PAGE_BYTES: usize = 400;
/// Small responses, so that fragments are common.
const RESPONSE_BYTES: usize = 600;

/// One watcher, which comes back wherever a member lives.
pub struct Watcher {
    number: u32,
    pub at: Index,
    request: WatchRequest,
    /// The first revision that it has not been told of, once it has been opened.
    next: i64,
    incarnation: u32,
    open: Option<Open>,
    /// Another one took its place.
    pub is_over: bool,
}

/// Its watch at a member.
struct Open {
    stream: Arc<Stream>,
    cursor: Cursor,
}

impl Watcher {
    pub fn new(number: u32, at: Index, request: WatchRequest) -> Self {
        Self {
            number,
            at,
            next: request.start_revision,
            request,
            incarnation: 0,
            open: None,
            is_over: false,
        }
    }
}

impl World {
    /// What the checkers need to know, and the request of the canonical watcher.
    pub fn begin_history(&mut self, expectations: Expectations) {
        self.judge.history.push(Record::Expectations(expectations));
        self.record_canonical(WatchStep::Asked(WatchRequest {
            key: "\0".to_owned(),
            range_end: "\0".to_owned(),
            start_revision: 1,
            prev_kv: true,
            ..WatchRequest::default()
        }));
        self.record_canonical(WatchStep::Created { revision: 1 });
    }

    /// Watcher 0 sees everything from revision 1, from whichever member knows it first.
    pub fn record_canonical(&mut self, step: WatchStep) {
        self.judge.history.push(Record::Watch(Watch {
            watcher: 0,
            member: 0,
            incarnation: 1,
            at: self.now.as_nanos() as u64,
            step,
        }));
    }

    /// A watcher takes its next step.
    pub fn watch(&mut self, number: usize) {
        let watcher = &self.watchers[number];
        if watcher.is_over {
            self.close(number);
            return;
        }
        let at = watcher.at;
        let pause = self.rng.between(MS, 60 * MS);
        if !self.is_up(at) {
            // The client notices sooner or later and goes elsewhere.
            let is_gone = self.nodes[at].process.is_none();
            let elsewhere = (at + 1) % self.members();
            if is_gone {
                self.watchers[number].at = elsewhere;
            }
            self.after(pause, Event::Watch(number));
            return;
        }
        if self.watchers[number].open.is_none() {
            self.open_watch(number);
        }
        self.follow(number);
        self.after(pause, Event::Watch(number));
    }

    fn step(&mut self, number: usize, step: WatchStep) {
        let watcher = &self.watchers[number];
        let record = Record::Watch(Watch {
            watcher: watcher.number,
            member: watcher.at as u32,
            incarnation: watcher.incarnation,
            at: self.now.as_nanos() as u64,
            step,
        });
        self.judge.history.push(record);
    }

    fn open_watch(&mut self, number: usize) {
        let at = self.watchers[number].at;
        if !self.process(at).replica.standing().serving {
            return;
        }
        let incarnation = self.nodes[at].incarnation;
        let request = WatchRequest {
            start_revision: self.watchers[number].next,
            ..self.watchers[number].request.clone()
        };
        let asked = messages::watch(&request);
        let process = self.process(at);
        let stream = Arc::new(Stream::default());
        let published = || process.store().view().revision();
        let range = requested_range(&asked);
        let opened = Cursor::open(&process.watchers, published, &stream, 1, range, &asked);
        let Ok((cursor, revision)) = opened else { return };
        let watcher = &mut self.watchers[number];
        watcher.incarnation = incarnation;
        watcher.next = cursor.next();
        watcher.open = Some(Open { stream, cursor });
        self.step(number, WatchStep::Asked(request));
        self.step(number, WatchStep::Created { revision });
    }

    /// Follows the marks, pulls what is behind them, and tells progress now and then.
    fn follow(&mut self, number: usize) {
        // A slow client takes a page or two; a healed world catches up.
        let pages = if self.is_faulty {
            1 + self.rng.below(4)
        } else {
            u64::MAX
        };
        for _ in 0..pages {
            let Some(open) = &mut self.watchers[number].open else {
                return;
            };
            for _ in open.stream.take_marked() {
                open.cursor.follow_mark();
            }
            if !open.cursor.is_behind() || !self.pull(number) {
                break;
            }
        }
        if self.rng.permille(100) {
            self.tell_progress(number);
        }
    }

    /// One page; whether there may be more.
    fn pull(&mut self, number: usize) -> bool {
        let at = self.watchers[number].at;
        let process = self.process(at);
        let (view, encodings) = (process.store().view(), Arc::clone(process.watchers.encodings()));
        let Some(open) = &mut self.watchers[number].open else {
            return false;
        };
        let page = match view.events(open.cursor.range(), open.cursor.next(), PAGE_BYTES) {
            Ok(page) => page,
            Err(compacted) => {
                self.cancel(number, compacted.compact_revision);
                return false;
            }
        };
        let header = ResponseHeader {
            revision: page.next_revision - 1,
            ..ResponseHeader::default()
        };
        let mut outbox = Outbox::default();
        let encoded = open.cursor.form().encode(&page, view.revision(), &encodings);
        open.cursor.take_page(&encoded, header, RESPONSE_BYTES, &mut outbox);
        self.watchers[number].next = page.next_revision;
        for reply in outbox.take() {
            // From the bytes, as a client gets them.
            let response = WatchResponse::decode(reply.message().as_slice()).expect("a response that was encoded here");
            self.step(number, events_of(&response));
        }
        true
    }

    /// As a tick of the stream does it for quiet watches.
    fn tell_progress(&mut self, number: usize) {
        let at = self.watchers[number].at;
        let notified = self.process(at).watchers.notified();
        let Some(open) = &mut self.watchers[number].open else {
            return;
        };
        let has_seen_all = open.cursor.progress_from().is_some_and(|needed| needed <= notified);
        let is_quiet = open.cursor.take_quiet();
        if open.cursor.wants_progress() && is_quiet && has_seen_all {
            self.watchers[number].next = self.watchers[number].next.max(notified + 1);
            self.step(number, WatchStep::Progress { revision: notified });
        }
    }

    /// What it wants to see is forgotten: another one begins from what is left.
    fn cancel(&mut self, number: usize, compact_revision: i64) {
        let step = WatchStep::Canceled {
            revision: 0,
            compact_revision,
            reason: String::new(),
        };
        self.step(number, step);
        let watcher = &self.watchers[number];
        let request = WatchRequest {
            start_revision: compact_revision,
            ..watcher.request.clone()
        };
        let at = watcher.at;
        self.unregister(number);
        self.watchers[number].is_over = true;
        let next = self.watchers.len();
        self.watchers.push(Watcher::new(next as u32 + 1, at, request));
        self.after(US, Event::Watch(next));
    }

    /// Its client has seen enough.
    fn close(&mut self, number: usize) {
        if self.watchers[number].open.is_some() {
            self.step(number, WatchStep::Lost);
            self.unregister(number);
        }
    }

    fn unregister(&mut self, number: usize) {
        let watcher = &mut self.watchers[number];
        if let (Some(open), Some(process)) = (watcher.open.take(), &self.nodes[watcher.at].process) {
            open.cursor.close(&process.watchers);
        }
    }

    /// A member went down, and its streams with it.
    pub fn watchers_lose(&mut self, index: Index) {
        for number in 0..self.watchers.len() {
            if self.watchers[number].at == index && self.watchers[number].open.is_some() {
                self.step(number, WatchStep::Lost);
                self.watchers[number].open = None;
            }
        }
    }
}

fn events_of(response: &WatchResponse) -> WatchStep {
    WatchStep::Events {
        revision: response.header.as_ref().map_or(0, |header| header.revision),
        events: response.events.iter().map(messages::event).collect(),
        fragment: response.fragment,
    }
}
