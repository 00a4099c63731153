//! The revision checker: every operation against the canonical log. Complete, and O(n log n).
//!
//! ```text
//!   canonical log      2      3      4      5           the only possible order
//!   states          S1     S2     S3     S4     S5
//!   put a -> 4      must be revision 4's only event: a=..., and nobody else's
//!   get a -> 3      must be what S3 holds
//!   what came before the call of an operation must not have a higher revision than it (`order`)
//! ```
//! Etcd's header.revision says where in the order an operation took place, so nothing needs to be searched: the log
//! fixes the order, one sweep compares it with real time. What it trusts is that the log is one log (`canonical`
//! checks) and that headers do not lie all together (`linearizable` checks, without looking at them).
//! Not here: watches and leases.

mod claims;
mod order;
mod refusals;
mod replies;

use claims::claims;
pub use claims::{Claims, lease_of_end};
pub use order::{Floors, is_linearizable};

use super::canonical::Log;
use super::{Anomaly, describe};
use crate::expectations::Expectations;
use crate::history::{Operation, Record};

const CHECKER: &str = "revision";

/// An operation and its place in the history.
pub type Placed<'a> = (usize, &'a Operation);

/// What is wrong, and who made which revision.
pub fn check(history: &[Record], log: &Log, expectations: &Expectations) -> (Claims, Vec<Anomaly>) {
    let floors = Floors::of(history);
    let (claims, mut anomalies) = claims(history, log, &floors, expectations);
    anomalies.extend(order::check(history, &claims, &floors));
    anomalies.extend(refusals::check(history, log, &claims, &floors));
    (claims, anomalies)
}

pub(crate) fn operations(history: &[Record]) -> impl Iterator<Item = Placed<'_>> {
    history.iter().enumerate().filter_map(|(place, record)| match record {
        Record::Operation(operation) => Some((place, operation)),
        _ => None,
    })
}

fn anomaly(name: &str, text: String, operations: &[usize]) -> Anomaly {
    Anomaly::new(CHECKER, name, text, operations)
}

fn about(operation: &Operation) -> String {
    format!("process {}: {}", operation.process, describe::operation(operation))
}
