//! Which revisions may have been compacted, and which certainly were, at any time.
//!
//! ```text
//!   compact 5   |------|           may have been done from here: |      certainly from here:        |
//! ```
//! A compaction leaves no trace in the log; only whoever asked for it knows. Not here: what it makes illegal.

use super::revision::{Placed, operations};
use crate::history::{Outcome, Record, Request};

pub struct Compactions<'a> {
    all: Vec<(i64, Placed<'a>)>,
    /// Of acknowledged ones: (returned, highest so far, place), by time.
    done: Vec<(u64, i64, usize)>,
    /// Of those that may have happened: (invoked, highest so far), by time.
    begun: Vec<(u64, i64)>,
}

impl<'a> Compactions<'a> {
    pub fn of(history: &'a [Record]) -> Compactions<'a> {
        let all: Vec<_> = operations(history)
            .filter_map(|placed| match &placed.1.request {
                Request::Compact { revision } if !matches!(placed.1.outcome, Outcome::Failed(_)) => {
                    Some((*revision, placed))
                }
                _ => None,
            })
            .collect();
        let acknowledged = all
            .iter()
            .filter(|(_, (_, operation))| matches!(operation.outcome, Outcome::Ok(_)));
        let mut done: Vec<_> = acknowledged
            .map(|(revision, (place, operation))| (operation.returned, *revision, *place))
            .collect();
        done.sort_unstable();
        for at in 1..done.len() {
            if done[at].1 < done[at - 1].1 {
                (done[at].1, done[at].2) = (done[at - 1].1, done[at - 1].2);
            }
        }
        let mut begun: Vec<_> = all
            .iter()
            .map(|(revision, (_, operation))| (operation.invoked, *revision))
            .collect();
        begun.sort_unstable();
        for at in 1..begun.len() {
            begun[at].1 = begun[at].1.max(begun[at - 1].1);
        }
        Compactions { all, done, begun }
    }

    /// The highest compaction that was certainly done before `time`, and its place.
    pub fn done_before(&self, time: u64) -> Option<(i64, usize)> {
        let count = self.done.partition_point(|(returned, ..)| *returned < time);
        self.done[..count]
            .last()
            .map(|(_, revision, place)| (*revision, *place))
    }

    /// The highest compaction that may have been done by `time`.
    pub fn begun_by(&self, time: u64) -> i64 {
        let count = self.begun.partition_point(|(invoked, _)| *invoked <= time);
        self.begun[..count].last().map_or(0, |(_, revision)| *revision)
    }

    /// Whether another compaction may have been there before `operation`, a compaction of `revision`.
    pub fn excuses(&self, revision: i64, (place, operation): Placed<'_>) -> bool {
        self.all.iter().any(|(other, (other_place, other_operation))| {
            *other >= revision && *other_place != place && other_operation.invoked <= operation.returned
        })
    }
}
