//! Registers whose values are unique: a read tells who wrote it, but not what came before.
//!
//! ```text
//!   nothing < every value            a key begins empty
//!   x < y    a transaction read x and wrote y
//!   x < y    x was seen or written before y was, in real time      (each key alone is linearizable)
//! ```
//! From these the order of versions is inferred as far as it goes; where it runs in circles, that is the anomaly.

use super::graph::{Edge, Graph};
use super::{RegisterOperation, Status, Transaction, anomaly};
use crate::checkers::Anomaly;
use crate::history::NEVER;
use std::collections::{BTreeMap, BTreeSet};

type Registers = Transaction<RegisterOperation>;
/// None: nothing was written yet.
type Value<'a> = Option<&'a str>;

pub fn check(transactions: &[Registers]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let keys = Keys::of(transactions);
    for transaction in transactions.iter().filter(|each| each.status == Status::Committed) {
        anomalies.extend(internal(transaction));
        anomalies.extend(reads_of_nothing_written(transactions, transaction, &keys));
    }
    anomalies.extend(lost_updates(transactions));
    let mut graph = Graph::new(transactions);
    for (key, sights) in &keys.sights {
        let order = version_order(sights);
        if let Some((x, y)) = circle_in(&order) {
            let places: Vec<_> = sights
                .iter()
                .filter(|sight| sight.value == x || sight.value == y)
                .map(|sight| transactions[sight.transaction].place)
                .collect();
            let text = format!("{key}: {x:?} comes before {y:?}, and {y:?} before {x:?}");
            anomalies.push(anomaly("cyclic versions", text, &places));
            continue;
        }
        keys.connect(key, sights, &order, &mut graph);
    }
    anomalies.extend(graph.circles());
    anomalies
}

/// One transaction's last write, or first read, of a key.
struct Sight<'a> {
    transaction: usize,
    value: Value<'a>,
    /// What it had read before it wrote.
    after: Option<Value<'a>>,
    is_write: bool,
    invoked: u64,
    returned: u64,
}

struct Keys<'a> {
    /// By key and value, who wrote it, and whether it was that transaction's last of the key.
    writers: BTreeMap<(&'a str, &'a str), (usize, bool)>,
    sights: BTreeMap<&'a str, Vec<Sight<'a>>>,
}

impl<'a> Keys<'a> {
    fn of(transactions: &'a [Registers]) -> Keys<'a> {
        let mut keys = Keys {
            writers: BTreeMap::new(),
            sights: BTreeMap::new(),
        };
        for (number, transaction) in transactions.iter().enumerate() {
            for (key, value) in writes(transaction) {
                let is_last = writes(transaction).filter(|(own, _)| *own == key).last() == Some((key, value));
                keys.writers.insert((key, value), (number, is_last));
            }
        }
        let seen: BTreeSet<(&str, &str)> = transactions
            .iter()
            .filter(|transaction| transaction.status == Status::Committed)
            .flat_map(external_reads)
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        for (number, transaction) in transactions.iter().enumerate() {
            let has_happened = match transaction.status {
                Status::Committed => true,
                Status::Aborted => false,
                Status::Unknown => writes(transaction).any(|write| seen.contains(&write)),
            };
            if has_happened {
                keys.see(number, transaction);
            }
        }
        keys
    }

    fn see(&mut self, number: usize, transaction: &'a Registers) {
        let mut read: BTreeMap<&str, Value<'_>> = BTreeMap::new();
        let sight = |value, after, is_write| Sight {
            transaction: number,
            value,
            after,
            is_write,
            invoked: transaction.invoked,
            returned: transaction.returned,
        };
        for (key, value) in external_reads(transaction) {
            read.insert(key, value);
            self.sights.entry(key).or_default().push(sight(value, None, false));
        }
        let last: BTreeMap<&str, &str> = writes(transaction).collect();
        for (key, value) in last {
            let after = read.get(key).copied();
            self.sights
                .entry(key)
                .or_default()
                .push(sight(Some(value), after, true));
        }
    }

    fn connect(&self, key: &'a str, sights: &[Sight<'a>], order: &Order<'a>, graph: &mut Graph) {
        let writer = |value: Value<'_>| {
            value
                .and_then(|value| self.writers.get(&(key, value)))
                .map(|(writer, _)| *writer)
        };
        let mut readers: BTreeMap<Value<'_>, Vec<usize>> = BTreeMap::new();
        for reader in sights.iter().filter(|sight| !sight.is_write) {
            readers.entry(reader.value).or_default().push(reader.transaction);
        }
        for (before, later) in order {
            for after in later {
                let Some(next) = writer(*after) else { continue };
                if let Some(first) = writer(*before) {
                    graph.add(first, next, Edge::WriteWrite);
                }
                for reader in readers.get(before).into_iter().flatten() {
                    graph.add(*reader, next, Edge::ReadWrite);
                }
            }
        }
        for (value, readers) in readers {
            for (reader, writer) in readers.into_iter().filter_map(|reader| Some((reader, writer(value)?))) {
                graph.add(writer, reader, Edge::WriteRead);
            }
        }
    }
}

fn writes(transaction: &Registers) -> impl Iterator<Item = (&str, &str)> {
    transaction.operations.iter().filter_map(|operation| match operation {
        RegisterOperation::Write { key, value } => Some((key.as_str(), value.as_str())),
        RegisterOperation::Read { .. } => None,
    })
}

/// First reads of keys that the transaction had not written.
fn external_reads(transaction: &Registers) -> Vec<(&str, Value<'_>)> {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    let mut external = Vec::new();
    for operation in &transaction.operations {
        match operation {
            RegisterOperation::Write { key, .. } => {
                known.insert(key);
            }
            RegisterOperation::Read { key, value } => {
                if known.insert(key) {
                    external.push((key.as_str(), value.as_deref()));
                }
            }
        }
    }
    external
}

fn internal(transaction: &Registers) -> Option<Anomaly> {
    let mut known: BTreeMap<&str, Value<'_>> = BTreeMap::new();
    for operation in &transaction.operations {
        match operation {
            RegisterOperation::Write { key, value } => {
                known.insert(key, Some(value));
            }
            RegisterOperation::Read { key, value } => {
                let before = known.insert(key, value.as_deref());
                if let Some(before) = before.filter(|before| *before != value.as_deref()) {
                    let text = format!("a transaction reads {key} as {value:?} after {before:?}");
                    return Some(anomaly("internal", text, &[transaction.place]));
                }
            }
        }
    }
    None
}

/// Reads of aborted, of intermediate, and of nobody's writes.
fn reads_of_nothing_written(transactions: &[Registers], reader: &Registers, keys: &Keys<'_>) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (key, value) in external_reads(reader) {
        let Some(value) = value else { continue };
        let Some((writer, is_last)) = keys.writers.get(&(key, value)) else {
            let text = format!("{key} is read as {value}, which nobody wrote");
            anomalies.push(anomaly("garbage read", text, &[reader.place]));
            continue;
        };
        let writer = &transactions[*writer];
        let places = [writer.place, reader.place];
        if writer.status == Status::Aborted {
            let text = format!("{key} is read as {value}, whose transaction was aborted");
            anomalies.push(anomaly("G1a", text, &places));
        } else if !is_last {
            let text = format!("{key} is read as {value} in the middle of its transaction");
            anomalies.push(anomaly("G1b", text, &places));
        }
    }
    anomalies
}

fn lost_updates(transactions: &[Registers]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut updates: BTreeMap<(&str, Value<'_>), usize> = BTreeMap::new();
    for transaction in transactions.iter().filter(|each| each.status == Status::Committed) {
        for (key, value) in external_reads(transaction) {
            if !writes(transaction).any(|(own, _)| own == key) {
                continue;
            }
            if let Some(other) = updates.insert((key, value), transaction.place) {
                let text = format!("both read {key} as {value:?}, and both wrote it");
                anomalies.push(anomaly("lost update", text, &[other, transaction.place]));
            }
        }
    }
    anomalies
}

/// What directly follows each value, as far as it is known.
type Order<'a> = BTreeMap<Value<'a>, BTreeSet<Value<'a>>>;

fn version_order<'a>(sights: &[Sight<'a>]) -> Order<'a> {
    let mut order = Order::new();
    let mut follows = |before: Value<'a>, after: Value<'a>| {
        if before != after {
            order.entry(before).or_default().insert(after);
        }
    };
    for sight in sights {
        if sight.value.is_some() {
            follows(None, sight.value);
        }
        if let Some(before) = sight.after {
            follows(before, sight.value);
        }
    }
    let mut by_call: Vec<&Sight<'_>> = sights.iter().collect();
    by_call.sort_by_key(|sight| sight.invoked);
    let mut by_return: Vec<&Sight<'_>> = sights.iter().filter(|sight| sight.returned != NEVER).collect();
    by_return.sort_by_key(|sight| sight.returned);
    let mut ended = 0;
    let mut recent: Vec<&Sight<'_>> = Vec::new();
    for sight in by_call {
        while by_return
            .get(ended)
            .is_some_and(|earlier| earlier.returned < sight.invoked)
        {
            let newest = by_return[ended];
            // Whoever ended before the newest was called comes before it already.
            recent.retain(|earlier| earlier.returned >= newest.invoked);
            recent.push(newest);
            ended += 1;
        }
        for earlier in &recent {
            follows(earlier.value, sight.value);
        }
    }
    order
}

/// Two values of which each comes before the other.
fn circle_in<'a>(order: &Order<'a>) -> Option<(Value<'a>, Value<'a>)> {
    // Depth first with colours: 1 on the way, 2 done.
    let mut colours: BTreeMap<Value<'a>, u8> = BTreeMap::new();
    for root in order.keys() {
        if colours.contains_key(root) {
            continue;
        }
        let mut calls = vec![(*root, order.get(root).into_iter().flatten())];
        colours.insert(*root, 1);
        while let Some((value, next)) = calls.last_mut() {
            let value = *value;
            let Some(after) = next.next() else {
                colours.insert(value, 2);
                calls.pop();
                continue;
            };
            match colours.get(after) {
                Some(1) => return Some((*after, value)),
                Some(_) => {}
                None => {
                    colours.insert(*after, 1);
                    calls.push((*after, order.get(after).into_iter().flatten()));
                }
            }
        }
    }
    None
}
