//! A fault that lasts: what must be seen of it, and how it is undone.
//!
//! Not here: how it began (`fault`).

use std::time::Duration;

use super::{
    cluster::Cluster,
    command::{Result, failed},
    delay::Delay,
    faultfs::journal::Loss,
    memory,
    network::Node,
    small_disk, wall_clock,
};
use crate::rng::Rng;

/// A fault that lasts.
#[derive(Debug, Default)]
pub struct Begun {
    pub what: String,
    pub proofs: Vec<Proof>,
    pub undo: Vec<Undo>,
}

/// What must be seen, or there was no fault.
#[derive(Debug)]
pub enum Proof {
    PacketsDropped,
    Unreachable(Node, usize),
    RoundTrip(Duration),
    ClockOff(usize, i64),
    SlowSync(usize, Duration),
    FailedSync(usize),
    NoRoom(usize),
    MemoryRefused(usize, u64),
}

#[derive(Debug)]
pub enum Undo {
    Start(usize),
    Resume(usize),
    HealNetwork,
    /// Packets are late as long as these live.
    EndDelays(Vec<Delay>),
    SetClock(usize),
    FastSyncs(usize),
    /// It should have ended by itself; its disk goes on with what was durable.
    ReplaceDisk(usize),
    MakeRoom(usize),
    ReleaseMemory(usize),
}

impl Begun {
    /// Whether it did what it says; must be asked before it is healed.
    pub fn prove(&self, cluster: &Cluster) -> Result<()> {
        for proof in &self.proofs {
            if let Some(why) = proof.missing(cluster)? {
                return failed(format!("no effect: {}: {why}", self.what));
            }
        }
        Ok(())
    }

    pub fn heal(self, cluster: &mut Cluster, rng: &mut Rng) -> Result<()> {
        for undo in self.undo {
            undo.act(cluster, rng)?;
        }
        cluster.note_healed();
        Ok(())
    }
}

impl Proof {
    /// What is not as it should be.
    fn missing(&self, cluster: &Cluster) -> Result<Option<String>> {
        let unless = |holds: bool, why: String| Ok((!holds).then_some(why));
        match self {
            Self::PacketsDropped => unless(
                cluster.network.dropped()? > 0,
                "not a single packet was dropped".to_owned(),
            ),
            Self::Unreachable(from, to) => unless(
                !cluster.network.ping(*from, *to),
                format!("a ping from {from:?} to member {to} comes back"),
            ),
            Self::RoundTrip(least) => {
                let took = cluster.network.round_trip_ms(Node::Member(0), 1).unwrap_or_default();
                unless(took >= least.as_secs_f64() * 1000.0, format!("a ping took {took} ms"))
            }
            Self::ClockOff(member, seconds) => wall_clock::prove(&cluster.members[*member], *seconds).map(|()| None),
            Self::SlowSync(member, least) => {
                let seen = cluster.disks[*member].seen();
                unless(seen.slow_syncs > 0 && seen.longest_sync >= *least, format!("{seen:?}"))
            }
            Self::FailedSync(member) => {
                let seen = cluster.disks[*member].seen();
                unless(seen.failed_syncs > 0, format!("no sync failed: {seen:?}"))
            }
            Self::NoRoom(member) => small_disk::prove(&cluster.members[*member]).map(|()| None),
            Self::MemoryRefused(member, before) => {
                let refusals = memory::refusals(&cluster.members[*member])?;
                unless(refusals > *before, "it needed no memory".to_owned())
            }
        }
    }
}

impl Undo {
    fn act(self, cluster: &mut Cluster, rng: &mut Rng) -> Result<()> {
        match self {
            Self::Start(member) => cluster.start_member(member),
            Self::Resume(member) => cluster.members[member].resume(),
            Self::HealNetwork => cluster.network.heal(),
            Self::EndDelays(delays) => {
                drop(delays);
                Ok(())
            }
            Self::SetClock(member) => wall_clock::jump(&cluster.members[member], 0),
            Self::FastSyncs(member) => {
                cluster.disks[member].slow_syncs(Duration::ZERO);
                Ok(())
            }
            Self::ReplaceDisk(member) => {
                cluster.await_end(member)?;
                cluster.disks[member].fail_syncs(0);
                cluster.disks[member].lose_unsynced(Loss::All, rng)?;
                cluster.start_member(member)
            }
            Self::MakeRoom(member) => {
                small_disk::empty(&cluster.members[member])?;
                cluster.start_if_ended(member)
            }
            Self::ReleaseMemory(member) => {
                memory::release(&cluster.members[member])?;
                cluster.start_if_ended(member)
            }
        }
    }
}
