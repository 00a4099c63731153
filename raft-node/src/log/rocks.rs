//! The Raft log in RocksDB: one instance, one family, one writer, and one synced WriteBatch per group.
//!
//! RocksDB replays its WAL in point-in-time mode: it stops at the first record that is not whole and opens happily.
//! That is right for a torn tail and wrong for a damaged one, so every open is judged by MARK (see `mark` and
//! `recover`) after a walk over all rows, which checks each checksum and the hash chain. RocksDB flushes what it
//! replayed before open returns; if the process dies before that, the next open replays the same WAL again. What
//! open returned is therefore on disk, and `mark()` may vouch for it.
//!
//! ```text
//!   write        [lower MARK]  batch+sync  [raise MARK if term or vote changed]
//!   truncate     batch (note + delete)+sync, only then whole files are deleted, which no WAL can undo
//!   reset        [lower MARK]  batch (delete all, note, HardState, no intent)+sync  raise MARK
//! ```
//!
//! WALs are written over old ones (`wal`). There is no block cache: recent entries come from the replica's cache, the
//! rest is read once, and a scrub must see the disk and not a cache.
//!
//! A reader holds the database open: the log can be opened again once writer and readers are gone.
//!
//! Deliberately not here: timing and counting of syncs (the driver's), and any repair. Damage is reported and left.

pub mod wal;

use super::mark::{Mark, MarkFile};
use super::recover::{Judged, Notes, damage_text, judge};
use super::row::{
    ENTRIES_END, HARD_STATE_KEY, INSTALL_INTENT_KEY, Link, TRUNCATED_KEY, decode_entry, decode_hard_state,
    decode_install_intent, decode_truncated, encode_entry, encode_hard_state, encode_install_intent, encode_truncated,
    entry_bytes, entry_index, entry_key,
};
use super::{EntryId, InstallIntent, Log, LogReader, LogWrite, MergedWrite, Recovered};
use raft::eraftpb::{Entry, HardState};
use rocksdb::{
    BlockBasedOptions, DB, DBCompressionType, DBRecoveryMode, FlushOptions, InfoLogger, IteratorMode, LogLevel,
    Options, ReadOptions, WriteBatch, WriteOptions,
};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The WAL rotates with the memtable, and most entries are truncated before a flush of this size writes them.
const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// Memtables that may wait for a flush before writes stall.
const WRITE_BUFFER_COUNT_MAX: i32 = 4;
/// An entry and its deletion meet in a flush of two memtables and neither is written.
const WRITE_BUFFERS_PER_FLUSH: i32 = 2;
/// WALs that are kept to be written over: as many as are in use at once.
const SPARE_WALS_MAX: usize = 4;
/// Reads are long and sequential.
const BLOCK_BYTES: usize = 64 << 10;
/// Spreads the write-back of a flush, so that a WAL sync does not wait behind all of it.
const BYTES_PER_SYNC: u64 = 1 << 20;
/// One flush and one compaction; the log is written by one thread.
const BACKGROUND_JOBS_MAX: i32 = 2;
/// Complaints of RocksDB during open that are kept to be quoted; more would say nothing new.
const COMPLAINTS_MAX: usize = 16;

/// The writer of a log in RocksDB, with its MARK.
pub struct RocksLog {
    reader: RocksReader,
    mark_file: MarkFile,
    recovered: Recovered,
    truncated: Link,
    last: Link,
    hard_state: HardState,
    install_intent: Option<InstallIntent>,
    row: Vec<u8>,
}

/// A handle to read the log from another thread; it keeps the database open.
#[derive(Clone)]
pub struct RocksReader {
    db: Arc<DB>,
    directory: Arc<Path>,
}

impl RocksLog {
    /// Opens the log in `directory`, creating it if that is empty or absent; Err says what is damaged and the way back.
    pub fn open(directory: &Path) -> Result<RocksLog, String> {
        let complaints = Arc::new(Mutex::new(Vec::new()));
        Self::open_judged(directory, &complaints).map_err(|what| {
            let complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
            // RocksDB has no error kind of its own for its lock.
            if what.contains("lock file") || what.contains("lock hold by current process") {
                return format!(
                    "the Raft log in {} is in use by another process: {what}",
                    directory.display()
                );
            }
            damage_text(directory, &what, &complaints)
        })
    }

    fn open_judged(directory: &Path, complaints: &Complaints) -> Result<RocksLog, String> {
        let mark_file = MarkFile::open_or_create(directory)?;
        let files_found = files_found(directory)?;
        let wal_tail = wal::last_tail(directory).map_err(|error| format!("cannot read the last WAL: {error}"))?;
        let promises_nothing = mark_file.written() == Mark::default();
        // A log that promised something is never created anew: an empty one would be a voter with amnesia.
        let options = options(promises_nothing, complaints);
        let db = DB::open(&options, directory)
            .map_err(|error| format!("RocksDB cannot open what CURRENT points to: {error}"))?;
        let reader = RocksReader {
            db: Arc::new(db),
            directory: directory.into(),
        };
        let notes = reader.notes()?;
        let from = notes.truncated.id.index + 1;
        let judged = judge(mark_file.written(), &notes, reader.rows(from, None));
        // RocksDB has flushed the WAL and removed files by now, so they are named as they were found.
        let Judged { last, torn_rows } = judged.map_err(|what| format!("{what}; the files were {files_found}"))?;
        if torn_rows > 0 {
            let mut batch = WriteBatch::default();
            batch.delete_range(&entry_key(last.id.index + 1)[..], ENTRIES_END);
            reader.write_synced(batch);
        }
        let recovered = Recovered {
            hard_state: notes.hard_state.clone(),
            truncated: notes.truncated.id,
            last: last.id,
            torn_tail_cut: torn_rows + wal_tail.torn,
            install_intent: notes.install_intent.clone(),
        };
        let Notes {
            hard_state,
            truncated,
            install_intent,
        } = notes;
        Ok(RocksLog {
            reader,
            mark_file,
            recovered,
            truncated,
            last,
            hard_state,
            install_intent,
            row: Vec::new(),
        })
    }

    /// Reads every row and checks checksums and chain, past every cache: the background scrub.
    pub fn verify_checksums(&self) -> Result<(), String> {
        self.reader.verify_checksums()
    }

    /// The link of an entry that is in the log, or of the one it begins behind.
    fn link(&self, index: u64) -> Link {
        match index {
            index if index == self.last.id.index => self.last,
            index if index == self.truncated.id.index => self.truncated,
            index => match self.reader.row(index) {
                Some((_, link)) => link,
                None => self.reader.panic_at(index, "it is missing"),
            },
        }
    }

    /// MARK must not vouch for what the next batch removes.
    fn lower_mark(&mut self, to: Link) {
        let written = self.mark_file.written();
        self.mark_file.write(Mark {
            entry: to.id,
            chain: to.chain,
            ..written
        });
    }

    /// Puts the rows of `entries` into the batch and removes what is left of an overwritten suffix.
    fn put_entries(&mut self, batch: &mut WriteBatch, entries: &[&Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        let mut link = self.link(first.index - 1);
        if self.mark_file.written().entry.index >= first.index {
            self.lower_mark(link);
        }
        for index in last.index + 1..=self.last.id.index {
            batch.delete(entry_key(index));
        }
        for entry in entries {
            link = encode_entry(link, entry, &mut self.row);
            batch.put(entry_key(entry.index), &self.row);
        }
        self.last = link;
    }
}

impl Log for RocksLog {
    type Reader = RocksReader;

    fn reader(&self) -> RocksReader {
        self.reader.clone()
    }

    fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    fn write(&mut self, group: &[LogWrite]) {
        let merged = MergedWrite::of(group);
        if merged.is_empty() {
            return;
        }
        merged.assert_allowed(
            self.truncated.id,
            self.last.id,
            &self.hard_state,
            self.install_intent.as_ref(),
        );
        let mut batch = WriteBatch::default();
        self.put_entries(&mut batch, &merged.entries);
        if let Some(hard_state) = merged.hard_state {
            batch.put(HARD_STATE_KEY, encode_hard_state(hard_state));
            self.hard_state.clone_from(hard_state);
        }
        self.reader.write_synced(batch);
        let marked = self.mark_file.written();
        if (marked.term, marked.vote) != (self.hard_state.term, self.hard_state.vote) {
            self.mark();
        }
    }

    fn mark(&mut self) {
        self.mark_file.write(Mark::new(self.last, &self.hard_state));
    }

    fn settle(&mut self) {
        // As RocksDB does by itself when a memtable is full; a failure shows at the next write.
        self.reader.flush(false);
    }

    fn truncate(&mut self, to: EntryId) {
        if to.index <= self.truncated.id.index {
            return;
        }
        assert!(
            to.index <= self.last.id.index,
            "cannot truncate at {to:?}, the log ends at {:?}",
            self.last.id
        );
        let link = self.link(to.index);
        assert_eq!(link.id, to, "the log is truncated at an entry of another term");
        let mut batch = WriteBatch::default();
        batch.put(TRUNCATED_KEY, encode_truncated(link));
        batch.delete_range(&entry_key(0)[..], &entry_key(to.index + 1)[..]);
        self.reader.write_synced(batch);
        self.reader.delete_whole_files(to.index);
        self.truncated = link;
    }

    fn reset(&mut self, to: EntryId, hard_state: &HardState) {
        let truncated = self.truncated;
        assert!(
            to.index >= truncated.id.index,
            "a snapshot at {to:?} is older than the log's start {truncated:?}"
        );
        if self.mark_file.written().entry.index >= to.index {
            // True before the batch and after it: the log begins at or behind this entry in both.
            self.lower_mark(truncated);
        }
        let link = if to == truncated.id {
            truncated
        } else {
            Link::behind_snapshot(to)
        };
        let mut batch = WriteBatch::default();
        batch.delete_range(&entry_key(0)[..], ENTRIES_END);
        batch.put(TRUNCATED_KEY, encode_truncated(link));
        batch.put(HARD_STATE_KEY, encode_hard_state(hard_state));
        batch.delete(INSTALL_INTENT_KEY);
        self.reader.write_synced(batch);
        self.reader.delete_whole_files(u64::MAX);
        (self.truncated, self.last, self.install_intent) = (link, link, None);
        self.hard_state.clone_from(hard_state);
        self.mark();
    }

    fn set_install_intent(&mut self, intent: Option<InstallIntent>) {
        let mut batch = WriteBatch::default();
        match &intent {
            Some(intent) => batch.put(INSTALL_INTENT_KEY, encode_install_intent(intent)),
            None => batch.delete(INSTALL_INTENT_KEY),
        }
        self.reader.write_synced(batch);
        self.install_intent = intent;
    }

    fn bytes(&self) -> u64 {
        let property = |name: &str| self.reader.db.property_int_value(name).ok().flatten().unwrap_or(0);
        property("rocksdb.cur-size-all-mem-tables") + property("rocksdb.live-sst-files-size")
    }
}

impl LogReader for RocksReader {
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut before: Option<Link> = None;
        let mut bytes = 0;
        for row in self.rows(low, Some(high)) {
            let (index, row) = row.unwrap_or_else(|error| self.panic_at(low, &error));
            bytes += entry_bytes(&row);
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            if before.is_none() && index != low {
                break;
            }
            let decoded = decode_entry(index, &row, before);
            let (entry, link) = decoded.unwrap_or_else(|error| self.panic_at(index, &error));
            before = Some(link);
            entries.push(entry);
        }
        entries
    }

    fn term(&self, index: u64) -> Option<u64> {
        if let Some((_, link)) = self.row(index) {
            return Some(link.id.term);
        }
        let truncated = self
            .notes()
            .unwrap_or_else(|error| self.panic_at(index, &error))
            .truncated;
        (truncated.id.index == index).then_some(truncated.id.term)
    }
}

impl RocksReader {
    /// Reads every row and checks checksums and chain, past every cache: the background scrub.
    pub fn verify_checksums(&self) -> Result<(), String> {
        self.verify_rows()
            .map_err(|what| damage_text(&self.directory, &what, &[]))
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the current WAL longer, for whoever will write over it; none of it is a row.
    pub fn lengthen_wal(&self, bytes: usize) {
        let mut filler = WriteBatch::default();
        filler.put_log_data(vec![0; bytes]);
        self.write_synced(filler);
    }

    /// Goes on in another WAL; the current one is kept to be written over.
    pub fn change_wal(&self) {
        let mut batch = WriteBatch::default();
        // Nobody's row: RocksDB changes WALs with the memtable, and does not flush an empty one.
        batch.delete(b"-");
        self.write_synced(batch);
        self.flush(true);
    }

    fn flush(&self, waits: bool) {
        let mut options = FlushOptions::default();
        options.set_wait(waits);
        self.db
            .flush_opt(&options)
            .unwrap_or_else(|error| panic!("{}: cannot flush the Raft log: {error}", self.directory.display()));
    }

    /// One iterator is one snapshot, so a truncation or overwrite meanwhile is no damage.
    fn verify_rows(&self) -> Result<(), String> {
        self.notes()?;
        let mut before = None;
        for row in self.rows(0, None) {
            let (index, row) = row?;
            let decoded = decode_entry(index, &row, before);
            before = Some(decoded.map_err(|error| format!("entry {index} is broken: {error}"))?.1);
        }
        Ok(())
    }

    /// The rows of the entries [low, high) in order; without `high` all from `low` on.
    fn rows(&self, low: u64, high: Option<u64>) -> impl Iterator<Item = Result<(u64, Box<[u8]>), String>> + '_ {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(entry_key(low));
        match high {
            Some(high) => options.set_iterate_upper_bound(entry_key(high.max(low))),
            None => options.set_iterate_upper_bound(ENTRIES_END),
        }
        options.set_readahead_size(BLOCK_BYTES);
        self.db.iterator_opt(IteratorMode::Start, options).map(|row| {
            let (key, row) = row.map_err(|error| format!("RocksDB cannot read the entries: {error}"))?;
            let index = entry_index(&key).ok_or_else(|| format!("{key:?} is not the key of an entry"))?;
            Ok((index, row))
        })
    }

    /// One entry, if it is in the log.
    fn row(&self, index: u64) -> Option<(Entry, Link)> {
        let row = self
            .db
            .get(entry_key(index))
            .unwrap_or_else(|error| self.panic_at(index, error.as_ref()))?;
        Some(decode_entry(index, &row, None).unwrap_or_else(|error| self.panic_at(index, &error)))
    }

    fn notes(&self) -> Result<Notes, String> {
        let mut notes = Notes::default();
        if let Some(row) = self.note(HARD_STATE_KEY)? {
            notes.hard_state = decode_hard_state(&row).map_err(|error| format!("the HardState is broken: {error}"))?;
        }
        if let Some(row) = self.note(TRUNCATED_KEY)? {
            notes.truncated = decode_truncated(&row).map_err(|error| format!("the truncation is broken: {error}"))?;
        }
        if let Some(row) = self.note(INSTALL_INTENT_KEY)? {
            let intent = decode_install_intent(&row).map_err(|error| format!("the install intent is broken: {error}"));
            notes.install_intent = Some(intent?);
        }
        Ok(notes)
    }

    fn note(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.db
            .get(key)
            .map_err(|error| format!("RocksDB cannot read {}: {error}", String::from_utf8_lossy(key)))
    }

    fn write_synced(&self, batch: WriteBatch) {
        let mut options = WriteOptions::default();
        // False only in the build that the durability tests must reject.
        options.set_sync(!kv::mutants::is("no-sync"));
        if let Err(error) = self.db.write_opt(batch, &options) {
            let directory = self.directory.display();
            panic!("{directory}: cannot write and sync the Raft log: {error}; stopping, since a sync is never retried");
        }
    }

    /// Gives back the space of files that hold only entries up to `last`; their rows are deleted already.
    fn delete_whole_files(&self, last: u64) {
        if let Err(error) = self.db.delete_file_in_range(entry_key(0), entry_key(last)) {
            panic!(
                "{}: cannot delete old files of the Raft log: {error}",
                self.directory.display()
            );
        }
    }

    fn panic_at(&self, index: u64, what: &str) -> ! {
        panic!(
            "{}: cannot trust entry {index} of the Raft log: {what}",
            self.directory.display()
        );
    }
}

/// What RocksDB logged while it opened: its only way to say what it dropped, and from which file.
type Complaints = Arc<Mutex<Vec<String>>>;

fn options(create: bool, complaints: &Complaints) -> Options {
    // No setter has this name: without it RocksDB would try to resume after a failed write.
    let options = Options::default().get_options_from_string("max_bgerror_resume_count=0");
    let mut options = options.expect("RocksDB knows the option");
    options.create_if_missing(create);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_recycle_log_file_num(SPARE_WALS_MAX);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(WRITE_BUFFER_COUNT_MAX);
    options.set_min_write_buffer_number_to_merge(WRITE_BUFFERS_PER_FLUSH);
    options.set_allow_concurrent_memtable_write(false);
    options.set_bytes_per_sync(BYTES_PER_SYNC);
    options.set_max_background_jobs(BACKGROUND_JOBS_MAX);
    options.set_stats_dump_period_sec(0);
    // Entries die young: only what sinks is worth compressing.
    let (none, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    options.set_compression_per_level(&[none, none, lz4, lz4, lz4, lz4, lz4]);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_size(BLOCK_BYTES);
    blocks.disable_cache();
    options.set_block_based_table_factory(&blocks);
    let complaints = Arc::clone(complaints);
    let logger = InfoLogger::new_callback_logger(LogLevel::Warn, move |level, line| {
        // Headers pass every level and arrive as information.
        let complains = matches!(level, LogLevel::Warn | LogLevel::Error | LogLevel::Fatal);
        let mut complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complains && complaints.len() < COMPLAINTS_MAX {
            complaints.push(line.trim().to_owned());
        }
    });
    options.set_info_logger(logger);
    options
}

/// The files that rows can be in or be found by, to be named when rows are missing and no file says why.
fn files_found(directory: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot read the directory: {error}");
    let files = std::fs::read_dir(directory).map_err(failed)?;
    let names = files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    names.retain(|name| {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        name.starts_with("MANIFEST") || matches!(extension, Some("log" | "sst"))
    });
    names.sort();
    Ok(names.join(", "))
}
