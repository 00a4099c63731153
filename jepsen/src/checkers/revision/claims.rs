//! Who made which revision: every acknowledged write its own, every other revision at most one unknown write.
//!
//! ```text
//!   revision   2        3        4          5           6
//!   claimed    put a    put b    (nobody)   (nobody)    txn
//!                                 |          `- deletes all keys of one lease: it ended
//!                                 `- an unknown put asked for before: it happened, once
//!                                    a failed put: "failed write took effect"
//!                                    nobody: "write of nobody"
//! ```
//! Not here: real time between acknowledged operations (`order`).

use super::order::Floors;
use super::replies::{agree, says_changed};
use super::{Placed, about, anomaly, operations};
use crate::checkers::Anomaly;
use crate::checkers::canonical::{Log, describe};
use crate::expectations::Expectations;
use crate::history::{Event, Operation, Outcome, Record, Reply, Request};
use crate::model::{Snapshot, execute, revision_of};
use std::collections::{BTreeMap, VecDeque};

/// By revision, the place of the operation that made it.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    by_revision: BTreeMap<i64, usize>,
    by_place: BTreeMap<usize, i64>,
}

impl Claims {
    /// Who made this revision; None for a lease that ended by itself, and for nobody.
    pub fn place_of(&self, revision: i64) -> Option<usize> {
        self.by_revision.get(&revision).copied()
    }

    /// Which revision this operation made.
    pub fn revision_of(&self, place: usize) -> Option<i64> {
        self.by_place.get(&place).copied()
    }

    fn insert(&mut self, revision: i64, place: usize) {
        self.by_revision.insert(revision, place);
        self.by_place.insert(place, revision);
    }
}

pub fn claims(history: &[Record], log: &Log, floors: &Floors, expectations: &Expectations) -> (Claims, Vec<Anomaly>) {
    let mut claims = Claims::default();
    let mut anomalies = Vec::new();
    for placed in operations(history) {
        if let Outcome::Ok(reply) = &placed.1.outcome {
            anomalies.extend(acknowledged(placed, reply, log, &mut claims));
        }
    }
    // Last: a revocation without keys has the revision of somebody else.
    for placed in operations(history) {
        if let (Request::LeaseRevoke { id }, Outcome::Ok(Reply::LeaseRevoke { revision })) =
            (&placed.1.request, &placed.1.outcome)
        {
            anomalies.extend(revoked(placed, *id, *revision, log, &mut claims));
        }
    }
    anomalies.extend(unclaimed(history, log, floors, expectations, &mut claims));
    (claims, anomalies)
}

/// One acknowledged request about keys, against the state in which it says to have run.
fn acknowledged((place, operation): Placed<'_>, reply: &Reply, log: &Log, claims: &mut Claims) -> Option<Anomaly> {
    let is_about_keys = matches!(
        operation.request,
        Request::Range(_) | Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_)
    );
    let revision = revision_of(reply).filter(|_| is_about_keys)?;
    let changed = says_changed(reply);
    let wrong = |name: &str, text: String| Some(anomaly(name, format!("{}: {text}", about(operation)), &[place]));
    if revision > log.last() {
        let name = if changed {
            "acknowledged write lost"
        } else {
            "revision of nowhere"
        };
        return wrong(name, format!("the log ends at {}", log.last()));
    }
    let base = log.at(revision - i64::from(changed));
    let effect = match execute(base, &operation.request) {
        Ok(effect) => effect,
        Err(refusal) => return wrong("impossible success", format!("must be refused: {}", refusal.text())),
    };
    if changed {
        if let Some(other) = claims.place_of(revision) {
            let text = format!("{}: revision {revision} is another's, too", about(operation));
            return Some(anomaly("one revision, two writes", text, &[other, place]));
        }
        if !same_changes(&effect.events, log.events(revision)) {
            let text = format!("revision {revision} of the log is {}", describe(log.events(revision)));
            return wrong("acknowledged write lost", text);
        }
        claims.insert(revision, place);
    }
    if agree(&operation.request, &effect.reply, reply) {
        return None;
    }
    let name = if changed { "wrong reply" } else { "wrong read" };
    wrong(name, format!("at that revision the reply is {:?}", effect.reply))
}

fn revoked(
    (place, operation): Placed<'_>,
    lease: i64,
    revision: i64,
    log: &Log,
    claims: &mut Claims,
) -> Option<Anomaly> {
    if revision > log.last() {
        let text = format!("{}: the log ends at {}", about(operation), log.last());
        return Some(anomaly("revision of nowhere", text, &[place]));
    }
    let is_free = claims.place_of(revision).is_none();
    if is_free && lease_of_end(log.at(revision - 1), log.events(revision)) == Some(lease) {
        claims.insert(revision, place);
    }
    let kept = log.at(revision).range("", "\0").find(|kv| kv.lease == lease)?;
    let text = format!("{}: {} is still there", about(operation), kv_key(&kept.key));
    Some(anomaly("revoked lease keeps keys", text, &[place]))
}

fn kv_key(key: &str) -> String {
    format!("the key {key}")
}

/// The lease whose end this revision is: exactly all of its keys are deleted.
pub fn lease_of_end(before: Snapshot<'_>, events: &[Event]) -> Option<i64> {
    let lease = before.get(&events.first()?.kv.key)?.lease;
    if lease == 0 || events.iter().any(|event| !event.is_delete) {
        return None;
    }
    let attached: Vec<_> = before.range("", "\0").filter(|kv| kv.lease == lease).collect();
    let is_deleted = |key: &String| events.iter().any(|event| event.kv.key == *key);
    let is_end = attached.len() == events.len() && attached.iter().all(|kv| is_deleted(&kv.key));
    is_end.then_some(lease)
}

/// Whether both change the same things in the same order, whatever they tell of before.
fn same_changes(a: &[Event], b: &[Event]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_delete == b.is_delete && a.kv == b.kv)
}

/// What an operation of unknown or failed outcome would have done to the state before `revision`.
fn would_make(operation: &Operation, log: &Log, revision: i64) -> bool {
    let before = log.at(revision - 1);
    match &operation.request {
        Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_) => {
            execute(before, &operation.request).is_ok_and(|effect| same_changes(&effect.events, log.events(revision)))
        }
        Request::LeaseRevoke { id } => lease_of_end(before, log.events(revision)) == Some(*id),
        _ => false,
    }
}

/// Explains the revisions that no acknowledged write has made.
fn unclaimed(
    history: &[Record],
    log: &Log,
    floors: &Floors,
    expectations: &Expectations,
    claims: &mut Claims,
) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let unknown = Candidates::of(history, |outcome| matches!(outcome, Outcome::Unknown(_)));
    let failed = Candidates::of(history, |outcome| matches!(outcome, Outcome::Failed(_)));
    // What looks like the end of a lease needs nobody, but may be a delete of unknown outcome as well.
    let (mut open, mut ends) = (Vec::new(), Vec::new());
    for (revision, events) in log.from(2) {
        if claims.place_of(revision).is_none() && !events.is_empty() {
            if lease_of_end(log.at(revision - 1), events).is_some() {
                ends.push(revision);
            } else {
                open.push(revision);
            }
        }
    }
    let in_time = |revision: i64, (_, operation): &Placed<'_>| floors.before(operation.invoked).0 < revision;
    let edges: Vec<Vec<Placed<'_>>> = open
        .iter()
        .map(|revision| unknown.for_revision(log, *revision))
        .collect();
    let timely: Vec<Vec<usize>> = std::iter::zip(&open, &edges)
        .map(|(revision, edges)| {
            let timely = edges.iter().filter(|placed| in_time(*revision, placed));
            timely.map(|(place, _)| *place).collect()
        })
        .collect();
    for (at, place) in match_up(&timely).into_iter().enumerate() {
        let revision = open[at];
        if let Some(place) = place {
            claims.insert(revision, place);
            continue;
        }
        let what = describe(log.events(revision));
        let failed = failed.for_revision(log, revision);
        let failed = failed.iter().find(|placed| in_time(revision, placed));
        if let Some((place, operation)) = failed {
            let text = format!("{}, yet revision {revision} is it: {what}", about(operation));
            anomalies.push(anomaly("failed write took effect", text, &[*place]));
        } else if let Some(place) = timely[at].first() {
            let text = format!("revision {revision}: {what} has happened more often than it was asked for");
            anomalies.push(anomaly("write happened twice", text, &[*place]));
        } else if let Some((place, operation)) = edges[at].first() {
            let (floor, seen_at) = floors.before(operation.invoked);
            let text = format!(
                "{}: asked for after revision {floor}, but happened as {revision}",
                about(operation)
            );
            anomalies.push(anomaly("write before its call", text, &[*place, seen_at]));
        } else if expectations.closed {
            let text = format!("revision {revision}: nobody has asked for {what}");
            anomalies.push(anomaly("write of nobody", text, &[]));
        }
    }
    for revision in ends {
        let edges = unknown.for_revision(log, revision);
        let free = edges
            .iter()
            .find(|placed| in_time(revision, placed) && claims.revision_of(placed.0).is_none());
        if let Some((place, _)) = free {
            claims.insert(revision, *place);
        }
    }
    anomalies
}

/// Operations that could explain a revision, found by what they touch.
struct Candidates<'a> {
    /// By the one key that they put or delete.
    by_key: BTreeMap<String, Vec<Placed<'a>>>,
    /// Ranges and revocations.
    others: Vec<Placed<'a>>,
}

impl<'a> Candidates<'a> {
    fn of(history: &'a [Record], is_wanted: fn(&Outcome) -> bool) -> Candidates<'a> {
        let mut candidates = Candidates {
            by_key: BTreeMap::new(),
            others: Vec::new(),
        };
        for placed in operations(history).filter(|(_, operation)| is_wanted(&operation.outcome)) {
            let mut keys = Vec::new();
            if keys_of(&placed.1.request, &mut keys) {
                keys.sort();
                keys.dedup();
                for key in keys {
                    candidates.by_key.entry(key.clone()).or_default().push(placed);
                }
            } else {
                candidates.others.push(placed);
            }
        }
        candidates
    }

    fn for_revision(&self, log: &Log, revision: i64) -> Vec<Placed<'a>> {
        let first = log.events(revision).first().map(|event| &event.kv.key);
        let by_key = first.and_then(|key| self.by_key.get(key)).into_iter().flatten();
        let all = by_key.chain(&self.others);
        all.filter(|(_, operation)| would_make(operation, log, revision))
            .copied()
            .collect()
    }
}

/// Collects the keys that a request may write; false when that cannot be said by keys.
fn keys_of<'a>(request: &'a Request, keys: &mut Vec<&'a String>) -> bool {
    match request {
        Request::Put(put) => keys.push(&put.key),
        Request::DeleteRange(delete) if delete.range_end.is_empty() => keys.push(&delete.key),
        Request::Txn(txn) => {
            return txn
                .success
                .iter()
                .chain(&txn.failure)
                .all(|request| keys_of(request, keys));
        }
        Request::DeleteRange(_) | Request::LeaseRevoke { .. } => return false,
        _ => {}
    }
    true
}

/// Gives as many revisions as possible an operation of their own: augmenting paths, one revision at a time.
fn match_up(wanted: &[Vec<usize>]) -> Vec<Option<usize>> {
    let mut owners: BTreeMap<usize, usize> = BTreeMap::new();
    let mut matched = vec![None; wanted.len()];
    for start in 0..wanted.len() {
        // Breadth first over revisions; `reached` remembers how each operation was.
        let mut reached: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        let mut free = None;
        'search: while let Some(revision) = queue.pop_front() {
            for &operation in &wanted[revision] {
                if reached.contains_key(&operation) {
                    continue;
                }
                reached.insert(operation, revision);
                let Some(owner) = owners.get(&operation) else {
                    free = Some(operation);
                    break 'search;
                };
                queue.push_back(*owner);
            }
        }
        // Backwards along the path: each revision gives up the operation it had for the one found.
        while let Some(operation) = free {
            let revision = reached[&operation];
            owners.insert(operation, revision);
            free = matched[revision].replace(operation);
        }
    }
    matched
}
