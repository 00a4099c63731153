//! What the writer keeps in memory because it is small and every command may ask for it: leases (their ids
//! and TTLs, never their keys), alarms, the membership.
//!
//! Each has rows in `meta`; the hash over those of leases and alarms is kept in the state row by whoever
//! changes one (`apply`).

use crate::{
    engine::{Family, Rows},
    layout, view,
};
use prost::Message;
use proto::{
    etcdserverpb::{AlarmMember, AlarmType},
    node::Membership,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Leases, alarms and membership, as of the last command applied.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// Lease -> TTL.
    pub(crate) leases: BTreeMap<i64, i64>,
    /// (alarm, member).
    pub(crate) alarms: BTreeSet<(i32, u64)>,
    /// `None` before the store is bootstrapped.
    pub(crate) membership: Option<Arc<Membership>>,
    /// History that this batch has compacted: from, to.
    compacted: Option<(i64, i64)>,
}

impl Registry {
    pub(crate) fn open<R: Rows>(rows: &R) -> Self {
        let leases = view::lease_rows(rows)
            .into_iter()
            .map(|lease| (lease.id, lease.ttl))
            .collect();
        let alarms = rows.scan(Family::Meta, &[layout::ALARM], Some(&[layout::ALARM + 1]));
        let alarms = alarms.map(|(key, _)| alarm_of(&key)).collect();
        let membership = rows.get(Family::Meta, layout::MEMBERSHIP).map(|row| {
            Arc::new(Membership::decode(row).unwrap_or_else(|error| panic!("corrupt membership row: {error}")))
        });
        Self {
            leases,
            alarms,
            membership,
            compacted: None,
        }
    }

    /// The members; only a bootstrapped store applies anything.
    pub(crate) fn membership(&self) -> &Arc<Membership> {
        self.membership
            .as_ref()
            .expect("a store is bootstrapped before it is asked for its members")
    }

    /// The alarms as clients see them.
    pub(crate) fn alarm_members(&self) -> Vec<AlarmMember> {
        self.alarms
            .iter()
            .map(|&(alarm, member_id)| AlarmMember { member_id, alarm })
            .collect()
    }

    /// Whether an alarm is on, for whichever member.
    pub(crate) fn has_alarm(&self, alarm: AlarmType) -> bool {
        self.alarms.iter().any(|(active, _)| *active == alarm as i32)
    }

    /// Remembers that history below `to` goes with this batch.
    pub(crate) fn compact(&mut self, from: i64, to: i64) {
        let first = self.compacted.map_or(from, |(first, _)| first);
        self.compacted = Some((first, to));
    }

    pub(crate) fn take_compacted(&mut self) -> Option<(i64, i64)> {
        self.compacted.take()
    }
}

fn alarm_of(key: &[u8]) -> (i32, u64) {
    let alarm = key
        .get(1..5)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_be_bytes);
    (
        alarm.expect("corrupt alarm row: its key is too short"),
        layout::number_at(key, 5) as u64,
    )
}
