//! RocksDB's write-ahead logs (WALs), which are written over former ones: where the last one ends.
//!
//! A sync of a file that grows takes its new length through the file system's journal; over blocks that are there it
//! does not (three members on one ext4: 240 against 137 us, 94 against 46 us of CPU). RocksDB writes new WALs over old
//! ones ("recycles" them), but a log that was just opened has none yet, so it is given one.
//!
//! The price: what a file held before lies behind its last record. Each record has the number of its WAL, which
//! tells them apart for RocksDB; whether it dropped a torn record or the rest of a former WAL it does not say, and
//! only one of them is worth a word. So the end is looked for here too, in RocksDB's format (`db/log_format.h`):
//!
//! ```text
//!   block of 32 KiB   record*  zeros where no header fits
//!   record            crc32c (4, masked)  length (2)  type (1)  WAL number (4)  payload
//!   type              5 whole, or a fragment: 6 first, 7 middle, 8 last; 1 to 4 without the number: never recycled
//! ```

use std::{
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

const BLOCK_BYTES: usize = 32 << 10;
/// A record that lost its header cannot hide the next one for longer.
const SEARCHED_BYTES: usize = 4 * BLOCK_BYTES;
/// Where a record's type is, and where the sum begins.
const KIND_AT: usize = 6;
const PLAIN: RangeInclusive<u8> = 1..=4;
const NUMBERED: RangeInclusive<u8> = 5..=8;

/// How a WAL ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Bytes up to the end of its last whole record.
    pub end: u64,
    /// Bytes of it behind that, at least: a torn record, or whole ones behind a damaged one.
    pub torn: u64,
}

/// The WAL of a RocksDB directory that was written last.
pub fn last(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut last = None;
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        last = last.max(number(&path).map(|number| (number, path)));
    }
    Ok(last.map(|(_, path)| path))
}

fn number(path: &Path) -> Option<u64> {
    let is_wal = path.extension().is_some_and(|extension| extension == "log");
    is_wal.then(|| path.file_stem()?.to_str()?.parse().ok()).flatten()
}

/// How the WAL in `path` ends.
pub fn tail(path: &Path) -> io::Result<Tail> {
    // RocksDB writes the low half of the number.
    Ok(tail_of(&fs::read(path)?, number(path).unwrap_or_default() as u32))
}

/// How the WAL that was written last ends; a directory without one has torn nothing.
pub(super) fn last_tail(directory: &Path) -> io::Result<Tail> {
    last(directory)?.map_or(Ok(Tail::default()), |wal| tail(&wal))
}

fn tail_of(content: &[u8], number: u32) -> Tail {
    let format = Format {
        number,
        is_numbered: content.get(KIND_AT).is_some_and(|kind| NUMBERED.contains(kind)),
    };
    // Fragments count once the last one is there.
    let (mut at, mut end, mut is_whole) = (0, 0, true);
    let behind = loop {
        let room = BLOCK_BYTES - at % BLOCK_BYTES;
        if room < format.header_bytes() {
            at += room;
            continue;
        }
        let rest = &content[at.min(content.len())..(at + room).min(content.len())];
        match format.record(rest) {
            Record::Whole { bytes, ends } => {
                at += bytes;
                is_whole = ends;
                end = if ends { at } else { end };
            }
            Record::Torn { bytes } => break at + bytes,
            Record::Foreign if format.is_numbered => break format.next_record(content, at).unwrap_or(at),
            Record::Foreign => break content.len().max(at),
        }
    };
    let torn = behind - if is_whole { at } else { end };
    Tail {
        end: end as u64,
        torn: torn as u64,
    }
}

enum Record {
    Whole { bytes: usize, ends: bool },
    Torn { bytes: usize },
    Foreign,
}

/// How the records of one WAL look.
struct Format {
    number: u32,
    is_numbered: bool,
}

impl Format {
    fn header_bytes(&self) -> usize {
        if self.is_numbered { 11 } else { 7 }
    }

    /// What `rest` of a block begins with.
    fn record(&self, rest: &[u8]) -> Record {
        let Some(header) = rest.get(..self.header_bytes()) else {
            return match rest.len() {
                0 => Record::Foreign,
                bytes => Record::Torn { bytes },
            };
        };
        let kind = header[KIND_AT];
        let is_ours = if self.is_numbered {
            NUMBERED.contains(&kind) && header[KIND_AT + 1..] == self.number.to_le_bytes()
        } else {
            PLAIN.contains(&kind)
        };
        if !is_ours {
            return Record::Foreign;
        }
        let bytes = header.len() + usize::from(u16::from_le_bytes([header[4], header[5]]));
        let masked = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let checksum = masked.wrapping_sub(0xa282_ead8).rotate_right(17);
        match rest.get(KIND_AT..bytes) {
            Some(summed) if crc32c::crc32c(summed) == checksum => {
                let ends = matches!(kind, 1 | 4 | 5 | 8);
                Record::Whole { bytes, ends }
            }
            _ => Record::Torn {
                bytes: bytes.min(rest.len()),
            },
        }
    }

    /// The end of the next whole record behind `from`, not far away.
    fn next_record(&self, content: &[u8], from: usize) -> Option<usize> {
        let until = content.len().min(from + SEARCHED_BYTES);
        (from..until).find_map(|at| {
            let block_end = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
            match self.record(&content[at..block_end.min(content.len())]) {
                Record::Whole { bytes, .. } => Some(at + bytes),
                _ => None,
            }
        })
    }
}
