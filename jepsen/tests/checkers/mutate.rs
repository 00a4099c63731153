//! Ways to break a history, each as a server, a client or a recorder could: `(history, randomness) -> did it`.
//!
//! An operator picks a place at random and changes it. Whether that can be seen at all, brute force decides.

use crate::random::Random;
use jepsen::history::{Event, KeyValue, NEVER, Operation, Outcome, RangeReply, Record, Reply, Request, WatchStep};

type History = Vec<Record>;
pub type Operator = fn(&mut History, &mut Random) -> bool;

pub const OPERATORS: &[(&str, Operator)] = &[
    ("forget an acknowledged write", forget_write),
    ("ask the same twice", duplicate_operation),
    ("swap the values of two writes", swap_values),
    ("a stale read", stale_read),
    ("a stale read with its old header", stale_read_and_header),
    ("a read of another read's reply", swap_reads),
    ("a read that loses a key", lose_key),
    ("a read of a wrong value", wrong_value_read),
    ("a count that is off by one", wrong_count),
    ("more, or no more", wrong_more),
    ("a version that is off by one", wrong_version),
    ("a header one too low", header_below),
    ("a header one too high", header_above),
    ("a compare that went the other way", flip_succeeded),
    ("acknowledge, then fail", acknowledged_but_failed),
    ("fail, though it happened", unknown_but_failed),
    ("a call after its effect", late_call),
    ("a return before its effect", early_return),
    ("drop an event everywhere", drop_event_everywhere),
    ("drop an event", drop_event),
    ("drop the last events", drop_tail),
    ("tell an event twice", duplicate_response),
    ("tell events in the wrong order", swap_responses),
    ("split a revision", split_revision),
    ("a wrong value in an event", wrong_event),
    ("an event of another kind", flip_event),
    ("prev_kv of another revision", wrong_prev),
    ("no prev_kv", no_prev),
    ("progress too early", progress_above),
    ("progress that goes back", progress_below),
    ("created later than it says", created_below),
    ("a header below its events", watch_header_below),
    ("an event before the start", shift_start),
];

fn pick<'h, T>(
    history: &'h mut History,
    random: &mut Random,
    choose: impl Fn(&'h mut Record) -> Option<T>,
) -> Option<T> {
    let mut chosen: Vec<T> = history.iter_mut().filter_map(choose).collect();
    if chosen.is_empty() {
        return None;
    }
    let at = random.below(chosen.len());
    Some(chosen.swap_remove(at))
}

fn operation(record: &mut Record) -> Option<&mut Operation> {
    match record {
        Record::Operation(operation) => Some(operation),
        _ => None,
    }
}

/// An acknowledged read of the present, and its reply.
fn read(record: &mut Record) -> Option<&mut RangeReply> {
    match operation(record)? {
        Operation {
            outcome: Outcome::Ok(Reply::Range(reply)),
            ..
        } => Some(reply),
        _ => None,
    }
}

fn writes(operation: &Operation) -> bool {
    match &operation.outcome {
        Outcome::Ok(Reply::Put { .. }) => true,
        Outcome::Ok(Reply::DeleteRange { deleted, .. }) => *deleted > 0,
        Outcome::Ok(Reply::Txn { replies, .. }) => replies.iter().any(|reply| matches!(reply, Reply::Put { .. })),
        _ => false,
    }
}

fn header(reply: &mut Reply) -> Option<&mut i64> {
    match reply {
        Reply::Range(RangeReply { revision, .. })
        | Reply::Put { revision, .. }
        | Reply::DeleteRange { revision, .. }
        | Reply::Txn { revision, .. } => Some(revision),
        _ => None,
    }
}

fn forget_write(history: &mut History, random: &mut Random) -> bool {
    let places: Vec<_> = (0..history.len())
        .filter(|at| matches!(&history[*at], Record::Operation(operation) if writes(operation)))
        .collect();
    !places.is_empty() && {
        history.remove(*random.pick(&places));
        true
    }
}

fn duplicate_operation(history: &mut History, random: &mut Random) -> bool {
    let chosen = pick(history, random, |record| {
        operation(record).filter(|operation| writes(operation)).cloned()
    });
    let Some(mut again) = chosen else { return false };
    again.process += 1000;
    history.push(Record::Operation(again));
    true
}

fn swap_values(history: &mut History, random: &mut Random) -> bool {
    let mut puts: Vec<&mut String> = history
        .iter_mut()
        .filter_map(|record| match &mut operation(record)?.request {
            Request::Put(put) if !put.ignore_value => Some(&mut put.value),
            _ => None,
        })
        .collect();
    if puts.len() < 2 {
        return false;
    }
    let first = random.below(puts.len() - 1);
    let (before, after) = puts.split_at_mut(first + 1);
    std::mem::swap(before[first], after[0]);
    true
}

/// Answers a later read with what an earlier one of the same request was told.
fn old_reply(history: &mut History, random: &mut Random, keep_header: bool) -> bool {
    let reads: Vec<_> = history
        .iter_mut()
        .enumerate()
        .filter_map(|(at, record)| {
            let request = operation(record)?.request.clone();
            read(record).map(|reply| (at, request, reply.clone()))
        })
        .collect();
    let mut pairs = Vec::new();
    for (_, early_request, early) in &reads {
        for (at, late_request, late) in &reads {
            if early.revision < late.revision && early_request == late_request {
                pairs.push((*at, early.clone(), late.revision));
            }
        }
    }
    if pairs.is_empty() {
        return false;
    }
    let (at, mut reply, revision) = random.pick(&pairs).clone();
    if keep_header {
        reply.revision = revision;
    }
    *read(&mut history[at]).unwrap() = reply;
    true
}

fn stale_read(history: &mut History, random: &mut Random) -> bool {
    old_reply(history, random, true)
}

fn stale_read_and_header(history: &mut History, random: &mut Random) -> bool {
    old_reply(history, random, false)
}

fn swap_reads(history: &mut History, random: &mut Random) -> bool {
    let mut reads: Vec<_> = history.iter_mut().filter_map(read).collect();
    if reads.len() < 2 {
        return false;
    }
    let first = random.below(reads.len() - 1);
    let (before, after) = reads.split_at_mut(first + 1);
    std::mem::swap(before[first], after[0]);
    true
}

/// A key-value that a read told of.
fn told(record: &mut Record) -> Option<&mut KeyValue> {
    read(record)?.kvs.first_mut()
}

fn lose_key(history: &mut History, random: &mut Random) -> bool {
    let reply = pick(history, random, |record| {
        read(record).filter(|reply| !reply.kvs.is_empty())
    });
    reply.is_some_and(|reply| {
        reply.kvs.pop();
        reply.count -= 1;
        true
    })
}

fn wrong_value_read(history: &mut History, random: &mut Random) -> bool {
    pick(history, random, told).is_some_and(|kv| {
        kv.value.push('x');
        true
    })
}

fn wrong_count(history: &mut History, random: &mut Random) -> bool {
    pick(history, random, read).is_some_and(|reply| {
        reply.count += 1;
        true
    })
}

fn wrong_more(history: &mut History, random: &mut Random) -> bool {
    pick(history, random, read).is_some_and(|reply| {
        reply.more = !reply.more;
        true
    })
}

fn wrong_version(history: &mut History, random: &mut Random) -> bool {
    pick(history, random, told).is_some_and(|kv| {
        kv.version += 1;
        true
    })
}

fn shift_header(history: &mut History, random: &mut Random, by: i64) -> bool {
    let revision = pick(history, random, |record| match &mut operation(record)?.outcome {
        Outcome::Ok(reply) => header(reply),
        _ => None,
    });
    revision.is_some_and(|revision| {
        *revision += by;
        *revision >= 1
    })
}

fn header_below(history: &mut History, random: &mut Random) -> bool {
    shift_header(history, random, -1)
}

fn header_above(history: &mut History, random: &mut Random) -> bool {
    shift_header(history, random, 1)
}

fn flip_succeeded(history: &mut History, random: &mut Random) -> bool {
    let flag = pick(history, random, |record| match &mut operation(record)?.outcome {
        Outcome::Ok(Reply::Txn { succeeded, .. }) => Some(succeeded),
        _ => None,
    });
    flag.is_some_and(|flag| {
        *flag = !*flag;
        true
    })
}

fn acknowledged_but_failed(history: &mut History, random: &mut Random) -> bool {
    let chosen = pick(history, random, |record| {
        operation(record).filter(|operation| writes(operation))
    });
    chosen.is_some_and(|operation| {
        operation.outcome = Outcome::Failed("etcdserver: no leader".to_owned());
        true
    })
}

fn unknown_but_failed(history: &mut History, random: &mut Random) -> bool {
    let is_unknown_write = |operation: &&mut Operation| {
        matches!(operation.outcome, Outcome::Unknown(_)) && !matches!(operation.request, Request::Range(_))
    };
    let chosen = pick(history, random, |record| operation(record).filter(is_unknown_write));
    chosen.is_some_and(|operation| {
        operation.outcome = Outcome::Failed("etcdserver: no leader".to_owned());
        operation.returned = operation.invoked + 1;
        true
    })
}

fn last_return(history: &History) -> u64 {
    let ends = history.iter().filter_map(|record| match record {
        Record::Operation(operation) if operation.returned != NEVER => Some(operation.returned),
        _ => None,
    });
    ends.max().unwrap_or(0)
}

fn late_call(history: &mut History, random: &mut Random) -> bool {
    let last = last_return(history);
    let chosen = pick(history, random, |record| {
        operation(record).filter(|operation| matches!(operation.outcome, Outcome::Ok(_)))
    });
    chosen.is_some_and(|operation| {
        (operation.invoked, operation.returned) = (last + 1, last + 2);
        true
    })
}

fn early_return(history: &mut History, random: &mut Random) -> bool {
    let chosen = pick(history, random, |record| {
        operation(record).filter(|operation| matches!(operation.outcome, Outcome::Ok(_)))
    });
    chosen.is_some_and(|operation| {
        (operation.invoked, operation.returned) = (0, 1);
        true
    })
}

/// A response's events.
fn events(record: &mut Record) -> Option<&mut Vec<Event>> {
    match record {
        Record::Watch(watch) => match &mut watch.step {
            WatchStep::Events { events, .. } => Some(events),
            _ => None,
        },
        _ => None,
    }
}

fn drop_event_everywhere(history: &mut History, random: &mut Random) -> bool {
    let Some(gone) = pick(history, random, |record| {
        events(record)?.first().map(|event| event.kv.clone())
    }) else {
        return false;
    };
    for record in history.iter_mut() {
        if let Some(events) = events(record) {
            events.retain(|event| event.kv != gone);
        }
    }
    history.retain_mut(|record| events(record).is_none_or(|events| !events.is_empty()));
    true
}

/// Places of responses that are whole, and are not alone to tell of their revision.
fn responses(history: &History) -> Vec<usize> {
    let is_response = |record: &Record| matches!(record, Record::Watch(watch) if matches!(watch.step, WatchStep::Events { fragment: false, .. }));
    (0..history.len()).filter(|at| is_response(&history[*at])).collect()
}

fn drop_event(history: &mut History, random: &mut Random) -> bool {
    let places = responses(history);
    !places.is_empty() && {
        history.remove(*random.pick(&places));
        true
    }
}

fn watcher_of(record: &Record) -> Option<u32> {
    match record {
        Record::Watch(watch) => Some(watch.watcher),
        _ => None,
    }
}

fn drop_tail(history: &mut History, random: &mut Random) -> bool {
    let places = responses(history);
    if places.is_empty() {
        return false;
    }
    let at = *random.pick(&places);
    let watcher = watcher_of(&history[at]);
    let mut place = 0;
    history.retain(|record| {
        place += 1;
        place <= at || watcher_of(record) != watcher
    });
    true
}

fn duplicate_response(history: &mut History, random: &mut Random) -> bool {
    let places = responses(history);
    !places.is_empty() && {
        let at = *random.pick(&places);
        history.insert(at + 1, history[at].clone());
        true
    }
}

fn swap_responses(history: &mut History, random: &mut Random) -> bool {
    let places = responses(history);
    let mut pairs = Vec::new();
    for (nth, at) in places.iter().enumerate() {
        let next = places[nth + 1..]
            .iter()
            .find(|next| watcher_of(&history[**next]) == watcher_of(&history[*at]));
        pairs.extend(next.map(|next| (*at, *next)));
    }
    !pairs.is_empty() && {
        let (a, b) = *random.pick(&pairs);
        // The events change places, the times stay.
        let taken = events(&mut history[a]).unwrap().clone();
        let others = std::mem::replace(events(&mut history[b]).unwrap(), taken);
        *events(&mut history[a]).unwrap() = others;
        true
    }
}

fn split_revision(history: &mut History, random: &mut Random) -> bool {
    let mut places = responses(history);
    places.retain(|at| events(&mut history[*at]).is_some_and(|events| events.len() > 1));
    !places.is_empty() && {
        let at = *random.pick(&places);
        let mut rest = history[at].clone();
        let first = events(&mut history[at]).unwrap();
        *events(&mut rest).unwrap() = first.split_off(1);
        history.insert(at + 1, rest);
        true
    }
}

fn event(record: &mut Record) -> Option<&mut Event> {
    events(record)?.first_mut()
}

fn wrong_event(history: &mut History, random: &mut Random) -> bool {
    let chosen = pick(history, random, |record| event(record).filter(|event| !event.is_delete));
    chosen.is_some_and(|event| {
        event.kv.value.push('x');
        true
    })
}

fn flip_event(history: &mut History, random: &mut Random) -> bool {
    pick(history, random, event).is_some_and(|event| {
        event.is_delete = !event.is_delete;
        true
    })
}

fn wrong_prev(history: &mut History, random: &mut Random) -> bool {
    pick(history, random, |record| event(record)?.prev_kv.as_mut()).is_some_and(|prev| {
        prev.mod_revision -= 1;
        prev.version += 1;
        true
    })
}

fn no_prev(history: &mut History, random: &mut Random) -> bool {
    pick(history, random, |record| {
        event(record).filter(|event| event.prev_kv.is_some())
    })
    .is_some_and(|event| {
        event.prev_kv = None;
        true
    })
}

fn progress(record: &mut Record) -> Option<&mut i64> {
    match record {
        Record::Watch(watch) => match &mut watch.step {
            WatchStep::Progress { revision } => Some(revision),
            _ => None,
        },
        _ => None,
    }
}

fn progress_above(history: &mut History, random: &mut Random) -> bool {
    pick(history, random, progress).is_some_and(|revision| {
        *revision += 1;
        true
    })
}

fn progress_below(history: &mut History, random: &mut Random) -> bool {
    pick(history, random, progress).is_some_and(|revision| {
        *revision -= 1;
        true
    })
}

fn created_below(history: &mut History, random: &mut Random) -> bool {
    let revision = pick(history, random, |record| match record {
        Record::Watch(watch) => match &mut watch.step {
            WatchStep::Created { revision } if *revision > 1 => Some(revision),
            _ => None,
        },
        _ => None,
    });
    revision.is_some_and(|revision| {
        *revision -= 1;
        true
    })
}

fn watch_header_below(history: &mut History, random: &mut Random) -> bool {
    let chosen = pick(history, random, |record| match record {
        Record::Watch(watch) => match &mut watch.step {
            WatchStep::Events { revision, events, .. } => Some((revision, events.last()?.kv.mod_revision)),
            _ => None,
        },
        _ => None,
    });
    chosen.is_some_and(|(header, last)| {
        *header = last - 1;
        true
    })
}

fn shift_start(history: &mut History, random: &mut Random) -> bool {
    let start = pick(history, random, |record| match record {
        Record::Watch(watch) => match &mut watch.step {
            // Not those of everything, which are the log.
            WatchStep::Asked(request) if request.start_revision > 1 => Some(&mut request.start_revision),
            _ => None,
        },
        _ => None,
    });
    start.is_some_and(|start| {
        *start += 1;
        true
    })
}
