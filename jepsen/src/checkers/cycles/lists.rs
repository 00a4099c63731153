//! Lists that only grow: every read tells the whole past of its key.
//!
//! ```text
//!   T1 append x 1     T2 append x 2     T3 read x [1, 2]      T1 --ww--> T2 --wr--> T3
//!   T4 read x [1]                                             T4 --rw--> T2
//! ```
//! The longest read of a key is its order of versions; every other read must be a beginning of it. What was
//! committed and never read comes behind everything that was.

use super::graph::{Edge, Graph};
use super::{ListOperation, Status, Transaction, anomaly};
use crate::checkers::Anomaly;
use std::collections::{BTreeMap, BTreeSet};

type Lists = Transaction<ListOperation>;

pub fn check(transactions: &[Lists]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let writers = Writers::of(transactions);
    for transaction in transactions.iter().filter(|each| each.status == Status::Committed) {
        anomalies.extend(internal(transaction));
    }
    let orders = version_orders(transactions, &mut anomalies);
    for (key, longest) in &orders {
        anomalies.extend(own_order(transactions, key, longest.0, &writers));
        anomalies.extend(versions(transactions, key, *longest, &writers));
    }
    anomalies.extend(intermediate_reads(transactions, &writers));
    anomalies.extend(lost_updates(transactions));
    anomalies.extend(graph_of(transactions, &orders, &writers).circles());
    anomalies
}

/// Who appended what: by key and element.
struct Writers<'a>(BTreeMap<(&'a str, &'a str), usize>);

impl<'a> Writers<'a> {
    fn of(transactions: &'a [Lists]) -> Writers<'a> {
        let mut writers = BTreeMap::new();
        for (number, transaction) in transactions.iter().enumerate() {
            for (key, element) in appends(transaction) {
                writers.insert((key, element), number);
            }
        }
        Writers(writers)
    }

    fn get(&self, key: &str, element: &str) -> Option<usize> {
        self.0.get(&(key, element)).copied()
    }
}

fn appends(transaction: &Lists) -> impl Iterator<Item = (&str, &str)> {
    transaction.operations.iter().filter_map(|operation| match operation {
        ListOperation::Append { key, element } => Some((key.as_str(), element.as_str())),
        ListOperation::Read { .. } => None,
    })
}

fn reads(transaction: &Lists) -> impl Iterator<Item = (&str, &[String])> {
    transaction.operations.iter().filter_map(|operation| match operation {
        ListOperation::Read { key, list } => Some((key.as_str(), list.as_slice())),
        ListOperation::Append { .. } => None,
    })
}

/// Reads of other transactions' versions: those before the transaction's own appends.
fn external_reads(transaction: &Lists) -> Vec<(&str, &[String])> {
    let mut own: BTreeSet<&str> = BTreeSet::new();
    let mut external = Vec::new();
    for operation in &transaction.operations {
        match operation {
            ListOperation::Append { key, .. } => {
                own.insert(key);
            }
            ListOperation::Read { key, list } if !own.contains(key.as_str()) => {
                external.push((key.as_str(), list.as_slice()));
            }
            ListOperation::Read { .. } => {}
        }
    }
    external
}

fn committed(transactions: &[Lists]) -> impl Iterator<Item = (usize, &Lists)> {
    let all = transactions.iter().enumerate();
    all.filter(|(_, transaction)| transaction.status == Status::Committed)
}

/// A transaction must see its own appends, and otherwise one state.
fn internal(transaction: &Lists) -> Option<Anomaly> {
    let mut known: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut appended: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for operation in &transaction.operations {
        match operation {
            ListOperation::Append { key, element } => {
                if let Some(list) = known.get_mut(key.as_str()) {
                    list.push(element);
                }
                appended.entry(key).or_default().push(element);
            }
            ListOperation::Read { key, list } => {
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                let is_right = match known.get(key.as_str()) {
                    Some(expected) => *expected == list,
                    None => appended.get(key.as_str()).is_none_or(|own| list.ends_with(own)),
                };
                if !is_right {
                    let text = format!(
                        "a transaction reads {key} as {list:?} after {:?}",
                        known.get(key.as_str())
                    );
                    return Some(anomaly("internal", text, &[transaction.place]));
                }
                known.insert(key, list);
            }
        }
    }
    None
}

/// A key's longest read, and the place of who read it.
type Longest<'a> = (&'a [String], usize);

/// By key, its longest read. Reads that are no beginning of it are reported.
fn version_orders<'a>(transactions: &'a [Lists], anomalies: &mut Vec<Anomaly>) -> BTreeMap<&'a str, Longest<'a>> {
    let mut longest: BTreeMap<&str, Longest<'_>> = BTreeMap::new();
    for (_, transaction) in committed(transactions) {
        for (key, list) in reads(transaction) {
            let entry = longest.entry(key).or_insert((list, transaction.place));
            if list.len() > entry.0.len() {
                *entry = (list, transaction.place);
            }
        }
    }
    for (_, transaction) in committed(transactions) {
        for (key, list) in reads(transaction) {
            let (order, place) = longest[key];
            if !order.starts_with(list) {
                let text = format!("{key} is read as {list:?} and as {order:?}");
                anomalies.push(anomaly("incompatible order", text, &[transaction.place, place]));
            }
        }
    }
    longest
}

/// A transaction's own appends stand in the order in which it made them.
fn own_order(transactions: &[Lists], key: &str, order: &[String], writers: &Writers<'_>) -> Option<Anomaly> {
    let mut last: BTreeMap<usize, usize> = BTreeMap::new();
    for element in order {
        let Some(writer) = writers.get(key, element) else {
            continue;
        };
        let nth = appends(&transactions[writer]).position(|append| append == (key, element.as_str()))?;
        if last.insert(writer, nth).is_some_and(|before| before > nth) {
            let text = format!("a transaction's appends to {key} are read in another order: {order:?}");
            return Some(anomaly("incompatible order", text, &[transactions[writer].place]));
        }
    }
    None
}

/// What is wrong with the elements of one key's longest read.
fn versions(transactions: &[Lists], key: &str, longest: Longest<'_>, writers: &Writers<'_>) -> Vec<Anomaly> {
    let order = longest.0;
    let mut anomalies = Vec::new();
    let readers = [longest.1];
    let mut seen = BTreeSet::new();
    let mut aborted: Option<usize> = None;
    for element in order {
        if !seen.insert(element) {
            let text = format!("{element} is in {key} twice: {order:?}");
            anomalies.push(anomaly("duplicate elements", text, &readers));
        }
        let Some(writer) = writers.get(key, element) else {
            let text = format!("{key} holds {element}, which nobody appended");
            anomalies.push(anomaly("garbage read", text, &readers));
            continue;
        };
        let writer = &transactions[writer];
        if writer.status == Status::Aborted {
            let text = format!("{element} was read from {key}, but its transaction was aborted");
            let places = [writer.place, longest.1];
            anomalies.push(anomaly("G1a", text, &places));
            aborted = Some(writer.place);
        } else if let Some(aborted) = aborted.take() {
            let text = format!("{element} was appended to {key} on top of an aborted transaction's");
            anomalies.push(anomaly("dirty update", text, &[aborted, writer.place]));
        }
    }
    anomalies
}

/// A read must end where some transaction's appends end.
fn intermediate_reads(transactions: &[Lists], writers: &Writers<'_>) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (reader, transaction) in committed(transactions) {
        for (key, list) in external_reads(transaction) {
            let Some(last) = list.last() else { continue };
            let Some(writer) = writers.get(key, last).filter(|writer| *writer != reader) else {
                continue;
            };
            let writer = &transactions[writer];
            let own_last = appends(writer).filter(|(own, _)| *own == key).last();
            if own_last.is_some_and(|(_, element)| element != last) {
                let text = format!("{key} was read in the middle of a transaction: {list:?}");
                anomalies.push(anomaly("G1b", text, &[writer.place, transaction.place]));
            }
        }
    }
    anomalies
}

/// Two transactions that read the same version of a key and both changed it.
fn lost_updates(transactions: &[Lists]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut updates: BTreeMap<(&str, &[String]), usize> = BTreeMap::new();
    for (_, transaction) in committed(transactions) {
        for (key, list) in external_reads(transaction) {
            if !appends(transaction).any(|(own, _)| own == key) {
                continue;
            }
            if let Some(other) = updates
                .insert((key, list), transaction.place)
                .filter(|other| *other != transaction.place)
            {
                let text = format!("both read {key} as {list:?}, and both appended to it");
                anomalies.push(anomaly("lost update", text, &[other, transaction.place]));
            }
        }
    }
    anomalies
}

fn graph_of(transactions: &[Lists], orders: &BTreeMap<&str, Longest<'_>>, writers: &Writers<'_>) -> Graph {
    let mut graph = Graph::new(transactions);
    let unread = unread(transactions, orders);
    let unread_of = |key: &str| unread.get(key).map_or(&[][..], Vec::as_slice);
    let writer = |key: &str, order: &[String], at: usize| order.get(at).and_then(|element| writers.get(key, element));
    for (key, (order, _)) in orders {
        for at in 1..order.len() {
            if let (Some(a), Some(b)) = (writer(key, order, at - 1), writer(key, order, at)) {
                graph.add(a, b, Edge::WriteWrite);
            }
        }
        if let Some(last) = writer(key, order, order.len().wrapping_sub(1)) {
            for later in unread_of(key) {
                graph.add(last, *later, Edge::WriteWrite);
            }
        }
    }
    for (reader, transaction) in committed(transactions) {
        for (key, list) in external_reads(transaction) {
            let (order, _) = orders[key];
            if !order.starts_with(list) {
                continue;
            }
            if let Some(writer) = writer(key, order, list.len().wrapping_sub(1)) {
                graph.add(writer, reader, Edge::WriteRead);
            }
            if let Some(next) = writer(key, order, list.len()) {
                graph.add(reader, next, Edge::ReadWrite);
            } else if list.len() == order.len() {
                for later in unread_of(key) {
                    graph.add(reader, *later, Edge::ReadWrite);
                }
            }
        }
    }
    graph
}

/// By key, whose append no read shows, though the transaction has happened.
fn unread<'a>(transactions: &'a [Lists], orders: &BTreeMap<&str, Longest<'_>>) -> BTreeMap<&'a str, Vec<usize>> {
    let shown: BTreeSet<(&str, &str)> = orders
        .iter()
        .flat_map(|(key, (order, _))| order.iter().map(|element| (*key, element.as_str())))
        .collect();
    let mut unread: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (writer, transaction) in transactions.iter().enumerate() {
        // One of unknown outcome has happened when any of its appends was read.
        let has_happened = match transaction.status {
            Status::Committed => true,
            Status::Unknown => appends(transaction).any(|append| shown.contains(&append)),
            Status::Aborted => false,
        };
        if !has_happened {
            continue;
        }
        for (key, element) in appends(transaction) {
            if !shown.contains(&(key, element)) {
                unread.entry(key).or_default().push(writer);
            }
        }
    }
    unread
}
