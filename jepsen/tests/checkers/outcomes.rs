//! Writes whose outcome was lost: what the log says of them, what it leaves open, and what it cannot hide.
//!
//! ```text
//!   done        the log has it           it has happened when somebody first saw its revision
//!   absent      a complete log does not  it never happens
//!   ambiguous   two equal ones, or a log that is not complete
//!   lost        acknowledged, but not in the log: the search itself must object
//! ```
//! Only the search is asked here. Times are as if in nanoseconds.

use crate::generate::expectations;
use jepsen::checkers::{canonical, linearizable, revision};
use jepsen::expectations::{Expectations, SearchLimits};
use jepsen::history::{
    Event, KeyValue, NEVER, Operation, Outcome, Put, Range, RangeReply, Record, Reply, Request, Watch, WatchRequest,
    WatchStep,
};

/// A log that may still grow.
fn incomplete() -> Expectations {
    Expectations {
        members: 1,
        ..Expectations::default()
    }
}

fn complete() -> Expectations {
    Expectations {
        members: 1,
        ..expectations()
    }
}

/// What the search alone says about it.
fn judge(history: &[Record], expectations: &Expectations) -> Vec<String> {
    let (log, _) = canonical::read(history, expectations);
    let (claims, _) = revision::check(history, &log, expectations);
    let anomalies = linearizable::check(history, &log, &claims, expectations);
    anomalies.into_iter().map(|anomaly| anomaly.name).collect()
}

const WRONG: [&str; 1] = ["not linearizable"];

fn kv(value: &str, revisions: (i64, i64), version: i64) -> KeyValue {
    KeyValue {
        key: "a".to_owned(),
        value: value.to_owned(),
        create_revision: revisions.0,
        mod_revision: revisions.1,
        version,
        lease: 0,
    }
}

fn operation(invoked: u64, returned: u64, request: Request, outcome: Outcome) -> Record {
    Record::Operation(Operation {
        // Everybody is somebody else: only real time orders them.
        process: invoked as u32,
        member: 0,
        incarnation: 0,
        invoked,
        returned,
        request,
        outcome,
    })
}

fn put_of(value: &str) -> Request {
    Request::Put(Put {
        key: "a".to_owned(),
        value: value.to_owned(),
        ..Put::default()
    })
}

fn put(invoked: u64, returned: u64, value: &str, revision: i64) -> Record {
    let prev_kv = None;
    operation(
        invoked,
        returned,
        put_of(value),
        Outcome::Ok(Reply::Put { revision, prev_kv }),
    )
}

fn lost_put(invoked: u64, value: &str) -> Record {
    operation(invoked, NEVER, put_of(value), Outcome::Unknown("timeout".to_owned()))
}

fn get(invoked: u64, returned: u64, revision: i64, found: Option<KeyValue>) -> Record {
    let range = Range {
        key: "a".to_owned(),
        ..Range::default()
    };
    let count = i64::from(found.is_some());
    let reply = RangeReply {
        revision,
        kvs: found.into_iter().collect(),
        more: false,
        count,
    };
    operation(
        invoked,
        returned,
        Request::Range(range),
        Outcome::Ok(Reply::Range(reply)),
    )
}

/// The canonical watch, which is told all of this at once.
fn watch(at: u64, told: &[KeyValue]) -> Vec<Record> {
    let step = |at, step| {
        Record::Watch(Watch {
            watcher: 0,
            member: 0,
            incarnation: 0,
            at,
            step,
        })
    };
    let request = WatchRequest {
        key: "\0".to_owned(),
        range_end: "\0".to_owned(),
        start_revision: 1,
        ..WatchRequest::default()
    };
    let event = |kv: &KeyValue| Event {
        is_delete: false,
        kv: kv.clone(),
        prev_kv: None,
    };
    let mut steps = vec![
        step(1, WatchStep::Asked(request)),
        step(2, WatchStep::Created { revision: 1 }),
    ];
    if let Some(last) = told.last() {
        let events = WatchStep::Events {
            revision: last.mod_revision,
            events: told.iter().map(event).collect(),
            fragment: false,
        };
        steps.push(step(at, events));
    }
    steps
}

fn with(mut history: Vec<Record>, more: impl IntoIterator<Item = Record>) -> Vec<Record> {
    history.extend(more);
    history
}

#[test]
fn what_the_log_has_is_done_when_it_was_first_seen() {
    let logged = watch(40, &[kv("1", (2, 2), 1)]);
    let before = with(logged.clone(), [lost_put(10, "1"), get(20, 30, 1, None)]);
    assert!(judge(&before, &complete()).is_empty());
    let after = with(logged, [lost_put(10, "1"), get(50, 60, 1, None)]);
    assert_eq!(judge(&after, &complete()), WRONG);
    assert_eq!(judge(&after, &incomplete()), WRONG);
    // Nobody ever saw it: it may have happened after the read.
    let unseen = with(watch(40, &[]), [lost_put(10, "1"), get(50, 60, 1, None)]);
    assert!(judge(&unseen, &incomplete()).is_empty());
}

#[test]
fn what_a_complete_log_does_not_have_never_happens() {
    let other = kv("2", (2, 2), 1);
    let logged = with(watch(40, std::slice::from_ref(&other)), [put(3, 5, "2", 2)]);
    let seen = |found: KeyValue| {
        let read = get(50, 60, found.mod_revision, Some(found));
        with(logged.clone(), [lost_put(10, "1"), read])
    };
    assert!(judge(&seen(other), &complete()).is_empty());
    let absent = seen(kv("1", (2, 3), 2));
    assert_eq!(judge(&absent, &complete()), WRONG);
    // Without the end of the log nothing rules it out.
    assert!(judge(&absent, &incomplete()).is_empty());
}

#[test]
fn of_two_equal_ones_either_may_be_the_one_in_the_log() {
    let logged = watch(40, &[kv("1", (2, 2), 1)]);
    let found = || Some(kv("1", (2, 2), 1));
    let first = [lost_put(10, "1"), get(15, 18, 2, found()), lost_put(20, "1")];
    assert!(judge(&with(logged.clone(), first), &complete()).is_empty());
    let second = [
        lost_put(10, "1"),
        get(15, 18, 1, None),
        lost_put(20, "1"),
        get(25, 28, 2, found()),
    ];
    assert!(judge(&with(logged.clone(), second), &complete()).is_empty());
    let twice = [
        lost_put(10, "1"),
        lost_put(20, "1"),
        get(50, 60, 3, Some(kv("1", (2, 3), 2))),
    ];
    assert_eq!(judge(&with(logged, twice), &complete()), WRONG);
}

#[test]
fn what_nothing_decides_stays_open_and_happens_once_at_most() {
    // Who wrote which is not told: twice the same value, in a log that has neither.
    let twice = [
        lost_put(10, "1"),
        lost_put(20, "1"),
        get(30, 40, 2, Some(kv("1", (2, 2), 1))),
        get(50, 60, 3, Some(kv("1", (2, 3), 2))),
    ];
    let twice = with(watch(70, &[]), twice);
    assert!(judge(&twice, &incomplete()).is_empty());
    let thrice = with(twice, [get(70, 80, 4, Some(kv("1", (2, 4), 3)))]);
    assert_eq!(judge(&thrice, &incomplete()), WRONG);
}

#[test]
fn a_lost_acknowledged_write_is_found_by_the_search_itself() {
    // The log, the reads and all headers agree that the first put never was.
    let logged = watch(50, &[kv("2", (2, 2), 1)]);
    let lost = [
        put(10, 20, "1", 2),
        put(30, 40, "2", 2),
        get(60, 70, 2, Some(kv("2", (2, 2), 1))),
    ];
    assert_eq!(judge(&with(logged, lost), &complete()), WRONG);
    let nothing = [put(10, 20, "1", 2), get(30, 40, 1, None)];
    assert_eq!(judge(&with(watch(50, &[]), nothing), &complete()), WRONG);
}

/// Writes that all wait for the same election, and one read behind each of them.
fn crowd(count: i64) -> Vec<Record> {
    let version = |at: i64| kv(&at.to_string(), (2, at + 1), at);
    let states: Vec<_> = (1..=count).map(version).collect();
    let mut history = watch(90_000, &states);
    for at in 1..=count {
        // Neither calls nor returns are in the order of what happened.
        let call = 10 + (at * 7919 % count) as u64;
        history.push(if at % 5 == 0 {
            lost_put(call, &at.to_string())
        } else {
            put(call, 50_000 + call, &at.to_string(), at + 1)
        });
        history.push(get(10 + count as u64 - call % 10, 60_000, at + 1, Some(version(at))));
    }
    history
}

#[test]
fn many_that_overlap_are_judged_in_a_step_each() {
    let expectations = Expectations {
        search: SearchLimits {
            steps_max: 10_000,
            ..SearchLimits::default()
        },
        ..complete()
    };
    assert!(judge(&crowd(2_000), &expectations).is_empty());
}

/// Receipts, of which one range reads all: a single partition, with a state for every put.
#[test]
fn many_keys_in_one_partition_do_not_need_a_copy_for_each_state() {
    let receipt = |at: i64| KeyValue {
        key: format!("receipt/{at:04}"),
        ..kv("paid", (at + 1, at + 1), 1)
    };
    let receipts: Vec<_> = (1..=5_000).map(receipt).collect();
    let mut history = watch(90_000, &receipts);
    for kv in &receipts {
        let request = Request::Put(Put {
            key: kv.key.clone(),
            value: kv.value.clone(),
            ..Put::default()
        });
        let (revision, prev_kv) = (kv.mod_revision, None);
        let called = 10 + 2 * revision as u64;
        let done = Outcome::Ok(Reply::Put { revision, prev_kv });
        history.push(operation(called, called + 1, request, done));
    }
    let all = Range {
        key: "receipt/".to_owned(),
        range_end: "receipt0".to_owned(),
        ..Range::default()
    };
    let reply = |kvs: &[KeyValue]| {
        Outcome::Ok(Reply::Range(RangeReply {
            revision: 5_001,
            kvs: kvs.to_vec(),
            more: false,
            count: kvs.len() as i64,
        }))
    };
    let expectations = Expectations {
        search: SearchLimits {
            memory_bytes_max: 20 << 20,
            ..SearchLimits::default()
        },
        ..complete()
    };
    let read = |kvs| operation(60_000, 60_001, Request::Range(all.clone()), reply(kvs));
    assert!(judge(&with(history.clone(), [read(&receipts)]), &expectations).is_empty());
    assert_eq!(judge(&with(history, [read(&receipts[1..])]), &expectations), WRONG);
}
