//! Three members in one thread: the real replica and the real state machine on simulated disks, a simulated
//! network and a simulated clock, with everything going wrong that can, and invariants checked at every step.
//!
//! ```text
//!   seed -> swarm (how bad it is) -> events in the order of their time, ties in the order of their making
//!     turn      what the raft thread does: drain the inbox, tick, carry out            }
//!     log       what the log thread does: write a batch, sync it later, truncate, install } as in driver/
//!     apply     what the apply thread does: apply slices, answer, flush, copy the state }
//!     frame     delayed, dropped, duplicated, overtaken, cut off by a partition
//!     client    writes, transactions, reads, leases, through any member
//!     fault     crash (a written group may survive, or not), pause, partition, slow disk, change of leader
//! ```
//! After the faults everything heals: a leader within two seconds, every request answered, all members equal.
//! One seed is one run, always the same. `SIM_SEED=7 cargo test --release -p dipper-raft-node --test sim`
//! replays one; `SIM_SEEDS=5000` runs more; `SIM_TRACE=1` prints what happens.
//!
//! The transport's contract is kept: a forwarded write arrives at most once (TCP, and frames are never sent
//! again). Everything else may be duplicated. Deliberately not here: damaged disks (`log_damage.rs`), files
//! of snapshots (`peer.rs`), threads.

// Simulated time never goes back.
#![allow(clippy::unchecked_time_subtraction, clippy::match_same_arms, clippy::unused_self)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use kv::{LeaseChange, LogEntry, MemoryEngine, Response, Store, StoreOptions, engine::Engine as _};
use prost::Message as _;
use proto::{
    Error,
    etcdserverpb::{
        CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
        RangeRequest, RequestOp, TxnRequest, compare, request_op,
    },
    node::{Command, CommandBatch, Lane, Member, Membership, PeerFrame, command::Op as CommandOp, peer_frame::Body},
};
use protobuf::Message as _;
use raft::eraftpb::{Message as RaftMessage, MessageType};
use raft_node::{
    limits,
    log::{EntryId, InstallIntent, Log as _, LogReader as _, LogWrite, memory::MemoryLog, memory::MemoryReader},
    replica::{
        Answer, Committed, Input, Install, Outgoing, Output, Replica, ReplicaConfig, Role, Time, Write,
        initial_conf_state, mix, start_of,
    },
};

/// Seeds that once failed; they run first, for ever.
const REGRESSIONS: &[u64] = &[410, 785, 1170, 1263, 1419, 1972, 2067];
const SEEDS: u64 = 200;
const FAULTY: Duration = Duration::from_secs(20);
const MEMBERS: usize = 3;
const KEYS: u64 = 6;

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);
const S: Duration = Duration::from_secs(1);

/// A deliberately broken world, which the invariants must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    None,
    /// The log thread says that a write is durable when it is only written.
    PersistedBeforeSync,
    /// A read is answered from whatever state its member has.
    ReadWithoutBarrier,
    /// The network delivers a forwarded write twice.
    ForwardTwice,
    /// A crash loses what was synced last.
    SyncIsLost,
    /// A state is flushed in two halves, and a crash comes in between: an entry is not applied.
    EntryIsSkipped,
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + US * self.below((high - low).as_micros() as u64 + 1) as u32
    }
}

/// How bad a seed's world is.
#[derive(Clone, Debug)]
struct Swarm {
    loss: u64,
    duplicates: u64,
    delay: Duration,
    spike: u64,
    sync: Duration,
    apply: Duration,
    fault_every: Duration,
    client_every: Duration,
    flush_every: u64,
    catch_up: u64,
    compactions: bool,
    /// Frames of a lane do not overtake each other, as on one connection.
    ordered: bool,
}

impl Swarm {
    fn of(rng: &mut Rng) -> Self {
        let pick = |rng: &mut Rng, of: &[u64]| of[rng.below(of.len() as u64) as usize];
        Self {
            loss: pick(rng, &[0, 0, 5, 30]),
            duplicates: pick(rng, &[0, 5, 30]),
            delay: US * pick(rng, &[200, 1_000, 5_000, 20_000]) as u32,
            spike: pick(rng, &[0, 5, 20]),
            sync: US * pick(rng, &[100, 2_000, 10_000]) as u32,
            apply: US * pick(rng, &[50, 1_000, 20_000]) as u32,
            fault_every: MS * pick(rng, &[200, 500, 1_500]) as u32,
            client_every: MS * pick(rng, &[3, 8, 20]) as u32,
            flush_every: pick(rng, &[5, 20, 100]),
            catch_up: pick(rng, &[3, 10, 50]),
            compactions: rng.permille(500),
            ordered: rng.permille(700),
        }
    }
}

type W = u64;
type Index = usize;

enum LogTask {
    Write(Write),
    Truncate(EntryId),
    Install(Install),
}

enum ApplyTask {
    Entries(VecDeque<Committed<W>>),
    Checkpoint,
    Forget(EntryId),
    Install(EntryId),
}

/// What the disk of a member certainly holds, by its own account: only what a sync has made durable.
#[derive(Default)]
struct Durable {
    floor: u64,
    terms: BTreeMap<u64, u64>,
    term: u64,
    vote: u64,
}

impl Durable {
    fn write(&mut self, group: &[LogWrite]) {
        for write in group {
            if let Some(first) = write.entries.first() {
                drop(self.terms.split_off(&first.index));
            }
            self.terms
                .extend(write.entries.iter().map(|entry| (entry.index, entry.term)));
            if let Some(hard_state) = &write.hard_state {
                (self.term, self.vote) = (hard_state.term, hard_state.vote);
            }
        }
    }

    fn truncate(&mut self, to: u64) {
        self.floor = self.floor.max(to);
        self.terms = self.terms.split_off(&(to + 1));
    }

    fn last(&self) -> u64 {
        self.terms.last_key_value().map_or(self.floor, |(index, _)| *index)
    }

    fn has(&self, index: u64, term: u64) -> bool {
        index <= self.floor || self.terms.get(&index) == Some(&term)
    }
}

/// The files of a member: what a crash leaves.
#[derive(Default)]
struct Disk {
    log: MemoryLog,
    engine: MemoryEngine,
    /// Snapshots that arrived, by the entry they end at.
    staged: BTreeMap<EntryId, MemoryEngine>,
    unsynced: Vec<LogWrite>,
    durable: Durable,
}

#[derive(Default)]
struct Checkpoints {
    being_made: bool,
    image: Option<(EntryId, MemoryEngine)>,
    made: Option<EntryId>,
    on_its_way_to: BTreeSet<u64>,
}

/// A running member.
struct Process {
    replica: Replica<W, MemoryReader>,
    store: Store<MemoryEngine>,
    born: Time,
    inbox: Vec<Input<W>>,
    turn_is_due: bool,
    next_tick: Time,
    /// Until when an idle raft thread waits.
    wakes: Time,
    log_queue: VecDeque<LogTask>,
    log_is_busy: bool,
    apply_queue: VecDeque<ApplyTask>,
    apply_is_due: bool,
    installing: Option<Install>,
    flushed: u64,
    checkpoints: Checkpoints,
    contexts: BTreeSet<Vec<u8>>,
}

#[derive(Default)]
struct Node {
    disk: Disk,
    process: Option<Process>,
    /// Raised by every crash: what was scheduled for an earlier life does not happen.
    life: u64,
    paused_until: Time,
    slow_until: Time,
}

enum Event {
    Turn(Index),
    Log(Index),
    Synced(Index, u64),
    Apply(Index),
    Installed(Index),
    Input(Index, Input<W>),
    Frame {
        from: Index,
        to: Index,
        frame: PeerFrame,
    },
    Snapshot {
        from: Index,
        to: Index,
        at: EntryId,
        image: MemoryEngine,
        message: Bytes,
    },
    Client,
    Fault,
    Start(Index),
    Mend(Index, Index),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    Done,
    Failed(Error),
    /// Its member crashed.
    Unknown,
}

enum Asked {
    Write(Command),
    Read,
    Renew(i64),
    Remaining(i64),
    Move,
}

struct Op {
    asked: Asked,
    at: Index,
    invoked: Time,
    wait: Duration,
    /// The newest revision that anybody had been told when it was asked.
    floor: i64,
    outcome: Outcome,
}

/// An entry as whoever applied it first did.
struct Canon {
    term: u64,
    chain: u64,
    outcome: u64,
    state: Option<u64>,
}

#[derive(Default)]
struct Judge {
    canon: Vec<Canon>,
    leaders: BTreeMap<u64, u64>,
    ops: Vec<Op>,
    open: BTreeSet<W>,
    /// The newest revision that any client was told.
    floor: i64,
    acknowledged: BTreeSet<i64>,
    /// How often each write of a client is in the log, by the number in its value.
    in_log: BTreeMap<W, u32>,
    /// Until when a lease has certainly to live.
    leases: BTreeMap<i64, Time>,
    /// When it was decided that a lease ends.
    ended: BTreeMap<i64, Time>,
    snapshots: u64,
    elections: u64,
    crashes: u64,
    reads: u64,
    writes: u64,
    renewals: u64,
    expiries: u64,
}

struct World {
    rng: Rng,
    swarm: Swarm,
    broken: Break,
    now: Time,
    queue: BTreeMap<(Time, u64), (u64, Event)>,
    made: u64,
    nodes: Vec<Node>,
    cut: [[bool; MEMBERS]; MEMBERS],
    /// When the last frame of a lane arrives, from and to.
    delivered: [[[Time; 2]; MEMBERS]; MEMBERS],
    is_faulty: bool,
    judge: Judge,
    trace: u64,
    is_told: bool,
}

fn id_of(index: Index) -> u64 {
    // Not 1, 2, 3: nothing may take an id for a position.
    [0x51, 0xa2, 0xf3][index]
}

fn index_of(id: u64) -> Index {
    (0..MEMBERS).find(|index| id_of(*index) == id).expect("a member's id")
}

macro_rules! tell {
    ($world:expr, $($text:tt)*) => {
        if $world.is_told { println!("{:>12.6} {}", $world.now.as_secs_f64(), format!($($text)*)); }
    };
}

impl World {
    fn new(seed: u64, broken: Break) -> Self {
        let mut rng = Rng(mix(seed));
        let swarm = Swarm::of(&mut rng);
        let mut world = Self {
            rng,
            swarm,
            broken,
            now: Time::ZERO,
            queue: BTreeMap::new(),
            made: 0,
            nodes: (0..MEMBERS).map(|_| Node::default()).collect(),
            cut: Default::default(),
            delivered: Default::default(),
            is_faulty: true,
            judge: Judge::default(),
            trace: seed,
            is_told: std::env::var("SIM_TRACE").is_ok(),
        };
        tell!(world, "{:?}", world.swarm);
        for index in 0..MEMBERS {
            world.start(index);
        }
        world.after(S / 2, 0, Event::Client);
        world.after(S, 0, Event::Fault);
        world
    }

    // ---- time ----

    fn after(&mut self, delay: Duration, life: u64, event: Event) {
        self.made += 1;
        self.queue.insert((self.now + delay, self.made), (life, event));
    }

    fn for_node(&mut self, index: Index, delay: Duration, event: Event) {
        let life = self.nodes[index].life;
        self.after(delay, life, event);
    }

    fn run_until(&mut self, end: Time) {
        while let Some(((at, made), (life, event))) = self.queue.pop_first() {
            if at > end {
                self.queue.insert((at, made), (life, event));
                break;
            }
            self.now = at;
            self.note(at.as_micros() as u64 ^ made.rotate_left(40));
            self.happen(life, event);
        }
        self.now = end;
    }

    fn note(&mut self, value: u64) {
        self.trace = mix(self.trace ^ value);
    }

    fn happen(&mut self, life: u64, event: Event) {
        let node = match &event {
            Event::Turn(index) | Event::Log(index) | Event::Synced(index, _) | Event::Apply(index) => Some(*index),
            Event::Installed(index) | Event::Input(index, _) => Some(*index),
            _ => None,
        };
        if let Some(index) = node {
            let node = &self.nodes[index];
            if node.life != life || node.process.is_none() {
                return;
            }
            if node.paused_until > self.now {
                let pause = node.paused_until - self.now;
                self.after(pause, life, event);
                return;
            }
        }
        match event {
            Event::Turn(index) => self.turn(index),
            Event::Log(index) => self.log(index),
            Event::Synced(index, number) => self.synced(index, number),
            Event::Apply(index) => self.apply(index),
            Event::Installed(index) => self.installed(index),
            Event::Input(index, input) => self.push(index, input),
            Event::Frame { from, to, frame } => {
                if !self.cut[from][to] && self.nodes[to].process.is_some() {
                    self.push(
                        to,
                        Input::Frame {
                            from: id_of(from),
                            frame,
                        },
                    );
                }
            }
            Event::Snapshot {
                from,
                to,
                at,
                image,
                message,
            } => self.snapshot_lands(from, to, at, image, message),
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            Event::Start(index) => self.start(index),
            Event::Mend(from, to) => self.cut[from][to] = false,
        }
    }

    fn process(&mut self, index: Index) -> &mut Process {
        self.nodes[index]
            .process
            .as_mut()
            .expect("only running members are asked")
    }

    /// Into the raft thread's inbox.
    fn push(&mut self, index: Index, input: Input<W>) {
        let delay = if self.rng.permille(100) {
            self.rng.between(US, 3 * MS)
        } else {
            self.rng.between(US, 60 * US)
        };
        let process = self.process(index);
        process.inbox.push(input);
        if !process.turn_is_due {
            process.turn_is_due = true;
            self.for_node(index, delay, Event::Turn(index));
        }
    }

    // ---- a member ----

    /// As node/start.rs does it.
    fn start(&mut self, index: Index) {
        if self.nodes[index].process.is_some() {
            return;
        }
        tell!(self, "start {index}");
        let id = id_of(index);
        let disk = &mut self.nodes[index].disk;
        if let Some(InstallIntent { index: at, term, .. }) = disk.log.recovered().install_intent.clone() {
            let at = EntryId { index: at, term };
            disk.engine = disk
                .staged
                .get(&at)
                .expect("the state whose installation had begun is there")
                .crash();
            let mut hard_state = disk.log.recovered().hard_state.clone();
            hard_state.commit = hard_state.commit.max(at.index);
            disk.log.reset(at, &hard_state);
            disk.log.crash(0);
            disk.durable.terms.clear();
            disk.durable.floor = at.index;
        }
        disk.staged.clear();
        let recovered = disk.log.recovered().clone();
        let durable = (disk.durable.term, disk.durable.vote, disk.durable.last());
        let found = (
            recovered.hard_state.term,
            recovered.hard_state.vote,
            recovered.last.index,
        );
        assert_eq!(
            durable, found,
            "member {index}: (term, vote, last entry) are not what was synced"
        );
        let mut store = Store::open(disk.engine.clone(), StoreOptions::default());
        if store.is_empty() {
            store.bootstrap(membership());
        }
        let reader = disk.log.reader();
        let applied = store.applied().index;
        assert!(
            (recovered.truncated.index..=recovered.last.index).contains(&applied),
            "member {index}: the state has applied {applied}, the log is {recovered:?}"
        );
        let entries = reader.entries(applied + 1, recovered.hard_state.commit + 1, u64::MAX);
        for entry in entries {
            let entry = LogEntry {
                index: entry.index,
                term: entry.term,
                data: entry.data,
                conf_state: None,
            };
            self.judged_apply(index, &mut store, &[entry]);
        }
        let leases: Vec<(i64, i64)> = store
            .view()
            .lease_rows()
            .iter()
            .map(|lease| (lease.id, lease.ttl))
            .collect();
        let config = ReplicaConfig {
            id,
            election_ticks: 15,
            heartbeat_ticks: 3,
            applied: store.applied().index,
            catch_up_entries: self.swarm.catch_up,
            seed: self.rng.next(),
            logger: slog::Logger::root(slog::Discard, slog::o!()),
        };
        let replica = Replica::new(
            &config,
            start_of(&recovered, &store.membership().conf_state),
            reader,
            &leases,
        );
        let node = &mut self.nodes[index];
        node.process = Some(Process {
            replica,
            flushed: store.flushed().index,
            store,
            born: self.now,
            inbox: Vec::new(),
            turn_is_due: true,
            next_tick: Time::ZERO,
            wakes: Time::ZERO,
            log_queue: VecDeque::new(),
            log_is_busy: false,
            apply_queue: VecDeque::new(),
            apply_is_due: false,
            installing: None,
            checkpoints: Checkpoints::default(),
            contexts: BTreeSet::new(),
        });
        self.for_node(index, US, Event::Turn(index));
    }

    fn crash(&mut self, index: Index) {
        if self.nodes[index].process.is_none() {
            return;
        }
        // A killed process or a lost power supply: what was written but not synced is there, or it is not.
        let keep = self.rng.below(2) as usize;
        tell!(self, "crash {index}, keeping {keep} unsynced");
        self.judge.crashes += 1;
        let node = &mut self.nodes[index];
        node.life += 1;
        node.process = None;
        let disk = &mut node.disk;
        let unsynced = std::mem::take(&mut disk.unsynced);
        if keep > 0 {
            disk.durable.write(&unsynced);
        }
        disk.log.crash(keep);
        disk.engine = disk.engine.crash();
        if self.broken == Break::SyncIsLost {
            disk.log = MemoryLog::new();
        }
        for op in &self.judge.open.clone() {
            if self.judge.ops[*op as usize].at == index {
                self.end(*op, Outcome::Unknown);
            }
        }
    }

    /// As driver/mod.rs does it.
    fn turn(&mut self, index: Index) {
        let now = self.now;
        let process = self.process(index);
        process.turn_is_due = false;
        let local = now - process.born;
        if process.replica.rest().until <= local {
            process.inbox.push(Input::Wake);
        }
        for input in std::mem::take(&mut process.inbox) {
            match &input {
                Input::SnapshotMade { at } => {
                    process.checkpoints.being_made = false;
                    process.checkpoints.made = Some(*at);
                }
                Input::SnapshotSent { to, .. } => {
                    let checkpoints = &mut process.checkpoints;
                    checkpoints.on_its_way_to.remove(to);
                    if checkpoints.on_its_way_to.is_empty() && !checkpoints.being_made {
                        checkpoints.made = None;
                    }
                }
                _ => {}
            }
            process.replica.handle(local, input);
        }
        if local >= process.next_tick {
            process.replica.handle(local, Input::Tick);
            process.next_tick = (process.next_tick + limits::TICK).max(local);
        }
        let output = process.replica.take_output();
        if process.wakes < process.next_tick {
            process.wakes = process.next_tick;
            let wait = process.next_tick.saturating_sub(local);
            self.for_node(index, wait, Event::Turn(index));
        }
        let process = self.process(index);
        let rest = process.replica.rest().until;
        if rest < process.next_tick {
            self.for_node(index, rest.saturating_sub(local), Event::Turn(index));
        }
        self.check_standing(index);
        self.carry_out(index, output);
    }

    fn carry_out(&mut self, index: Index, output: Output<W>) {
        for frame in output.frames {
            self.send(index, frame);
        }
        let process = self.process(index);
        let (rounds, contexts) = (process.replica.standing().read_rounds, process.contexts.len() as u64);
        assert_eq!(rounds, contexts, "member {index} used a read context twice");
        for write in output.writes {
            self.process(index).log_queue.push_back(LogTask::Write(write));
        }
        if !output.committed.is_empty() {
            self.process(index)
                .apply_queue
                .push_back(ApplyTask::Entries(output.committed.into()));
        }
        for (op, answer) in output.answers {
            self.answered(index, op, answer);
        }
        if let Some(to) = output.truncate {
            self.process(index).log_queue.push_back(LogTask::Truncate(to));
        }
        let checkpoints = &mut self.process(index).checkpoints;
        if output.snapshot_wanted && !checkpoints.being_made && checkpoints.on_its_way_to.is_empty() {
            checkpoints.being_made = true;
            checkpoints.made = None;
            self.process(index).apply_queue.push_back(ApplyTask::Checkpoint);
        }
        for (to, at, message) in output.send_snapshots {
            let checkpoints = &mut self.process(index).checkpoints;
            if checkpoints.made != Some(at) {
                self.push(index, Input::SnapshotSent { to, ok: false });
                continue;
            }
            let (made, image) = checkpoints.image.clone().expect("its files are there");
            assert_eq!(at, made, "the files of another snapshot");
            checkpoints.on_its_way_to.insert(to);
            let delay = self.rng.between(MS, 300 * MS);
            let (from, to) = (index, index_of(to));
            tell!(self, "{from} sends {to} a snapshot at {at:?}");
            self.for_node(
                index,
                delay,
                Event::Snapshot {
                    from,
                    to,
                    at,
                    image,
                    message,
                },
            );
        }
        if let Some(install) = output.install {
            tell!(self, "{index} installs {:?}", install.at);
            self.process(index).log_queue.push_back(LogTask::Install(install));
        }
        for at in output.discard_snapshots {
            self.process(index).apply_queue.push_back(ApplyTask::Forget(at));
        }
        self.kick(index);
    }

    /// Wakes threads that have something to do.
    fn kick(&mut self, index: Index) {
        let Some(process) = self.nodes[index].process.as_mut() else {
            return;
        };
        if !process.log_is_busy && !process.log_queue.is_empty() {
            process.log_is_busy = true;
            let delay = self.rng.between(US, 50 * US);
            self.for_node(index, delay, Event::Log(index));
        }
        let process = self.process(index);
        if !process.apply_is_due && !process.apply_queue.is_empty() {
            process.apply_is_due = true;
            let delay = if self.is_faulty { self.swarm.apply } else { US * 50 };
            let delay = self.rng.between(US, delay);
            self.for_node(index, delay, Event::Apply(index));
        }
    }

    // ---- the log thread ----

    fn log(&mut self, index: Index) {
        let disk_delay = if self.nodes[index].slow_until > self.now {
            self.rng.between(50 * MS, 900 * MS)
        } else {
            let sync = if self.is_faulty { self.swarm.sync } else { US * 200 };
            self.rng.between(20 * US, sync.max(50 * US))
        };
        let broken = self.broken;
        let node = &mut self.nodes[index];
        let process = node.process.as_mut().expect("checked before");
        let (mut groups, mut number) = (Vec::new(), 0);
        while let Some(LogTask::Write(_)) = process.log_queue.front() {
            let Some(LogTask::Write(write)) = process.log_queue.pop_front() else {
                break;
            };
            number = write.number;
            groups.push(write.group);
        }
        if number > 0 {
            let last = groups
                .iter()
                .filter_map(|group| group.entries.last())
                .map(|entry| entry.index)
                .max();
            tell!(self, "{index} writes up to {number}, entry {last:?}, in {disk_delay:?}");
            let node = &mut self.nodes[index];
            node.disk.log.write_unsynced(&groups);
            node.disk.unsynced = groups;
            self.for_node(index, disk_delay, Event::Synced(index, number));
            if broken == Break::PersistedBeforeSync {
                self.push(index, Input::Persisted { number });
            }
            return;
        }
        match process.log_queue.pop_front() {
            Some(LogTask::Truncate(to)) => {
                node.disk.log.truncate(to);
                node.disk.durable.truncate(to.index);
            }
            Some(LogTask::Install(install)) => {
                let at = install.at;
                let directory = format!("state-{}-{}", at.index, at.term);
                let intent = InstallIntent {
                    index: at.index,
                    term: at.term,
                    directory,
                };
                node.disk.log.set_install_intent(Some(intent));
                process.installing = Some(install);
                process.apply_queue.push_back(ApplyTask::Install(at));
                // Busy until the state is switched.
                self.kick(index);
                return;
            }
            _ => {}
        }
        process.log_is_busy = false;
        self.kick(index);
    }

    fn synced(&mut self, index: Index, number: u64) {
        tell!(self, "{index} has synced up to {number}");
        let disk = &mut self.nodes[index].disk;
        disk.log.sync();
        let groups = std::mem::take(&mut disk.unsynced);
        disk.durable.write(&groups);
        if self.broken != Break::PersistedBeforeSync {
            self.push(index, Input::Persisted { number });
        }
        self.process(index).log_is_busy = false;
        self.kick(index);
    }

    /// The state is switched: the log follows.
    fn installed(&mut self, index: Index) {
        let node = &mut self.nodes[index];
        let process = node.process.as_mut().expect("checked before");
        let Install { number, at, group } = process.installing.take().expect("it was begun");
        let leases: Vec<(i64, i64)> = process
            .store
            .view()
            .lease_rows()
            .iter()
            .map(|lease| (lease.id, lease.ttl))
            .collect();
        let hard_state = group.hard_state.clone().unwrap_or_default();
        let mut at_reset = hard_state.clone();
        at_reset.commit = at_reset.commit.min(at.index);
        node.disk.log.reset(at, &at_reset);
        node.disk.durable.terms.clear();
        node.disk.durable.floor = at.index;
        let rest = [LogWrite {
            entries: group.entries,
            hard_state: Some(hard_state),
        }];
        node.disk.log.write_unsynced(&rest);
        node.disk.log.sync();
        node.disk.durable.write(&rest);
        self.judge.snapshots += 1;
        self.push(
            index,
            Input::Installed {
                number,
                index: at.index,
                leases,
            },
        );
        self.process(index).log_is_busy = false;
        self.kick(index);
    }

    // ---- the apply thread ----

    fn apply(&mut self, index: Index) {
        let slice = 1 + self.rng.below(6) as usize;
        let process = self.process(index);
        process.apply_is_due = false;
        match process.apply_queue.pop_front() {
            Some(ApplyTask::Entries(mut entries)) => {
                let now: Vec<Committed<W>> = entries.drain(..slice.min(entries.len())).collect();
                if !entries.is_empty() {
                    process.apply_queue.push_front(ApplyTask::Entries(entries));
                }
                self.apply_entries(index, now);
            }
            Some(ApplyTask::Checkpoint) => {
                process.store.flush();
                let at = process.store.applied();
                let at = EntryId {
                    index: at.index,
                    term: at.term,
                };
                process.checkpoints.image = Some((at, process.store.engine().crash()));
                self.report_flushed(index);
                self.push(index, Input::SnapshotMade { at });
            }
            Some(ApplyTask::Forget(at)) => drop(self.nodes[index].disk.staged.remove(&at)),
            Some(ApplyTask::Install(at)) => {
                let node = &mut self.nodes[index];
                node.disk.engine = node
                    .disk
                    .staged
                    .get(&at)
                    .expect("the state that is to be installed was forgotten")
                    .crash();
                let process = node.process.as_mut().expect("it runs");
                process.store = Store::open(node.disk.engine.clone(), StoreOptions::default());
                process.flushed = at.index;
                let applied = process.store.applied();
                assert_eq!(
                    (applied.index, applied.term),
                    (at.index, at.term),
                    "another state than was announced"
                );
                let state = self.judge.canon[at.index as usize - 1].state;
                let found = self.process(index).store.state_hash();
                assert!(
                    state.is_none_or(|state| state == found),
                    "the snapshot at {at:?} holds another state"
                );
                let delay = self.rng.between(US, 20 * MS);
                self.for_node(index, delay, Event::Installed(index));
            }
            None => {}
        }
        self.kick(index);
    }

    fn apply_entries(&mut self, index: Index, committed: Vec<Committed<W>>) {
        let entries: Vec<LogEntry> = committed.iter().map(|committed| committed.entry.clone()).collect();
        let mut store = std::mem::replace(
            &mut self.process(index).store,
            Store::open(MemoryEngine::new(), StoreOptions::default()),
        );
        let outcomes = self.judged_apply(index, &mut store, &entries);
        self.process(index).store = store;
        let mut lease_changes: Vec<LeaseChange> = Vec::new();
        for (committed, (results, changes)) in committed.into_iter().zip(outcomes) {
            let batch = CommandBatch::decode(committed.entry.data.clone()).expect("it was just applied");
            for (offset, op) in committed.waiters {
                self.written(op, &batch.commands[offset], &results[offset]);
            }
            lease_changes.extend(changes);
        }
        let flush = self.rng.below(1000);
        let flush_every = self.swarm.flush_every;
        let process = self.process(index);
        let applied = process.store.applied().index;
        if applied - process.flushed >= flush_every || flush < 10 {
            process.store.flush();
        } else if flush < 30 {
            // RocksDB flushes by itself, too.
            process.store.engine().flush();
        }
        self.push(
            index,
            Input::Applied {
                index: applied,
                lease_changes,
            },
        );
        self.report_flushed(index);
    }

    fn report_flushed(&mut self, index: Index) {
        let process = self.process(index);
        let flushed = process.store.flushed();
        if flushed.index > process.flushed {
            process.flushed = flushed.index;
            let applied = EntryId {
                index: flushed.index,
                term: flushed.term,
            };
            self.push(index, Input::Flushed { applied });
        }
    }

    /// Applies, and compares with what the first member that applied the same entries did.
    #[allow(clippy::type_complexity)]
    fn judged_apply(
        &mut self,
        index: Index,
        store: &mut Store<MemoryEngine>,
        entries: &[LogEntry],
    ) -> Vec<(Vec<Result<Response, Error>>, Vec<LeaseChange>)> {
        let mut outcomes = Vec::new();
        for entry in entries {
            let mut entry = entry.clone();
            if self.broken == Break::EntryIsSkipped && index == 1 && self.rng.permille(5) {
                entry.data = Bytes::new();
            }
            let is_new = entry.index as usize > self.judge.canon.len();
            let chain = self.check_entry(index, &entry);
            let outcome = store
                .apply(std::slice::from_ref(&entry))
                .pop()
                .expect("one outcome for one entry");
            assert_eq!(outcome.index, entry.index);
            let told = format!("{:?}{:?}", outcome.results, outcome.lease_changes);
            let told = hash(told.as_bytes());
            let state = store.state_hash();
            if is_new {
                self.first_applied(&entry, &outcome.results, &outcome.lease_changes);
                self.judge.canon.push(Canon {
                    term: entry.term,
                    chain,
                    outcome: told,
                    state: Some(state),
                });
            }
            let canon = &self.judge.canon[entry.index as usize - 1];
            assert_eq!(
                canon.outcome, told,
                "member {index}: entry {} had another outcome",
                entry.index
            );
            assert_eq!(
                canon.state,
                Some(state),
                "member {index}: another state after entry {}",
                entry.index
            );
            outcomes.push((outcome.results, outcome.lease_changes));
        }
        outcomes
    }

    fn check_entry(&mut self, index: Index, entry: &LogEntry) -> u64 {
        let before = match entry.index {
            1 => 0,
            at => {
                self.judge
                    .canon
                    .get(at as usize - 2)
                    .expect("entries are applied in order")
                    .chain
            }
        };
        let chain = mix(before ^ hash(&entry.data) ^ entry.term.rotate_left(17));
        if let Some(canon) = self.judge.canon.get(entry.index as usize - 1) {
            assert_eq!(
                (canon.term, canon.chain),
                (entry.term, chain),
                "member {index}: entry {} differs",
                entry.index
            );
        }
        let durable = self
            .nodes
            .iter()
            .filter(|node| node.disk.durable.has(entry.index, entry.term))
            .count();
        assert!(
            durable * 2 > MEMBERS,
            "entry {} of term {} is applied, only {durable} have it durably",
            entry.index,
            entry.term
        );
        chain
    }

    /// The cluster decided an entry: what follows from it, once.
    fn first_applied(&mut self, entry: &LogEntry, results: &[Result<Response, Error>], changes: &[LeaseChange]) {
        let batch = CommandBatch::decode(entry.data.clone()).expect("it was applied");
        for (command, result) in batch.commands.iter().zip(results) {
            if let Some(op) = number_of(command) {
                *self.judge.in_log.entry(op).or_default() += 1;
            }
            if let (Some(CommandOp::LeaseExpire(expire)), Ok(Response::LeaseExpire(ended))) = (&command.op, result) {
                assert!(
                    ended.is_empty() || expire.term == entry.term,
                    "leases ended by a deposed leader"
                );
                for id in ended {
                    self.judge.expiries += 1;
                    let until = self.judge.leases.get(id).copied().unwrap_or_default();
                    assert!(
                        until <= self.now,
                        "lease {id} ended at {:?}, it was to live until {until:?}",
                        self.now
                    );
                }
            }
        }
        for change in changes {
            if let LeaseChange::Revoked { id } = change {
                self.judge.ended.insert(*id, self.now);
            }
        }
    }

    // ---- the network ----

    fn send(&mut self, from: Index, outgoing: Outgoing) {
        let (to, forward) = (index_of(outgoing.to), outgoing.forward());
        let Outgoing { lane, frame, .. } = outgoing;
        let bytes = frame.encode_to_vec();
        self.note(hash(&bytes));
        if let Some(Body::Raft(message)) = &frame.body {
            self.check_message(from, message);
        }
        let (loss, duplicates) = if self.is_faulty {
            (self.swarm.loss, self.swarm.duplicates)
        } else {
            (0, 0)
        };
        if self.cut[from][to] || self.rng.permille(loss) {
            // There may have been no connection to begin with.
            if let Some(request) = forward
                && self.rng.permille(500)
            {
                self.push(from, Input::NotForwarded { request });
                return;
            }
            // A connection that breaks is usually noticed.
            if self.rng.permille(200) {
                let delay = self.rng.between(US, 500 * MS);
                self.for_node(
                    from,
                    delay,
                    Event::Input(from, Input::Unreachable { member: id_of(to) }),
                );
            }
            return;
        }
        let twice = if forward.is_some() {
            self.broken == Break::ForwardTwice && self.rng.permille(100)
        } else {
            self.rng.permille(duplicates)
        };
        for _ in 0..=u32::from(twice) {
            let most = if self.is_faulty { self.swarm.delay } else { MS };
            let mut delay = self.rng.between(30 * US, most.max(50 * US));
            if self.is_faulty && self.rng.permille(self.swarm.spike) {
                delay += self.rng.between(5 * MS, 800 * MS);
            }
            let mut at = self.now + delay;
            if self.swarm.ordered || !self.is_faulty {
                // One connection for each lane.
                let last = &mut self.delivered[from][to][usize::from(lane == Lane::Bulk)];
                at = at.max(*last + US);
                *last = at;
            }
            let frame = frame.clone();
            self.after(at - self.now, 0, Event::Frame { from, to, frame });
        }
    }

    /// What a member says must be true of its disk, whenever it may crash.
    fn check_message(&mut self, from: Index, bytes: &Bytes) {
        let message = RaftMessage::parse_from_bytes(bytes).expect("a replica encoded it");
        tell!(self, "{from} says {message:?}");
        let durable = &self.nodes[from].disk.durable;
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

    fn snapshot_lands(&mut self, from: Index, to: Index, at: EntryId, image: MemoryEngine, message: Bytes) {
        let arrives =
            self.nodes[to].process.is_some() && !self.cut[from][to] && !(self.is_faulty && self.rng.permille(200));
        if arrives {
            self.nodes[to].disk.staged.insert(at, image);
            self.push(
                to,
                Input::SnapshotArrived {
                    from: id_of(from),
                    message,
                },
            );
        }
        // The word of it may be lost, too.
        let ok = arrives && !self.cut[to][from] && !(self.is_faulty && self.rng.permille(100));
        let delay = self.rng.between(US, 20 * MS);
        if self.nodes[from].process.is_some() {
            self.for_node(
                from,
                delay,
                Event::Input(from, Input::SnapshotSent { to: id_of(to), ok }),
            );
        }
    }

    // ---- faults ----

    fn fault(&mut self) {
        if !self.is_faulty {
            return;
        }
        let every = self.swarm.fault_every;
        let next = self.rng.between(every / 4, every * 2);
        self.after(next, 0, Event::Fault);
        let index = self.rng.below(MEMBERS as u64) as usize;
        let other = (index + 1 + self.rng.below(2) as usize) % MEMBERS;
        let long = self.rng.between(50 * MS, 2 * S);
        match self.rng.below(10) {
            0 | 1 => {
                self.crash(index);
                self.after(long, 0, Event::Start(index));
            }
            2 if self.rng.permille(300) => {
                for index in 0..MEMBERS {
                    self.crash(index);
                    let down = self.rng.between(10 * MS, S);
                    self.after(down, 0, Event::Start(index));
                }
            }
            3 => self.cut_off(index, long, true, true),
            4 => self.cut_off(index, long, true, false),
            5 => self.cut_off(index, long, false, true),
            6 => {
                self.cut[index][other] = true;
                self.after(long, 0, Event::Mend(index, other));
            }
            7 => {
                tell!(self, "pause {index} for {long:?}");
                self.nodes[index].paused_until = self.now + long;
            }
            8 => self.nodes[index].slow_until = self.now + long,
            _ => {
                let target = (!self.rng.permille(300)).then(|| id_of(other));
                let led = (0..MEMBERS).find(|index| self.leads(*index));
                let at = led.filter(|_| self.rng.permille(900)).unwrap_or(index);
                self.ask(at, Asked::Move, |waiter, deadline| Input::MoveLeader {
                    target,
                    waiter,
                    deadline,
                });
            }
        }
    }

    fn cut_off(&mut self, index: Index, long: Duration, inbound: bool, outbound: bool) {
        tell!(self, "cut off {index}: inbound {inbound}, outbound {outbound}");
        for other in (0..MEMBERS).filter(|other| *other != index) {
            for (is_cut, from, to) in [(inbound, other, index), (outbound, index, other)] {
                if is_cut {
                    self.cut[from][to] = true;
                    self.after(long, 0, Event::Mend(from, to));
                }
            }
        }
    }

    fn leads(&self, index: Index) -> bool {
        let process = self.nodes[index].process.as_ref();
        process.is_some_and(|process| process.replica.standing().role == Role::Leader)
    }

    fn check_standing(&mut self, index: Index) {
        let process = self.nodes[index].process.as_ref().expect("it has just had its turn");
        let standing = process.replica.standing();
        let term = standing.term;
        assert!(
            standing.applied <= standing.committed && standing.committed <= standing.last_index,
            "{standing:?}"
        );
        if standing.role == Role::Leader {
            let is_new = !self.judge.leaders.contains_key(&term);
            let known = *self.judge.leaders.entry(term).or_insert(id_of(index));
            assert_eq!(known, id_of(index), "two leaders in term {term}");
            if is_new {
                self.judge.elections += 1;
                tell!(self, "{index} leads in term {term}");
            }
        }
    }

    // ---- clients ----

    fn client(&mut self) {
        if !self.is_faulty {
            return;
        }
        let every = self.swarm.client_every;
        let next = self.rng.between(US, every * 2);
        self.after(next, 0, Event::Client);
        let index = self.rng.below(MEMBERS as u64) as usize;
        self.request(index);
    }

    fn request(&mut self, index: Index) {
        if self.nodes[index].process.is_none() {
            return;
        }
        let op = self.judge.ops.len() as u64;
        let lease = self.some_lease();
        match self.rng.below(20) {
            0..=8 => self.write(index, CommandOp::Put(self.put(op, 0))),
            9 if lease != 0 => self.write(index, CommandOp::Put(self.put(op, lease))),
            10 | 11 => {
                let txn = self.txn(op);
                self.write(index, CommandOp::Txn(txn));
            }
            12 => {
                let key = self.key();
                self.write(
                    index,
                    CommandOp::DeleteRange(DeleteRangeRequest {
                        key,
                        ..Default::default()
                    }),
                );
            }
            13 => {
                let ttl = 2 + self.rng.below(3) as i64;
                self.write(
                    index,
                    CommandOp::LeaseGrant(LeaseGrantRequest { id: op as i64 + 1, ttl }),
                );
            }
            14 if lease != 0 && self.rng.permille(200) => {
                self.write(index, CommandOp::LeaseRevoke(LeaseRevokeRequest { id: lease }));
            }
            14 | 15 if lease != 0 => {
                self.ask(index, Asked::Renew(lease), |waiter, deadline| Input::LeaseRenew {
                    id: lease,
                    waiter,
                    deadline,
                });
            }
            16 if lease != 0 => {
                self.ask(index, Asked::Remaining(lease), |waiter, deadline| {
                    Input::LeaseRemaining {
                        id: lease,
                        waiter,
                        deadline,
                    }
                });
            }
            17 if self.swarm.compactions && self.rng.permille(100) => {
                let revision = self.judge.floor;
                self.write(
                    index,
                    CommandOp::Compact(CompactionRequest {
                        revision,
                        physical: false,
                    }),
                );
            }
            _ => self.ask(index, Asked::Read, |waiter, deadline| Input::Read { waiter, deadline }),
        }
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{}", self.rng.below(KEYS)))
    }

    fn put(&self, op: W, lease: i64) -> PutRequest {
        let key = Bytes::from(format!("k{}", mix(op) % KEYS));
        PutRequest {
            key,
            value: Bytes::from(op.to_string()),
            lease,
            prev_kv: op.is_multiple_of(3),
            ..Default::default()
        }
    }

    fn txn(&mut self, op: W) -> TxnRequest {
        let put = self.put(op, 0);
        let read = RangeRequest {
            key: self.key(),
            ..Default::default()
        };
        let version = self.rng.below(4) as i64;
        let compare = Compare {
            result: compare::CompareResult::Greater as i32,
            target: compare::CompareTarget::Version as i32,
            key: self.key(),
            target_union: Some(compare::TargetUnion::Version(version)),
            ..Default::default()
        };
        let op = |request| RequestOp { request: Some(request) };
        TxnRequest {
            compare: vec![compare],
            success: vec![
                op(request_op::Request::RequestPut(put.clone())),
                op(request_op::Request::RequestRange(read.clone())),
            ],
            failure: vec![
                op(request_op::Request::RequestRange(read)),
                op(request_op::Request::RequestPut(put)),
            ],
        }
    }

    fn some_lease(&mut self) -> i64 {
        let alive: Vec<i64> = self.judge.leases.keys().rev().take(8).copied().collect();
        if alive.is_empty() {
            0
        } else {
            alive[self.rng.below(alive.len() as u64) as usize]
        }
    }

    fn write(&mut self, index: Index, op: CommandOp) {
        let command = Command { op: Some(op) };
        self.ask(index, Asked::Write(command.clone()), |waiter, deadline| {
            Input::Propose {
                command,
                waiter,
                deadline,
            }
        });
    }

    fn ask(&mut self, at: Index, asked: Asked, input: impl FnOnce(W, Time) -> Input<W>) {
        let Some(process) = self.nodes[at].process.as_ref() else {
            return;
        };
        let op = self.judge.ops.len() as u64;
        let born = process.born;
        let wait = if self.rng.permille(100) {
            self.rng.between(MS, 100 * MS)
        } else {
            self.rng.between(S, 7 * S)
        };
        let floor = self.judge.floor;
        let outcome = Outcome::Open;
        let is_read = matches!(asked, Asked::Read);
        self.judge.ops.push(Op {
            asked,
            at,
            invoked: self.now,
            wait,
            floor,
            outcome,
        });
        self.judge.open.insert(op);
        if is_read && self.broken == Break::ReadWithoutBarrier {
            self.answered(at, op, Answer::Read);
            return;
        }
        let input = input(op, self.now - born + wait);
        let process = self.process(at);
        if process.replica.rest().writes > 1 && matches!(input, Input::Propose { .. }) {
            // As inbox.rs does it: no turn for what could only wait.
            process.inbox.push(input);
        } else {
            self.push(at, input);
        }
    }

    fn end(&mut self, op: W, outcome: Outcome) {
        self.note(op);
        assert!(self.judge.open.remove(&op), "request {op} is answered twice");
        self.judge.ops[op as usize].outcome = outcome;
    }

    /// A client's write was applied by its member.
    fn written(&mut self, op: W, command: &Command, result: &Result<Response, Error>) {
        let Asked::Write(asked) = &self.judge.ops[op as usize].asked else {
            panic!("request {op} is not a write")
        };
        assert_eq!(asked, command, "request {op} got the outcome of another one");
        let invoked = self.judge.ops[op as usize].invoked;
        if let Ok(response) = result {
            let is_change = match response {
                Response::Put(_) | Response::Txn(_) => true,
                Response::DeleteRange(reply) => reply.deleted > 0,
                _ => false,
            };
            if let Response::LeaseGrant(grant) = response {
                let until = invoked + S * grant.ttl as u32;
                self.judge.leases.insert(grant.id, until);
            }
            let revision = revision_of(response);
            if is_change {
                assert!(
                    self.judge.acknowledged.insert(revision),
                    "two changes were acknowledged at revision {revision}"
                );
            }
            self.judge.floor = self.judge.floor.max(revision);
            self.judge.writes += 1;
        }
        self.end(op, Outcome::Done);
    }

    fn answered(&mut self, index: Index, op: W, answer: Answer) {
        let Op {
            asked,
            invoked,
            floor,
            at,
            ..
        } = &self.judge.ops[op as usize];
        let (invoked, floor) = (*invoked, *floor);
        assert_eq!(*at, index);
        let outcome = match (asked, answer) {
            (_, Answer::Failed(error)) => Outcome::Failed(error),
            (Asked::Read, Answer::Read) => {
                let revision = self.nodes[index]
                    .process
                    .as_ref()
                    .expect("it answers")
                    .store
                    .view()
                    .revision();
                assert!(
                    revision >= floor,
                    "a stale read at {index}: revision {revision}, but {floor} had been acknowledged before it began"
                );
                self.judge.floor = self.judge.floor.max(revision);
                self.judge.reads += 1;
                Outcome::Done
            }
            (Asked::Renew(id), Answer::Lease(seconds)) => {
                let id = *id;
                if seconds > 0 {
                    let ended = self.judge.ended.get(&id);
                    assert!(
                        ended.is_none_or(|at| *at >= invoked),
                        "lease {id} was renewed, but had ended before"
                    );
                    let until = self.judge.leases.entry(id).or_default();
                    *until = (*until).max(invoked + S * seconds as u32);
                    self.judge.renewals += 1;
                } else {
                    assert!(
                        self.judge.ended.contains_key(&id),
                        "lease {id} was said to be gone, but nothing ended it"
                    );
                }
                Outcome::Done
            }
            (Asked::Remaining(id), Answer::Lease(seconds)) => {
                let is_known = seconds >= 0 || self.judge.ended.contains_key(id);
                assert!(is_known, "lease {id} was said to be gone, but nothing ended it");
                Outcome::Done
            }
            (Asked::Move, Answer::Moved) => Outcome::Done,
            (_, answer) => panic!("request {op} was answered with {answer:?}"),
        };
        self.end(op, outcome);
    }

    // ---- the end ----

    /// Everything works again: so must the cluster.
    fn heal(&mut self) {
        self.is_faulty = false;
        // Pauses end now.
        let ends: BTreeSet<Time> = self.nodes.iter().map(|node| node.paused_until).collect();
        let woken: Vec<_> = self.queue.extract_if(.., |(at, _), _| ends.contains(at)).collect();
        for ((_, made), event) in woken {
            self.queue.insert((self.now, made), event);
        }
        self.cut = Default::default();
        for index in 0..MEMBERS {
            let node = &mut self.nodes[index];
            (node.paused_until, node.slow_until) = (self.now, self.now);
            self.start(index);
        }
        tell!(self, "healed");
    }

    fn check_leader(&self) {
        let leaders: Vec<u64> = self.standings().map(|standing| standing.leader).collect();
        assert!(
            leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]),
            "no leader after 2 s: {leaders:x?}"
        );
        assert!(
            self.standings().all(|standing| standing.serving),
            "a member does not serve"
        );
    }

    fn standings(&self) -> impl Iterator<Item = &raft_node::replica::Standing> {
        self.nodes
            .iter()
            .map(|node| node.process.as_ref().expect("all were started").replica.standing())
    }

    /// Every member serves every request.
    fn probe(&mut self) -> Vec<W> {
        let first = self.judge.ops.len() as u64;
        for _ in 0..4 {
            for index in 0..MEMBERS {
                let put = self.put(self.judge.ops.len() as u64, 0);
                self.write(index, CommandOp::Put(put));
                self.ask(index, Asked::Read, |waiter, deadline| Input::Read { waiter, deadline });
            }
            let end = self.now + 10 * MS;
            self.run_until(end);
        }
        (first..self.judge.ops.len() as u64).collect()
    }

    fn check_end(&mut self, probes: &[W]) {
        assert!(self.judge.open.is_empty(), "unanswered: {:?}", self.judge.open);
        for op in probes {
            let Op {
                outcome,
                invoked,
                at,
                wait,
                ..
            } = &self.judge.ops[*op as usize];
            let is_short = *wait <= 100 * MS
                && matches!(
                    outcome,
                    Outcome::Failed(Error::Timeout | Error::TimeoutWaitAppliedIndex | Error::NoLeader)
                );
            assert!(
                *outcome == Outcome::Done || is_short,
                "request {op} at {at}, asked at {invoked:?}: {outcome:?}"
            );
        }
        for (op, times) in &self.judge.in_log {
            assert_eq!(*times, 1, "request {op} is in the log {times} times");
            let outcome = &self.judge.ops[*op as usize].outcome;
            let is_denied = matches!(
                outcome,
                Outcome::Failed(
                    Error::NoLeader | Error::LeaderChanged | Error::RequestTooManyRequests | Error::NotLeader
                )
            );
            assert!(
                !is_denied,
                "request {op} was said not to have happened ({outcome:?}), but is in the log"
            );
        }
        let decided = self.judge.canon.len() as u64;
        let mut hashes = BTreeSet::new();
        for node in &self.nodes {
            let store = &node.process.as_ref().expect("it runs").store;
            assert_eq!(store.applied().index, decided, "a member lags behind for ever");
            let view = store.view();
            hashes.insert(view.state_hash());
            assert_eq!(
                view.hash_kv(0),
                Ok(view.hash_kv_kept()),
                "the hash that apply keeps is not that of the rows"
            );
            let late = |id: &i64| self.judge.leases.get(id).is_some_and(|until| *until + 8 * S < self.now);
            assert!(
                !view.leases().iter().any(late),
                "a lease never ends: {:?}",
                view.leases()
            );
        }
        assert_eq!(hashes.len(), 1, "members differ");
        for op in &self.judge.ops {
            if let (Asked::Write(command), Outcome::Done) = (&op.asked, &op.outcome) {
                assert!(
                    number_of(command).is_none_or(|op| self.judge.in_log.contains_key(&op)),
                    "an acknowledged write is not in the log"
                );
            }
        }
    }
}

fn membership() -> Membership {
    let members = (0..MEMBERS)
        .map(|index| Member {
            id: id_of(index),
            ..Member::default()
        })
        .collect();
    let conf_state = initial_conf_state((0..MEMBERS).map(id_of).collect());
    Membership {
        cluster_id: 7,
        members,
        conf_state,
    }
}

fn revision_of(response: &Response) -> i64 {
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

/// The number of the request that a write came from, where it says so.
fn number_of(command: &Command) -> Option<W> {
    let value = match &command.op {
        Some(CommandOp::Put(put)) => &put.value,
        Some(CommandOp::Txn(txn)) => txn.success.iter().find_map(|op| match &op.request {
            Some(request_op::Request::RequestPut(put)) => Some(&put.value),
            _ => None,
        })?,
        Some(CommandOp::LeaseGrant(grant)) => return Some(grant.id as u64 - 1),
        _ => return None,
    };
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// One run; its trace, and what happened in it.
fn run(seed: u64, broken: Break) -> (u64, Judge) {
    let mut world = World::new(seed, broken);
    world.run_until(FAULTY);
    world.heal();
    world.run_until(FAULTY + 2 * S);
    world.check_leader();
    let probes = world.probe();
    world.run_until(FAULTY + 12 * S);
    world.check_end(&probes);
    (world.trace, world.judge)
}

/// Runs a seed on a thread of its own; how it failed, if it did.
fn outcome_of(seed: u64, broken: Break) -> Result<(u64, Judge), String> {
    let run = std::panic::catch_unwind(|| run(seed, broken));
    run.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default()
    })
}

#[test]
fn every_seed_keeps_every_promise() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => REGRESSIONS
            .iter()
            .copied()
            .chain(0..number("SIM_SEEDS").unwrap_or(SEEDS))
            .collect(),
    };
    let (mut failed, mut sum) = (Vec::new(), Judge::default());
    let count = seeds.len();
    for seed in seeds {
        match outcome_of(seed, Break::None) {
            Ok((_, judge)) => {
                sum.snapshots += judge.snapshots;
                sum.elections += judge.elections;
                sum.crashes += judge.crashes;
                sum.reads += judge.reads;
                sum.writes += judge.writes;
                sum.renewals += judge.renewals;
                sum.expiries += judge.expiries;
            }
            Err(why) => {
                println!("seed {seed}: {why}");
                println!("  replay: SIM_SEED={seed} cargo test --release -p dipper-raft-node --test sim every_seed");
                failed.push(seed);
            }
        }
    }
    println!(
        "{count} seeds: {} elections, {} crashes, {} snapshots installed, {} writes, {} reads, {} renewals, {} expiries",
        sum.elections, sum.crashes, sum.snapshots, sum.writes, sum.reads, sum.renewals, sum.expiries
    );
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed: {failed:?}",
        failed.len()
    );
    // A simulation in which nothing happens proves nothing.
    if count > 100 {
        let each = count as u64;
        assert!(
            sum.elections > 3 * each && sum.crashes > 3 * each && sum.snapshots > each,
            "too little goes wrong"
        );
        assert!(sum.writes > 200 * each && sum.reads > 50 * each, "too little is asked");
        assert!(
            sum.renewals > each && sum.expiries > each,
            "too little happens to leases"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed, Break::None).0, run(seed, Break::None).0);
    }
    assert_ne!(run(1, Break::None).0, run(2, Break::None).0);
}

/// Some of these seeds must fail, with a text that names the promise that was broken.
fn is_noticed(broken: Break, because: &[&str]) {
    let failures: Vec<String> = (0..20).filter_map(|seed| outcome_of(seed, broken).err()).collect();
    let named = failures
        .iter()
        .filter(|why| because.iter().any(|because| why.contains(because)))
        .count();
    assert!(
        named > 0,
        "{broken:?} was noticed by {named} of 20 seeds: {failures:#?}"
    );
}

#[test]
fn an_acknowledgement_before_its_sync_is_noticed() {
    is_noticed(Break::PersistedBeforeSync, &["durable"]);
}

#[test]
fn a_read_without_a_barrier_is_noticed() {
    is_noticed(Break::ReadWithoutBarrier, &["a stale read"]);
}

#[test]
fn a_write_done_twice_is_noticed() {
    is_noticed(Break::ForwardTwice, &["in the log 2 times"]);
}

#[test]
fn a_lost_sync_is_noticed() {
    is_noticed(Break::SyncIsLost, &["not what was synced"]);
}

#[test]
fn a_member_that_applies_something_else_is_noticed() {
    is_noticed(Break::EntryIsSkipped, &["differs", "another outcome", "another state"]);
}

/// Nothing breaks here, but leadership moves all the time: whatever a client asks of whomever, it is done.
#[test]
fn a_planned_change_of_leader_fails_no_request() {
    for seed in 0..20 {
        let mut world = World::new(seed, Break::None);
        world.queue.retain(|_, (_, event)| !matches!(event, Event::Fault));
        world.swarm.loss = 0;
        world.swarm.duplicates = 0;
        world.swarm.spike = 0;
        world.swarm.ordered = true;
        world.swarm.delay = MS;
        world.swarm.sync = 2 * MS;
        world.swarm.apply = MS;
        world.swarm.client_every = MS;
        let mut moved = 0;
        for _ in 0..20 {
            let end = world.now + 400 * MS;
            world.run_until(end);
            if let Some(leader) = (0..MEMBERS).find(|index| world.leads(*index)) {
                moved += 1;
                world.ask(leader, Asked::Move, |waiter, deadline| Input::MoveLeader {
                    target: None,
                    waiter,
                    deadline,
                });
            }
        }
        world.is_faulty = false;
        let end = world.now + 10 * S;
        world.run_until(end);
        assert!(moved > 15 && world.judge.elections > 15, "leadership hardly moved");
        let probes: Vec<W> = (0..world.judge.ops.len() as u64)
            .filter(|op| !matches!(world.judge.ops[*op as usize].asked, Asked::Move))
            .collect();
        world.check_end(&probes);
    }
}
