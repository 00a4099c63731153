//! The cycle checker: each anomaly by its name, and against brute force over all serial orders.
//!
//! Transactions are written `0-10 ok: r x 1,2; a x 3` (lists) or `0-10 ok: r x 1; w x 2` (registers, `_` for nothing);
//! instead of `ok`: `no` (aborted) or `?` (unknown).

use crate::brute;
use crate::random::Random;
use jepsen::checkers::Anomaly;
use jepsen::checkers::cycles::{
    ListOperation, RegisterOperation, Status, Transaction, check_lists, check_registers, elements, list_transactions,
};
use jepsen::checkers::linearizable::{Interval, Model};
use jepsen::history::{NEVER, Outcome, Record, Reply};
use std::collections::BTreeMap;

fn transactions<O>(script: &str, operation: fn(&str, &str, &str) -> O) -> Vec<Transaction<O>> {
    let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
    let parsed = lines.enumerate().map(|(place, line)| {
        let (head, tail) = line.split_once(": ").unwrap();
        let (times, status) = head.split_once(' ').unwrap();
        let (invoked, returned) = times.split_once('-').unwrap();
        let status = match status {
            "ok" => Status::Committed,
            "no" => Status::Aborted,
            "?" => Status::Unknown,
            other => panic!("{other}"),
        };
        let operations = tail.split("; ").map(|text| {
            let mut words = text.split(' ');
            operation(words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""))
        });
        Transaction {
            place,
            invoked: invoked.parse().unwrap(),
            returned: if status == Status::Unknown {
                NEVER
            } else {
                returned.parse().unwrap()
            },
            status,
            operations: operations.collect(),
        }
    });
    parsed.collect()
}

fn list_operation(verb: &str, key: &str, argument: &str) -> ListOperation {
    match verb {
        "a" => ListOperation::Append {
            key: key.to_owned(),
            element: argument.to_owned(),
        },
        "r" => ListOperation::Read {
            key: key.to_owned(),
            list: elements(argument),
        },
        other => panic!("{other}"),
    }
}

fn register_operation(verb: &str, key: &str, argument: &str) -> RegisterOperation {
    match verb {
        "w" => RegisterOperation::Write {
            key: key.to_owned(),
            value: argument.to_owned(),
        },
        "r" => {
            let value = (argument != "_").then(|| argument.to_owned());
            RegisterOperation::Read {
                key: key.to_owned(),
                value,
            }
        }
        other => panic!("{other}"),
    }
}

fn names(anomalies: &[Anomaly]) -> Vec<&str> {
    let mut names: Vec<_> = anomalies.iter().map(|anomaly| anomaly.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[track_caller]
fn lists(script: &str, expected: &[&str]) {
    let anomalies = check_lists(&transactions(script, list_operation));
    assert_eq!(names(&anomalies), expected, "{script}\n{anomalies:#?}");
}

#[track_caller]
fn registers(script: &str, expected: &[&str]) {
    let anomalies = check_registers(&transactions(script, register_operation));
    assert_eq!(names(&anomalies), expected, "{script}\n{anomalies:#?}");
}

#[test]
fn anomalies_of_lists_have_adyas_names() {
    lists("0-10 ok: a x 1\n 20-30 ok: r x 1; a x 2\n 40-50 ok: r x 1,2", &[]);
    // Two writers in opposite orders on two keys; the readers only show it.
    lists(
        "0-9 ok: a x 1; a y 1\n 0-9 ok: a x 2; a y 2\n 0-99 ok: r x 1,2\n 0-99 ok: r y 2,1",
        &["G0"],
    );
    lists("0-9 no: a x 1\n 0-99 ok: r x 1", &["G1a"]);
    lists(
        "0-9 ok: a x 1; a x 2\n 0-99 ok: r x 1\n 0-99 ok: r x 1,2",
        &["G-single", "G1b"],
    );
    // Each reads what the other wrote.
    lists("0-9 ok: a x 1; r y 1\n 0-9 ok: a y 1; r x 1", &["G1c"]);
    // Sees one of two writes of the same transaction.
    lists(
        "0-9 ok: a x 1; a y 1\n 0-9 ok: r x 1; r y\n 10-20 ok: r x 1; r y 1",
        &["G-single"],
    );
    // Write skew.
    lists(
        "0-9 ok: r x; a y 1\n 0-9 ok: r y; a x 1\n 10-20 ok: r x 1; r y 1",
        &["G2"],
    );
    lists(
        "0-9 ok: r x; a x 1\n 0-9 ok: r x; a x 2\n 10-20 ok: r x 1,2",
        &["G-single", "lost update"],
    );
    lists(
        "0-9 no: a x 1\n 0-9 ok: a x 2\n 10-20 ok: r x 1,2",
        &["G1a", "dirty update"],
    );
    lists(
        "0-9 ok: a x 1\n 0-9 ok: a x 2\n 0-9 ok: r x 1,2\n 0-9 ok: r x 2",
        &["incompatible order"],
    );
    lists("0-9 ok: a x 1; r x 1,1", &["duplicate elements"]);
    lists("0-9 ok: a x 1\n 20-30 ok: r x 1,1", &["duplicate elements"]);
    lists("0-9 ok: r x 1; a x 2; r x 1\n 0-3 ok: a x 1", &["internal"]);
    lists(
        "0-9 ok: a x 1; a x 2\n 20-30 ok: r x 2,1",
        &["G1b", "incompatible order"],
    );
    lists("0-9 ok: r x 7", &["garbage read"]);
    lists("0-9 ?: a x 1\n 20-30 ok: r x 1", &[]);
}

#[test]
fn real_time_closes_circles() {
    // An acknowledged append that a later read does not show, seen or not seen by others.
    lists("0-9 ok: a x 1\n 20-30 ok: r x", &["G-single-realtime"]);
    lists(
        "0-9 ok: a x 1\n 20-30 ok: r x\n 40-50 ok: r x 1",
        &["G-single-realtime"],
    );
    lists("0-9 ok: a x 1\n 5-30 ok: r x\n 40-50 ok: r x 1", &[]);
    // Appends in an order against real time.
    lists("0-9 ok: a x 1\n 10-19 ok: a x 2\n 0-99 ok: r x 2,1", &["G0-realtime"]);
    // Read before it was written.
    lists("0-9 ok: r x 1\n 10-19 ok: a x 1", &["G1c-realtime"]);
    lists("0-9 ?: a x 1\n 20-30 ok: r x\n 40-50 ok: r x 1", &[]);
    // Long fork with one reader after the other.
    lists(
        "0-50 ok: a x 1\n 0-50 ok: a y 1\n 0-20 ok: r x 1; r y\n 0-20 ok: r x; r y 1",
        &["G2"],
    );
}

#[test]
fn anomalies_of_registers_have_adyas_names() {
    registers("0-9 ok: w x 1\n 20-30 ok: r x 1; w x 2\n 40-50 ok: r x 2", &[]);
    registers("0-9 no: w x 1\n 0-99 ok: r x 1", &["G1a"]);
    registers("0-9 ok: w x 1; w x 2\n 0-99 ok: r x 1", &["G1b"]);
    registers("0-9 ok: w x 1; r y 1\n 0-9 ok: w y 1; r x 1", &["G1c"]);
    registers("0-9 ok: w x 1; w y 1\n 0-9 ok: r x 1; r y _", &["G-single"]);
    registers("0-9 ok: r x _; w y 1\n 0-9 ok: r y _; w x 1", &["G2"]);
    registers(
        "0-9 ok: w x 0\n 20-30 ok: r x 0; w x 1\n 20-30 ok: r x 0; w x 2",
        &["G2", "lost update"],
    );
    registers("0-9 ok: r x 1; w x 2; r x 1\n 0-3 ok: w x 1", &["internal"]);
    registers("0-9 ok: r x 7", &["garbage read"]);
    registers(
        "0-9 ok: w x 1\n 0-9 ok: w x 2\n 20-29 ok: r x 1\n 30-39 ok: r x 2\n 40-49 ok: r x 1",
        &["cyclic versions"],
    );
    registers("0-9 ok: w x 1\n 20-30 ok: r x _", &["cyclic versions"]);
    registers("0-9 ?: w x 1\n 20-30 ok: r x _\n 40-50 ok: r x 1", &[]);
}

/// Lists by key, as a sequential machine.
struct Serial;

impl Model for Serial {
    type Operation = Vec<ListOperation>;
    type State = BTreeMap<String, Vec<String>>;

    fn initial(&self) -> Self::State {
        BTreeMap::new()
    }

    fn step(&self, state: &Self::State, operations: &Vec<ListOperation>) -> Option<Self::State> {
        let mut state = state.clone();
        for operation in operations {
            match operation {
                ListOperation::Append { key, element } => state.entry(key.clone()).or_default().push(element.clone()),
                ListOperation::Read { key, list } => {
                    if state.get(key).map_or(&[][..], Vec::as_slice) != list {
                        return None;
                    }
                }
            }
        }
        Some(state)
    }
}

/// Up to six transactions on two lists, run one after the other at points within their times; then something may
/// be changed in what they read.
fn random_lists(random: &mut Random) -> Vec<Transaction<ListOperation>> {
    let mut state: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut transactions = Vec::new();
    for place in 0..=random.below(6) {
        let point = 10 * place as u64 + 50;
        let reach = 1 + random.below(30);
        let status = if random.percent(10) {
            Status::Unknown
        } else {
            Status::Committed
        };
        let happens = status == Status::Committed || random.percent(50);
        let mut operations = Vec::new();
        for _ in 0..=random.below(3) {
            let key = (*random.pick(&["x", "y"])).to_owned();
            if random.percent(50) {
                let element = format!("{place}{}", operations.len());
                if happens {
                    state.entry(key.clone()).or_default().push(element.clone());
                }
                operations.push(ListOperation::Append { key, element });
            } else if status == Status::Committed {
                let list = state.get(&key).cloned().unwrap_or_default();
                operations.push(ListOperation::Read { key, list });
            }
        }
        transactions.push(Transaction {
            place,
            invoked: point - random.below(reach) as u64,
            returned: if status == Status::Unknown {
                NEVER
            } else {
                point + random.below(reach) as u64
            },
            status,
            operations,
        });
    }
    if random.percent(60) {
        spoil(&mut transactions, random);
    }
    transactions
}

fn spoil(transactions: &mut [Transaction<ListOperation>], random: &mut Random) {
    let lists = transactions
        .iter_mut()
        .flat_map(|transaction| &mut transaction.operations);
    let lists = lists.filter_map(|operation| match operation {
        ListOperation::Read { list, .. } => Some(list),
        ListOperation::Append { .. } => None,
    });
    let mut lists: Vec<_> = lists.filter(|list| !list.is_empty()).collect();
    if lists.is_empty() {
        return;
    }
    let at = random.below(lists.len());
    let list = &mut *lists[at];
    match random.below(4) {
        0 => {
            list.pop();
        }
        1 => {
            list.remove(0);
        }
        2 => list.reverse(),
        _ => list.clear(),
    }
}

#[test]
fn lists_agree_with_every_serial_order() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..20_000 {
        let transactions = random_lists(&mut Random::new(seed));
        let intervals: Vec<_> = transactions
            .iter()
            .map(|transaction| Interval {
                call: transaction.invoked,
                end: transaction.returned,
                place: transaction.place,
                operation: transaction.operations.clone(),
            })
            .collect();
        let expected = brute::is_linearizable(&Serial, &intervals);
        let anomalies = check_lists(&transactions);
        assert_eq!(
            anomalies.is_empty(),
            expected,
            "seed {seed}: {transactions:#?} {anomalies:#?}"
        );
        if expected { right += 1 } else { wrong += 1 }
    }
    println!("transactions on lists: {right} histories are strictly serializable, {wrong} are not: 0 disagreements");
    assert!(right > 5000 && wrong > 3000, "{right} {wrong}");
}

#[test]
fn guarded_puts_become_reads_and_appends() {
    let script = r#"
        {"Operation":{"process":0,"member":0,"incarnation":0,"invoked":1,"returned":2,"request":{"Txn":{"compares":[
          {"key":"l/x","range_end":"","result":"Equal","target":{"Mod":7}}],"success":[{"Put":{"key":"l/x","value":"1,4,9",
          "lease":0,"prev_kv":false,"ignore_value":false,"ignore_lease":false}}],"failure":[]}},
          "outcome":{"Ok":{"Txn":{"revision":8,"succeeded":true,"replies":[{"Put":{"revision":8,"prev_kv":null}}]}}}}}"#;
    let record: Record = serde_json::from_str(script).unwrap();
    let expected = transactions("1-2 ok: r l/x 1,4; a l/x 9", list_operation);
    let found = list_transactions(std::slice::from_ref(&record), "l/");
    assert_eq!(found[0].operations, expected[0].operations);
    assert_eq!(found.len(), 1);
    // The same, when the compare does not hold.
    let Record::Operation(mut operation) = record else {
        panic!()
    };
    operation.outcome = Outcome::Ok(Reply::Txn {
        revision: 7,
        succeeded: false,
        replies: Vec::new(),
    });
    let found = list_transactions(&[Record::Operation(operation)], "l/");
    let expected = transactions("1-2 no: a l/x 9", list_operation);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].operations, expected[0].operations);
    assert_eq!(found[0].status, Status::Aborted);
}
