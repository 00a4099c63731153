//! How the log's rows look, as bytes: pure encoding, no disk.
//!
//! ```text
//!   key                        value
//!   'e' index (8, big endian)  crc32 (4) chain (8) Entry as protobuf
//!   'm' name                   crc32 (4) payload
//! ```
//!
//! The checksum covers the key too, so a row that turns up in another's place is noticed. The chain hash of an
//! entry covers the entry and the chain hash before it, so one 8-byte number in MARK stands for every entry before
//! it: a log with another history cannot agree with it by having an entry of the same index and term.

use super::{EntryId, InstallIntent};
use protobuf::Message;
use raft::eraftpb::{Entry, HardState};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const CRC_BYTES: usize = 4;
const ENTRY_HEAD_BYTES: usize = CRC_BYTES + 8;
const ENTRY_PREFIX: u8 = b'e';

pub const HARD_STATE_KEY: &[u8] = b"mhard_state";
pub const TRUNCATED_KEY: &[u8] = b"mtruncated";
pub const INSTALL_INTENT_KEY: &[u8] = b"minstall_intent";
/// Behind every entry row and before every other one.
pub const ENTRIES_END: &[u8] = &[ENTRY_PREFIX + 1];

/// An entry's id and the hash of the chain up to and including it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub id: EntryId,
    pub chain: u64,
}

impl Link {
    /// The link a log begins with behind a snapshot: nothing is known of the entries before it.
    pub fn behind_snapshot(id: EntryId) -> Link {
        Link {
            id,
            chain: xxh3_64_with_seed(&id.index.to_le_bytes(), id.term),
        }
    }
}

pub fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [ENTRY_PREFIX; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The index in an entry's key.
pub fn entry_index(key: &[u8]) -> Option<u64> {
    let (&ENTRY_PREFIX, index) = key.split_first()? else {
        return None;
    };
    Some(u64::from_be_bytes(index.try_into().ok()?))
}

/// Replaces `row` by the row of `entry` and returns its link.
pub fn encode_entry(before: Link, entry: &Entry, row: &mut Vec<u8>) -> Link {
    row.clear();
    row.resize(ENTRY_HEAD_BYTES, 0);
    entry.write_to_vec(row).expect("a Vec takes every byte");
    let link = chained(
        before.chain,
        EntryId {
            index: entry.index,
            term: entry.term,
        },
        &row[ENTRY_HEAD_BYTES..],
    );
    row[CRC_BYTES..ENTRY_HEAD_BYTES].copy_from_slice(&link.chain.to_le_bytes());
    let crc = crc(&entry_key(entry.index), &row[CRC_BYTES..]);
    row[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    link
}

/// Checks the row at `index` and decodes it; with `before` also that it continues the log behind that link.
pub fn decode_entry(index: u64, row: &[u8], before: Option<Link>) -> Result<(Entry, Link), String> {
    let body = checked(&entry_key(index), row)?;
    let (chain, encoded) = body
        .split_at_checked(ENTRY_HEAD_BYTES - CRC_BYTES)
        .ok_or("the row is too short")?;
    let chain = u64::from_le_bytes(chain.try_into().expect("8 bytes were split off"));
    let mut entry = Entry::default();
    entry
        .merge_from_bytes(encoded)
        .map_err(|error| format!("the entry cannot be decoded: {error}"))?;
    let id = EntryId {
        index: entry.index,
        term: entry.term,
    };
    if id.index != index {
        return Err(format!("the row holds entry {}", id.index));
    }
    if let Some(before) = before {
        if id.index != before.id.index + 1 || id.term < before.id.term {
            return Err(format!("{id:?} cannot follow {:?}", before.id));
        }
        let expected = chained(before.chain, id, encoded).chain;
        if chain != expected {
            return Err(format!("its chain hash is {chain:016x}, expected {expected:016x}"));
        }
    }
    Ok((entry, Link { id, chain }))
}

/// Bytes of the encoded entry in a row.
pub fn entry_bytes(row: &[u8]) -> u64 {
    row.len().saturating_sub(ENTRY_HEAD_BYTES) as u64
}

pub fn encode_hard_state(hard_state: &HardState) -> Vec<u8> {
    let payload = hard_state.write_to_bytes().expect("a Vec takes every byte");
    sealed(HARD_STATE_KEY, &payload)
}

pub fn decode_hard_state(row: &[u8]) -> Result<HardState, String> {
    let mut hard_state = HardState::default();
    hard_state
        .merge_from_bytes(checked(HARD_STATE_KEY, row)?)
        .map_err(|error| format!("the HardState cannot be decoded: {error}"))?;
    Ok(hard_state)
}

pub fn encode_truncated(link: Link) -> Vec<u8> {
    sealed(TRUNCATED_KEY, &numbers(&[link.id.index, link.id.term, link.chain]))
}

pub fn decode_truncated(row: &[u8]) -> Result<Link, String> {
    let payload = checked(TRUNCATED_KEY, row)?;
    match (number(payload, 0), number(payload, 1), number(payload, 2)) {
        (Some(index), Some(term), Some(chain)) => Ok(Link {
            id: EntryId { index, term },
            chain,
        }),
        _ => Err("the row is too short".into()),
    }
}

pub fn encode_install_intent(intent: &InstallIntent) -> Vec<u8> {
    let mut payload = numbers(&[intent.index, intent.term]);
    payload.extend_from_slice(intent.directory.as_bytes());
    sealed(INSTALL_INTENT_KEY, &payload)
}

pub fn decode_install_intent(row: &[u8]) -> Result<InstallIntent, String> {
    let payload = checked(INSTALL_INTENT_KEY, row)?;
    let (Some(index), Some(term)) = (number(payload, 0), number(payload, 1)) else {
        return Err("the row is too short".into());
    };
    let directory = String::from_utf8(payload[16..].to_vec()).map_err(|_| "its directory is not UTF-8")?;
    Ok(InstallIntent { index, term, directory })
}

fn chained(chain_before: u64, id: EntryId, encoded: &[u8]) -> Link {
    Link {
        id,
        chain: xxh3_64_with_seed(encoded, chain_before),
    }
}

fn sealed(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut row = crc(key, payload).to_le_bytes().to_vec();
    row.extend_from_slice(payload);
    row
}

fn checked<'a>(key: &[u8], row: &'a [u8]) -> Result<&'a [u8], String> {
    let (stored, payload) = row.split_at_checked(CRC_BYTES).ok_or("the row is too short")?;
    let stored = u32::from_le_bytes(stored.try_into().expect("4 bytes were split off"));
    let expected = crc(key, payload);
    if stored == expected {
        Ok(payload)
    } else {
        Err(format!("its checksum is {stored:08x}, expected {expected:08x}"))
    }
}

fn crc(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn number(payload: &[u8], at: usize) -> Option<u64> {
    let bytes = payload.get(at * 8..at * 8 + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().expect("8 bytes were taken")))
}
