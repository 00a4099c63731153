//! What is known about a run besides its history: who watched, what was promised, how patient to be.
//!
//! ```text
//!   {"Expectations":{"members":3,"drained":true,"closed":true,...,
//!                    "promises":[{"Bank":{"prefix":"bank/","total":1000}}]}}
//! ```
//! A world writes them into its history as one record, so that a file can be judged without it.
//! Not here: what every etcd owes everybody. That is checked always.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expectations {
    /// The history holds a watch of everything from revision 1 on for each member in `0..members`.
    pub members: u32,
    /// Watches that are open at the end had the time to receive everything.
    pub drained: bool,
    /// Nobody wrote whose operations are not in the history.
    pub closed: bool,
    /// A lease may end this much before its time: what clocks and the recorder may be off by.
    pub lease_early_ms: u64,
    /// And must have ended this much after it: failovers and the expiry loop. None: whenever.
    pub lease_late_ms: Option<u64>,
    /// Bounds of the search for a linearization.
    pub search: SearchLimits,
    /// What the workloads of this run promise.
    pub promises: Vec<Promise>,
}

impl Default for Expectations {
    fn default() -> Expectations {
        Expectations {
            members: 1,
            drained: false,
            closed: true,
            lease_early_ms: 50,
            lease_late_ms: None,
            search: SearchLimits::default(),
            promises: Vec::new(),
        }
    }
}

/// Beyond either, the verdict is Unknown, which counts as a failure. No steps at all: no search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchLimits {
    /// 0: no search is asked for, only the complete checkers.
    pub steps_max: u64,
    pub memory_bytes_max: usize,
}

impl Default for SearchLimits {
    fn default() -> SearchLimits {
        SearchLimits {
            steps_max: 50_000_000,
            memory_bytes_max: 1 << 30,
        }
    }
}

/// The convention by which one workload names its keys and writes its values, and so what can be checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Promise {
    /// Accounts under `prefix` hold decimal numbers. From the revision at which they first sum to `total`, every
    /// state and every read of the whole prefix does.
    Bank { prefix: String, total: i64 },
    /// An element is a key under `prefix`, put once and never deleted; reads are ranges over the prefix.
    Set { prefix: String },
    /// A payment `id` is one txn: compare create(`receipts` + id) == 0, put it with the value `from:to:amount`, and
    /// put both balances `accounts` + from and `accounts` + to. Whoever does not know the outcome tries the same id
    /// again. Balances change in no other way, once all exist.
    Payments { receipts: String, accounts: String },
    /// `lock` holds its owner's name while held; every element of the comma-joined list in `resource` is
    /// `owner:something`, and is added by the owner at that time.
    Lock { lock: String, resource: String },
    /// Keys under `prefix` hold comma-joined lists. A txn appends by putting the list it has read and one element
    /// more, guarded by a compare of the key's mod revision or value. Elements are unique per key.
    Lists { prefix: String },
    /// Keys under `prefix` are registers: every value is written at most once.
    Registers { prefix: String },
}
