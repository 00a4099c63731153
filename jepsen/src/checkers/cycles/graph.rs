//! A graph of dependencies, its strongly connected components, and the shortest circle that names an anomaly.
//!
//! ```text
//!   T1 --ww--> T2 --rw--> T3 --rt--> T1            G-single-realtime: one rw, and real time
//! ```
//! Real time would be an edge for every pair; it is a chain of instants instead, which transactions enter at their
//! end and leave at their call: O(n) edges. Not here: where the other edges come from.

use super::{Transaction, anomaly};
use crate::checkers::Anomaly;
use crate::history::NEVER;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    WriteWrite,
    WriteRead,
    ReadWrite,
    RealTime,
}

impl Edge {
    fn text(self) -> &'static str {
        match self {
            Edge::WriteWrite => "ww",
            Edge::WriteRead => "wr",
            Edge::ReadWrite => "rw",
            Edge::RealTime => "rt",
        }
    }
}

/// So many circles of one kind are enough to see what is wrong.
const CIRCLES_MAX: usize = 8;
/// Of those that close by one rw, so many are tried in one component.
const TRIES_MAX: usize = 2000;

/// Nodes below `transactions` are these; instants of real time follow.
pub struct Graph {
    places: Vec<usize>,
    edges: Vec<BTreeSet<(usize, Edge)>>,
}

impl Graph {
    pub fn new<O>(transactions: &[Transaction<O>]) -> Graph {
        let mut graph = Graph {
            places: transactions.iter().map(|transaction| transaction.place).collect(),
            edges: vec![BTreeSet::new(); transactions.len()],
        };
        graph.add_real_time(transactions);
        graph
    }

    /// A transaction does not depend on itself.
    pub fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to {
            self.edges[from].insert((to, edge));
        }
    }

    fn add_real_time<O>(&mut self, transactions: &[Transaction<O>]) {
        let ends: BTreeSet<u64> = transactions
            .iter()
            .filter(|transaction| transaction.returned != NEVER)
            .map(|transaction| transaction.returned)
            .collect();
        let ends: Vec<u64> = ends.into_iter().collect();
        let first = self.places.len();
        self.edges.resize(first + ends.len(), BTreeSet::new());
        for instant in 1..ends.len() {
            self.add(first + instant - 1, first + instant, Edge::RealTime);
        }
        for (node, transaction) in transactions.iter().enumerate() {
            if transaction.returned != NEVER {
                let after = ends.partition_point(|end| *end < transaction.returned);
                self.add(node, first + after, Edge::RealTime);
            }
            let before = ends.partition_point(|end| *end < transaction.invoked);
            if before > 0 {
                self.add(first + before - 1, node, Edge::RealTime);
            }
        }
    }

    /// Every kind of circle, the worst first; a component that shows a worse one is not asked for a lesser.
    pub fn circles(&self) -> Vec<Anomaly> {
        use Edge::{ReadWrite, RealTime, WriteRead, WriteWrite};
        let kinds: [(&str, &[Edge], bool); 8] = [
            ("G0", &[WriteWrite], false),
            ("G1c", &[WriteWrite, WriteRead], false),
            ("G-single", &[WriteWrite, WriteRead], true),
            ("G2", &[WriteWrite, WriteRead, ReadWrite], false),
            ("G0-realtime", &[WriteWrite, RealTime], false),
            ("G1c-realtime", &[WriteWrite, WriteRead, RealTime], false),
            ("G-single-realtime", &[WriteWrite, WriteRead, RealTime], true),
            ("G2-realtime", &[WriteWrite, WriteRead, ReadWrite, RealTime], false),
        ];
        let mut named: BTreeSet<usize> = BTreeSet::new();
        let mut anomalies = Vec::new();
        for (name, edges, with_one_rw) in kinds {
            let mut wanted = edges.to_vec();
            if with_one_rw {
                wanted.push(ReadWrite);
            }
            let mut found = 0;
            for component in self.components(&wanted) {
                if found == CIRCLES_MAX || component.iter().any(|node| named.contains(node)) {
                    continue;
                }
                let circle = if with_one_rw {
                    self.circle_with_one_rw(&component, edges)
                } else {
                    self.shortest_circle(&component, edges)
                };
                if let Some(circle) = circle {
                    named.extend(component);
                    anomalies.push(self.describe(name, &circle));
                    found += 1;
                }
            }
        }
        anomalies
    }

    fn circle_with_one_rw(&self, component: &BTreeSet<usize>, edges: &[Edge]) -> Option<Vec<(usize, Edge)>> {
        let turns = component.iter().flat_map(|from| {
            let turns = self.edges[*from].iter().filter(|(_, edge)| *edge == Edge::ReadWrite);
            turns.map(|(to, _)| (*from, *to))
        });
        let inside = turns.filter(|(_, to)| component.contains(to));
        inside.take(TRIES_MAX).find_map(|(from, to)| {
            let mut circle = vec![(from, Edge::ReadWrite)];
            circle.extend(self.path(to, from, component, edges)?);
            Some(circle)
        })
    }

    fn shortest_circle(&self, component: &BTreeSet<usize>, edges: &[Edge]) -> Option<Vec<(usize, Edge)>> {
        component.iter().take(TRIES_MAX).find_map(|start| {
            let out = self.edges[*start].iter().filter(|(_, edge)| edges.contains(edge));
            out.filter(|(to, _)| component.contains(to)).find_map(|(to, edge)| {
                let mut circle = vec![(*start, *edge)];
                circle.extend(self.path(*to, *start, component, edges)?);
                Some(circle)
            })
        })
    }

    /// The shortest way, as nodes with the edges that leave them.
    fn path(&self, from: usize, to: usize, component: &BTreeSet<usize>, edges: &[Edge]) -> Option<Vec<(usize, Edge)>> {
        let mut reached: BTreeMap<usize, (usize, Edge)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            if node == to {
                break;
            }
            for (next, edge) in &self.edges[node] {
                let is_open = *next != from && !reached.contains_key(next);
                if is_open && edges.contains(edge) && component.contains(next) {
                    reached.insert(*next, (node, *edge));
                    queue.push_back(*next);
                }
            }
        }
        let mut path = Vec::new();
        let mut node = to;
        while node != from {
            let (before, edge) = *reached.get(&node)?;
            path.push((before, edge));
            node = before;
        }
        path.reverse();
        Some(path)
    }

    fn describe(&self, name: &str, circle: &[(usize, Edge)]) -> Anomaly {
        // Instants are no transactions: the edges through them are one.
        let mut text = String::new();
        let mut places = Vec::new();
        for (node, edge) in circle {
            if let Some(place) = self.places.get(*node) {
                places.push(*place);
                text += &["operation ", &place.to_string(), " --", edge.text(), "--> "].concat();
            }
        }
        text += places.first().map_or("", |_| "the first");
        places.dedup();
        anomaly(name, text, &places)
    }

    /// Strongly connected components of more than one node, by Tarjan, without recursion.
    fn components(&self, edges: &[Edge]) -> Vec<BTreeSet<usize>> {
        let mut tarjan = Tarjan {
            index: vec![usize::MAX; self.edges.len()],
            low: vec![0; self.edges.len()],
            on_stack: vec![false; self.edges.len()],
            stack: Vec::new(),
            count: 0,
            found: Vec::new(),
        };
        for root in 0..self.edges.len() {
            if tarjan.index[root] == usize::MAX {
                self.visit(root, edges, &mut tarjan);
            }
        }
        tarjan.found
    }

    fn visit(&self, root: usize, edges: &[Edge], tarjan: &mut Tarjan) {
        let out = |node: usize| -> Vec<usize> {
            let wanted = self.edges[node].iter().filter(|(_, edge)| edges.contains(edge));
            wanted.map(|(to, _)| *to).collect()
        };
        tarjan.enter(root);
        let mut calls = vec![(root, out(root), 0)];
        while let Some((node, next, at)) = calls.last_mut() {
            let node = *node;
            if let Some(to) = next.get(*at).copied() {
                *at += 1;
                if tarjan.index[to] == usize::MAX {
                    tarjan.enter(to);
                    calls.push((to, out(to), 0));
                } else if tarjan.on_stack[to] {
                    tarjan.low[node] = tarjan.low[node].min(tarjan.index[to]);
                }
                continue;
            }
            calls.pop();
            if let Some((parent, ..)) = calls.last() {
                tarjan.low[*parent] = tarjan.low[*parent].min(tarjan.low[node]);
            }
            tarjan.leave(node);
        }
    }
}

struct Tarjan {
    index: Vec<usize>,
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    count: usize,
    found: Vec<BTreeSet<usize>>,
}

impl Tarjan {
    fn enter(&mut self, node: usize) {
        self.index[node] = self.count;
        self.low[node] = self.count;
        self.count += 1;
        self.stack.push(node);
        self.on_stack[node] = true;
    }

    /// When all that follows from `node` was seen: if it is the first of its component, that is complete.
    fn leave(&mut self, node: usize) {
        if self.low[node] != self.index[node] {
            return;
        }
        let mut component = BTreeSet::new();
        while let Some(member) = self.stack.pop() {
            self.on_stack[member] = false;
            component.insert(member);
            if member == node {
                break;
            }
        }
        if component.len() > 1 {
            self.found.push(component);
        }
    }
}
