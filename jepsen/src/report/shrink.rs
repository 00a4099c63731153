//! Delta debugging: the smallest history that a greedy search finds which still shows the same anomaly.
//!
//! ```text
//!   all -> without process 7? -> without key "x"? -> without the first half? -> without this one?
//! ```
//! Only what proves nothing by its absence may go. Watches stay, they are the log; a write may go unless its
//! checker would miss it: the search for linearizations cannot explain a read whose write is gone, so for that
//! one only reads go. Whoever wrote what was taken out is nobody, so the rest is judged as an open world.
//! Not here: how what is left is shown (`timeline`).

use crate::checkers::{Anomaly, check_all};
use crate::expectations::Expectations;
use crate::history::{Operation, Record, Request};
use std::collections::BTreeSet;

/// Each attempt judges a whole history; so many must do.
const ATTEMPTS_MAX: usize = 400;

/// What is left, with the anomaly as it shows there.
pub struct Shrunk {
    pub history: Vec<Record>,
    pub anomaly: Anomaly,
}

/// Makes the history of `anomaly` small. What it returns shows an anomaly of the same checker and name.
pub fn shrink(history: &[Record], anomaly: &Anomaly, expectations: &Expectations) -> Shrunk {
    let mut search = Shrink {
        closed: anomaly.name == "write of nobody",
        best: Shrunk {
            history: history.to_vec(),
            anomaly: anomaly.clone(),
        },
        expectations,
        attempts: 0,
    };
    // The first half and the second, then quarters: a window of time.
    for parts in [2, 4, 8] {
        search.without_parts(parts);
    }
    search.without_groups(|operation| operation.process.to_string());
    search.without_groups(|operation| first_key(&operation.request).to_owned());
    search.without_singles();
    search.best
}

struct Shrink<'a> {
    best: Shrunk,
    expectations: &'a Expectations,
    /// Whether writes of nobody are what is looked for; then no write may go.
    closed: bool,
    attempts: usize,
}

impl Shrink<'_> {
    fn without_parts(&mut self, parts: usize) {
        for part in (0..parts).rev() {
            let places = self.removable();
            let size = places.len().div_ceil(parts).max(1);
            let gone: BTreeSet<_> = places.into_iter().skip(part * size).take(size).collect();
            self.attempt(&gone);
        }
    }

    fn without_groups(&mut self, group: fn(&Operation) -> String) {
        let names: BTreeSet<String> = operations(&self.best.history)
            .map(|(_, operation)| group(operation))
            .collect();
        for name in names {
            let of_group: BTreeSet<_> = operations(&self.best.history)
                .filter(|(_, operation)| group(operation) == name)
                .map(|(place, _)| place)
                .collect();
            let gone = self.removable().into_iter().filter(|place| of_group.contains(place));
            let gone = gone.collect();
            self.attempt(&gone);
        }
    }

    /// One after the other, from the end: what follows an anomaly is seldom its cause.
    fn without_singles(&mut self) {
        for place in self.removable().into_iter().rev() {
            self.attempt(&BTreeSet::from([place]));
        }
    }

    /// Places of what may be taken out.
    fn removable(&self) -> Vec<usize> {
        let keeps_writes = self.closed || self.best.anomaly.checker == "linearizable";
        let removable = operations(&self.best.history).filter(|(_, operation)| {
            let is_read = matches!(operation.request, Request::Range(_));
            is_read || !keeps_writes
        });
        let shown = &self.best.anomaly.operations;
        removable
            .map(|(place, _)| place)
            .filter(|place| !shown.contains(place))
            .collect()
    }

    fn attempt(&mut self, gone: &BTreeSet<usize>) {
        if gone.is_empty() || self.attempts == ATTEMPTS_MAX {
            return;
        }
        self.attempts += 1;
        let kept = self.best.history.iter().enumerate();
        let history: Vec<Record> = kept
            .filter(|(place, _)| !gone.contains(place))
            .map(|(_, record)| record.clone())
            .collect();
        let expectations = Expectations {
            closed: self.closed,
            ..self.expectations.clone()
        };
        let wanted = &self.best.anomaly;
        let found = check_all(&history, &expectations)
            .into_iter()
            .find(|found| found.checker == wanted.checker && found.name == wanted.name);
        if let Some(anomaly) = found {
            self.best = Shrunk { history, anomaly };
        }
    }
}

fn operations(history: &[Record]) -> impl Iterator<Item = (usize, &Operation)> {
    history.iter().enumerate().filter_map(|(place, record)| match record {
        Record::Operation(operation) => Some((place, operation)),
        _ => None,
    })
}

/// A key by which operations belong together; those without one, too.
fn first_key(request: &Request) -> &str {
    match request {
        Request::Range(range) => &range.key,
        Request::Put(put) => &put.key,
        Request::DeleteRange(delete) => &delete.key,
        Request::Txn(txn) => {
            let compared = txn.compares.first().map(|compare| compare.key.as_str());
            let done = txn.success.first().map(first_key);
            compared.or(done).unwrap_or_default()
        }
        _ => "",
    }
}
