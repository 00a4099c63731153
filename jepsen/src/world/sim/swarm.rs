//! How bad a seed's world is. Every seed draws its own mixture, so that rare combinations come up; a world in
//! which everything always happens at once would never get far enough for the deep ones.

use crate::{rng::Rng, workload::Kind};
use kv::StoreOptions;
use std::time::Duration;

pub const US: Duration = Duration::from_micros(1);
pub const MS: Duration = Duration::from_millis(1);
pub const S: Duration = Duration::from_secs(1);

/// What the nemesis can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    Kill,
    PowerLoss,
    PowerLossOfAll,
    /// Blackholed in both directions, deaf, or mute.
    CutOff,
    OneLink,
    /// The members fall into two parts.
    Halves,
    /// Each member sees its neighbours only.
    Ring,
    /// Links of some members stop one by one and come back in another order.
    Swizzle,
    Pause,
    PauseOfAll,
    SlowDisk,
    SyncFails,
    DiskFull,
    /// A flipped bit or a misdirected write in what was synced; a quorum keeps a sound copy.
    Rot,
    ClockJump,
    MoveLeader,
}

const HARMS: &[Harm] = &[
    Harm::Kill,
    Harm::Kill,
    Harm::PowerLoss,
    Harm::PowerLoss,
    Harm::PowerLossOfAll,
    Harm::CutOff,
    Harm::CutOff,
    Harm::OneLink,
    Harm::Halves,
    Harm::Ring,
    Harm::Swizzle,
    Harm::Pause,
    Harm::Pause,
    Harm::PauseOfAll,
    Harm::SlowDisk,
    Harm::SyncFails,
    Harm::DiskFull,
    Harm::Rot,
    Harm::ClockJump,
    Harm::MoveLeader,
];

#[derive(Clone, Debug)]
pub struct Swarm {
    pub members: usize,
    pub loss: u64,
    pub duplicates: u64,
    pub delay: Duration,
    pub spike: u64,
    pub sync: Duration,
    pub apply: Duration,
    pub fault_every: Duration,
    pub harms: Vec<Harm>,
    pub clients: u32,
    /// Between an outcome and the next request.
    pub think: Duration,
    pub workloads: Vec<Kind>,
    pub flush_every: u64,
    pub catch_up: u64,
    /// Frames of a lane do not overtake each other, as on one connection.
    pub ordered: bool,
    /// How far the members' clocks run apart, in millionths.
    pub skew_ppm: u64,
    /// One write of the state in so many is followed by a flush that nobody asked for; 0: none.
    pub engine_flush_every: u64,
    pub store: StoreOptions,
    /// Clients wait as long as it takes; otherwise some have no time.
    pub is_patient: bool,
}

impl Swarm {
    pub fn of(rng: &mut Rng) -> Self {
        let members = rng.pick(&[1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5]);
        let mut harms: Vec<Harm> = HARMS.iter().copied().filter(|_| rng.permille(600)).collect();
        harms.push(rng.pick(HARMS));
        let mut workloads: Vec<Kind> = Kind::SOUND.iter().copied().filter(|_| rng.permille(250)).collect();
        workloads.push(rng.pick(&Kind::SOUND));
        Self {
            members,
            loss: rng.pick(&[0, 0, 5, 30, 150]),
            duplicates: rng.pick(&[0, 5, 30, 300]),
            delay: US * rng.pick(&[200, 1_000, 5_000, 20_000]),
            spike: rng.pick(&[0, 5, 20]),
            sync: US * rng.pick(&[100, 2_000, 10_000]),
            apply: US * rng.pick(&[50, 1_000, 20_000]),
            fault_every: MS * rng.pick(&[200, 500, 1_500, 5_000]),
            harms,
            clients: 4 + rng.below(5) as u32,
            think: MS * rng.pick(&[5, 20, 60]),
            workloads,
            flush_every: rng.pick(&[5, 20, 100]),
            catch_up: rng.pick(&[3, 10, 50]),
            ordered: rng.permille(700),
            skew_ppm: rng.pick(&[0, 0, 100, 500]),
            engine_flush_every: rng.pick(&[0, 7, 50]),
            // Tiny sizes make rare paths common: events from the disk, writes in several pieces.
            store: StoreOptions {
                ring_bytes: rng.pick(&[0, 1 << 10, 64 << 10, 64 << 20]),
                piece_bytes_max: rng.pick(&[100, 1 << 10, 64 << 20]),
            },
            is_patient: false,
        }
    }
}
