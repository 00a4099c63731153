//! Which scenarios there are: workloads against faults, as the plan's matrix has them.
//!
//! The short set takes one of each kind of fault and is part of every test run; the full one has forty. Not here:
//! what a fault does.

use super::{
    fault::{Fault, Whom},
    faultfs::journal::Loss,
    scenario::Scenario,
};
use crate::workload::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Set {
    /// Eight, for every test run
    Short,
    /// Forty
    Full,
    /// A lock whose lease is not checked by what it guards: it must be seen to fail
    Unguarded,
}

const SHORT_SECONDS: u64 = 15;
const FULL_SECONDS: u64 = 25;

const REGISTERS: &[Kind] = &[Kind::Register, Kind::Set];
const TXNS: &[Kind] = &[Kind::ListAppend, Kind::RwTxn];
const STORE: &[Kind] = &[Kind::KvMix, Kind::Kubernetes];
const WATCHES: &[Kind] = &[Kind::Watch, Kind::Kubernetes];
const LEASES: &[Kind] = &[Kind::Lease, Kind::GuardedLock];
const MONEY: &[Kind] = &[Kind::Bank, Kind::Payments];
const ADMIN: &[Kind] = &[Kind::Admin, Kind::KvMix];
const ALL: &[Kind] = &[
    Kind::Register,
    Kind::Bank,
    Kind::ListAppend,
    Kind::Watch,
    Kind::Payments,
    Kind::Lease,
];

/// Name, workloads, fault, members.
type Row = (&'static str, &'static [Kind], Fault, usize);

/// The first eight are the short set.
const ROWS: [Row; 40] = [
    ("kill-leader-all", ALL, Fault::Kill(Whom::Leader), 3),
    ("pause-leader-money", MONEY, Fault::Pause(Whom::Leader), 3),
    ("split-leader-store", STORE, Fault::Split(Whom::Leader), 3),
    ("deaf-leader-registers", REGISTERS, Fault::Deaf(Whom::Leader), 3),
    (
        "power-loss-everybody-money",
        MONEY,
        Fault::PowerLoss(Whom::All, Loss::Torn),
        3,
    ),
    ("sync-error-store", STORE, Fault::SyncError(Whom::Any), 3),
    ("slow-disk-leader-txns", TXNS, Fault::SlowDisk(Whom::Leader, 1000), 3),
    ("clock-leader-leases", LEASES, Fault::ClockJump(Whom::Leader, 3600), 3),
    ("calm-all", ALL, Fault::None, 3),
    ("calm-registers", REGISTERS, Fault::None, 3),
    ("calm-txns", TXNS, Fault::None, 3),
    ("calm-leases", LEASES, Fault::None, 3),
    ("calm-admin", ADMIN, Fault::None, 5),
    ("kill-any-registers", REGISTERS, Fault::Kill(Whom::Any), 3),
    ("kill-minority-store", STORE, Fault::Kill(Whom::Minority), 5),
    ("kill-everybody-txns", TXNS, Fault::Kill(Whom::All), 3),
    ("kill-leader-leases", LEASES, Fault::Kill(Whom::Leader), 3),
    ("kill-everybody-watches", WATCHES, Fault::Kill(Whom::All), 3),
    ("kill-leader-admin", ADMIN, Fault::Kill(Whom::Leader), 3),
    ("stop-leader-all", ALL, Fault::Stop(Whom::Leader), 3),
    ("pause-minority-watches", WATCHES, Fault::Pause(Whom::Minority), 5),
    ("pause-majority-store", STORE, Fault::Pause(Whom::Majority), 3),
    ("pause-everybody-leases", LEASES, Fault::Pause(Whom::All), 3),
    ("pause-leader-registers", REGISTERS, Fault::Pause(Whom::Leader), 3),
    ("blackhole-leader-txns", TXNS, Fault::Blackhole(Whom::Leader), 3),
    ("blackhole-any-watches", WATCHES, Fault::Blackhole(Whom::Any), 3),
    ("split-majority-money", MONEY, Fault::Split(Whom::Minority), 5),
    ("mute-leader-store", STORE, Fault::Mute(Whom::Leader), 3),
    ("one-link-registers", REGISTERS, Fault::OneLink, 3),
    ("ring-store", STORE, Fault::Ring, 5),
    ("loss-all", ALL, Fault::Loss(20), 3),
    ("latency-store", STORE, Fault::Latency(5), 3),
    (
        "clock-back-minority-leases",
        LEASES,
        Fault::ClockJump(Whom::Minority, -3600),
        3,
    ),
    (
        "slow-disk-follower-money",
        MONEY,
        Fault::SlowDisk(Whom::Follower, 1000),
        3,
    ),
    ("power-loss-any-store", STORE, Fault::PowerLoss(Whom::Any, Loss::All), 3),
    (
        "power-loss-leader-txns",
        TXNS,
        Fault::PowerLoss(Whom::Leader, Loss::Torn),
        3,
    ),
    ("sync-error-leader-money", MONEY, Fault::SyncError(Whom::Leader), 3),
    ("disk-full-any-store", STORE, Fault::DiskFull(Whom::Any), 3),
    ("rot-follower-money", MONEY, Fault::Rot(Whom::Follower), 3),
    ("memory-any-registers", REGISTERS, Fault::NoMemory(Whom::Any), 3),
];

/// A lease is no mutex, whoever serves it: if nothing is found here, the checkers are blind.
const UNGUARDED: [Row; 1] = [("unguarded-lock", &[Kind::UnguardedLock], Fault::None, 3)];

impl Set {
    pub fn scenarios(self) -> impl Iterator<Item = Scenario> {
        let (rows, seconds) = match self {
            Self::Short => (&ROWS[..8], SHORT_SECONDS),
            Self::Full => (&ROWS[..], FULL_SECONDS),
            Self::Unguarded => (&UNGUARDED[..], FULL_SECONDS),
        };
        rows.iter().map(move |(name, workloads, fault, members)| Scenario {
            name,
            workloads,
            fault: *fault,
            members: *members,
            seconds,
            must_fail: self == Self::Unguarded,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_sets_are_as_large_as_promised_and_every_sound_workload_is_asked() {
        assert_eq!(Set::Short.scenarios().count(), 8);
        assert_eq!(
            Set::Full
                .scenarios()
                .map(|scenario| scenario.name)
                .collect::<BTreeSet<_>>()
                .len(),
            40
        );
        let asked: BTreeSet<Kind> = Set::Full
            .scenarios()
            .flat_map(|scenario| scenario.workloads)
            .copied()
            .collect();
        assert_eq!(asked, BTreeSet::from(Kind::SOUND));
    }
}
