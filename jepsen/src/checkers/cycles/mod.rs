//! Cycles: transactions that depend on each other in a circle have no serial order, whatever their headers say.
//!
//! ```text
//!   T1 wrote what T2 read        T1 --wr--> T2       write, read
//!   T2 overwrote what T1 wrote   T1 --ww--> T2       write, write
//!   T2 overwrote what T1 read    T1 --rw--> T2       read, write
//!   T2 began after T1 had ended  T1 --rt--> T2       real time
//! ```
//! Names are Adya's, as Elle uses them: G0 (only ww), G1c (ww and wr), G-single (one rw), G2 (several), each with
//! `-realtime` when it takes real time to close the circle; and what needs no circle: G1a (read of an aborted
//! write), G1b (read of an intermediate one), internal, lost update, dirty update, incompatible order, duplicate
//! elements, cyclic versions, garbage read.
//! Two ways to know the order of versions: lists tell their past themselves (`lists`), registers need unique
//! values and inference (`registers`). Not here: how a history becomes transactions (`convert`).

mod convert;
mod graph;
mod lists;
mod registers;

pub use convert::{elements, list_transactions, register_transactions};
pub use lists::check as check_lists;
pub use registers::check as check_registers;

use super::Anomaly;
use crate::expectations::{Expectations, Promise};
use crate::history::Record;

const CHECKER: &str = "cycles";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Committed,
    Aborted,
    /// Committed if somebody has seen it.
    Unknown,
}

/// One transaction, as a client knows it.
#[derive(Clone, Debug)]
pub struct Transaction<O> {
    /// Where its record is.
    pub place: usize,
    pub invoked: u64,
    /// [`NEVER`](crate::history::NEVER) for an unknown one.
    pub returned: u64,
    pub status: Status,
    /// In the order in which it did them.
    pub operations: Vec<O>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListOperation {
    Append { key: String, element: String },
    Read { key: String, list: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterOperation {
    Write { key: String, value: String },
    Read { key: String, value: Option<String> },
}

/// Every workload of transactions that the run promises.
pub fn check(history: &[Record], expectations: &Expectations) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for promise in &expectations.promises {
        match promise {
            Promise::Lists { prefix } => anomalies.extend(check_lists(&list_transactions(history, prefix))),
            Promise::Registers { prefix } => {
                anomalies.extend(check_registers(&register_transactions(history, prefix)));
            }
            _ => {}
        }
    }
    anomalies
}

fn anomaly(name: &str, text: String, places: &[usize]) -> Anomaly {
    Anomaly::new(CHECKER, name, text, places)
}
