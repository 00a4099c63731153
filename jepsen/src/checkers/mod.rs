//! The judges. Each is a pure function from a history to what is wrong with it.
//!
//! ```text
//!   canonical      every member's watch from revision 1 -> the one log they must agree on
//!   revision       every operation against that log: complete, and O(n log n)
//!   watch          every watch against that log
//!   lease          every lease against time and that log
//!   linearizable   a search that looks at no revision: the second opinion
//!   cycles         dependencies between transactions, anomalies named as by Adya
//!   promises       what single workloads promise: bank, set, payments, lock
//! ```
//! Both worlds end with one call:
//! ```
//! # use jepsen::{checkers::check_all, expectations::Expectations};
//! let anomalies = check_all(&[], &Expectations { members: 0, ..Expectations::default() });
//! assert!(anomalies.is_empty());
//! ```
//! Not here: how histories come about (`world/`), how an anomaly is shrunk and drawn (`report/`).

pub mod canonical;
mod compactions;
pub mod cycles;
pub mod describe;
pub mod finals;
pub mod lease;
pub mod linearizable;
pub mod promises;
pub mod revision;
pub mod watch;

use crate::expectations::Expectations;
use crate::history::Record;
use serde::{Deserialize, Serialize};

/// One thing that no correct etcd does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    /// The module that found it.
    pub checker: String,
    /// What it is called; the same kind of break has the same name in every history.
    pub name: String,
    /// What was expected and what was found, for people.
    pub text: String,
    /// Places in the history of the records that show it.
    pub operations: Vec<usize>,
}

impl Anomaly {
    pub fn new(checker: &str, name: &str, text: impl Into<String>, operations: &[usize]) -> Anomaly {
        Anomaly {
            checker: checker.to_owned(),
            name: name.to_owned(),
            text: text.into(),
            operations: operations.to_vec(),
        }
    }
}

/// Everything that is wrong with a history, by every checker that applies to it.
pub fn check_all(history: &[Record], expectations: &Expectations) -> Vec<Anomaly> {
    let (log, mut anomalies) = canonical::read(history, expectations);
    let (claims, wrong) = revision::check(history, &log, expectations);
    anomalies.extend(wrong);
    anomalies.extend(watch::check(history, &log, expectations));
    anomalies.extend(lease::check(history, &log, &claims, expectations));
    anomalies.extend(promises::check(history, &log, &claims, expectations));
    anomalies.extend(cycles::check(history, expectations));
    if expectations.search.steps_max > 0 {
        anomalies.extend(linearizable::check(history, &log, &claims, expectations));
    }
    anomalies.extend(finals::check(history, &log, expectations));
    anomalies
}

/// What the history says about itself, or the default.
pub fn expectations_of(history: &[Record]) -> Expectations {
    let said = history.iter().find_map(|record| match record {
        Record::Expectations(expectations) => Some(expectations.clone()),
        _ => None,
    });
    said.unwrap_or_default()
}
