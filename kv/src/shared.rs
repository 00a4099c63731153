//! What the writer and all Views share besides the engine: the ring and the fences, behind one short lock, and what
//! Views make for each other.
//!
//! The lock is held for a few comparisons or for the copying of references, never across a read of the
//! engine. What is behind it can be ahead of a View, never behind it: the View reads its revision and takes
//! back what happened since.

use crate::{count::Fences, ring::Ring};
use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The recent past and the counts, as of the last publication.
#[derive(Debug)]
pub struct Recent {
    /// Recent events.
    pub ring: Ring,
    /// Counts as of `revision`.
    pub fences: Fences,
    /// The latest published revision.
    pub revision: i64,
    /// The latest published compaction.
    pub compact_revision: i64,
}

/// The lock around [`Recent`].
#[derive(Debug)]
pub struct Shared {
    recent: RwLock<Recent>,
}

impl Shared {
    /// Shares what the store knows when it opens.
    pub fn new(recent: Recent) -> Self {
        Self {
            recent: RwLock::new(recent),
        }
    }

    /// For anyone.
    pub fn read(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent
            .read()
            .expect("nothing that holds this lock panics: a panic ends the process")
    }

    /// For the one writer.
    pub fn write(&self) -> RwLockWriteGuard<'_, Recent> {
        self.recent
            .write()
            .expect("nothing that holds this lock panics: a panic ends the process")
    }
}

/// What the first reader makes, for all that come after.
#[derive(Debug)]
pub(crate) struct MadeOnce<T>(OnceLock<T>);

impl<T> Default for MadeOnce<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> MadeOnce<T> {
    /// It, as `make` makes it if nobody has yet. Whoever comes meanwhile waits.
    pub(crate) fn get(&self, make: impl FnOnce() -> T) -> &T {
        self.0.get_or_init(make)
    }
}
