//! The clients: closed loops of workloads, each through a member, as the gRPC services serve them: checked,
//! proposed and answered by what applying returned, or read from a View that is new enough.
//!
//! An operation is recorded when it ends. One whose member goes down, or that times out as a write, has an
//! unknown outcome, and its client goes on under another process number.

use super::{
    engine::SimEngine,
    mutant::Mutant,
    replies::{failed, read_only, reply_of, time_to_live},
    swarm::{MS, S, Swarm, US},
    watching::Watcher,
    world::{Event, Index, W, World, id_of, tell},
};
use crate::{
    history::{self, NEVER, Operation, Outcome, Record, Reply, Request},
    rng::Rng,
    workload::{Client, Step},
    world::messages,
};
use kv::{Response, View};
use proto::{
    Error,
    etcdserverpb::{CompactionRequest, LeaseGrantRequest, LeaseRevokeRequest},
    node::{Command, command::Op},
};
use raft_node::replica::{Answer, Input, Time};
use std::{collections::BTreeMap, sync::Arc};

/// What a member was asked for, while there is no answer.
pub enum Asked {
    Write(Command),
    Read,
    /// And the revision that the reply's header will carry.
    Renew(i64, i64),
    /// The read index of a lease question comes first, then the leader's word.
    Lease(i64),
    Remaining(i64, Arc<View<SimEngine>>),
    Move,
}

/// The input that asks, once the operation's number and deadline are known.
type Asking = Box<dyn FnOnce(W, Time) -> Input<W>>;

/// An operation without an outcome.
pub struct Open {
    pub asked: Asked,
    pub at: Index,
    /// `None`: a probe.
    pub client: Option<u32>,
    pub process: u32,
    pub invoked: Time,
    /// The newest revision that anybody had been told when it was asked.
    pub floor: i64,
    pub request: Request,
}

struct Loop {
    client: Client,
    rng: Rng,
    process: u32,
    pinned: Option<Index>,
}

pub struct Clients {
    loops: Vec<Loop>,
    pub open: BTreeMap<W, Open>,
    next: W,
    /// Probes that did not end well.
    pub failed_probes: Vec<String>,
}

/// Watches of clients at a time; the oldest gives way.
const WATCHERS_MAX: usize = 6;
/// What a client does nothing for, when it rests.
const REST: Time = Time::from_millis(400);
/// Probes are no client's.
const PROBES: u32 = 1_000_000_000;

impl Clients {
    pub fn new(swarm: &Swarm, rng: &mut Rng) -> Self {
        let loops = (0..swarm.clients).map(|number| Loop {
            client: Client::new(swarm.workloads[number as usize % swarm.workloads.len()], number),
            rng: rng.fork(),
            process: number,
            pinned: (number % 4 != 0).then(|| rng.below(swarm.members as u64) as usize),
        });
        Self {
            loops: loops.collect(),
            open: BTreeMap::new(),
            next: 0,
            failed_probes: Vec::new(),
        }
    }
}

impl World {
    /// A client takes its next step.
    pub fn client(&mut self, number: u32) {
        if !self.is_faulty {
            return;
        }
        let random = self.rng.below(self.members() as u64) as usize;
        let own = &mut self.clients.loops[number as usize];
        let at = own.pinned.filter(|_| own.rng.permille(900)).unwrap_or(random);
        if self.nodes[at].process.is_none() {
            self.client_rests(number, 50 * MS);
            return;
        }
        match own.client.next(&mut own.rng) {
            Step::Rest => self.client_rests(number, REST),
            Step::Watch(request) => {
                let number_of_watcher = self.watchers.len() as u32 + 1;
                self.watchers.push(Watcher::new(number_of_watcher, at, request));
                if self.watchers.len() > WATCHERS_MAX {
                    let oldest = self.watchers.len() - WATCHERS_MAX - 1;
                    self.watchers[oldest].is_over = true;
                }
                self.after(US, Event::Watch(number_of_watcher as usize - 1));
                self.client_rests(number, MS);
            }
            Step::Ask(request) => {
                let process = own.process;
                let invoked = self.now;
                self.ask(at, Some(number), process, &request, invoked);
            }
        }
    }

    fn client_rests(&mut self, number: u32, most: Time) {
        let pause = self.rng.between(US, most);
        self.after(pause, Event::Client(number));
    }

    /// Sends a request to a member.
    pub fn ask(&mut self, at: Index, client: Option<u32>, process: u32, request: &Request, invoked: Time) -> W {
        let op = self.clients.next;
        self.clients.next += 1;
        let wait = if self.is_faulty && !self.swarm.is_patient && self.rng.permille(100) {
            self.rng.between(MS, 100 * MS)
        } else {
            self.rng.between(S, 7 * S)
        };
        let asked = self.asked(at, request);
        let open = |asked| Open {
            asked,
            at,
            client,
            process,
            invoked,
            floor: self.judge.floor,
            request: request.clone(),
        };
        let deadline = self.local(at) + wait;
        match asked {
            Err(outcome) => {
                let open = open(Asked::Read);
                self.clients.open.insert(op, open);
                self.end(op, outcome);
            }
            Ok((asked, input)) => {
                let open = open(asked);
                self.clients.open.insert(op, open);
                self.give(at, input(op, deadline));
            }
        }
        op
    }

    /// As inbox.rs does it: no turn for a write that could only wait.
    fn give(&mut self, at: Index, input: Input<W>) {
        let process = self.process(at);
        if process.replica.rest().writes > 1 && matches!(input, Input::Propose { .. }) {
            process.inbox.push(input);
        } else {
            self.push(at, input);
        }
    }

    /// What the services make of a request: something to wait for, or an outcome at once.
    fn asked(&mut self, at: Index, request: &Request) -> Result<(Asked, Asking), Outcome> {
        let write = |op: Op| -> Result<(Asked, Asking), Outcome> {
            let command = Command { op: Some(op) };
            let own = command.clone();
            let input = move |waiter, deadline| Input::Propose {
                command,
                waiter,
                deadline,
            };
            Ok((Asked::Write(own), Box::new(input)))
        };
        let refused = |error: Error| Outcome::Failed(error.text().to_owned());
        let read = |asked| -> Result<(Asked, Asking), Outcome> {
            Ok((asked, Box::new(|waiter, deadline| Input::Read { waiter, deadline })))
        };
        match request {
            Request::Range(range) => {
                kv::check_range(&messages::range(range)).map_err(refused)?;
                if range.serializable {
                    return Err(self.settled(at, request));
                }
                read(Asked::Read)
            }
            Request::Put(put) => {
                let put = messages::put(put);
                kv::check_put(&put).map_err(refused)?;
                write(Op::Put(put))
            }
            Request::DeleteRange(delete) => {
                let delete = messages::delete(delete);
                kv::check_delete(&delete).map_err(refused)?;
                write(Op::DeleteRange(delete))
            }
            Request::Txn(txn) => {
                let txn = messages::txn(txn);
                kv::check_txn(&txn, 128).map_err(refused)?;
                match read_only(&txn) {
                    None => write(Op::Txn(txn)),
                    Some(true) => Err(self.settled(at, request)),
                    Some(false) => read(Asked::Read),
                }
            }
            Request::Compact { revision } => write(Op::Compact(CompactionRequest {
                revision: *revision,
                physical: false,
            })),
            Request::LeaseGrant { id, ttl_s } => write(Op::LeaseGrant(LeaseGrantRequest { id: *id, ttl: *ttl_s })),
            Request::LeaseRevoke { id } => write(Op::LeaseRevoke(LeaseRevokeRequest { id: *id })),
            Request::LeaseKeepAlive { id } => {
                let id = *id;
                let revision = self.process(at).store().view().revision();
                let input = move |waiter, deadline| Input::LeaseRenew { id, waiter, deadline };
                Ok((Asked::Renew(id, revision), Box::new(input)))
            }
            Request::LeaseTimeToLive { id } => read(Asked::Lease(*id)),
            Request::MoveLeader { to } => {
                let target = Some(id_of(*to as usize % self.members()));
                let input = move |waiter, deadline| Input::MoveLeader {
                    target,
                    waiter,
                    deadline,
                };
                Ok((Asked::Move, Box::new(input)))
            }
        }
    }

    pub fn ask_to_move(&mut self, at: Index, target: Option<u64>) {
        if self.nodes[at].process.is_none() {
            return;
        }
        let request = Request::MoveLeader { to: 0 };
        let op = self.clients.next;
        self.clients.next += 1;
        let open = Open {
            asked: Asked::Move,
            at,
            client: None,
            process: PROBES + op as u32,
            invoked: self.now,
            floor: 0,
            request,
        };
        self.clients.open.insert(op, open);
        let deadline = self.local(at) + 3 * S;
        self.push(
            at,
            Input::MoveLeader {
                target,
                waiter: op,
                deadline,
            },
        );
    }

    /// A serializable read: from whatever state the member has, once it serves.
    fn settled(&mut self, at: Index, request: &Request) -> Outcome {
        if !self.process(at).replica.standing().serving {
            return Outcome::Failed(Error::NoLeader.text().to_owned());
        }
        self.read(at, request)
    }

    fn read(&mut self, at: Index, request: &Request) -> Outcome {
        let view = self.process(at).store().view();
        self.check_served(at, view.revision());
        let result = match request {
            Request::Range(range) => {
                let reply = view.range(&messages::range(range));
                reply.map(|reply| Reply::Range(messages::range_reply(&reply)))
            }
            Request::Txn(txn) => {
                let reply = view.txn_read_only(&messages::txn(txn));
                reply.map(|reply| messages::txn_reply(&reply))
            }
            other => panic!("no read: {other:?}"),
        };
        match result {
            Ok(reply) => Outcome::Ok(reply),
            Err(error) => Outcome::Failed(error.text().to_owned()),
        }
    }

    /// A client's write was applied by its member.
    pub fn written(&mut self, op: W, command: &Command, result: &Result<Response, Error>) {
        let Some(open) = self.clients.open.get(&op) else {
            panic!("request {op} is answered twice");
        };
        let Asked::Write(asked) = &open.asked else {
            panic!("request {op} is not a write")
        };
        assert_eq!(asked, command, "request {op} got the outcome of another one");
        let outcome = match result {
            Ok(response) => {
                self.judge.acknowledged(self.clients.open[&op].invoked, response);
                Outcome::Ok(reply_of(response))
            }
            Err(error) => Outcome::Failed(error.text().to_owned()),
        };
        self.end(op, outcome);
    }

    pub fn answered(&mut self, index: Index, op: W, answer: Answer) {
        let Some(open) = self.clients.open.get(&op) else {
            panic!("request {op} is answered twice, with {answer:?}");
        };
        assert_eq!(open.at, index);
        let (invoked, floor) = (open.invoked, open.floor);
        let outcome = match (&open.asked, answer) {
            (asked, Answer::Failed(error)) => failed(asked, &error),
            (Asked::Read, Answer::Read) => {
                let request = open.request.clone();
                self.check_fresh(index, floor);
                self.read(index, &request)
            }
            (Asked::Lease(id), Answer::Read) => {
                let id = *id;
                self.check_fresh(index, floor);
                self.ask_for_the_rest(index, op, id);
                return;
            }
            (Asked::Renew(id, revision), Answer::Lease(seconds)) => {
                let (id, revision) = (*id, *revision);
                self.judge.renewed(id, invoked, seconds);
                let ttl_s = seconds.max(0);
                Outcome::Ok(Reply::LeaseKeepAlive { revision, ttl_s })
            }
            (Asked::Remaining(id, view), Answer::Lease(seconds)) => {
                let reply = time_to_live(*id, view, seconds);
                self.judge.remaining(*id, seconds);
                Outcome::Ok(reply)
            }
            (Asked::Move, Answer::Moved) => Outcome::Ok(Reply::MoveLeader),
            (_, answer) => panic!("request {op} was answered with {answer:?}"),
        };
        self.end(op, outcome);
    }

    fn ask_for_the_rest(&mut self, index: Index, op: W, id: i64) {
        let view = self.process(index).store().view();
        let deadline = self.local(index) + S;
        let open = self.clients.open.get_mut(&op).expect("it was just looked at");
        open.asked = Asked::Remaining(id, view);
        self.push(
            index,
            Input::LeaseRemaining {
                id,
                waiter: op,
                deadline,
            },
        );
    }

    /// Its member is gone: nobody will say what became of its requests.
    pub fn clients_lose(&mut self, index: Index) {
        let lost: Vec<W> = self
            .clients
            .open
            .iter()
            .filter(|(_, open)| open.at == index)
            .map(|(op, _)| *op)
            .collect();
        for op in lost {
            self.end(op, Outcome::Unknown("the connection is gone".to_owned()));
        }
    }

    pub fn end(&mut self, op: W, outcome: Outcome) {
        self.note(op);
        let Some(open) = self.clients.open.remove(&op) else {
            panic!("request {op} is answered twice");
        };
        let is_unknown = matches!(outcome, Outcome::Unknown(_));
        let is_sent_again =
            is_unknown && self.mutant == Mutant::ClientRetries && matches!(open.request, Request::Txn(_));
        if is_sent_again && let Some(at) = (0..self.members()).find(|index| self.is_up(*index)) {
            self.ask(at, open.client, open.process, &open.request, open.invoked);
            return;
        }
        tell!(
            self,
            "{op} of {} at {}: {:?} -> {outcome:?}",
            open.process,
            open.at,
            open.request
        );
        self.judge.ended(&open, &outcome);
        if open.client.is_none() {
            let is_fine = matches!(outcome, Outcome::Ok(_)) || matches!(open.asked, Asked::Move);
            if !is_fine && !self.is_faulty {
                let (request, at) = (&open.request, open.at);
                let text = format!("{request:?} at {at}, asked at {:?}: {outcome:?}", open.invoked);
                self.clients.failed_probes.push(text);
            }
        }
        let record = Operation {
            process: open.process,
            member: open.at as u32,
            incarnation: self.nodes[open.at].incarnation,
            invoked: open.invoked.as_nanos() as u64,
            returned: if is_unknown { NEVER } else { self.now.as_nanos() as u64 },
            request: open.request,
            outcome,
        };
        if let Some(number) = open.client {
            let clients = self.clients.loops.len() as u32;
            let own = &mut self.clients.loops[number as usize];
            own.client.done(&record.request, &record.outcome);
            if is_unknown {
                own.process += clients;
            }
            let think = self.swarm.think;
            self.client_rests(number, think * 2);
        }
        self.judge.history.push(Record::Operation(record));
    }

    /// Every member of the core serves every request.
    pub fn probe(&mut self, index: Index) {
        let op = self.clients.next as u32;
        let put = history::Put {
            key: "probe".to_owned(),
            value: format!("{PROBES}.{op}"),
            ..history::Put::default()
        };
        let invoked = self.now;
        self.ask(index, None, PROBES + op, &Request::Put(put), invoked);
        let get = history::Range {
            key: "probe".to_owned(),
            ..history::Range::default()
        };
        self.ask(index, None, PROBES + op + 1, &Request::Range(get), invoked);
    }
}
