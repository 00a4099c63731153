//! What the state machine asks of the thing below it: ordered bytes in four families, atomic writes,
//! consistent snapshots, and a durability that is asked for, not implied.
//!
//! Deliberately not here: meaning. An engine knows neither keys nor revisions. There are two: `rocks` for
//! members and `memory` for the simulator; `tests/engines.rs` is the contract that both keep.
//!
//! A disk error is never an answer: reading or writing either works or panics, so that no signature
//! below carries an error that a caller could forget.

pub mod memory;
pub mod rocks;

use bytes::Bytes;
use std::{ops::ControlFlow, path::Path};

/// One of the four ordered maps of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Live key -> its latest record, overwritten in place.
    Cur,
    /// Revision -> the event of one key's change, append-only.
    Ev,
    /// Deleted key -> the revision of its delete, until that is compacted.
    Gone,
    /// Everything else.
    Meta,
}

impl Family {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Cur, Self::Ev, Self::Gone, Self::Meta];

    /// The name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cur => "cur",
            Self::Ev => "ev",
            Self::Gone => "gone",
            Self::Meta => "meta",
        }
    }
}

/// One change of a [`Batch`].
#[derive(Clone, Debug)]
pub enum Op {
    /// Sets a row.
    Put(Family, Bytes, Bytes),
    /// Removes a row, if it is there.
    Delete(Family, Bytes),
    /// Removes every row with `from <= key < to`.
    DeleteRange(Family, Bytes, Bytes),
}

/// Changes that become visible together, applied in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    ops: Vec<Op>,
}

impl Batch {
    /// Sets a row.
    pub fn put(&mut self, family: Family, key: Bytes, value: Bytes) {
        self.ops.push(Op::Put(family, key, value));
    }

    /// Removes a row, if it is there.
    pub fn delete(&mut self, family: Family, key: Bytes) {
        self.ops.push(Op::Delete(family, key));
    }

    /// Removes every row with `from <= key < to`.
    pub fn delete_range(&mut self, family: Family, from: Bytes, to: Bytes) {
        self.ops.push(Op::DeleteRange(family, from, to));
    }

    /// The changes in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// A row as a scan yields it.
pub type Row = (Bytes, Bytes);

/// Ordered rows that can be read: a snapshot, or a snapshot under changes that are not written yet.
pub trait Rows {
    /// The row, if it is there.
    fn get(&self, family: Family, key: &[u8]) -> Option<Bytes>;

    /// Every row with `from <= key < to` in order; without `to`, every row from `from` on. Rows may share
    /// memory: whoever keeps one of them for long copies it.
    fn scan<'a>(&'a self, family: Family, from: &'a [u8], to: Option<&'a [u8]>) -> impl Iterator<Item = Row> + 'a;

    /// Shows every row that a scan would yield, without a copy of it, until `see` has seen enough.
    fn visit(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        mut see: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        for (key, row) in self.scan(family, from, to) {
            if see(&key, &row).is_break() {
                return;
            }
        }
    }

    /// How many rows a scan would yield.
    fn count(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> usize {
        self.scan(family, from, to).count()
    }
}

/// What a read that must not touch the disk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// The answer was in memory.
    Hit(Option<Bytes>),
    /// Only the disk knows.
    Miss,
}

/// All families as they were when it was taken.
pub trait Snapshot: Rows + Clone + Send + Sync + 'static {
    /// The row, if memory alone can tell.
    fn get_cached(&self, family: Family, key: &[u8]) -> Cached;
}

/// Ordered bytes, on disk or in memory; clones are handles to the same.
pub trait Engine: Clone + Send + Sync + 'static {
    /// Its snapshots.
    type Snapshot: Snapshot;

    /// All families as they are now; cheap.
    fn snapshot(&self) -> Self::Snapshot;

    /// The latest row.
    fn get(&self, family: Family, key: &[u8]) -> Option<Bytes>;

    /// The latest rows, in the order of the keys asked for.
    fn multi_get(&self, family: Family, keys: &[Bytes]) -> Vec<Option<Bytes>>;

    /// Makes the changes visible together. Not durable before the next [`Engine::flush`].
    fn write(&self, batch: &Batch);

    /// Makes everything written so far durable, as one atomic cut.
    fn flush(&self);

    /// The row as a crash at this moment would leave it.
    fn get_persisted(&self, family: Family, key: &[u8]) -> Option<Bytes>;

    /// May give the disk space of rows up to and with `last` back at once. They must have been deleted by a
    /// batch that is flushed; a snapshot taken before may lose them, so its user has to notice by itself.
    fn reclaim(&self, family: Family, last: &[u8]);

    /// Puts a copy of everything written so far into a new `directory`, in time independent of the size.
    fn checkpoint(&self, directory: &Path) -> Result<(), String>;

    /// Bytes held on disk (in memory, for an engine that has no disk).
    fn disk_bytes(&self) -> u64;
}
