//! Linearizability by search: is there any order, within real time, in which a sequential machine answers so?
//!
//! ```text
//!   A  |---- put 1 ----|                       an order that fits: put 1, get 1, put 2, get 2
//!   B       |---- put 2 ----|
//!   C         |- get 1 -|     |- get 2 -|      NP-hard in general, quick where few overlap
//! ```
//! The second opinion: it believes no header. Intervals are tried in the order in which they are given, so whoever
//! knows a likely order gives them in that. No verdict depends on it: "linearizable" stands for an order that the
//! machine has accepted step by step within real time, "illegal" for none being left.
//! Partitions (keys that no operation connects) are searched in turns with budgets that grow eightfold, because one
//! hopeless partition must not keep the others from being found illegal. Beyond the limits the verdict is Unknown,
//! and that is a failure: what was not judged is not right.
//! Not here: what the operations mean (`Model`; `register` and `keyvalue` are two).

mod keyvalue;
mod register;
mod search;

pub use keyvalue::check;
pub use register::{Register, RegisterOperation};
pub use search::Search;

use crate::expectations::SearchLimits;
use std::hash::Hash;

/// A sequential machine. What an operation answered is part of the operation.
pub trait Model {
    type Operation;
    type State: Clone + Eq + Hash;

    fn initial(&self) -> Self::State;

    /// The state after `operation`; None when it cannot have answered like this in `state`.
    fn step(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;

    /// What a state holds outside of itself and shares with no other.
    fn heap_bytes(&self, _state: &Self::State) -> usize {
        0
    }
}

/// An operation in its time, both ends included.
#[derive(Clone, Debug)]
pub struct Interval<O> {
    pub call: u64,
    /// [`NEVER`](crate::history::NEVER): it may have happened at any time after the call, or not at all.
    pub end: u64,
    /// Whatever the caller knows it by.
    pub place: usize,
    pub operation: O,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Illegal(Dead),
    /// Why the search gave up.
    Unknown(String),
}

/// As far as any order gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dead {
    /// Places of the longest order that fits.
    pub linearized: Vec<usize>,
    /// The operation that had to come next, and could not.
    pub blocked: usize,
}

/// Steps of each partition in the first round.
const FIRST_BUDGET: u64 = 1000;
const BUDGET_GROWTH: u64 = 8;

/// The verdict over partitions that no operation connects: illegal as soon as one of them is.
///
/// The order of the intervals is a guess at theirs, and costs or saves steps, but decides nothing.
pub fn check_partitions<M: Model>(partitions: Vec<(M, Vec<Interval<M::Operation>>)>, limits: SearchLimits) -> Verdict {
    let mut open: Vec<_> = partitions
        .into_iter()
        .map(|(model, intervals)| Search::new(model, intervals))
        .collect();
    let mut steps = 0;
    let mut budget = FIRST_BUDGET;
    while !open.is_empty() {
        let mut undecided = Vec::new();
        let mut bytes = 0;
        for mut search in open {
            let verdict = search.run(budget);
            steps += search.take_steps();
            bytes += search.bytes();
            match verdict {
                Some(Verdict::Linearizable) => bytes -= search.bytes(),
                Some(verdict) => return verdict,
                None => undecided.push(search),
            }
            if bytes > limits.memory_bytes_max {
                return Verdict::Unknown(format!(
                    "{steps} steps need more than {} bytes",
                    limits.memory_bytes_max
                ));
            }
            if steps > limits.steps_max {
                return Verdict::Unknown(format!("undecided after {steps} steps"));
            }
        }
        open = undecided;
        budget = (budget * BUDGET_GROWTH).min(limits.steps_max);
    }
    Verdict::Linearizable
}
