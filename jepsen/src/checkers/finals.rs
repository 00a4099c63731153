//! What members hold when all is quiet: the same revision, the same compaction, the same hash, the whole log.
//!
//! Not here: whether that is what clients were told (`revision`).

use super::Anomaly;
use super::canonical::Log;
use crate::expectations::Expectations;
use crate::history::{Final, Record};

const CHECKER: &str = "finals";

pub fn check(history: &[Record], log: &Log, expectations: &Expectations) -> Vec<Anomaly> {
    let finals: Vec<(usize, &Final)> = history
        .iter()
        .enumerate()
        .filter_map(|(place, record)| match record {
            Record::Final(last) => Some((place, last)),
            _ => None,
        })
        .collect();
    let mut anomalies = Vec::new();
    for pair in finals.windows(2) {
        let ((a_place, a), (b_place, b)) = (pair[0], pair[1]);
        let what_differs = [
            ("revision", a.revision != b.revision),
            ("compact revision", a.compact_revision != b.compact_revision),
            ("hash", a.hash != b.hash),
        ];
        for (what, _) in what_differs.iter().filter(|(_, differs)| *differs) {
            let text = format!("members differ in their {what}: {a:?}, {b:?}");
            anomalies.push(Anomaly::new(CHECKER, "diverged members", text, &[a_place, b_place]));
        }
    }
    for (place, last) in finals.iter().filter(|_| expectations.drained) {
        if last.revision != log.last() {
            let text = format!(
                "member {} ends at revision {}, the log at {}",
                last.member,
                last.revision,
                log.last()
            );
            anomalies.push(Anomaly::new(CHECKER, "members and watches differ", text, &[*place]));
        }
    }
    anomalies
}
