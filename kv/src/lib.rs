//! The state machine: what etcd calls MVCC, leases and alarms, over ordered bytes.
//!
//! Synchronous and deterministic: no async, no clock, no randomness, no thread, no log line. A [`Store`] takes
//! log entries and gives outcomes; a [`View`] answers readers at one revision. What is below is an
//! [`engine::Engine`], on disk or in memory.
//!
//! Read in this order: `store`, `apply`, `writer`, then `view`, `range`, `history`; `layout` has the map of rows.

mod appended;
mod apply;
mod arena;
mod check;
mod chunks;
mod count;
mod encoded;
pub mod engine;
mod events;
mod hash;
mod history;
mod layout;
pub mod mutants;
mod opening;
mod range;
mod record;
mod registry;
mod ring;
mod shared;
mod state;
mod store;
mod touched;
mod txn;
mod view;
mod writer;

pub use apply::{LeaseChange, Response};
pub use check::{check_delete, check_put, check_range, check_txn, quota_cost};
pub use chunks::RangeChunks;
pub use encoded::{EncodedRange, RangeTail};
pub use engine::{
    memory::MemoryEngine,
    rocks::{RocksEngine, RocksOptions},
};
pub use events::{Compacted, EventsPage};
pub use hash::HashKv;
pub use range::REPLY_BYTES_MAX;
pub use record::{Event, PrevKv, Record, Revision};
pub use state::Applied;
pub use store::{EntryOutcome, Flush, LogEntry, Store, StoreOptions};
pub use view::{LeaseRow, View};
