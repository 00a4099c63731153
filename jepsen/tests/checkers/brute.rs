//! Every order there is, one after the other: slow, short, and plainly right.
//!
//! The other checkers are compared with this on histories of at most seven operations.

use jepsen::checkers::linearizable::{Interval, Model};
use jepsen::history::{Event, NEVER, Operation, Outcome, Record, Watch, WatchStep};
use jepsen::model::{Etcd, contains};
use std::collections::BTreeMap;

/// Whether some order within real time gives these answers. What has no end may be left out.
pub fn is_linearizable<M: Model>(model: &M, intervals: &[Interval<M::Operation>]) -> bool {
    let mut open: Vec<_> = intervals.iter().collect();
    some_order(model, &model.initial(), &mut open)
}

fn some_order<M: Model>(model: &M, state: &M::State, open: &mut Vec<&Interval<M::Operation>>) -> bool {
    if open.iter().all(|interval| interval.end == NEVER) {
        return true;
    }
    for at in 0..open.len() {
        let next = open[at];
        // Nobody else may have ended before it was called.
        if open.iter().any(|other| other.end < next.call) {
            continue;
        }
        let Some(after) = model.step(state, &next.operation) else {
            continue;
        };
        open.remove(at);
        let found = some_order(model, &after, open);
        open.insert(at, next);
        if found {
            return true;
        }
    }
    false
}

/// Whether some order makes the model give exactly this history: outcomes with their headers, and watches.
pub fn explains(history: &[Record]) -> bool {
    let mut open = Vec::new();
    let mut told = Vec::new();
    for record in history {
        match record {
            // A failure that is no answer of the model's says that nothing happened.
            Record::Operation(operation) if is_no_leader(operation) => {}
            Record::Operation(operation) => open.push(operation),
            Record::Watch(watch) => told.extend(revision_told(watch).map(|revision| (watch.at, revision))),
            _ => {}
        }
    }
    some_run(&Etcd::default(), &mut open, &told, history)
}

fn is_no_leader(operation: &Operation) -> bool {
    matches!(&operation.outcome, Outcome::Failed(text) if text == "etcdserver: no leader")
}

fn revision_told(watch: &Watch) -> Option<i64> {
    match watch.step {
        WatchStep::Created { revision }
        | WatchStep::Events { revision, .. }
        | WatchStep::Progress { revision }
        | WatchStep::Canceled { revision, .. } => Some(revision),
        WatchStep::Asked(_) | WatchStep::Lost => None,
    }
}

fn some_run(etcd: &Etcd, open: &mut Vec<&Operation>, told: &[(u64, i64)], history: &[Record]) -> bool {
    let is_done = open
        .iter()
        .all(|operation| matches!(operation.outcome, Outcome::Unknown(_)));
    if is_done && watches_are_right(history, etcd) {
        return true;
    }
    for at in 0..open.len() {
        let next = open[at];
        if open.iter().any(|other| other.returned < next.invoked) {
            continue;
        }
        // What a watch had told before the call had happened before the call.
        let now = etcd.timeline.revision();
        if told
            .iter()
            .any(|(time, revision)| *time < next.invoked && *revision > now)
        {
            continue;
        }
        let mut after = etcd.clone();
        let fits = match (after.apply(&next.request), &next.outcome) {
            (Ok((reply, _)), Outcome::Ok(told)) => reply == *told,
            (Err(refusal), Outcome::Failed(text)) => refusal.text() == text,
            (_, Outcome::Unknown(_)) => true,
            _ => false,
        };
        if !fits {
            continue;
        }
        open.remove(at);
        let found = some_run(&after, open, told, history);
        open.insert(at, next);
        if found {
            return true;
        }
    }
    false
}

/// Whether every session of every watch told a beginning of what it asked for, and all of it if it was not lost.
fn watches_are_right(history: &[Record], etcd: &Etcd) -> bool {
    let mut sessions: BTreeMap<(u32, usize), Vec<&WatchStep>> = BTreeMap::new();
    let mut count = 0;
    let mut current = BTreeMap::new();
    for record in history {
        let Record::Watch(watch) = record else { continue };
        if matches!(watch.step, WatchStep::Asked(_)) {
            count += 1;
            current.insert(watch.watcher, count);
        }
        sessions
            .entry((watch.watcher, current[&watch.watcher]))
            .or_default()
            .push(&watch.step);
    }
    sessions.values().all(|steps| session_is_right(steps, etcd))
}

fn session_is_right(steps: &[&WatchStep], etcd: &Etcd) -> bool {
    let newest = etcd.timeline.revision();
    let [
        WatchStep::Asked(request),
        WatchStep::Created { revision: created },
        rest @ ..,
    ] = steps
    else {
        return false;
    };
    let start = if request.start_revision == 0 {
        created + 1
    } else {
        request.start_revision
    };
    let mut wanted: Vec<Event> = Vec::new();
    for events in &etcd.log {
        let of_revision = events.iter().filter(|event| event.kv.mod_revision >= start);
        let of_keys = of_revision.filter(|event| contains(&request.key, &request.range_end, &event.kv.key));
        let kinds = of_keys.filter(|event| {
            !(if event.is_delete {
                request.no_delete
            } else {
                request.no_put
            })
        });
        wanted.extend(kinds.cloned().map(|event| Event {
            prev_kv: event.prev_kv.filter(|_| request.prev_kv),
            ..event
        }));
    }
    let (mut told, mut bookmark, mut in_fragments, mut is_lost) = (0, 0, false, false);
    for step in rest {
        match step {
            WatchStep::Events {
                revision,
                events,
                fragment,
            } => {
                let is_next = wanted.len() >= told + events.len() && wanted[told..told + events.len()] == events[..];
                told += events.len();
                if !is_next || events.last().is_some_and(|last| last.kv.mod_revision > *revision) {
                    return false;
                }
                let splits =
                    told < wanted.len() && told > 0 && wanted[told - 1].kv.mod_revision == wanted[told].kv.mod_revision;
                if (*fragment && !request.fragment) || (splits && !fragment) || *revision > newest {
                    return false;
                }
                in_fragments = *fragment;
            }
            WatchStep::Progress { revision } => {
                let due = wanted.iter().filter(|event| event.kv.mod_revision <= *revision).count();
                let in_bounds = *revision >= request.start_revision.max(bookmark) && *revision <= newest;
                if due != told || in_fragments || !in_bounds {
                    return false;
                }
                bookmark = *revision;
            }
            WatchStep::Lost => is_lost = true,
            _ => return false,
        }
    }
    *created <= newest && !in_fragments && (is_lost || told == wanted.len())
}
