//! The state at one revision, for any number of readers: what the writer publishes after every batch.
//!
//! A View is a snapshot of the engine, the numbers that belong to it, and a way to the ring and the fences,
//! which may have moved on: whatever is taken from those is brought back to the View's revision.
//!
//! Methods that may read the disk say so; a caller with a deadline runs them on a thread that may block.
//! Not here: watching (`events`), streaming (`chunks`), and anything that writes.

use crate::{
    check,
    engine::{Cached, Engine, Family, Rows, Snapshot},
    hash::{self, HashKv},
    history::Forgotten,
    layout,
    range::{self, At, Failure, REPLY_BYTES_MAX},
    record::{EventRef, Record},
    shared::Shared,
    state::{Applied, State, header},
    txn,
};
use bytes::Bytes;
use proto::{
    Error, KeyRange,
    etcdserverpb::{AlarmMember, AlarmType, RangeRequest, RangeResponse, TxnRequest, TxnResponse},
    node::Membership,
};
use std::sync::Arc;

/// The state as of one applied entry.
pub struct View<E: Engine> {
    pub(crate) snapshot: E::Snapshot,
    pub(crate) state: State,
    pub(crate) membership: Arc<Membership>,
    pub(crate) alarms: Arc<Vec<AlarmMember>>,
    pub(crate) shared: Arc<Shared>,
}

impl<E: Engine> Clone for View<E> {
    fn clone(&self) -> Self {
        Self {
            snapshot: self.snapshot.clone(),
            state: self.state,
            membership: self.membership.clone(),
            alarms: self.alarms.clone(),
            shared: self.shared.clone(),
        }
    }
}

/// A lease as the state machine keeps it: when it ends is the leader's to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// Its id.
    pub id: i64,
    /// The seconds that were granted.
    pub ttl: i64,
}

impl<E: Engine> View<E> {
    /// The store's revision.
    pub fn revision(&self) -> i64 {
        self.state.revision
    }

    /// The revision below which history is forgotten; -1 before the first compaction.
    pub fn compact_revision(&self) -> i64 {
        self.state.compact_revision
    }

    /// The last entry whose effects are visible.
    pub fn applied(&self) -> Applied {
        self.state.applied
    }

    /// What the live keys count against the quota.
    pub fn live_bytes(&self) -> u64 {
        self.state.live_bytes as u64
    }

    /// The number of live keys.
    pub fn keys_total(&self) -> u64 {
        self.state.keys_total as u64
    }

    /// The members of the cluster.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// The alarms that are on.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms.to_vec()
    }

    /// Answers a range. May read the disk.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let at = self.admit(request)?;
        self.range_at(request, at)
    }

    /// Answers a range if memory alone can: a single key, a count of everything, or an error.
    pub fn range_cached(&self, request: &RangeRequest) -> Option<Result<RangeResponse, Error>> {
        let at = match self.admit(request) {
            Ok(at) => at,
            Err(error) => return Some(Err(error)),
        };
        let mut reply = RangeResponse {
            header: header(self.revision()),
            ..Default::default()
        };
        match KeyRange::new(request.key.clone(), request.range_end.clone()) {
            KeyRange::Key(_) => self.fill_cached(&mut reply, request, at)?,
            range if range.is_empty() => {}
            KeyRange::From(key) if request.count_only && at == At::Latest && key <= b"\0"[..] => {
                reply.count = self.state.keys_total;
            }
            _ => return None,
        }
        Some(Ok(reply))
    }

    /// Answers a transaction that compares and reads, all at this revision. May read the disk.
    pub fn txn_read_only(&self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        self.refuse_if_corrupt()?;
        check::check_txn(request, usize::MAX)?;
        txn::read_only(self, request)
    }

    /// Hashes the live keys at a revision (0 is the latest) by reading them all.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        let at = range::at(revision, self.revision(), self.compact_revision())?;
        let sum = self.unless_forgotten(at, hash::sum_of_rows(&self.snapshot, at))?;
        // As etcd: what was asked for, and 0 is now.
        let hash_revision = if revision == 0 { self.revision() } else { revision };
        Ok(HashKv {
            hash: hash::folded(sum),
            compact_revision: self.compact_revision(),
            hash_revision,
        })
    }

    /// What [`View::hash_kv`] finds at this revision, known without reading.
    pub fn hash_kv_kept(&self) -> HashKv {
        HashKv {
            hash: hash::folded(self.state.rows_hash),
            compact_revision: self.compact_revision(),
            hash_revision: self.revision(),
        }
    }

    /// The same on all members that applied the same entries.
    pub fn state_hash(&self) -> u64 {
        hash::of_state(&self.state, &self.membership)
    }

    /// The ids of all leases, in order. May read the disk.
    pub fn leases(&self) -> Vec<i64> {
        self.lease_rows().into_iter().map(|lease| lease.id).collect()
    }

    /// All leases, in the order of their ids. May read the disk.
    pub fn lease_rows(&self) -> Vec<LeaseRow> {
        lease_rows(&self.snapshot)
    }

    /// One lease. May read the disk.
    pub fn lease(&self, id: i64) -> Option<LeaseRow> {
        let row = self.snapshot.get(Family::Meta, &layout::lease(id))?;
        Some(LeaseRow {
            id,
            ttl: layout::number_at(&row, 0),
        })
    }

    /// The keys attached to a lease, in order. May read the disk.
    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        let prefix = layout::lease_keys(id);
        let end = layout::prefix_end(&prefix);
        let rows = self.snapshot.scan(Family::Meta, &prefix, Some(&end));
        rows.map(|(row, _)| row.slice(layout::LEASE_KEY_PREFIX_BYTES..))
            .collect()
    }

    /// What is wrong with a request, or which state it reads.
    pub(crate) fn admit(&self, request: &RangeRequest) -> Result<At, Error> {
        check::check_range(request)?;
        self.refuse_if_corrupt()?;
        range::at(request.revision, self.revision(), self.compact_revision())
    }

    /// Answers a checked range.
    pub(crate) fn range_at(&self, request: &RangeRequest, at: At) -> Result<RangeResponse, Error> {
        let count = |range: &KeyRange| self.count(range, at);
        match range::range(&self.snapshot, request, at, (self.revision(), REPLY_BYTES_MAX), count) {
            Ok(reply) => Ok(reply),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::Forgotten) => self.unless_forgotten(at, Err(Forgotten)),
        }
    }

    /// The live keys of a range: whole gaps between fences, brought back to the revision that is read, and
    /// the two ends by walking. Without the recent past at hand, everything by walking.
    pub(crate) fn count(&self, range: &KeyRange, at: At) -> Result<i64, Forgotten> {
        if range.is_empty() {
            return Ok(0);
        }
        let revision = match at {
            At::Latest => self.revision(),
            At::Revision(revision) => revision,
        };
        let around = |key: &[u8]| self.shared.read().fences.around(key);
        let (from, end) = widened(&self.snapshot, range, at, around)?;
        let recent = self.shared.read();
        let whole = recent.fences.whole(&from, end.as_deref());
        let since = recent.ring.since(revision + 1);
        drop(recent);
        let (Some(whole), Some(since)) = (whole, since) else {
            return range::walk(&self.snapshot, &from, end.as_deref(), at);
        };
        let later = since.iter().flat_map(|segment| segment.changes());
        let later = later.filter(|change| change.at.main > revision);
        let later = later.map(|change| EventRef::read(&change.row));
        let within = later.filter(|event| whole.contains(event.key));
        let since: i64 = within.map(|event| event.keys_delta()).sum();
        let mut keys = whole.keys - since + range::walk(&self.snapshot, &from, Some(&whole.from), at)?;
        if let Some(to) = &whole.to {
            keys += range::walk(&self.snapshot, to, end.as_deref(), at)?;
        }
        Ok(keys)
    }

    /// Turns a history that ended while it was read into the client's answer, or, where no compaction
    /// explains it, into a broken promise.
    pub(crate) fn unless_forgotten<T>(&self, at: At, found: Result<T, Forgotten>) -> Result<T, Error> {
        match (found, at) {
            (Ok(found), _) => Ok(found),
            (Err(Forgotten), At::Revision(revision)) if self.is_compacted_by_now(revision) => Err(Error::Compacted),
            (Err(Forgotten), at) => panic!("an event is missing that reading {at:?} needs, and nothing compacted it"),
        }
    }

    /// Whether the newest compaction, of which this View may not know, is above a revision.
    pub(crate) fn is_compacted_by_now(&self, revision: i64) -> bool {
        revision < self.shared.read().compact_revision
    }

    fn refuse_if_corrupt(&self) -> Result<(), Error> {
        let is_corrupt = self.alarms.iter().any(|alarm| alarm.alarm == AlarmType::Corrupt as i32);
        if is_corrupt { Err(Error::Corrupt) } else { Ok(()) }
    }

    /// Answers for a key if memory alone can.
    fn fill_cached(&self, reply: &mut RangeResponse, request: &RangeRequest, at: At) -> Option<()> {
        let Cached::Hit(row) = self.snapshot.get_cached(Family::Cur, &request.key) else {
            return None;
        };
        let record = row.map(Record::decode);
        let is_answer = match (at, &record) {
            (At::Latest, _) => true,
            (At::Revision(revision), Some(record)) => record.modified.main <= revision,
            (At::Revision(_), None) => false,
        };
        is_answer.then(|| range::fill_single(reply, request, record))
    }
}

/// All leases of some rows, in the order of their ids.
pub(crate) fn lease_rows<R: Rows>(rows: &R) -> Vec<LeaseRow> {
    let rows = rows.scan(Family::Meta, &[layout::LEASE], Some(&[layout::LEASE + 1]));
    let mut leases: Vec<_> = rows
        .map(|(key, row)| LeaseRow {
            id: layout::number_at(&key, 1),
            ttl: layout::number_at(&row, 0),
        })
        .collect();
    // Rows are in the order of unsigned numbers.
    leases.sort_by_key(|lease| lease.id);
    leases
}

/// A range with the same keys at that revision whose ends are fences, where nothing is between an end and its fence:
/// then there is nothing to walk there. That is so for all keys of a store, and for most prefixes that end it.
pub(crate) fn widened<R: Rows>(
    rows: &R,
    range: &KeyRange,
    at: At,
    around: impl Fn(&[u8]) -> (Bytes, Option<Bytes>),
) -> Result<(Bytes, Option<Bytes>), Forgotten> {
    let is_void = |from: &[u8], to: Option<&[u8]>| {
        range::scan(rows, from, to, at)
            .next()
            .transpose()
            .map(|live| live.is_none())
    };
    let (mut from, mut to) = (range.from().clone(), range.to());
    let (low, _) = around(&from);
    if low < from && is_void(&low, Some(&from))? {
        from = low;
    }
    if let Some(end) = &to {
        let (low, next) = around(end);
        if low < *end && is_void(end, next.as_deref())? {
            to = next;
        }
    }
    Ok((from, to))
}
