//! Hashes that members compare. All are equal on members that applied the same entries, and every one is
//! kept up to date by apply, so that asking costs nothing.
//!
//! | hash | over | checked by |
//! |---|---|---|
//! | rows | sum over live keys of hash(key, record) | HashKV, which walks the rows again |
//! | events | chain over every change since the beginning | comparing members |
//! | other | sum over the rows of leases and alarms | comparing members |
//!
//! A sum does not depend on the order of rows, and a row is taken out as easily as it is put in.

use crate::{
    engine::Rows,
    history::Forgotten,
    layout,
    range::{self, At},
    record::{Revision, row_hash},
    state::State,
};
use prost::Message;
use proto::node::Membership;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// A hash of the live keys at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// The revision below which nothing is known; -1 before the first compaction.
    pub compact_revision: i64,
    /// The revision whose keys were hashed.
    pub hash_revision: i64,
}

/// Walks the live keys at a revision and sums up their hashes.
pub fn sum_of_rows<R: Rows>(rows: &R, at: At) -> Result<u64, Forgotten> {
    range::scan(rows, &[], None, at).try_fold(0_u64, |sum, live| {
        let (key, record) = live?;
        Ok(sum.wrapping_add(row_hash(&key, &record.encode())))
    })
}

/// The 32 bits of a sum that HashKV reports.
pub fn folded(sum: u64) -> u32 {
    (sum ^ (sum >> 32)) as u32
}

/// Adds a change to the chain: the new row, or `None` for a delete. What it replaced is left out: it follows
/// from the changes before, and what of it is still stored depends on when forgotten rows were swept.
pub fn chained(chain: u64, at: Revision, key: &[u8], row: Option<u64>) -> u64 {
    let seed = chain ^ row.unwrap_or(0).rotate_left(32) ^ xxh3_64(&layout::revision_bytes(at));
    xxh3_64_with_seed(key, seed)
}

/// All of the replicated state in one number.
pub fn of_state(state: &State, membership: &Membership) -> u64 {
    xxh3_64_with_seed(&membership.encode_to_vec(), xxh3_64(&state.encode()))
}
