//! An engine in memory, for the simulator and the tests: deterministic, and honest about crashes.
//!
//! Every row keeps the versions that a live snapshot or the last flush can still see:
//!
//! ```text
//! sequence          1        2        3 (now)
//! row "a"           x   ->   y   ->   z        flushed = 1, one snapshot at 2: all three are kept
//! ```
//! `crash` gives the engine that a restart would find: everything as of the last flush, nothing later.
//! Not here: speed, or a bound on memory. The lock exists because the handle is shared with snapshots.

use super::{Batch, Cached, Engine, Family, Op, Row, Rows, Snapshot};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

/// Rows that a scan copies out per turn, so that it does not hold the lock while its caller works.
const SCAN_PAGE_ROWS: usize = 128;

type Versions = Vec<(u64, Option<Bytes>)>;

#[derive(Debug, Default)]
struct Tables {
    rows: [BTreeMap<Bytes, Versions>; 4],
    sequence: u64,
    flushed: u64,
    /// Snapshots that live, by the sequence they see.
    seen: BTreeMap<u64, usize>,
}

/// A handle on an engine in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    tables: Arc<Mutex<Tables>>,
}

/// All rows as of one sequence number.
#[derive(Debug)]
pub struct MemorySnapshot {
    tables: Arc<Mutex<Tables>>,
    sequence: u64,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// The engine that a restart after a crash at this moment would open: the last flush. The old handle
    /// stays as it is.
    #[must_use]
    pub fn crash(&self) -> Self {
        let old = lock(&self.tables);
        let mut tables = Tables::default();
        for (family, rows) in old.rows.iter().enumerate() {
            for (key, versions) in rows {
                if let Some(value) = visible(versions, old.flushed) {
                    tables.rows[family].insert(key.clone(), vec![(0, Some(value))]);
                }
            }
        }
        Self {
            tables: Arc::new(Mutex::new(tables)),
        }
    }
}

impl Engine for MemoryEngine {
    type Snapshot = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        let mut tables = lock(&self.tables);
        let sequence = tables.sequence;
        *tables.seen.entry(sequence).or_default() += 1;
        MemorySnapshot {
            tables: self.tables.clone(),
            sequence,
        }
    }

    fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        let tables = lock(&self.tables);
        tables.get(family, key, tables.sequence)
    }

    fn multi_get(&self, family: Family, keys: &[Bytes]) -> Vec<Option<Bytes>> {
        let tables = lock(&self.tables);
        keys.iter()
            .map(|key| tables.get(family, key, tables.sequence))
            .collect()
    }

    fn write(&self, batch: &Batch) {
        let mut tables = lock(&self.tables);
        tables.sequence += 1;
        for op in batch.ops() {
            match op {
                Op::Put(family, key, value) => tables.set(*family, key, Some(value.clone())),
                Op::Delete(family, key) => tables.set(*family, key, None),
                Op::DeleteRange(family, from, to) => {
                    assert!(from <= to, "a range to delete ends before it starts");
                    let range = tables.rows[*family as usize].range(from.clone()..to.clone());
                    let keys: Vec<Bytes> = range.map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        tables.set(*family, &key, None);
                    }
                }
            }
        }
    }

    fn flush(&self) {
        let mut tables = lock(&self.tables);
        tables.flushed = tables.sequence;
    }

    fn get_persisted(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        let tables = lock(&self.tables);
        tables.get(family, key, tables.flushed)
    }

    fn reclaim(&self, _: Family, _: &[u8]) {}

    fn checkpoint(&self, _: &Path) -> Result<(), String> {
        Err("an engine in memory has no files to copy".to_owned())
    }

    fn disk_bytes(&self) -> u64 {
        let tables = lock(&self.tables);
        let row = |(key, versions): (&Bytes, &Versions)| {
            key.len()
                + versions
                    .iter()
                    .filter_map(|(_, value)| value.as_ref())
                    .map(Bytes::len)
                    .sum::<usize>()
        };
        tables.rows.iter().flatten().map(row).sum::<usize>() as u64
    }
}

impl Clone for MemorySnapshot {
    fn clone(&self) -> Self {
        let mut tables = lock(&self.tables);
        *tables.seen.entry(self.sequence).or_default() += 1;
        Self {
            tables: self.tables.clone(),
            sequence: self.sequence,
        }
    }
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut tables = lock(&self.tables);
        let left = tables
            .seen
            .get_mut(&self.sequence)
            .expect("every snapshot is counted when it is made");
        *left -= 1;
        if *left == 0 {
            tables.seen.remove(&self.sequence);
        }
    }
}

impl Rows for MemorySnapshot {
    fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        lock(&self.tables).get(family, key, self.sequence)
    }

    fn scan<'a>(&'a self, family: Family, from: &'a [u8], to: Option<&'a [u8]>) -> impl Iterator<Item = Row> + 'a {
        let mut from = Some(Bytes::copy_from_slice(from));
        let pages = std::iter::from_fn(move || {
            let start = from.take()?;
            let (page, next) = lock(&self.tables).page(family, &start, to, self.sequence);
            from = next;
            Some(page)
        });
        pages.flatten()
    }
}

impl Snapshot for MemorySnapshot {
    fn get_cached(&self, family: Family, key: &[u8]) -> Cached {
        Cached::Hit(self.get(family, key))
    }
}

impl Tables {
    fn get(&self, family: Family, key: &[u8], sequence: u64) -> Option<Bytes> {
        visible(self.rows[family as usize].get(key)?, sequence)
    }

    fn set(&mut self, family: Family, key: &Bytes, value: Option<Bytes>) {
        // Versions that neither the flush nor a snapshot can see any more go when their row is written.
        let oldest = self
            .seen
            .keys()
            .next()
            .copied()
            .unwrap_or(self.sequence)
            .min(self.flushed);
        let versions = self.rows[family as usize].entry(key.clone()).or_default();
        if versions.last().is_some_and(|(sequence, _)| *sequence == self.sequence) {
            versions.pop();
        }
        let unseen = versions
            .iter()
            .rposition(|(sequence, _)| *sequence <= oldest)
            .unwrap_or(0);
        versions.drain(..unseen);
        versions.push((self.sequence, value));
        if versions.iter().all(|(_, value)| value.is_none()) {
            self.rows[family as usize].remove(key);
        }
    }

    /// Some rows from `from` on, and where to go on.
    fn page(&self, family: Family, from: &Bytes, to: Option<&[u8]>, sequence: u64) -> (Vec<Row>, Option<Bytes>) {
        let mut rows = Vec::new();
        for (key, versions) in self.rows[family as usize].range(from.clone()..) {
            if to.is_some_and(|to| key.as_ref() >= to) {
                break;
            }
            if rows.len() == SCAN_PAGE_ROWS {
                return (rows, Some(key.clone()));
            }
            if let Some(value) = visible(versions, sequence) {
                rows.push((key.clone(), value));
            }
        }
        (rows, None)
    }
}

fn visible(versions: &Versions, sequence: u64) -> Option<Bytes> {
    versions
        .iter()
        .rev()
        .find(|(written, _)| *written <= sequence)?
        .1
        .clone()
}

fn lock(tables: &Mutex<Tables>) -> MutexGuard<'_, Tables> {
    tables.lock().expect("nothing panics while it holds this lock")
}
