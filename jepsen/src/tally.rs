//! What a history comes to in numbers, and which workload did how much of it.
//!
//! Workloads never share keys, so a key says whose it is; a request without one belongs to what its process asked
//! for otherwise. Only the admin workload writes where another does (`kv/`): its processes are known by their
//! compactions. Not here: whether any of it was right (`checkers`).

use crate::{
    history::{Operation, Outcome, Record, Request},
    workload::Kind,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Requests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub operations: u64,
    /// Acknowledged, and may have changed something.
    pub writes: u64,
    /// Acknowledged ranges.
    pub reads: u64,
    /// Refused: certainly without effect.
    pub refused: u64,
    /// Their outcome is not known.
    pub unknown: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.writes += other.writes;
        self.reads += other.reads;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }

    fn count(&mut self, operation: &Operation) {
        self.operations += 1;
        let is_read = matches!(operation.request, Request::Range(_) | Request::LeaseTimeToLive { .. });
        match &operation.outcome {
            Outcome::Ok(_) if is_read => self.reads += 1,
            Outcome::Ok(_) => self.writes += 1,
            Outcome::Failed(_) => self.refused += 1,
            Outcome::Unknown(_) => self.unknown += 1,
        }
    }
}

/// All of a history.
pub fn total(history: &[Record]) -> Tally {
    let mut tally = Tally::default();
    operations(history).for_each(|operation| tally.count(operation));
    tally
}

/// By the name of the workload; what belongs to none (the last requests of a run) is left out.
pub fn by_workload(history: &[Record]) -> BTreeMap<String, Tally> {
    let mut kinds: BTreeMap<u32, Kind> = BTreeMap::new();
    for operation in operations(history) {
        if matches!(operation.request, Request::Compact { .. }) {
            kinds.insert(operation.process, Kind::Admin);
        } else if let Some(kind) = key_of(&operation.request).and_then(kind_of) {
            kinds.entry(operation.process).or_insert(kind);
        }
    }
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for operation in operations(history) {
        if let Some(kind) = kinds.get(&operation.process) {
            tallies.entry(format!("{kind:?}")).or_default().count(operation);
        }
    }
    tallies
}

fn operations(history: &[Record]) -> impl Iterator<Item = &Operation> {
    history.iter().filter_map(|record| match record {
        Record::Operation(operation) => Some(operation),
        _ => None,
    })
}

/// The first key that a request names.
fn key_of(request: &Request) -> Option<&str> {
    match request {
        Request::Range(range) => Some(&range.key),
        Request::Put(put) => Some(&put.key),
        Request::DeleteRange(delete) => Some(&delete.key),
        Request::Txn(txn) => {
            let compared = txn.compares.first().map(|compare| compare.key.as_str());
            compared.or_else(|| txn.success.iter().chain(&txn.failure).find_map(key_of))
        }
        _ => None,
    }
}

fn kind_of(key: &str) -> Option<Kind> {
    let mut parts = key.split('/');
    Some(match (parts.next()?, parts.next()?) {
        ("register", _) => Kind::Register,
        ("set", _) => Kind::Set,
        ("append", _) => Kind::ListAppend,
        ("rw", _) => Kind::RwTxn,
        ("kv", _) => Kind::KvMix,
        ("pods", _) => Kind::Kubernetes,
        ("watch", _) => Kind::Watch,
        ("lease", _) => Kind::Lease,
        ("lock" | "marks", "unguarded") => Kind::UnguardedLock,
        ("lock" | "marks", _) => Kind::GuardedLock,
        ("bank", _) => Kind::Bank,
        ("payments", _) => Kind::Payments,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        campaign::judged,
        world::sim::{Plan, mutant::Mutant, swarm::Swarm},
    };
    use std::time::Duration;

    fn only(kind: Kind) -> fn(&mut Swarm) {
        macro_rules! world {
            ($($kind:ident),*) => { match kind { $(Kind::$kind => |swarm| {
                swarm.members = 3;
                swarm.harms = Vec::new();
                swarm.workloads = vec![Kind::$kind];
            }),* } };
        }
        world!(
            Register,
            Set,
            ListAppend,
            RwTxn,
            KvMix,
            Kubernetes,
            Watch,
            Lease,
            GuardedLock,
            UnguardedLock,
            Bank,
            Payments,
            Admin
        )
    }

    #[test]
    fn what_a_workload_asks_is_counted_as_its_own() {
        for kind in Kind::SOUND {
            let plan = Plan {
                seed: 1,
                faulty: Duration::from_secs(10),
                mutant: Mutant::None,
                world: Some(only(kind)),
                is_told: false,
            };
            let history = judged(&plan).unwrap().history;
            // The run has silenced panics; this test's own are to be read.
            drop(std::panic::take_hook());
            let (all, tallies) = (total(&history), by_workload(&history));
            let own: u64 = tallies.values().map(|tally| tally.operations).sum();
            assert!(own > 50, "{kind:?}: {tallies:?}");
            // The rest is what the end of every run asks, and leases of processes that did not come to more.
            assert!(own * 10 > all.operations * 6, "{kind:?}: {all:?}: {tallies:?}");
            // An admin's first requests, before its first compaction, look like those of another.
            let is_own = |name: &String| *name == format!("{kind:?}") || (kind == Kind::Admin && name == "KvMix");
            assert!(tallies.contains_key(&format!("{kind:?}")), "{kind:?}: {tallies:?}");
            assert!(tallies.keys().all(is_own), "{kind:?}: {tallies:?}");
            assert_eq!(all.operations, all.writes + all.reads + all.refused + all.unknown);
        }
    }
}
