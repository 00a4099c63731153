//! The world: time, the queue of events, and what each of them is.

use super::{
    clients::Clients,
    disk::Disk,
    durable::Durable,
    engine::SimEngine,
    judge::Judge,
    member::Process,
    mutant::Mutant,
    swarm::{MS, S, Swarm, US},
    watching::Watcher,
};
use crate::rng::{Rng, mix};
use bytes::Bytes;
use proto::node::PeerFrame;
use raft_node::{
    log::EntryId,
    replica::{Input, Time},
};
use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

/// A client's request, or a probe, while it has no outcome.
pub type W = u64;
/// A member by its place.
pub type Index = usize;

/// Most members of a cluster.
pub const MEMBERS_MAX: usize = 5;

/// One member of the world: its disk, and its process while that runs.
pub struct Node {
    pub disk: Disk,
    /// What its disk certainly holds.
    pub durable: Durable,
    pub process: Option<Process>,
    /// Raised whenever it goes down: what was scheduled for an earlier life does not happen.
    pub life: u64,
    /// How often it was started.
    pub incarnation: u32,
    pub paused_until: Time,
    /// What came while it was paused.
    pub parked: Vec<Event>,
    pub slow_until: Time,
    pub full_until: Time,
    /// The next sync fails.
    pub sync_fails: bool,
    /// Something on its disk was damaged: it may refuse to start.
    pub is_damaged: bool,
    /// It refused to start, rightly, and never comes back.
    pub is_halted: bool,
    /// Its clock gains this many millionths.
    pub skew_ppm: i64,
    /// How far its wall clock was set forward.
    pub wall_jump: Time,
    /// The newest revision it ever answered from.
    pub served: i64,
}

pub enum Event {
    Turn(Index),
    Log(Index),
    Synced(Index, u64),
    Mark(Index),
    Apply(Index),
    Installed(Index),
    Input(Index, Box<Input<W>>),
    Resume(Index),
    Frame {
        from: Index,
        to: Index,
        frame: PeerFrame,
    },
    Snapshot {
        from: Index,
        to: Index,
        at: EntryId,
        image: SimEngine,
        message: Bytes,
    },
    Client(u32),
    Watch(usize),
    Fault,
    Start(Index),
    Cut(Index, Index, bool),
}

struct Scheduled {
    at: Time,
    made: u64,
    life: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.made == other.made
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.made).cmp(&(other.at, other.made))
    }
}

pub struct World {
    pub rng: Rng,
    pub swarm: Swarm,
    pub mutant: Mutant,
    pub now: Time,
    queue: BinaryHeap<Reverse<Scheduled>>,
    made: u64,
    pub nodes: Vec<Node>,
    /// How many cuts lie on a link, from and to.
    pub cut: [[u32; MEMBERS_MAX]; MEMBERS_MAX],
    /// When the last frame of a lane arrives, from and to.
    pub delivered: [[[Time; 2]; MEMBERS_MAX]; MEMBERS_MAX],
    pub is_faulty: bool,
    pub clients: Clients,
    pub watchers: Vec<Watcher>,
    pub judge: Judge,
    trace: u64,
    pub is_told: bool,
}

macro_rules! tell {
    ($world:expr, $($text:tt)*) => {
        if $world.is_told { println!("{:>12.6} {}", $world.now.as_secs_f64(), format!($($text)*)); }
    };
}
pub(super) use tell;

pub fn id_of(index: Index) -> u64 {
    // Not 1, 2, 3: nothing may take an id for a position.
    [0x51, 0xa2, 0xf3, 0x144, 0x195][index]
}

pub fn index_of(id: u64) -> Index {
    (0..MEMBERS_MAX)
        .find(|index| id_of(*index) == id)
        .expect("a member's id")
}

impl World {
    pub fn new(seed: u64, swarm: Swarm, mut rng: Rng, mutant: Mutant, is_told: bool) -> Self {
        let nodes = (0..swarm.members)
            .map(|_| Node::new(mutant, &swarm, &mut rng))
            .collect();
        let clients = Clients::new(&swarm, &mut rng);
        let mut world = Self {
            rng,
            swarm,
            mutant,
            now: Time::ZERO,
            queue: BinaryHeap::new(),
            made: 0,
            nodes,
            cut: Default::default(),
            delivered: Default::default(),
            is_faulty: true,
            clients,
            watchers: Vec::new(),
            judge: Judge::default(),
            trace: seed,
            is_told,
        };
        tell!(world, "{:?}", world.swarm);
        for index in 0..world.members() {
            world.start(index);
        }
        for client in 0..world.swarm.clients {
            let delay = world.rng.between(S / 4, S);
            world.after(delay, Event::Client(client));
        }
        world.after(S, Event::Fault);
        world
    }

    pub fn members(&self) -> usize {
        self.nodes.len()
    }

    /// The hash of everything that happened.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    pub fn after(&mut self, delay: Time, event: Event) {
        self.schedule(delay, u64::MAX, event);
    }

    /// Something that happens in a process, unless that is gone by then.
    pub fn for_node(&mut self, index: Index, delay: Time, event: Event) {
        let life = self.nodes[index].life;
        self.schedule(delay, life, event);
    }

    fn schedule(&mut self, delay: Time, life: u64, event: Event) {
        self.made += 1;
        self.queue.push(Reverse(Scheduled {
            at: self.now + delay,
            made: self.made,
            life,
            event,
        }));
    }

    pub fn run_until(&mut self, end: Time) {
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= end) {
            let Some(Reverse(Scheduled { at, made, life, event })) = self.queue.pop() else {
                break;
            };
            self.now = at;
            self.note(at.as_micros() as u64 ^ made.rotate_left(40));
            self.happen(life, event);
        }
        self.now = end;
    }

    pub fn note(&mut self, value: u64) {
        self.trace = mix(self.trace ^ value);
    }

    fn happen(&mut self, life: u64, event: Event) {
        if let Some(index) = event.process() {
            let node = &mut self.nodes[index];
            if node.life != life || node.process.is_none() {
                return;
            }
            if node.paused_until > self.now {
                node.parked.push(event);
                return;
            }
        }
        match event {
            Event::Turn(index) => self.turn(index),
            Event::Log(index) => self.log(index),
            Event::Synced(index, number) => self.synced(index, number),
            Event::Mark(index) => self.mark(index),
            Event::Apply(index) => self.apply(index),
            Event::Installed(index) => self.installed(index),
            Event::Input(index, input) => self.push(index, *input),
            Event::Resume(index) => self.resume(index),
            Event::Frame { from, to, frame } => self.frame_lands(from, to, frame),
            Event::Snapshot {
                from,
                to,
                at,
                image,
                message,
            } => self.snapshot_lands((from, to), at, image, message),
            Event::Client(client) => self.client(client),
            Event::Watch(watcher) => self.watch(watcher),
            Event::Fault => self.fault(),
            Event::Start(index) => self.start(index),
            Event::Cut(..) if !self.is_faulty => {}
            Event::Cut(from, to, is_cut) => {
                let cuts = &mut self.cut[from][to];
                *cuts = if is_cut { *cuts + 1 } else { cuts.saturating_sub(1) };
            }
        }
    }

    /// A pause is over: what it held up happens now, in its order.
    pub fn resume(&mut self, index: Index) {
        if self.nodes[index].paused_until > self.now {
            return;
        }
        for event in std::mem::take(&mut self.nodes[index].parked) {
            self.for_node(index, Time::ZERO, event);
        }
    }

    pub fn process(&mut self, index: Index) -> &mut Process {
        self.nodes[index]
            .process
            .as_mut()
            .expect("only running members are asked")
    }

    /// Into the raft thread's inbox.
    pub fn push(&mut self, index: Index, input: Input<W>) {
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

    /// The time that a member's process reads from its clock.
    pub fn local(&self, index: Index) -> Time {
        let node = &self.nodes[index];
        let born = node.process.as_ref().map_or(self.now, |process| process.born);
        let jump = match self.mutant {
            Mutant::LeaseByWallClock => node.wall_jump,
            _ => Time::ZERO,
        };
        let since = (self.now - born).as_nanos() as i64;
        Time::from_nanos((since + since / 1_000_000 * node.skew_ppm) as u64) + jump
    }

    /// Whether a word that asked nobody for anything yet belongs to a member that is up.
    pub fn is_up(&self, index: Index) -> bool {
        let node = &self.nodes[index];
        node.process.is_some() && node.paused_until <= self.now
    }
}

impl Event {
    /// The member in whose process it happens.
    fn process(&self) -> Option<Index> {
        match self {
            Self::Turn(index)
            | Self::Log(index)
            | Self::Synced(index, _)
            | Self::Mark(index)
            | Self::Apply(index)
            | Self::Installed(index)
            | Self::Input(index, _) => Some(*index),
            _ => None,
        }
    }
}

impl Node {
    fn new(mutant: Mutant, swarm: &Swarm, rng: &mut Rng) -> Self {
        Self {
            disk: Disk::new(mutant, SimEngine::new(swarm.engine_flush_every, rng.number())),
            durable: Durable::default(),
            process: None,
            life: 0,
            incarnation: 0,
            paused_until: Time::ZERO,
            parked: Vec::new(),
            slow_until: Time::ZERO,
            full_until: Time::ZERO,
            sync_fails: false,
            is_damaged: false,
            is_halted: false,
            skew_ppm: rng.below(2 * swarm.skew_ppm + 1) as i64 - swarm.skew_ppm as i64,
            wall_jump: Time::ZERO,
            served: 0,
        }
    }
}
