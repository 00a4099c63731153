//! The numbers that say where the state machine is: one row, written with every batch.
//!
//! Because the row rides in the same atomic write as the rows it speaks of, whatever a crash leaves is
//! consistent with it; only events *above* its revision can be there besides (a large write set is written
//! in pieces, and the row with the last of them), and those are undone at open.
//!
//! Not here: membership, alarms and leases, which have rows of their own.

use crate::layout::number_at;
use bytes::{BufMut, Bytes, BytesMut};
use proto::etcdserverpb::ResponseHeader;

const FORMAT: u8 = 1;
const ROW_BYTES: usize = 1 + 9 * 8;

/// The last log entry whose effects are in the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// Its index; 0 before the first.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The state row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The last entry applied.
    pub applied: Applied,
    /// The store's revision; 1 when nothing was ever written.
    pub revision: i64,
    /// The revision below which history is forgotten; -1 before the first compaction.
    pub compact_revision: i64,
    /// Live keys.
    pub keys_total: i64,
    /// What the live keys count against the quota.
    pub live_bytes: i64,
    /// The sum of the hashes of all live rows.
    pub rows_hash: u64,
    /// A chain over every event that ever happened.
    pub events_hash: u64,
    /// The sum of the hashes of all rows of leases and alarms.
    pub other_hash: u64,
}

impl State {
    /// A store that never saw a command.
    pub const EMPTY: Self = Self {
        applied: Applied { index: 0, term: 0 },
        revision: 1,
        compact_revision: -1,
        keys_total: 0,
        live_bytes: 0,
        rows_hash: 0,
        events_hash: 0,
        other_hash: 0,
    };

    /// The row.
    pub fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(ROW_BYTES);
        row.put_u8(FORMAT);
        row.put_u64(self.applied.index);
        row.put_u64(self.applied.term);
        for number in [self.revision, self.compact_revision, self.keys_total, self.live_bytes] {
            row.put_i64(number);
        }
        for hash in [self.rows_hash, self.events_hash, self.other_hash] {
            row.put_u64(hash);
        }
        row.freeze()
    }

    /// Reads the row.
    pub fn decode(row: &[u8]) -> Self {
        assert!(
            row.len() == ROW_BYTES && row[0] == FORMAT,
            "corrupt state row: {} bytes of format {:?}, expected {ROW_BYTES} of format {FORMAT}",
            row.len(),
            row.first()
        );
        let number = |position: usize| number_at(row, 1 + position * 8);
        Self {
            applied: Applied {
                index: number(0) as u64,
                term: number(1) as u64,
            },
            revision: number(2),
            compact_revision: number(3),
            keys_total: number(4),
            live_bytes: number(5),
            rows_hash: number(6) as u64,
            events_hash: number(7) as u64,
            other_hash: number(8) as u64,
        }
    }
}

/// A header with only the revision: who and in which term is for the member to say.
#[allow(clippy::unnecessary_wraps)] // the field it fills is optional
pub fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..Default::default()
    })
}
