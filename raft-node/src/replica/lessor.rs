//! The clock of leases. Which leases exist is replicated state; when one is over is the leader's knowledge
//! alone: a new leader starts every lease's time anew, so that a failover extends and never shortens.
//!
//! Expiry is proposed, never done here: the lease ends when the proposal applies, and a proposal of an
//! older term is refused there. Between the proposal and its outcome a lease is *expiring*, and a renewal
//! that meets it waits for the outcome.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kv::LeaseChange;

use super::Time;

#[derive(Clone, Copy)]
struct Lease {
    ttl: i64,
    ends: Time,
    expiring: bool,
}

/// Every lease of the cluster, with the time it ends if this member leads.
#[derive(Default)]
pub struct Lessor {
    leases: BTreeMap<i64, Lease>,
    by_end: BTreeSet<(Time, i64)>,
}

/// What became of a renewal.
#[derive(Debug, PartialEq, Eq)]
pub enum Renewal {
    Renewed(i64),
    Unknown,
    /// The lease's expiry is proposed: ask again when that is decided.
    Expiring,
}

impl Lessor {
    /// Takes over all leases, e.g. of a state that was just opened.
    pub fn replace(&mut self, leases: &[(i64, i64)], now: Time) {
        self.leases.clear();
        self.by_end.clear();
        for (id, ttl) in leases {
            self.grant(*id, *ttl, now);
        }
    }

    /// Follows what was applied.
    pub fn change(&mut self, change: &LeaseChange, now: Time) {
        match change {
            LeaseChange::Granted { id, ttl } => self.grant(*id, *ttl, now),
            LeaseChange::Revoked { id } => self.revoke(*id),
        }
    }

    /// This member leads from now on: every lease lives its full time again.
    pub fn promote(&mut self, now: Time) {
        self.by_end.clear();
        for (id, lease) in &mut self.leases {
            lease.ends = end(now, lease.ttl);
            lease.expiring = false;
            self.by_end.insert((lease.ends, *id));
        }
    }

    /// A proposal was not taken: its leases are due again. Those of earlier ones stay expiring, for their
    /// entries are in the log, and a renewal now would be answered and then undone.
    pub fn expiry_refused(&mut self, ids: &[i64]) {
        for id in ids {
            if let Some(lease) = self.leases.get_mut(id) {
                lease.expiring = false;
                self.by_end.insert((lease.ends, *id));
            }
        }
    }

    /// This member does not lead any more: what it proposed is not its affair.
    pub fn expiry_failed(&mut self) {
        for (id, lease) in self.leases.iter_mut().filter(|(_, lease)| lease.expiring) {
            lease.expiring = false;
            self.by_end.insert((lease.ends, *id));
        }
    }

    /// Starts a lease's time anew.
    pub fn renew(&mut self, id: i64, now: Time) -> Renewal {
        let Some(lease) = self.leases.get_mut(&id) else {
            return Renewal::Unknown;
        };
        if lease.expiring {
            return Renewal::Expiring;
        }
        self.by_end.remove(&(lease.ends, id));
        lease.ends = end(now, lease.ttl);
        self.by_end.insert((lease.ends, id));
        Renewal::Renewed(lease.ttl)
    }

    /// The seconds a lease has left, rounded as etcd does (down), or -1.
    pub fn remaining(&self, id: i64, now: Time) -> i64 {
        self.leases
            .get(&id)
            .map_or(-1, |lease| lease.ends.saturating_sub(now).as_secs() as i64)
    }

    /// Whether a lease ends until `then`.
    pub fn is_due(&self, then: Time) -> bool {
        self.by_end.first().is_some_and(|(ends, _)| *ends <= then)
    }

    /// Leases whose time is over, oldest first; they are expiring from now on.
    pub fn take_expired(&mut self, now: Time, count_max: usize) -> Vec<i64> {
        let mut expired = Vec::new();
        while expired.len() < count_max && self.by_end.first().is_some_and(|(ends, _)| *ends <= now) {
            let Some((_, id)) = self.by_end.pop_first() else { break };
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.expiring = true;
                expired.push(id);
            }
        }
        expired
    }

    fn grant(&mut self, id: i64, ttl: i64, now: Time) {
        self.revoke(id);
        let lease = Lease {
            ttl,
            ends: end(now, ttl),
            expiring: false,
        };
        self.by_end.insert((lease.ends, id));
        self.leases.insert(id, lease);
    }

    fn revoke(&mut self, id: i64) {
        if let Some(lease) = self.leases.remove(&id) {
            self.by_end.remove(&(lease.ends, id));
        }
    }
}

fn end(now: Time, ttl: i64) -> Time {
    now + Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_ends_once_and_a_new_leader_extends_it() {
        let mut lessor = Lessor::default();
        lessor.change(&LeaseChange::Granted { id: 7, ttl: 5 }, S);
        assert_eq!(lessor.remaining(7, 2 * S), 4);
        assert_eq!(lessor.renew(7, 4 * S), Renewal::Renewed(5));
        assert!(lessor.take_expired(8 * S, 10).is_empty());
        lessor.promote(8 * S);
        assert!(lessor.take_expired(12 * S, 10).is_empty());
        assert_eq!(lessor.take_expired(13 * S, 10), [7]);
        assert!(lessor.take_expired(14 * S, 10).is_empty(), "proposed once");
        assert_eq!(lessor.renew(7, 14 * S), Renewal::Expiring);
        lessor.expiry_failed();
        assert_eq!(lessor.take_expired(14 * S, 10), [7]);
        lessor.change(&LeaseChange::Revoked { id: 7 }, 14 * S);
        assert_eq!(lessor.renew(7, 14 * S), Renewal::Unknown);
        assert_eq!(lessor.remaining(7, 14 * S), -1);
    }
}
