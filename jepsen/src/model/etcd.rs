//! The whole machine as a sequential client sees it: keys by revision, leases and compaction.
//!
//! For generators of histories whose truth is known, and for tests of the checkers. Time is what the caller says:
//! a lease ends when `LeaseRevoke` is applied for it, whoever asked.
//! Not here: what goes on between members; this is the one member that never fails.

use super::execute::{Refusal, execute};
use super::timeline::Timeline;
use crate::history::{Event, KeyValue, Reply, Request};
use std::collections::BTreeMap;

/// Seconds; etcd raises what is below its own minimum.
const LEASE_TTL_MIN_S: i64 = 2;
const LEASE_TTL_MAX_S: i64 = 9_000_000_000;

#[derive(Clone, Debug, Default)]
pub struct Etcd {
    pub timeline: Timeline,
    /// Granted TTLs, in seconds.
    pub leases: BTreeMap<i64, i64>,
    /// What every revision changed, 2 first.
    pub log: Vec<Vec<Event>>,
    /// 0: nothing is compacted.
    pub compact_revision: i64,
}

impl Etcd {
    /// Runs one request; the events of its revision too, if it made one.
    pub fn apply(&mut self, request: &Request) -> Result<(Reply, Vec<Event>), Refusal> {
        self.check_references(request)?;
        let revision = self.timeline.revision();
        let reply = match request {
            Request::Compact { revision: to } => {
                self.compact(*to)?;
                Reply::Compact { revision }
            }
            Request::LeaseGrant { id, ttl_s } => self.grant(*id, *ttl_s)?,
            Request::LeaseRevoke { id } => {
                let events = self.revoke(*id)?;
                let revision = self.timeline.revision();
                return Ok((Reply::LeaseRevoke { revision }, events));
            }
            Request::LeaseKeepAlive { id } => Reply::LeaseKeepAlive {
                revision,
                ttl_s: self.leases.get(id).copied().unwrap_or(0),
            },
            Request::LeaseTimeToLive { id } => Reply::LeaseTimeToLive {
                revision,
                ttl_s: self.leases.get(id).copied().unwrap_or(-1),
                granted_ttl_s: self.leases.get(id).copied().unwrap_or(0),
                keys: self.attached_to(*id),
            },
            Request::MoveLeader { .. } => Reply::MoveLeader,
            Request::Range(_) | Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_) => {
                let effect = execute(self.timeline.now(), request)?;
                self.append(&effect.events);
                return Ok((effect.reply, effect.events));
            }
        };
        Ok((reply, Vec::new()))
    }

    /// What a request names that must exist: leases to attach, revisions not compacted.
    fn check_references(&self, request: &Request) -> Result<(), Refusal> {
        match request {
            Request::Range(range) if range.revision > 0 && range.revision < self.compact_revision => {
                Err(Refusal::Compacted)
            }
            Request::Put(put) if put.lease != 0 && !self.leases.contains_key(&put.lease) => Err(Refusal::LeaseNotFound),
            Request::Txn(txn) => {
                // Only the branch that runs matters; without executing twice, that is what it does.
                let effect = execute(self.timeline.now(), request)?;
                let Reply::Txn { succeeded, .. } = effect.reply else {
                    return Ok(());
                };
                let branch = if succeeded { &txn.success } else { &txn.failure };
                branch.iter().try_for_each(|request| self.check_references(request))
            }
            _ => Ok(()),
        }
    }

    fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compact_revision {
            return Err(Refusal::Compacted);
        }
        if revision > self.timeline.revision() {
            return Err(Refusal::FutureRevision);
        }
        self.compact_revision = revision;
        Ok(())
    }

    fn grant(&mut self, id: i64, ttl_s: i64) -> Result<Reply, Refusal> {
        if ttl_s > LEASE_TTL_MAX_S {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        let ttl_s = ttl_s.max(LEASE_TTL_MIN_S);
        self.leases.insert(id, ttl_s);
        let revision = self.timeline.revision();
        Ok(Reply::LeaseGrant { revision, id, ttl_s })
    }

    /// All keys of the lease go in one revision, by key.
    fn revoke(&mut self, id: i64) -> Result<Vec<Event>, Refusal> {
        self.leases.remove(&id).ok_or(Refusal::LeaseNotFound)?;
        let revision = self.timeline.revision() + 1;
        let now = self.timeline.now();
        let events: Vec<Event> = self
            .attached_to(id)
            .iter()
            .map(|key| Event {
                is_delete: true,
                kv: KeyValue {
                    key: key.clone(),
                    mod_revision: revision,
                    ..KeyValue::default()
                },
                prev_kv: now.get(key).cloned(),
            })
            .collect();
        self.append(&events);
        Ok(events)
    }

    fn append(&mut self, events: &[Event]) {
        if !events.is_empty() {
            self.timeline.append(events);
            self.log.push(events.to_vec());
        }
    }

    fn attached_to(&self, id: i64) -> Vec<String> {
        let all = self.timeline.now().range("", "\0");
        all.filter(|kv| id != 0 && kv.lease == id)
            .map(|kv| kv.key.clone())
            .collect()
    }
}
