//! Leases: nothing on one ends before its time, and nothing comes back after its end.
//!
//! ```text
//!   grant 5 s  |--|                                       alive from the return, for 5 s from the call at least
//!   keep alive         |--|                               and 5 s from this call
//!   end (the log deletes its keys)          seen: |       must not be seen before that is over
//!   keep alive -> ttl 5                        |--|       called after the end was seen: a dead lease was renewed
//! ```
//! A success moves the end by its ttl from some point after its call; an end has happened by the time anybody saw
//! it. So whatever these two contradict is wrong, however clocks run (up to `lease_early_ms`). An id that was
//! granted more than once has several lives that times cannot tell apart: of those only the log is judged.
//! Not here: which keys a revocation deletes (`revision`), and locks (`promises`).

use super::canonical::Log;
use super::revision::{Claims, Floors, Placed, is_linearizable, lease_of_end, operations};
use super::{Anomaly, describe};
use crate::expectations::Expectations;
use crate::history::{Operation, Outcome, Record, Reply, Request};
use crate::model::{Refusal, revision_of};
use std::collections::{BTreeMap, BTreeSet};

const CHECKER: &str = "lease";
const NANOSECONDS_PER_S: u64 = 1_000_000_000;
const NANOSECONDS_PER_MS: u64 = 1_000_000;

/// What is known of one id.
#[derive(Default)]
struct Lease<'a> {
    /// Acknowledged or unknown.
    grants: Vec<Placed<'a>>,
    /// Successes: (place, called, returned, for how long), the grant among them.
    renewals: Vec<(usize, u64, u64, u64)>,
    /// Somebody asked to renew and never heard.
    has_unknown_renewal: bool,
    /// Revocations that may have happened.
    revokes: Vec<Placed<'a>>,
    /// Revisions that ended it, when that was first seen, and who revoked it, if somebody did.
    ends: Vec<(i64, u64, Option<usize>)>,
    granted_ttl_s: i64,
}

pub fn check(history: &[Record], log: &Log, claims: &Claims, expectations: &Expectations) -> Vec<Anomaly> {
    let early = expectations.lease_early_ms * NANOSECONDS_PER_MS;
    let mut leases = leases_of(history, log, claims);
    let late = expectations.lease_late_ms.map(|late| late * NANOSECONDS_PER_MS);
    let (sights, attachments) = (Sights::of(history), attachments(log));
    let mut anomalies = Vec::new();
    for (id, lease) in &mut leases {
        lease.renewals.sort_unstable_by_key(|(_, called, ..)| *called);
        if lease.grants.len() == 1 {
            anomalies.extend(lease.ended_early(*id, early));
            anomalies.extend(lease.renewed_after_its_end(*id, history));
            let attached = attachments.get(id).map_or(&[][..], Vec::as_slice);
            anomalies.extend(late.and_then(|late| lease.outlived(*id, late, &sights, attached)));
        }
    }
    for (place, operation) in operations(history) {
        let found = answer(operation, &leases, early);
        let text = || format!("process {}: {}", operation.process, describe::operation(operation));
        anomalies.extend(found.map(|name| anomaly(name, text(), &[place])));
    }
    anomalies.extend(attached(log, claims, &leases, expectations.closed));
    anomalies
}

fn anomaly(name: &str, text: String, places: &[usize]) -> Anomaly {
    Anomaly::new(CHECKER, name, text, places)
}

fn leases_of<'a>(history: &'a [Record], log: &Log, claims: &Claims) -> BTreeMap<i64, Lease<'a>> {
    let floors = Floors::of(history);
    let mut leases: BTreeMap<i64, Lease<'a>> = BTreeMap::new();
    for (place, operation) in operations(history) {
        if matches!(operation.outcome, Outcome::Failed(_)) {
            continue;
        }
        let (called, returned) = (operation.invoked, operation.returned);
        match (&operation.request, &operation.outcome) {
            (Request::LeaseGrant { id, .. }, outcome) => {
                let lease = leases.entry(*id).or_default();
                lease.grants.push((place, operation));
                if let Outcome::Ok(Reply::LeaseGrant { ttl_s, .. }) = outcome {
                    lease.granted_ttl_s = *ttl_s;
                    lease.renewals.push((place, called, returned, nanoseconds(*ttl_s)));
                }
            }
            (Request::LeaseKeepAlive { id }, Outcome::Ok(Reply::LeaseKeepAlive { ttl_s, .. })) if *ttl_s > 0 => {
                let lease = leases.entry(*id).or_default();
                lease.renewals.push((place, called, returned, nanoseconds(*ttl_s)));
            }
            (Request::LeaseKeepAlive { id }, Outcome::Unknown(_)) => {
                leases.entry(*id).or_default().has_unknown_renewal = true;
            }
            (Request::LeaseRevoke { id }, _) => leases.entry(*id).or_default().revokes.push((place, operation)),
            _ => {}
        }
    }
    for (revision, events) in log.from(2) {
        let claimed_by = claims.place_of(revision);
        let is_revoke = |place: usize| matches!(&history[place], Record::Operation(operation) if matches!(operation.request, Request::LeaseRevoke { .. }));
        // Whoever deletes all keys of a lease by name has not ended it.
        if claimed_by.is_none_or(is_revoke)
            && let Some(id) = lease_of_end(log.at(revision - 1), events)
        {
            let seen = floors.first_seen(revision);
            leases.entry(id).or_default().ends.push((revision, seen, claimed_by));
        }
    }
    leases
}

fn nanoseconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(NANOSECONDS_PER_S)
}

impl Lease<'_> {
    /// Whether a revocation may have been at work by `time`.
    fn may_be_revoked_by(&self, time: u64) -> bool {
        self.revokes.iter().any(|(_, revoke)| revoke.invoked <= time)
    }

    fn ended_early(&self, id: i64, early: u64) -> Option<Anomaly> {
        let (revision, seen, _) = self
            .ends
            .iter()
            .find(|(_, seen, claimed_by)| claimed_by.is_none() && !self.may_be_revoked_by(*seen))?;
        let (place, called, ..) = self.renewals.iter().find(|(_, called, _, ttl)| {
            let until = called.saturating_add(*ttl);
            *called < *seen && seen.saturating_add(early) < until
        })?;
        let text = format!(
            "lease {id} was over by {} (revision {revision}), but granted or renewed by a call at {}",
            describe::time(*seen),
            describe::time(*called)
        );
        Some(anomaly("lease expired early", text, &[*place]))
    }

    /// When it was certainly over, and the place that shows it.
    fn over_at(&self) -> Option<(u64, usize)> {
        let by_log = self.ends.iter().map(|(_, seen, place)| (*seen, place.unwrap_or(0)));
        let acknowledged = self
            .revokes
            .iter()
            .filter(|(_, revoke)| matches!(revoke.outcome, Outcome::Ok(_)));
        by_log
            .chain(acknowledged.map(|(place, revoke)| (revoke.returned, *place)))
            .min()
    }

    fn renewed_after_its_end(&self, id: i64, history: &[Record]) -> Option<Anomaly> {
        let (over, shown_by) = self.over_at()?;
        let (place, ..) = self.renewals.iter().find(|(_, called, ..)| *called > over)?;
        let record = describe::record(&history[*place]);
        let text = format!("lease {id} was over by {}: {record}", describe::time(over));
        Some(anomaly("dead lease renewed", text, &[shown_by, *place]))
    }

    /// Keys that are still read when the lease must be long gone. `attached` is how many it has, by revision.
    fn outlived(&self, id: i64, late: u64, sights: &Sights<'_>, attached: &[(i64, usize)]) -> Option<Anomaly> {
        let ends = self
            .renewals
            .iter()
            .map(|(_, _, returned, ttl)| returned.saturating_add(*ttl));
        let deadline = ends.max()?.saturating_add(late);
        if self.has_unknown_renewal {
            return None;
        }
        let count_at = |revision: i64| {
            let after = attached.partition_point(|(since, _)| *since <= revision);
            attached[..after].last().map_or(0, |(_, count)| *count)
        };
        let gone_since = attached.last().filter(|(_, count)| *count == 0);
        let (place, operation, _) = sights
            .after(deadline, gone_since.map(|(since, _)| *since))
            .find(|(.., revision)| count_at(*revision) > 0)?;
        let text = format!(
            "lease {id} should have been over by {}, but has keys for {}",
            describe::time(deadline),
            describe::operation(operation)
        );
        Some(anomaly("lease outlived its time", text, &[*place]))
    }

    /// Until when the last of those that were over before `time` has it live. They are in the order of their
    /// calls, and all for the same time.
    fn last_renewal_before(&self, time: u64) -> Option<u64> {
        let called = self.renewals.partition_point(|(_, called, ..)| *called < time);
        let mut earlier = self.renewals[..called].iter().rev();
        let last = earlier.find(|(_, _, returned, _)| *returned < time);
        last.map(|(_, called, _, ttl)| called.saturating_add(*ttl))
    }

    /// Whether it lives during all of `operation`: renewed before, not over before its end, and not revoked.
    fn lives_during(&self, operation: &Operation, early: u64) -> bool {
        self.grants.len() == 1
            && !self.may_be_revoked_by(operation.returned)
            && self
                .last_renewal_before(operation.invoked)
                .is_some_and(|until| operation.returned.saturating_add(early) < until)
    }
}

/// Linearizable operations by their calls: which state each has seen.
struct Sights<'a> {
    by_call: Vec<(usize, &'a Operation, i64)>,
    /// The lowest revision that any from there on has seen.
    lowest: Vec<i64>,
}

impl<'a> Sights<'a> {
    fn of(history: &'a [Record]) -> Sights<'a> {
        let seen = operations(history).filter(|(_, operation)| is_linearizable(&operation.request));
        let seen = seen.filter_map(|(place, operation)| match &operation.outcome {
            Outcome::Ok(reply) => Some((place, operation, revision_of(reply)?)),
            _ => None,
        });
        let mut by_call: Vec<_> = seen.collect();
        by_call.sort_by_key(|(_, operation, _)| operation.invoked);
        let mut lowest: Vec<i64> = by_call.iter().map(|(.., revision)| *revision).collect();
        for at in (1..lowest.len()).rev() {
            lowest[at - 1] = lowest[at - 1].min(lowest[at]);
        }
        Sights { by_call, lowest }
    }

    /// Those called after `time`; none when all of them have seen `revision` or later.
    fn after(&self, time: u64, revision: Option<i64>) -> impl Iterator<Item = &(usize, &'a Operation, i64)> {
        let first = self
            .by_call
            .partition_point(|(_, operation, _)| operation.invoked <= time);
        let all_later = revision.is_some_and(|revision| self.lowest.get(first).is_none_or(|low| *low >= revision));
        let end = if all_later { first } else { self.by_call.len() };
        self.by_call[first..end].iter()
    }
}

/// By lease, how many keys are attached from which revision on.
fn attachments(log: &Log) -> BTreeMap<i64, Vec<(i64, usize)>> {
    let mut attachments: BTreeMap<i64, Vec<(i64, usize)>> = BTreeMap::new();
    let mut count = |lease: i64, revision: i64, is_more: bool| {
        if lease != 0 {
            let counts = attachments.entry(lease).or_default();
            let last = counts.last().map_or(0, |(_, count)| *count);
            counts.push((revision, if is_more { last + 1 } else { last.saturating_sub(1) }));
        }
    };
    for (revision, events) in log.from(2) {
        for event in events {
            let before = log.at(revision - 1).get(&event.kv.key);
            count(before.map_or(0, |kv| kv.lease), revision, false);
            if !event.is_delete {
                count(event.kv.lease, revision, true);
            }
        }
    }
    attachments
}

/// What is wrong with one answer about leases.
fn answer(operation: &Operation, leases: &BTreeMap<i64, Lease<'_>>, early: u64) -> Option<&'static str> {
    let lives = |id: &i64| leases.get(id).is_some_and(|lease| lease.lives_during(operation, early));
    let ttl_of = |id: &i64| {
        leases
            .get(id)
            .filter(|lease| lease.grants.len() == 1)
            .map(|lease| lease.granted_ttl_s)
    };
    match (&operation.request, &operation.outcome) {
        (Request::LeaseGrant { ttl_s: asked, .. }, Outcome::Ok(Reply::LeaseGrant { ttl_s, .. })) => {
            (ttl_s < asked).then_some("granted less than asked")
        }
        (Request::LeaseGrant { id, .. }, Outcome::Failed(text)) if Refusal::LeaseExists.is_said_by(text) => {
            let grants = leases.get(id).map_or(&[][..], |lease| &lease.grants);
            let has_reason = grants.iter().any(|(_, grant)| grant.invoked <= operation.returned);
            (!has_reason).then_some("refused without a reason")
        }
        (Request::LeaseKeepAlive { id }, Outcome::Ok(Reply::LeaseKeepAlive { ttl_s, .. })) => {
            if *ttl_s <= 0 {
                return lives(id).then_some("live lease reported dead");
            }
            let is_other = ttl_of(id).is_some_and(|granted| granted > 0 && granted != *ttl_s);
            is_other.then_some("renewed for another time")
        }
        (
            Request::LeaseTimeToLive { id },
            Outcome::Ok(Reply::LeaseTimeToLive {
                ttl_s, granted_ttl_s, ..
            }),
        ) => {
            if *ttl_s < 0 {
                return lives(id).then_some("live lease reported dead");
            }
            let is_other = ttl_of(id).is_some_and(|granted| granted > 0 && granted != *granted_ttl_s);
            (is_other || ttl_s > granted_ttl_s).then_some("renewed for another time")
        }
        (request, Outcome::Failed(text)) if Refusal::LeaseNotFound.is_said_by(text) => {
            let mut named = BTreeSet::new();
            leases_named(request, &mut named);
            let all_live = !named.is_empty() && named.iter().all(lives);
            all_live.then_some("live lease reported dead")
        }
        _ => None,
    }
}

fn leases_named(request: &Request, named: &mut BTreeSet<i64>) {
    match request {
        Request::Put(put) if put.lease != 0 => {
            named.insert(put.lease);
        }
        Request::LeaseRevoke { id } => {
            named.insert(*id);
        }
        Request::Txn(txn) => {
            for request in txn.success.iter().chain(&txn.failure) {
                leases_named(request, named);
            }
        }
        _ => {}
    }
}

/// Keys are attached to leases that were granted, and never to one that the log has seen end.
fn attached(log: &Log, claims: &Claims, leases: &BTreeMap<i64, Lease<'_>>, closed: bool) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (revision, events) in log.from(2) {
        for event in events.iter().filter(|event| !event.is_delete && event.kv.lease != 0) {
            let places: Vec<_> = claims.place_of(revision).into_iter().collect();
            let Some(lease) = leases.get(&event.kv.lease).filter(|lease| !lease.grants.is_empty()) else {
                if closed {
                    let text = format!("revision {revision}: {} on {}", event.kv.key, event.kv.lease);
                    anomalies.push(anomaly("lease that nobody granted", text, &places));
                }
                continue;
            };
            let ended = lease.ends.iter().find(|(end, ..)| *end < revision);
            if let Some((end, ..)) = ended.filter(|_| lease.grants.len() == 1) {
                let text = format!(
                    "revision {revision} puts {} on lease {}, which revision {end} has ended",
                    event.kv.key, event.kv.lease
                );
                anomalies.push(anomaly("write on a dead lease", text, &places));
            }
        }
    }
    anomalies
}
