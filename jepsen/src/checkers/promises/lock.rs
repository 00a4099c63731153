//! A lock and what it protects: every element of the list was added by whoever held the lock at that revision.
//!
//! ```text
//!   revision   5: lock = ann   6: list = ann:1   7: lock deleted (its lease ended)   8: lock = bob
//!              9: list = ann:1,ann:2                       "write without the lock": ann was paused too long
//!             10: list = ann:1,bob:1                       "lost update": bob had read the list before 9
//! ```
//! A lock of a lease alone is no mutex, and this is how that is seen; one whose writes compare the lock is.

use super::anomaly;
use crate::checkers::Anomaly;
use crate::checkers::canonical::Log;
use crate::checkers::cycles::elements;
use crate::checkers::revision::Claims;

pub fn check(log: &Log, claims: &Claims, lock: &str, resource: &str) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (revision, events) in log.from(2) {
        let Some(event) = events.iter().find(|event| event.kv.key == resource) else {
            continue;
        };
        let before = log.at(revision - 1);
        let old = elements(before.get(resource).map_or("", |kv| &kv.value));
        let new = elements(&event.kv.value);
        let places: Vec<_> = claims.place_of(revision).into_iter().collect();
        let Some(added) = new.strip_prefix(old.as_slice()).filter(|_| !event.is_delete) else {
            let text = format!("revision {revision} makes {new:?} of {old:?} in {resource}");
            anomalies.push(anomaly("lost update", text, &places));
            continue;
        };
        let holder = before.get(lock).map(|kv| kv.value.as_str());
        let strangers = added.iter().filter(|element| element.split(':').next() != holder);
        for element in strangers {
            let text = format!("revision {revision} adds {element} to {resource} while {holder:?} holds {lock}");
            anomalies.push(anomaly("write without the lock", text, &places));
        }
    }
    anomalies
}
