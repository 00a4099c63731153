//! The search for linearizations against brute force, against `todc-utils`, and against its own limits.

use crate::brute;
use crate::random::Random;
use jepsen::checkers::linearizable::{Interval, Register, RegisterOperation, Verdict, check_partitions};
use jepsen::expectations::SearchLimits;
use jepsen::history::NEVER;
use todc_utils::specifications::etcd::{EtcdOperation, EtcdSpecification, EtcdStatus};
use todc_utils::{Action, History, WGLChecker};

const HISTORIES: u64 = 100_000;
const OPERATIONS_MAX: usize = 7;

/// At most seven operations of few values by few processes. Some of them answer as a register would at some point
/// within their time, so that right and wrong histories are both common.
fn random_history(seed: u64) -> Vec<Interval<RegisterOperation>> {
    let mut random = Random::new(seed);
    let count = 1 + random.below(OPERATIONS_MAX);
    let lies = random.percent(80);
    let mut intervals: Vec<Interval<RegisterOperation>> = Vec::new();
    let mut register = None;
    // Points at which the register is asked, in order; ends around them overlap.
    for place in 0..count {
        let point = 10 * place as u64 + 50;
        let reach = 1 + random.below(40) as u64;
        let (call, end) = (
            point - random.below(reach as usize) as u64,
            point + random.below(reach as usize) as u64,
        );
        let is_unknown = random.percent(15);
        let value = random.below(3) as u32;
        let operation = match random.below(3) {
            0 if !is_unknown => RegisterOperation::Read(if lies && random.percent(30) {
                Some(value)
            } else {
                register
            }),
            1 => RegisterOperation::Write(value),
            _ => {
                let from = random.below(3) as u32;
                let holds = register == Some(from);
                let told = if lies && random.percent(40) { !holds } else { holds };
                RegisterOperation::CompareAndSet(from, value, (!is_unknown).then_some(told))
            }
        };
        let happens = !is_unknown || random.percent(50);
        match operation {
            RegisterOperation::Write(value) if happens => register = Some(value),
            RegisterOperation::CompareAndSet(from, to, _) if happens && register == Some(from) => register = Some(to),
            _ => {}
        }
        let end = if is_unknown { NEVER } else { end };
        intervals.push(Interval {
            call,
            end,
            place,
            operation,
        });
    }
    intervals
}

/// The same for `todc-utils`, which knows no times, only an order of calls and responses.
fn theirs(intervals: &[Interval<RegisterOperation>]) -> History<EtcdOperation> {
    let mut ends = Vec::new();
    for (process, interval) in intervals.iter().enumerate() {
        let status = if interval.end == NEVER {
            EtcdStatus::Unknown
        } else {
            EtcdStatus::Okay
        };
        let (call, response) = match interval.operation {
            RegisterOperation::Read(value) => (
                EtcdOperation::Read(EtcdStatus::Invoke, None),
                EtcdOperation::Read(status, value),
            ),
            RegisterOperation::Write(value) => (
                EtcdOperation::Write(EtcdStatus::Invoke, value),
                EtcdOperation::Write(status, value),
            ),
            RegisterOperation::CompareAndSet(from, to, succeeded) => {
                let status = if succeeded == Some(false) {
                    EtcdStatus::Fail
                } else {
                    status
                };
                (
                    EtcdOperation::CompareAndSwap(EtcdStatus::Invoke, (from, to)),
                    EtcdOperation::CompareAndSwap(status, (from, to)),
                )
            }
        };
        ends.push((interval.call, false, process, Action::Call(call)));
        ends.push((interval.end, true, process, Action::Response(response)));
    }
    ends.sort_by_key(|(time, is_return, process, _)| (*time, *is_return, *process));
    History::from_actions(
        ends.into_iter()
            .map(|(_, _, process, action)| (process, action))
            .collect(),
    )
}

#[test]
fn the_search_agrees_with_all_orders_and_with_todc_on_100000_histories() {
    let mut linearizable = 0;
    for seed in 0..HISTORIES {
        let intervals = random_history(seed);
        let expected = brute::is_linearizable(&Register, &intervals);
        let verdict = check_partitions(vec![(Register, intervals.clone())], SearchLimits::default());
        assert_eq!(
            verdict == Verdict::Linearizable,
            expected,
            "seed {seed}: {verdict:?} {intervals:?}"
        );
        assert!(!matches!(verdict, Verdict::Unknown(_)), "seed {seed}");
        let theirs = WGLChecker::<EtcdSpecification>::is_linearizable(theirs(&intervals));
        assert_eq!(theirs, expected, "seed {seed}: todc-utils, {intervals:?}");
        linearizable += u64::from(expected);
    }
    println!("{HISTORIES} histories, {linearizable} of them linearizable: 0 disagreements");
    // A test in which one verdict never comes up says nothing.
    assert!(
        linearizable > HISTORIES / 4 && linearizable < HISTORIES * 3 / 4,
        "{linearizable}"
    );
}

#[test]
fn the_order_in_which_intervals_are_given_decides_nothing() {
    for seed in 0..HISTORIES / 10 {
        let mut intervals = random_history(seed);
        let verdict = |intervals: &[Interval<RegisterOperation>]| {
            check_partitions(vec![(Register, intervals.to_vec())], SearchLimits::default()) == Verdict::Linearizable
        };
        let expected = verdict(&intervals);
        intervals.reverse();
        assert_eq!(verdict(&intervals), expected, "seed {seed}: backwards");
        let mut random = Random::new(seed);
        for at in (1..intervals.len()).rev() {
            intervals.swap(at, random.below(at + 1));
        }
        assert_eq!(verdict(&intervals), expected, "seed {seed}: shuffled {intervals:?}");
    }
}

fn interval(call: u64, end: u64, operation: RegisterOperation) -> Interval<RegisterOperation> {
    Interval {
        call,
        end,
        place: call as usize,
        operation,
    }
}

/// Many overlapping writes, and a read that nobody wrote: every order has to be tried.
fn hopeless() -> Vec<Interval<RegisterOperation>> {
    let mut intervals: Vec<_> = (0..26)
        .map(|value| interval(u64::from(value), 100, RegisterOperation::Write(value)))
        .collect();
    intervals.push(interval(101, 102, RegisterOperation::Read(Some(99))));
    intervals
}

#[test]
fn one_hopeless_partition_does_not_hide_an_illegal_one() {
    let illegal = vec![
        interval(0, 1, RegisterOperation::Write(1)),
        interval(2, 3, RegisterOperation::Read(None)),
    ];
    let limits = SearchLimits {
        steps_max: 100_000,
        ..SearchLimits::default()
    };
    let verdict = check_partitions(vec![(Register, hopeless()), (Register, illegal)], limits);
    let Verdict::Illegal(dead) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(dead.blocked, 2);
    assert_eq!(dead.linearized, [0]);
}

#[test]
fn beyond_the_limits_the_verdict_is_unknown() {
    let few_steps = SearchLimits {
        steps_max: 10_000,
        ..SearchLimits::default()
    };
    let verdict = check_partitions(vec![(Register, hopeless())], few_steps);
    assert!(matches!(verdict, Verdict::Unknown(_)), "{verdict:?}");
    let little_memory = SearchLimits {
        memory_bytes_max: 1 << 16,
        ..SearchLimits::default()
    };
    let verdict = check_partitions(vec![(Register, hopeless())], little_memory);
    assert!(matches!(verdict, Verdict::Unknown(_)), "{verdict:?}");
}
