//! The engine of a member: one RocksDB instance, four column families, no write-ahead log.
//!
//! The Raft log is the only log. Every write here skips RocksDB's own, and `atomic_flush` makes what reaches
//! the disk a consistent cut over all families: a crash reopens at some flushed batch, never between two
//! halves of one, and the Raft log is applied again from there.
//!
//! A failed read, write or flush panics with RocksDB's words (which name the file): a disk error is never an
//! answer, and a write is never tried again. Only here, in the whole crate, is RocksDB named.
//!
//! Chosen per family, with measurements in the design: `cur` answers point reads (bloom filters, also in the
//! memtable), `ev` is written and read in order (large blocks, no filters), `gone` is mostly asked for keys
//! that it does not have (bloom filters), `meta` is small.

use super::{Batch, Cached, Engine, Family, Op, Row, Rows, Snapshot};
use crate::arena::Arena;
use bytes::Bytes;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBPinnableSlice, DataBlockIndexType, FlushOptions, Options, ReadOptions, ReadTier, SnapshotWithThreadMode,
    WriteBatch, WriteOptions, checkpoint::Checkpoint,
};
use std::{fs, ops::ControlFlow, path::Path, sync::Arc};

/// All memtables together: when they hold this much, RocksDB flushes by itself.
const MEMTABLES_BYTES_MAX: usize = 64 << 20;
/// Files small enough that a compaction is short, large enough that 100 GB are not too many to hold open.
const FILE_BYTES: u64 = 64 << 20;
/// RocksDB's own text log: a few small files, then the oldest goes.
const TEXT_LOG_BYTES: usize = 4 << 20;
const TEXT_LOG_FILES: usize = 4;

/// What a member decides about its engine.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// Memory for blocks of files, their indexes and their filters.
    pub block_cache_bytes: usize,
    /// A memtable's size: two of them per family can exist while one is flushed.
    pub memtable_bytes: usize,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 256 << 20,
            memtable_bytes: 16 << 20,
            background_jobs: 2,
        }
    }
}

/// An open instance; clones share it.
#[derive(Clone)]
pub struct RocksEngine {
    db: Arc<DB>,
}

/// All families as of one moment, keeping the instance open as long as it lives.
#[derive(Clone)]
pub struct RocksSnapshot {
    owned: Arc<OwnedSnapshot>,
}

/// Fields are dropped in their order: the snapshot before the instance that it belongs to.
struct OwnedSnapshot {
    snapshot: SnapshotWithThreadMode<'static, DB>,
    db: Arc<DB>,
}

impl RocksEngine {
    /// Opens the instance in `path`, or makes it where there is none. The error is RocksDB's, with the path.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<Self, String> {
        let explain = |reason: String| format!("cannot open the state in {}: {reason}", path.display());
        let is_new = is_new(path).map_err(explain)?;
        let cache = Cache::new_hyper_clock_cache(options.block_cache_bytes, 0);
        let families = Family::ALL
            .map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family, options, &cache)));
        let db = DB::open_cf_descriptors(&instance_options(options, is_new), path, families)
            .map_err(|error| explain(error.into_string()))?;
        Ok(Self { db: Arc::new(db) })
    }

    /// Reads every block that holds a row, past the cache, and names the first damaged file. Slow; meant for
    /// a thread of its own.
    pub fn verify_checksums(&self) -> Result<(), String> {
        for family in Family::ALL {
            let mut options = ReadOptions::default();
            options.set_verify_checksums(true);
            options.fill_cache(false);
            let mut rows = self.db.raw_iterator_cf_opt(column(&self.db, family), options);
            rows.seek_to_first();
            while rows.valid() {
                rows.next();
            }
            rows.status()
                .map_err(|error| format!("family {}: {error}", family.name()))?;
        }
        Ok(())
    }
}

impl Engine for RocksEngine {
    type Snapshot = RocksSnapshot;

    fn snapshot(&self) -> RocksSnapshot {
        let snapshot = SnapshotWithThreadMode::new(&*self.db);
        // SAFETY: only the lifetime changes. The snapshot borrows the DB behind `self.db`; the clone of that
        // Arc beside it keeps the DB alive and in place until after the snapshot is dropped.
        #[allow(unsafe_code)]
        let snapshot = unsafe {
            std::mem::transmute::<SnapshotWithThreadMode<'_, DB>, SnapshotWithThreadMode<'static, DB>>(snapshot)
        };
        RocksSnapshot {
            owned: Arc::new(OwnedSnapshot {
                snapshot,
                db: self.db.clone(),
            }),
        }
    }

    fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        copied(family, self.db.get_pinned_cf(column(&self.db, family), key))
    }

    fn multi_get(&self, family: Family, keys: &[Bytes]) -> Vec<Option<Bytes>> {
        let found = self.db.batched_multi_get_cf(column(&self.db, family), keys, false);
        found.into_iter().map(|row| copied(family, row)).collect()
    }

    fn write(&self, batch: &Batch) {
        let columns = Family::ALL.map(|family| column(&self.db, family));
        let mut rows = WriteBatch::with_capacity_bytes(batch.ops().iter().map(op_bytes).sum());
        for op in batch.ops() {
            match op {
                Op::Put(family, key, value) => rows.put_cf(columns[*family as usize], key, value),
                Op::Delete(family, key) => rows.delete_cf(columns[*family as usize], key),
                Op::DeleteRange(family, from, to) => rows.delete_range_cf(columns[*family as usize], from, to),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db
            .write_opt(rows, &options)
            .unwrap_or_else(|error| panic!("writing the state failed: {error}"));
    }

    fn flush(&self) {
        let families = Family::ALL.map(|family| column(&self.db, family));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_cfs_opt(&families, &options)
            .unwrap_or_else(|error| panic!("flushing the state failed: {error}"));
    }

    fn get_persisted(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        copied(
            family,
            self.db.get_pinned_cf_opt(column(&self.db, family), key, &options),
        )
    }

    fn reclaim(&self, family: Family, last: &[u8]) {
        self.db
            .delete_file_in_range_cf(column(&self.db, family), &[][..], last)
            .unwrap_or_else(|error| panic!("dropping files of {} failed: {error}", family.name()));
    }

    fn checkpoint(&self, directory: &Path) -> Result<(), String> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(directory))
            .map_err(|error| format!("cannot copy the state to {}: {error}", directory.display()))
    }

    fn disk_bytes(&self) -> u64 {
        let size = |family| {
            self.db
                .property_int_value_cf(column(&self.db, family), "rocksdb.total-sst-files-size")
        };
        Family::ALL
            .into_iter()
            .filter_map(|family| size(family).ok().flatten())
            .sum()
    }
}

impl Rows for RocksSnapshot {
    fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        let OwnedSnapshot { snapshot, db } = &*self.owned;
        copied(family, snapshot.get_pinned_cf(column(db, family), key))
    }

    fn scan<'a>(&'a self, family: Family, from: &'a [u8], to: Option<&'a [u8]>) -> impl Iterator<Item = Row> + 'a {
        let mut rows = Arena::default();
        self.walk(family, from, to, move |key, value| {
            let room = rows.room(key.len() + value.len());
            room.extend_from_slice(key);
            room.extend_from_slice(value);
            let mut value = rows.take();
            (value.split_to(key.len()), value)
        })
    }

    fn visit(&self, family: Family, from: &[u8], to: Option<&[u8]>, see: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>) {
        let mut rows = self.walk(family, from, to, see);
        while rows.next().is_some_and(|seen| seen.is_continue()) {}
    }

    fn count(&self, family: Family, from: &[u8], to: Option<&[u8]>) -> usize {
        self.walk(family, from, to, |_, _| ()).count()
    }
}

impl RocksSnapshot {
    /// What `take` makes of each row.
    fn walk<'a, T>(
        &'a self,
        family: Family,
        from: &'a [u8],
        to: Option<&'a [u8]>,
        mut take: impl FnMut(&[u8], &[u8]) -> T + 'a,
    ) -> impl Iterator<Item = T> + 'a {
        let OwnedSnapshot { snapshot, db } = &*self.owned;
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut rows = snapshot.raw_iterator_cf_opt(column(db, family), options);
        // An upper bound below the start is not an error to RocksDB, but it promises nothing for it either.
        let is_empty = to.is_some_and(|to| to <= from);
        let mut started = false;
        std::iter::from_fn(move || {
            if is_empty {
                return None;
            }
            if started {
                rows.next();
            } else {
                rows.seek(from);
                started = true;
            }
            let row = rows.item().map(|(key, value)| take(key, value));
            if row.is_none() {
                rows.status()
                    .unwrap_or_else(|error| panic!("reading {} failed: {error}", family.name()));
            }
            row
        })
        .fuse()
    }
}

impl Snapshot for RocksSnapshot {
    fn get_cached(&self, family: Family, key: &[u8]) -> Cached {
        let OwnedSnapshot { snapshot, db } = &*self.owned;
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        match snapshot.get_pinned_cf_opt(column(db, family), key, options) {
            Err(error) if error.kind() == rocksdb::ErrorKind::Incomplete => Cached::Miss,
            found => Cached::Hit(copied(family, found)),
        }
    }
}

/// What a change takes in a `WriteBatch`: its two slices, and their lengths, kind and family.
fn op_bytes(op: &Op) -> usize {
    const NUMBERS_BYTES: usize = 12;
    let slices = match op {
        Op::Put(_, key, value) => key.len() + value.len(),
        Op::Delete(_, key) => key.len(),
        Op::DeleteRange(_, from, to) => from.len() + to.len(),
    };
    NUMBERS_BYTES + slices
}

fn copied(family: Family, row: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>) -> Option<Bytes> {
    let row = row.unwrap_or_else(|error| panic!("reading {} failed: {error}", family.name()));
    row.map(|row| Bytes::copy_from_slice(&row))
}

fn column(db: &DB, family: Family) -> &ColumnFamily {
    db.cf_handle(family.name())
        .expect("all families are opened with the instance")
}

/// Whether an instance is to be made. RocksDB would also make one where only `CURRENT` is lost, and thereby
/// forget all data: a directory that ever held data is opened or refused.
fn is_new(path: &Path) -> Result<bool, String> {
    if path.join("CURRENT").exists() {
        return Ok(false);
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error.to_string()),
    };
    for entry in entries {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".sst") || name.starts_with("OPTIONS-") {
            return Err(format!(
                "its file CURRENT is missing, but {name} is there: the directory is damaged"
            ));
        }
    }
    Ok(true)
}

fn instance_options(options: &RocksOptions, is_new: bool) -> Options {
    let mut instance = Options::default();
    instance.create_if_missing(is_new);
    instance.create_missing_column_families(is_new);
    instance.set_atomic_flush(true);
    instance.set_paranoid_checks(true);
    // All tables are opened with the instance: a damaged footer is found then, not at some later read.
    instance.set_max_open_files(-1);
    instance.set_max_background_jobs(options.background_jobs);
    instance.set_db_write_buffer_size(MEMTABLES_BYTES_MAX);
    instance.set_bytes_per_sync(1 << 20);
    instance.set_max_log_file_size(TEXT_LOG_BYTES);
    instance.set_keep_log_file_num(TEXT_LOG_FILES);
    instance.set_stats_dump_period_sec(0);
    instance
}

fn family_options(family: Family, chosen: &RocksOptions, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_write_buffer_size(chosen.memtable_bytes);
    // Writes go on while some are flushed; together they stay within MEMTABLES_BYTES_MAX.
    options.set_max_write_buffer_number(4);
    options.set_target_file_size_base(FILE_BYTES);
    // Most of what is young is soon merged or dropped: only what sinks is worth compressing.
    let (none, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    options.set_compression_per_level(&[none, none, lz4, lz4, lz4, lz4, lz4]);
    match family {
        Family::Cur => {
            filtered(&mut table, &mut options);
            table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
            table.set_partition_filters(true);
            // Many deletes in a row are walked by every scan until a compaction drops them.
            options.add_compact_on_deletion_collector_factory(4096, 2048, 0.0);
        }
        Family::Gone => filtered(&mut table, &mut options),
        Family::Ev => table.set_block_size(32 << 10),
        Family::Meta => {}
    }
    options.set_block_based_table_factory(&table);
    options
}

/// Most reads of these families by apply ask for keys that are not there.
fn filtered(table: &mut BlockBasedOptions, options: &mut Options) {
    table.set_bloom_filter(10.0, false);
    table.set_block_size(8 << 10);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.05);
}
