//! The file MARK: how far the log was certainly synced, kept apart from the log it vouches for.
//!
//! RocksDB cannot tell a torn tail, which a power failure may leave and nobody was promised, from a damaged synced
//! record, which somebody was. MARK can: what lies up to it must be there, what lies behind it may be torn.
//!
//! ```text
//!   event                              MARK                                   crash in between leaves
//!   group synced                       raised later, by `mark()`              MARK below the log: the rest may be torn
//!   group changes term or vote         raised after the log's sync and        MARK below the log; the vote has not
//!                                      before `write` returns                 left the member, so nobody counts on it
//!   group overwrites at or below MARK  lowered before the log is written      MARK below the log: still the old suffix
//! ```
//!
//! So at every instant the log on disk contains MARK's entry, and a log that does not is damaged.
//!
//! The file is two slots of one disk block each, written in turn with a sequence number, each with a checksum. A
//! torn write can only hit the slot being written, and the other one still holds the MARK before, which was true
//! until that write was complete. Rejected: a temporary file and rename, which costs two syncs and two journal
//! commits in every vote, where an overwrite of allocated blocks costs one. The price: one damaged slot looks like a
//! torn one and the MARK before it counts. Two things must then be damaged at once to lose a vote unseen.

use super::row::Link;
use super::{EntryId, HardState};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// The file's name in the log's directory.
pub const MARK_FILE: &str = "MARK";
/// Under this name it is created; a leftover of a first start that was cut short.
const MARK_FILE_NEW: &str = "MARK.new";

/// One slot: as large as the block that a disk writes at once.
const SLOT_BYTES: usize = 4096;
const SLOT_COUNT: usize = 2;
const MAGIC: u64 = u64::from_le_bytes(*b"DIPMARK1");
const NUMBER_COUNT: usize = 7;
const CRC_AT: usize = NUMBER_COUNT * 8;

/// What MARK says: this entry and this vote were synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last entry known to be synced.
    pub entry: EntryId,
    /// The chain hash up to and including that entry.
    pub chain: u64,
    /// The term of the synced HardState.
    pub term: u64,
    /// The vote of the synced HardState, 0 for none.
    pub vote: u64,
}

impl Mark {
    pub(super) fn new(last: Link, hard_state: &HardState) -> Mark {
        Mark {
            entry: last.id,
            chain: last.chain,
            term: hard_state.term,
            vote: hard_state.vote,
        }
    }

    pub(super) fn link(&self) -> Link {
        Link {
            id: self.entry,
            chain: self.chain,
        }
    }

    fn encode(&self, sequence: u64) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        let numbers = [
            MAGIC,
            sequence,
            self.entry.index,
            self.entry.term,
            self.chain,
            self.term,
            self.vote,
        ];
        for (to, number) in slot.chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&slot[..CRC_AT]);
        slot[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    /// The sequence number and MARK of a slot, if its checksum is right.
    fn decode(slot: &[u8]) -> Option<(u64, Mark)> {
        let stored = u32::from_le_bytes(slot.get(CRC_AT..CRC_AT + 4)?.try_into().ok()?);
        if crc32fast::hash(&slot[..CRC_AT]) != stored {
            return None;
        }
        let number = |at: usize| u64::from_le_bytes(slot[at * 8..at * 8 + 8].try_into().expect("8 bytes were taken"));
        let entry = EntryId {
            index: number(2),
            term: number(3),
        };
        let mark = Mark {
            entry,
            chain: number(4),
            term: number(5),
            vote: number(6),
        };
        (number(0) == MAGIC).then_some((number(1), mark))
    }
}

/// MARK on disk, held open by the log's writer.
#[derive(Debug)]
pub struct MarkFile {
    file: File,
    path: PathBuf,
    sequence: u64,
    written: Mark,
}

impl MarkFile {
    /// Opens the directory's MARK; None if there is none, Err if there is one that cannot be trusted.
    pub fn open(directory: &Path) -> Result<Option<MarkFile>, String> {
        let path = directory.join(MARK_FILE);
        if !path
            .try_exists()
            .map_err(|error| format!("cannot look for {}: {error}", path.display()))?
        {
            return Ok(None);
        }
        let content = std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let file = OpenOptions::new().write(true).open(&path);
        let file = file.map_err(|error| format!("cannot open {} for writing: {error}", path.display()))?;
        if content.len() != SLOT_BYTES * SLOT_COUNT {
            let (found, expected) = (content.len(), SLOT_BYTES * SLOT_COUNT);
            return Err(format!("{} has {found} bytes, expected {expected}", path.display()));
        }
        let newest = content
            .chunks_exact(SLOT_BYTES)
            .filter_map(Mark::decode)
            .max_by_key(|(sequence, _)| *sequence);
        let (sequence, written) =
            newest.ok_or_else(|| format!("{} has no slot with a right checksum", path.display()))?;
        Ok(Some(MarkFile {
            file,
            path,
            sequence,
            written,
        }))
    }

    /// Opens the MARK of a log, or begins one if nothing else is there: MARK is the first file of every log, so a
    /// directory with other files and without it has lost it.
    pub fn open_or_create(directory: &Path) -> Result<MarkFile, String> {
        let failed = |error: std::io::Error| format!("cannot create or read the directory: {error}");
        if !directory.try_exists().map_err(failed)? {
            std::fs::create_dir_all(directory).map_err(failed)?;
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|parent| parent.sync_all())
                .map_err(failed)?;
        }
        if let Some(mark_file) = MarkFile::open(directory)? {
            return Ok(mark_file);
        }
        for file in std::fs::read_dir(directory).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            if name != MARK_FILE_NEW {
                return Err(format!("{MARK_FILE} is missing beside {}", name.display()));
            }
        }
        MarkFile::create(directory)
    }

    /// Creates a MARK that promises nothing; it must come before anything else in the directory.
    fn create(directory: &Path) -> Result<MarkFile, String> {
        let path = directory.join(MARK_FILE);
        let new = directory.join(MARK_FILE_NEW);
        let written = Mark::default();
        let create = || -> std::io::Result<File> {
            let mut file = File::create(&new)?;
            file.write_all(&written.encode(0))?;
            file.write_all(&written.encode(1))?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(directory)?.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(|error| format!("cannot create {}: {error}", path.display()))?;
        Ok(MarkFile {
            file,
            path,
            sequence: 1,
            written,
        })
    }

    /// What the file says.
    pub fn written(&self) -> Mark {
        self.written
    }

    /// Makes the file say `mark`, synced; does nothing if it says so already.
    pub fn write(&mut self, mark: Mark) {
        if mark == self.written {
            return;
        }
        self.sequence += 1;
        let offset = (self.sequence % SLOT_COUNT as u64) * SLOT_BYTES as u64;
        let result = self
            .file
            .write_all_at(&mark.encode(self.sequence), offset)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = result {
            panic!(
                "cannot write and sync {}: {error}; stopping, since a sync is never retried",
                self.path.display()
            );
        }
        self.written = mark;
    }
}
