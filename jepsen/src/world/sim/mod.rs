//! A cluster in one thread: the real `Replica` and `Store` on simulated disks, a simulated network and simulated
//! clocks, with everything going wrong that can, and invariants checked at every step.
//!
//! ```text
//!   seed -> swarm (how bad it is) -> events in the order of their time, ties in the order of their making
//!     member      starts, crashes, and the raft thread's turns        }
//!     threads     the log thread and the apply thread                 } as node/ and driver/ do them
//!     disk        a log in sectors, MARK, the state                   }
//!     network     delayed, lost, duplicated, overtaken, cut off
//!     clients     workloads in closed loops; what they are told is the history
//!     watching    watchers that resume wherever a member lives
//!     faults      the nemesis
//!     judge       the sixteen invariants, after every event
//!     liveness    a quorum is healed and must make progress; then everything is compared
//! ```
//! One seed is one run, always the same: `jepsen sim --seed 7` replays it and ends with a hash of all that
//! happened. Deliberately not here: threads, gRPC, RocksDB and the kernel, which the other world has.

// Simulated time never goes back.
#![allow(clippy::unchecked_time_subtraction)]

mod clients;
mod disk;
mod durable;
mod engine;
mod faults;
mod judge;
mod liveness;
mod member;
pub mod mutant;
mod network;
mod replies;
mod sectors;
pub mod swarm;
mod threads;
mod watching;
#[allow(clippy::module_inception)]
mod world;

use crate::{
    expectations::{Expectations, SearchLimits},
    history::Record,
    rng::Rng,
    workload::{Kind, promises_of},
};
use mutant::Mutant;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};
use swarm::Swarm;
use world::World;

/// Runs up to this get the second opinion, a search that a wrong history can make grow exponentially; longer ones
/// the complete checkers only.
const SEARCHED_MAX: Duration = Duration::from_mins(1);

/// One run to make.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// How long things go wrong; the liveness phase comes on top.
    pub faulty: Duration,
    pub mutant: Mutant,
    /// Makes another world of the seed's own, for a named scenario.
    pub world: Option<fn(&mut Swarm)>,
    /// Whether to print what happens.
    pub is_told: bool,
}

impl Plan {
    /// The seed's own world, in which nothing is wrong but what the seed brings.
    pub fn new(seed: u64, faulty: Duration) -> Self {
        Self {
            seed,
            faulty,
            mutant: Mutant::None,
            world: None,
            is_told: false,
        }
    }
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Ran {
    pub trace: u64,
    pub simulated: Duration,
    pub history: Vec<Record>,
    pub counts: Counts,
}

/// What happened in one run or many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub operations: u64,
    pub unknown: u64,
    /// Refused for want of a leader, a place in a queue, or time.
    pub failed: u64,
    pub reads: u64,
    pub faults: u64,
    pub crashes: u64,
    pub elections: u64,
    pub snapshots: u64,
    pub refusals: u64,
    pub renewals: u64,
    pub expiries: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.failed += other.failed;
        self.reads += other.reads;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.elections += other.elections;
        self.snapshots += other.snapshots;
        self.refusals += other.refusals;
        self.renewals += other.renewals;
        self.expiries += other.expiries;
    }
}

/// Runs a plan; panics at the first promise that is broken.
pub fn run(plan: &Plan) -> Ran {
    let mut rng = Rng::new(plan.seed);
    let mut swarm = Swarm::of(&mut rng);
    if let Some(world) = plan.world {
        world(&mut swarm);
    }
    if let Mutant::Core(name) = plan.mutant {
        choose(name);
    }
    let expectations = expectations(&swarm, plan.faulty);
    let mut world = World::new(plan.seed, swarm, rng, plan.mutant, plan.is_told);
    world.begin_history(expectations);
    world.run_until(plan.faulty);
    world.live();
    ran(world)
}

/// What the checkers may count on.
fn expectations(swarm: &Swarm, faulty: Duration) -> Expectations {
    let mut search = SearchLimits::default();
    if faulty > SEARCHED_MAX {
        search.steps_max = 0;
    }
    let kinds: BTreeSet<Kind> = swarm.workloads.iter().copied().collect();
    Expectations {
        // One canonical watch: that all members agree with it is an invariant here.
        members: 1,
        drained: true,
        closed: true,
        // Clocks that run apart by 0.05 %, twice.
        lease_early_ms: 10,
        lease_late_ms: None,
        search,
        promises: kinds.into_iter().flat_map(promises_of).collect(),
    }
}

fn ran(world: World) -> Ran {
    let judge = &world.judge;
    let counts = Counts {
        operations: judge.operations,
        unknown: judge.unknown,
        failed: judge.failed,
        reads: judge.reads,
        faults: judge.faults,
        crashes: judge.crashes,
        elections: judge.elections,
        snapshots: judge.snapshots,
        refusals: judge.refusals,
        renewals: judge.renewals,
        expiries: judge.expiries,
    };
    Ran {
        trace: world.trace(),
        simulated: world.now,
        counts,
        history: world.judge.history,
    }
}

#[cfg(feature = "mutants")]
fn choose(name: &'static str) {
    kv::mutants::choose(name);
}

#[cfg(not(feature = "mutants"))]
fn choose(name: &'static str) {
    panic!("{name} is in builds with the feature `mutants` only");
}
