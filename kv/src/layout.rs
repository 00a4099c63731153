//! Where every row lives. The one place that knows the bytes of keys below `cur` and `gone` (whose keys
//! are the clients' own).
//!
//! ```text
//! ev    main (8), sub (8)                    the event
//! meta  s                                    the state row: see state.rs
//!       m                                    the membership
//!       a alarm (4) member (8)               an active alarm
//!       l lease (8)                          its TTL
//!       k lease (8) key                      the key is attached to the lease
//!       g main (8) sub (8)                   the deleted key whose row in `gone` says this revision
//!       f low key                            a block of fences: see count.rs
//!       r                                    the revision as of which the fences count
//! ```
//! Numbers are big endian. The rows `g` mirror `gone` in the order of revisions, so that a compaction finds
//! what to forget without reading an event that it drops or a row that it keeps.

use crate::{arena::Arena, record::Revision};
use bytes::{BufMut, Bytes, BytesMut};

/// The state row of `meta`.
pub const STATE: &[u8] = b"s";
/// The membership row of `meta`.
pub const MEMBERSHIP: &[u8] = b"m";
/// The row of `meta` with the fences' revision.
pub const FENCES_REVISION: &[u8] = b"r";
/// The first byte of alarm rows.
pub const ALARM: u8 = b'a';
/// The first byte of lease rows.
pub const LEASE: u8 = b'l';
/// The first byte of rows that attach a key to a lease.
pub const LEASE_KEY: u8 = b'k';
/// The first byte of rows that order `gone` by revision.
pub const GONE_AT: u8 = b'g';
/// The first byte of the fences' rows.
pub const FENCES: u8 = b'f';

/// The key of an event in `ev`.
pub fn event_key(at: Revision) -> Bytes {
    Bytes::copy_from_slice(&revision_bytes(at))
}

/// The same, in a piece of memory with others.
pub(crate) fn event_key_in(at: Revision, arena: &mut Arena) -> Bytes {
    let key = revision_bytes(at);
    arena.room(key.len()).extend_from_slice(&key);
    arena.take()
}

/// A revision as keys hold it.
pub fn revision_bytes(at: Revision) -> [u8; 16] {
    let mut key = [0; 16];
    let (main, sub) = key.split_at_mut(8);
    main.copy_from_slice(&at.main.to_be_bytes());
    sub.copy_from_slice(&at.sub.to_be_bytes());
    key
}

/// The first key of a revision's events in `ev`.
pub fn revision_key(main: i64) -> Bytes {
    event_key(Revision { main, sub: 0 })
}

/// Reads a key of `ev`, a value of `gone`, or the rest of a `g` row.
pub fn revision_of(key: &[u8]) -> Revision {
    assert!(key.len() == 16, "corrupt revision: {} bytes instead of 16", key.len());
    Revision {
        main: number_at(key, 0),
        sub: number_at(key, 8),
    }
}

/// The row of `meta` that a deleted key has besides its row in `gone`.
pub fn gone_at(at: Revision) -> Bytes {
    prefixed(GONE_AT, &[&at.main.to_be_bytes(), &at.sub.to_be_bytes()])
}

/// The row of a lease.
pub fn lease(id: i64) -> Bytes {
    prefixed(LEASE, &[&id.to_be_bytes()])
}

/// What the rows of a lease's keys start with.
pub fn lease_keys(id: i64) -> Bytes {
    prefixed(LEASE_KEY, &[&id.to_be_bytes()])
}

/// The row that attaches a key to a lease.
pub fn lease_key(id: i64, key: &[u8]) -> Bytes {
    prefixed(LEASE_KEY, &[&id.to_be_bytes(), key])
}

/// The bytes of a lease-key row before the key.
pub const LEASE_KEY_PREFIX_BYTES: usize = 9;

/// The row of an active alarm.
pub fn alarm(alarm: i32, member: u64) -> Bytes {
    prefixed(ALARM, &[&alarm.to_be_bytes(), &member.to_be_bytes()])
}

/// The row of a block of fences.
pub fn fences(low: &[u8]) -> Bytes {
    prefixed(FENCES, &[low])
}

/// The big-endian number at an offset of a row whose length was checked.
pub fn number_at(row: &[u8], offset: usize) -> i64 {
    let bytes = row
        .get(offset..offset + 8)
        .expect("corrupt row: it ends within a number");
    i64::from_be_bytes(bytes.try_into().expect("eight bytes were taken"))
}

/// The first key behind every key with this prefix.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix
        .iter()
        .rposition(|byte| *byte != u8::MAX)
        .map_or(0, |last| last + 1);
    assert!(kept > 0, "a prefix of only 0xff bytes has no end");
    let mut end = BytesMut::from(&prefix[..kept]);
    end[kept - 1] += 1;
    end.freeze()
}

fn prefixed(prefix: u8, parts: &[&[u8]]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.put_u8(prefix);
    for part in parts {
        key.put_slice(part);
    }
    key.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_behind_its_last_key() {
        assert_eq!(prefix_end(b"k\xff"), Bytes::from_static(b"l"));
        assert_eq!(prefix_end(&lease_keys(-1)), Bytes::from_static(b"l"));
        assert_eq!(prefix_end(b"ab"), Bytes::from_static(b"ac"));
    }

    #[test]
    fn revisions_order_like_their_keys() {
        let (a, b) = (Revision { main: 2, sub: 300 }, Revision { main: 256, sub: 0 });
        assert!(event_key(a) < event_key(b));
        assert_eq!(revision_of(&event_key(a)), a);
    }
}
