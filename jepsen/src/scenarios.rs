//! Named scenarios: worlds that a swarm would take long to draw, each for one row of the catalogue in CATALOGUE.md.
//!
//! | scenario | what must happen |
//! |---|---|
//! | calm | nothing goes wrong, so nothing may be found: the judge gives no false alarm |
//! | unguarded-lock | a lock without a fence is *seen* to lose what it guards |
//! | guarded-lock | the same with the fence loses nothing |
//! | moving-leader | leadership moves all the time, and no request fails |
//! | single-member | one member, power lost again and again (etcd #14370) |
//! | snapshot-and-watch | followers that are cut off until they need a snapshot, watchers on them (etcd #15271) |
//! | compaction-and-watch | watches that begin where a compaction ends (etcd #18089, #19179) |
//! | paused-leader | leaders that are paused while others write (etcd #20418) |
//! | compacted-range | ranges at old revisions in transactions while they are compacted (etcd #18667) |
//! | ring | five members of whom each sees its neighbours only |
//! | rot | logs that rot while their members are down |
//! | renewals | leases renewed over changes of leaders and full disks (etcd #15247) |

use crate::{
    campaign::{Verdict, judged},
    workload::Kind,
    world::sim::{
        Plan,
        mutant::Mutant,
        swarm::{Harm, MS, Swarm, US},
    },
};
use clap::Args;
use std::{process::ExitCode, time::Duration};

/// `jepsen scenarios`.
#[derive(Args)]
pub struct Scenarios {
    /// Seeds of each.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Only this one.
    #[arg(long)]
    only: Option<String>,
}

/// What a scenario has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Every seed keeps every promise.
    Sound,
    /// And no request failed or was left in doubt.
    Flawless,
    /// Some seeds lose something, under exactly this name: otherwise the judge is blind.
    Anomaly(&'static str),
}

/// A world with a name.
pub struct Scenario {
    pub name: &'static str,
    pub shows: Shows,
    pub world: fn(&mut Swarm),
}

/// How long things go wrong in a scenario.
pub const FAULTY: Duration = Duration::from_secs(20);

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "calm",
        shows: Shows::Flawless,
        world: |swarm| {
            calm(swarm);
            swarm.workloads.retain(|kind| *kind != Kind::Admin);
            swarm.workloads.push(Kind::KvMix);
        },
    },
    Scenario {
        name: "unguarded-lock",
        shows: Shows::Anomaly("a lock lost what it guards"),
        world: |swarm| {
            calm(swarm);
            swarm.workloads = vec![Kind::UnguardedLock];
        },
    },
    Scenario {
        name: "guarded-lock",
        shows: Shows::Sound,
        world: |swarm| {
            calm(swarm);
            swarm.workloads = vec![Kind::GuardedLock];
        },
    },
    Scenario {
        name: "moving-leader",
        shows: Shows::Flawless,
        world: |swarm| {
            calm(swarm);
            swarm.members = 3;
            swarm.harms = vec![Harm::MoveLeader];
            swarm.fault_every = 400 * MS;
            swarm.workloads = vec![Kind::Register, Kind::KvMix, Kind::Bank];
        },
    },
    Scenario {
        name: "single-member",
        shows: Shows::Sound,
        world: |swarm| {
            swarm.members = 1;
            swarm.harms = vec![Harm::PowerLoss, Harm::SyncFails, Harm::DiskFull];
        },
    },
    Scenario {
        name: "snapshot-and-watch",
        shows: Shows::Sound,
        world: |swarm| {
            swarm.members = 3;
            swarm.harms = vec![Harm::CutOff, Harm::Pause];
            (swarm.catch_up, swarm.flush_every) = (3, 5);
            swarm.workloads = vec![Kind::Watch, Kind::Kubernetes];
        },
    },
    Scenario {
        name: "compaction-and-watch",
        shows: Shows::Sound,
        world: |swarm| {
            swarm.harms = vec![Harm::Kill, Harm::PowerLossOfAll];
            swarm.workloads = vec![Kind::Watch, Kind::Admin];
        },
    },
    Scenario {
        name: "paused-leader",
        shows: Shows::Sound,
        world: |swarm| {
            swarm.members = 3;
            swarm.harms = vec![Harm::Pause];
            swarm.fault_every = 800 * MS;
            swarm.workloads = vec![Kind::Register, Kind::Set];
        },
    },
    Scenario {
        name: "compacted-range",
        shows: Shows::Sound,
        world: |swarm| {
            swarm.harms = vec![Harm::Kill, Harm::MoveLeader];
            swarm.workloads = vec![Kind::KvMix, Kind::Admin];
        },
    },
    Scenario {
        name: "ring",
        shows: Shows::Sound,
        world: |swarm| {
            swarm.members = 5;
            swarm.harms = vec![Harm::Ring, Harm::Halves, Harm::OneLink];
        },
    },
    Scenario {
        name: "rot",
        shows: Shows::Sound,
        world: |swarm| {
            swarm.members = 5;
            swarm.harms = vec![Harm::Rot, Harm::PowerLoss, Harm::SyncFails];
        },
    },
    Scenario {
        name: "renewals",
        shows: Shows::Sound,
        world: |swarm| {
            swarm.members = 3;
            swarm.harms = vec![
                Harm::SlowDisk,
                Harm::Pause,
                Harm::MoveLeader,
                Harm::DiskFull,
                Harm::ClockJump,
            ];
            swarm.workloads = vec![Kind::Lease];
        },
    },
];

/// A good network, a good disk, and nobody who breaks anything.
fn calm(swarm: &mut Swarm) {
    swarm.harms = Vec::new();
    (swarm.loss, swarm.duplicates, swarm.spike) = (0, 0, 0);
    (swarm.delay, swarm.sync, swarm.apply) = (US * 1000, MS * 2, MS);
    swarm.ordered = true;
    swarm.is_patient = true;
}

impl Scenario {
    /// One seed of it.
    pub fn run(&self, seed: u64) -> Verdict {
        judged(&Plan {
            seed,
            faulty: FAULTY,
            mutant: Mutant::None,
            world: Some(self.world),
            is_told: false,
        })
    }

    /// Whether some seeds show what they must.
    pub fn judge(&self, seeds: u64) -> Result<String, String> {
        let verdicts: Vec<(u64, Verdict)> = (0..seeds).map(|seed| (seed, self.run(seed))).collect();
        if let Shows::Anomaly(name) = self.shows {
            let named = |(_, verdict): &&(u64, Verdict)| verdict.as_ref().is_err_and(|why| why.contains(name));
            let seen = verdicts.iter().filter(named).count();
            let others = verdicts
                .iter()
                .find(|(_, verdict)| verdict.as_ref().is_err_and(|why| !why.contains(name)));
            return match others {
                Some((seed, Err(why))) => Err(format!("seed {seed}: {why}")),
                _ if seen == 0 => Err(format!("none of {seeds} seeds shows it")),
                _ => Ok(format!("seen in {seen} of {seeds} seeds")),
            };
        }
        let (mut operations, mut elections) = (0, 0);
        for (seed, verdict) in verdicts {
            let ran = verdict.map_err(|why| format!("seed {seed}: {why}"))?;
            operations += ran.counts.operations;
            elections += ran.counts.elections;
            let doubts = ran.counts.unknown + ran.counts.failed;
            if self.shows == Shows::Flawless && doubts > 0 {
                return Err(format!("seed {seed}: {doubts} requests failed"));
            }
        }
        Ok(format!("{operations} operations, {elections} elections"))
    }
}

impl Scenarios {
    /// Runs them and prints a line for each.
    pub fn run(&self) -> ExitCode {
        let mut all_well = true;
        for scenario in ALL {
            if self.only.as_deref().is_some_and(|only| only != scenario.name) {
                continue;
            }
            match scenario.judge(self.seeds) {
                Ok(what) => println!("{}: ok, {what}", scenario.name),
                Err(why) => {
                    all_well = false;
                    println!("{}: FAILED, {why}", scenario.name);
                }
            }
        }
        if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
