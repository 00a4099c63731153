//! Histories whose truth is known: the model runs, each request at a random point between its call and its return.
//!
//! ```text
//!   process 0   |--------*----|          * the model is asked here
//!   process 1      |--*-----------|      the history says only | and |
//!   member 0's watch      ..2...3        what the model made, some time later
//! ```
//! Some outcomes are lost: of those some happen, some do so late, some never. What comes out is right by
//! construction: a checker that finds something in it is wrong.

use crate::random::Random;
use jepsen::expectations::Expectations;
use jepsen::history::{
    Compare, CompareResult, CompareTarget, DeleteRange, Event, NEVER, Operation, Outcome, Put, Range, Record, Request,
    Txn, Watch, WatchRequest, WatchStep,
};
use jepsen::model::{Etcd, contains, execute};

pub const MEMBERS: u32 = 3;
const LEASES: [i64; 3] = [11, 12, 13];
/// Nanoseconds between two things that happen.
const TICK: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Put, get, delete and compare-and-set of single keys; some reads are serializable.
    Simple,
    /// With ranges and nested transactions, but nothing that asks for the past and no leases.
    Present,
    All,
}

#[derive(Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub operations: usize,
    pub processes: usize,
    pub keys: usize,
    /// In percent: how many outcomes get lost.
    pub unknown: usize,
    pub mix: Mix,
    pub watchers: usize,
}

impl Plan {
    pub fn small(seed: u64) -> Plan {
        Plan {
            seed,
            operations: 40,
            processes: 4,
            keys: 4,
            unknown: 8,
            mix: Mix::All,
            watchers: 4,
        }
    }

    /// So few operations that every order of them can be tried.
    pub fn tiny(seed: u64) -> Plan {
        Plan {
            operations: 7,
            processes: 3,
            keys: 2,
            mix: Mix::Present,
            watchers: 2,
            ..Plan::small(seed)
        }
    }
}

pub fn expectations() -> Expectations {
    Expectations {
        members: MEMBERS,
        drained: true,
        ..Expectations::default()
    }
}

struct Process {
    number: u32,
    member: u32,
    /// What it waits for: the request, when it was called, and the outcome once the model was asked.
    pending: Option<(Request, u64, Option<Outcome>)>,
    /// Newest revision it was told by its member.
    floor: i64,
}

/// A watch and how far it has been told.
struct Watching {
    number: u32,
    member: u32,
    request: WatchRequest,
    next: i64,
    open: bool,
}

pub struct Generator {
    random: Random,
    plan: Plan,
    etcd: Etcd,
    now: u64,
    history: Vec<Record>,
    processes: Vec<Process>,
    /// Requests of lost outcomes that have yet to happen.
    late: Vec<Request>,
    watches: Vec<Watching>,
    asked: usize,
    next_process: u32,
}

/// A valid history.
pub fn history(plan: Plan) -> Vec<Record> {
    Generator::new(plan).run()
}

impl Generator {
    fn new(plan: Plan) -> Generator {
        let process = |number: usize| Process {
            number: number as u32,
            member: number as u32 % MEMBERS,
            pending: None,
            floor: 1,
        };
        Generator {
            random: Random::new(plan.seed),
            plan,
            etcd: Etcd::default(),
            now: TICK,
            history: Vec::new(),
            processes: (0..plan.processes).map(process).collect(),
            late: Vec::new(),
            watches: Vec::new(),
            asked: 0,
            next_process: plan.processes as u32,
        }
    }

    fn run(mut self) -> Vec<Record> {
        for member in 0..MEMBERS {
            let everything = WatchRequest {
                key: "\0".to_owned(),
                range_end: "\0".to_owned(),
                start_revision: 1,
                prev_kv: true,
                ..WatchRequest::default()
            };
            self.open_watch(member, everything);
        }
        while self.asked < self.plan.operations || self.processes.iter().any(|process| process.pending.is_some()) {
            self.now += TICK;
            match self.random.below(10) {
                0 => self.watch_something(),
                1 if !self.late.is_empty() => {
                    let at = self.random.below(self.late.len());
                    let request = self.late.swap_remove(at);
                    self.happen(&request);
                }
                _ => {
                    let process = self.random.below(self.processes.len());
                    self.advance(process);
                }
            }
        }
        self.now += TICK;
        for at in 0..self.watches.len() {
            if !self.watches[at].open {
                self.reopen(at);
            }
            self.deliver(at, usize::MAX);
        }
        self.history
    }

    /// One step of one process: it asks, or the model is asked for it, or it hears the outcome.
    fn advance(&mut self, at: usize) {
        match self.processes[at].pending.take() {
            None if self.asked < self.plan.operations => {
                self.asked += 1;
                let request = self.request();
                self.processes[at].pending = Some((request, self.now, None));
            }
            None => {}
            Some((request, invoked, None)) => {
                if self.random.percent(self.plan.unknown) {
                    if self.random.percent(70) {
                        self.late.push(request.clone());
                    }
                    self.record(at, request, invoked, NEVER, Outcome::Unknown("timeout".to_owned()));
                    let process = &mut self.processes[at];
                    (process.number, process.floor) = (self.next_process, 1);
                    self.next_process += 1;
                    return;
                }
                let outcome = self.outcome(at, &request);
                self.processes[at].pending = Some((request, invoked, Some(outcome)));
            }
            Some((request, invoked, Some(outcome))) => {
                if let Outcome::Ok(reply) = &outcome {
                    let revision = jepsen::model::revision_of(reply).unwrap_or(1);
                    let process = &mut self.processes[at];
                    process.floor = process.floor.max(revision);
                }
                self.record(at, request, invoked, self.now, outcome);
            }
        }
    }

    fn outcome(&mut self, at: usize, request: &Request) -> Outcome {
        if let Request::Range(range) = request
            && range.serializable
        {
            let newest = self.etcd.timeline.revision();
            let floor = self.processes[at].floor;
            let behind = self.random.below((newest - floor + 1).min(5) as usize) as i64;
            let state = self.etcd.timeline.at(newest - behind);
            return execute(state, request).map_or_else(
                |refusal| Outcome::Failed(refusal.text().to_owned()),
                |effect| Outcome::Ok(effect.reply),
            );
        }
        self.happen(request)
    }

    fn happen(&mut self, request: &Request) -> Outcome {
        match self.etcd.apply(request) {
            Ok((reply, _)) => Outcome::Ok(reply),
            Err(refusal) => Outcome::Failed(refusal.text().to_owned()),
        }
    }

    fn record(&mut self, at: usize, request: Request, invoked: u64, returned: u64, outcome: Outcome) {
        let process = &self.processes[at];
        self.history.push(Record::Operation(Operation {
            process: process.number,
            member: process.member,
            incarnation: 0,
            invoked,
            returned,
            request,
            outcome,
        }));
    }

    fn key(&mut self) -> String {
        let keys = self.plan.keys;
        format!("k{}", self.random.below(keys))
    }

    fn put(&mut self) -> Put {
        let lease = if self.plan.mix != Mix::All || self.random.percent(70) {
            0
        } else {
            *self.random.pick(&LEASES)
        };
        let keeps = self.plan.mix != Mix::Simple && self.random.percent(5);
        Put {
            key: self.key(),
            value: if keeps {
                String::new()
            } else {
                format!("v{}", self.random.next() % 1_000_000_007)
            },
            lease,
            prev_kv: self.random.percent(30),
            ignore_value: keeps,
            ignore_lease: false,
        }
    }

    fn range(&mut self) -> Range {
        let newest = self.etcd.timeline.revision();
        let mut range = Range {
            key: self.key(),
            serializable: self.plan.mix != Mix::Present && self.random.percent(15),
            ..Range::default()
        };
        if self.plan.mix != Mix::Simple {
            if self.random.percent(40) {
                (range.key, range.range_end) = ("k".to_owned(), "l".to_owned());
                range.limit = self.random.below(4) as i64;
                range.keys_only = self.random.percent(20);
                range.count_only = self.random.percent(20);
            }
            if self.plan.mix == Mix::All && self.random.percent(15) {
                range.revision = newest - self.random.below(6) as i64 + 1;
                range.serializable = false;
            }
        }
        range
    }

    fn delete(&mut self) -> DeleteRange {
        let is_range = self.plan.mix != Mix::Simple && self.random.percent(20);
        DeleteRange {
            key: self.key(),
            range_end: if is_range { "k3".to_owned() } else { String::new() },
            prev_kv: self.random.percent(30),
        }
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let now = self.etcd.timeline.now().get(&key).cloned();
        let wrong = i64::from(self.random.percent(30));
        let target = match self.random.below(4) {
            0 => CompareTarget::Version(now.map_or(0, |kv| kv.version) + wrong),
            1 => CompareTarget::Create(now.map_or(0, |kv| kv.create_revision) + wrong),
            2 => CompareTarget::Mod(now.map_or(0, |kv| kv.mod_revision) + wrong),
            _ => CompareTarget::Value(now.map_or_else(String::new, |kv| kv.value)),
        };
        Compare {
            key,
            range_end: String::new(),
            result: CompareResult::Equal,
            target,
        }
    }

    /// Compares one key and writes it; sometimes more.
    fn txn(&mut self, depth: usize) -> Txn {
        let compare = self.compare();
        let guarded = compare.key.clone();
        let mut success = vec![Request::Put(Put {
            key: guarded.clone(),
            ..self.put()
        })];
        let mut failure = vec![Request::Range(Range {
            key: guarded,
            ..Range::default()
        })];
        if self.plan.mix != Mix::Simple {
            for _ in 0..self.random.below(3) {
                let more = match self.random.below(4) {
                    0 if depth < 2 => Request::Txn(self.txn(depth + 1)),
                    1 => Request::DeleteRange(self.delete()),
                    2 => Request::Put(self.put()),
                    _ => Request::Range(Range {
                        revision: 0,
                        ..self.range()
                    }),
                };
                let branch = if self.random.percent(70) {
                    &mut success
                } else {
                    &mut failure
                };
                branch.push(more);
            }
        }
        Txn {
            compares: vec![compare],
            success,
            failure,
        }
    }

    fn request(&mut self) -> Request {
        match self.random.below(if self.plan.mix == Mix::All { 100 } else { 80 }) {
            0..=24 => Request::Put(self.put()),
            25..=49 => Request::Range(self.range()),
            50..=59 => Request::DeleteRange(self.delete()),
            60..=79 => Request::Txn(self.txn(0)),
            80..=86 => Request::LeaseGrant {
                id: *self.random.pick(&LEASES),
                ttl_s: 3600,
            },
            87..=90 => Request::LeaseRevoke {
                id: *self.random.pick(&LEASES),
            },
            91..=94 => Request::LeaseKeepAlive {
                id: *self.random.pick(&LEASES),
            },
            95..=96 => Request::LeaseTimeToLive {
                id: *self.random.pick(&LEASES),
            },
            _ => Request::Compact {
                revision: self.etcd.timeline.revision() - self.random.below(4) as i64 + 1,
            },
        }
    }

    fn watch_something(&mut self) {
        let is_new = self.watches.len() < self.plan.watchers + MEMBERS as usize;
        if is_new && self.random.percent(20) {
            let start = self.etcd.timeline.revision() - self.random.below(4) as i64 + 2;
            let request = WatchRequest {
                key: if self.random.percent(50) {
                    self.key()
                } else {
                    "k".to_owned()
                },
                range_end: if self.random.percent(50) {
                    String::new()
                } else {
                    "l".to_owned()
                },
                start_revision: if self.random.percent(30) { 0 } else { start.max(1) },
                prev_kv: self.random.percent(50),
                no_put: self.random.percent(10),
                no_delete: self.random.percent(10),
                fragment: self.random.percent(30),
                ..WatchRequest::default()
            };
            let member = self.random.below(MEMBERS as usize) as u32;
            // One that begins below the compaction would be canceled: not in a history without breaks.
            if request.start_revision == 0 || request.start_revision >= self.etcd.compact_revision {
                self.open_watch(member, request);
            }
            return;
        }
        let at = self.random.below(self.watches.len());
        if !self.watches[at].open {
            self.reopen(at);
        } else if at > 0 && self.random.percent(5) {
            // The first one stays: a compaction may keep the others from coming back.
            self.watches[at].open = false;
            self.step(at, WatchStep::Lost);
        } else {
            let revisions = 1 + self.random.below(3);
            self.deliver(at, revisions);
        }
    }

    fn open_watch(&mut self, member: u32, request: WatchRequest) {
        let at = self.watches.len();
        self.watches.push(Watching {
            number: at as u32,
            member,
            request,
            next: 0,
            open: true,
        });
        self.begin(at);
    }

    fn begin(&mut self, at: usize) {
        let asked = self.watches[at].request.clone();
        let revision = self.etcd.timeline.revision();
        self.watches[at].next = if asked.start_revision == 0 {
            revision + 1
        } else {
            asked.start_revision
        };
        self.step(at, WatchStep::Asked(asked));
        self.step(at, WatchStep::Created { revision });
    }

    fn reopen(&mut self, at: usize) {
        let watch = &mut self.watches[at];
        if watch.next < self.etcd.compact_revision {
            return;
        }
        watch.request.start_revision = watch.next;
        watch.member = (watch.member + 1) % MEMBERS;
        watch.open = true;
        self.begin(at);
    }

    fn step(&mut self, at: usize, step: WatchStep) {
        let watch = &self.watches[at];
        self.history.push(Record::Watch(Watch {
            watcher: watch.number,
            member: watch.member,
            incarnation: 0,
            at: self.now,
            step,
        }));
    }

    /// Tells a watch of some revisions, each in a response or in fragments, and sometimes how far it is.
    fn deliver(&mut self, at: usize, revisions: usize) {
        if !self.watches[at].open {
            return;
        }
        let newest = self.etcd.timeline.revision();
        for _ in 0..revisions {
            let (revision, request) = (self.watches[at].next, self.watches[at].request.clone());
            if revision > newest {
                break;
            }
            self.watches[at].next += 1;
            let events = self.wanted(&request, revision);
            if events.is_empty() {
                continue;
            }
            if request.fragment && events.len() > 1 {
                let (first, rest) = events.split_at(1);
                let first = first.to_vec();
                let rest = rest.to_vec();
                self.step(
                    at,
                    WatchStep::Events {
                        revision: newest,
                        events: first,
                        fragment: true,
                    },
                );
                self.step(
                    at,
                    WatchStep::Events {
                        revision: newest,
                        events: rest,
                        fragment: false,
                    },
                );
            } else {
                self.step(
                    at,
                    WatchStep::Events {
                        revision: newest,
                        events,
                        fragment: false,
                    },
                );
            }
        }
        let told = self.watches[at].next - 1;
        if self.random.percent(30) && told >= self.watches[at].request.start_revision && told >= 1 {
            self.step(at, WatchStep::Progress { revision: told });
        }
    }

    fn wanted(&self, request: &WatchRequest, revision: i64) -> Vec<Event> {
        let Some(events) = usize::try_from(revision - 2).ok().and_then(|at| self.etcd.log.get(at)) else {
            return Vec::new();
        };
        let mut wanted: Vec<_> = events
            .iter()
            .filter(|event| contains(&request.key, &request.range_end, &event.kv.key))
            .filter(|event| {
                !(if event.is_delete {
                    request.no_delete
                } else {
                    request.no_put
                })
            })
            .cloned()
            .collect();
        if !request.prev_kv {
            for event in &mut wanted {
                event.prev_kv = None;
            }
        }
        wanted
    }
}
