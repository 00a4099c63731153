//! The state's engine on the simulated disk: `MemoryEngine`, which now and then makes durable what was written so
//! far without being asked, as RocksDB flushes full memtables: between any two writes, in the middle of an apply.

use crate::rng::mix;
use kv::{
    MemoryEngine,
    engine::{Batch, Engine, Family, memory::MemorySnapshot},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A handle; clones share the rows.
#[derive(Clone, Debug, Default)]
pub struct SimEngine {
    rows: MemoryEngine,
    /// One write in so many is followed by a flush; 0: none.
    flush_every: u64,
    /// Counts writes. Atomic because an engine is shared between threads elsewhere; here there is one.
    writes: Arc<AtomicU64>,
}

impl SimEngine {
    pub fn new(flush_every: u64, seed: u64) -> Self {
        Self {
            rows: MemoryEngine::new(),
            flush_every,
            writes: Arc::new(AtomicU64::new(seed)),
        }
    }

    /// What a restart finds: the last flush.
    #[must_use]
    pub fn crash(&self) -> Self {
        Self {
            rows: self.rows.crash(),
            flush_every: self.flush_every,
            writes: Arc::clone(&self.writes),
        }
    }
}

impl Engine for SimEngine {
    type Snapshot = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        self.rows.snapshot()
    }

    fn get(&self, family: Family, key: &[u8]) -> Option<bytes::Bytes> {
        self.rows.get(family, key)
    }

    fn multi_get(&self, family: Family, keys: &[bytes::Bytes]) -> Vec<Option<bytes::Bytes>> {
        self.rows.multi_get(family, keys)
    }

    fn write(&self, batch: &Batch) {
        self.rows.write(batch);
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        if self.flush_every > 0 && mix(number).is_multiple_of(self.flush_every) {
            self.rows.flush();
        }
    }

    fn flush(&self) {
        self.rows.flush();
    }

    fn get_persisted(&self, family: Family, key: &[u8]) -> Option<bytes::Bytes> {
        self.rows.get_persisted(family, key)
    }

    fn reclaim(&self, family: Family, last: &[u8]) {
        self.rows.reclaim(family, last);
    }

    fn checkpoint(&self, directory: &Path) -> Result<(), String> {
        self.rows.checkpoint(directory)
    }

    fn disk_bytes(&self) -> u64 {
        self.rows.disk_bytes()
    }
}
