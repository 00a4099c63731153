//! One partition's search, by Wing and Gong, with Lowe's memory of configurations; it can be interrupted.
//!
//! ```text
//!   given     A  B  C          the caller's guess, first to last
//!   ends      B  A  C          the first one still open is the deadline
//!   lift A    B  C             whoever was called by the deadline may come next: the first given is tried first
//!   nobody left to try before the deadline: put the last one back, try what is given after it
//! ```
//! The order in which the intervals are given is a guess at the order in which they happened, and nothing but the
//! order of the attempts: a good guess is confirmed in one pass, a bad one costs time, neither changes a verdict.
//! A configuration, which need not be tried twice, is a set of operations and a state. The set is kept as the xor
//! of a random 128-bit number for each of its members, the state as a number: 20 bytes, however long the history.
//! Two sets would have to collide in 128 bits for a wrong verdict.
//! An operation without an end is never the deadline: nothing forces it, so it is tried after all that have one.
//! Not here: how much time the search gets (`check_partitions`).

use super::{Dead, Interval, Model, Verdict};
use crate::history::NEVER;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

pub struct Search<M: Model> {
    model: M,
    intervals: Vec<Interval<M::Operation>>,
    open: Open,
    state: u32,
    set: u128,
    /// What was tried last in this configuration.
    at: usize,
    stack: Vec<Frame>,
    states: States<M::State>,
    seen: HashSet<(u128, u32), BuildHasherDefault<Mixed>>,
    steps: u64,
    longest: Dead,
    dead_depth: Option<usize>,
}

/// An operation that was lifted, and what was before.
struct Frame {
    node: usize,
    state: u32,
    set: u128,
}

impl<M: Model> Search<M> {
    /// Tries `intervals` in their order.
    pub fn new(model: M, mut intervals: Vec<Interval<M::Operation>>) -> Search<M> {
        intervals.sort_by_key(|interval| interval.end == NEVER);
        let mut states = States::new();
        let initial = model.initial();
        let heap = model.heap_bytes(&initial);
        let state = states.number(initial, heap);
        Search {
            open: Open::of(&intervals),
            model,
            intervals,
            at: HEAD,
            state,
            set: 0,
            stack: Vec::new(),
            states,
            seen: HashSet::default(),
            steps: 0,
            longest: Dead::default(),
            dead_depth: None,
        }
    }

    /// Goes on for `steps`; None when they do not suffice.
    pub fn run(&mut self, steps: u64) -> Option<Verdict> {
        for _ in 0..steps {
            let Some((blocked, deadline)) = self.open.deadline() else {
                return Some(Verdict::Linearizable);
            };
            self.steps += 1;
            if let Some(next) = self.open.after(self.at, deadline) {
                self.at = next;
                if self.open.calls[next] <= deadline {
                    self.lift();
                }
                continue;
            }
            self.note_dead_end(blocked);
            let Some(frame) = self.stack.pop() else {
                return Some(Verdict::Illegal(std::mem::take(&mut self.longest)));
            };
            self.put_back(&frame);
        }
        None
    }

    /// Steps since they were last taken.
    pub fn take_steps(&mut self) -> u64 {
        std::mem::take(&mut self.steps)
    }

    /// About what it holds in memory.
    pub fn bytes(&self) -> usize {
        // A table entry, its control byte, and a third of it empty.
        self.seen.capacity() * (size_of::<(u128, u32)>() + 1) * 8 / 7 + self.states.bytes
    }

    /// Puts the operation at hand next in the order, if it can be.
    fn lift(&mut self) {
        let node = self.at;
        let operation = &self.intervals[operation_of(node)].operation;
        let Some(next) = self.model.step(self.states.get(self.state), operation) else {
            return;
        };
        let heap = self.model.heap_bytes(&next);
        let next = self.states.number(next, heap);
        let set = self.set ^ random_of(node);
        if !self.seen.insert((set, next)) {
            return;
        }
        self.stack.push(Frame {
            node,
            state: self.state,
            set: self.set,
        });
        (self.state, self.set) = (next, set);
        self.open.remove(node);
        self.at = HEAD;
    }

    fn put_back(&mut self, frame: &Frame) {
        (self.state, self.set) = (frame.state, frame.set);
        self.open.restore(frame.node);
        self.at = frame.node;
    }

    fn note_dead_end(&mut self, blocked: usize) {
        if self.dead_depth.is_some_and(|depth| depth >= self.stack.len()) {
            return;
        }
        self.dead_depth = Some(self.stack.len());
        let place = |node| self.intervals[operation_of(node)].place;
        self.longest = Dead {
            linearized: self.stack.iter().map(|frame| place(frame.node)).collect(),
            blocked: place(blocked),
        };
    }
}

/// Before the first node and behind the last; the operations are numbered from 1, as they are given.
const HEAD: usize = 0;

fn operation_of(node: usize) -> usize {
    node - 1
}

/// The operations that are not in the order yet.
struct Open {
    /// By node.
    calls: Vec<u64>,
    /// By node, the first call of it and of all that come after it in its list.
    earliest: Vec<u64>,
    ends: Vec<u64>,
    /// Those that have an end, as they are to be tried.
    ending: List,
    /// The same, by their ends.
    by_end: List,
    /// The others, as they are to be tried.
    endless: List,
    /// The first node without an end.
    first_endless: usize,
}

impl Open {
    /// `intervals` without an end are the last ones.
    fn of<O>(intervals: &[Interval<O>]) -> Open {
        let count = intervals.len();
        let mut calls = vec![NEVER];
        calls.extend(intervals.iter().map(|interval| interval.call));
        let mut ends = vec![NEVER];
        ends.extend(intervals.iter().map(|interval| interval.end));
        let first_endless = 1 + intervals.partition_point(|interval| interval.end != NEVER);
        let mut earliest = calls.clone();
        for node in (1..count).rev().filter(|node| node + 1 != first_endless) {
            earliest[node] = earliest[node].min(earliest[node + 1]);
        }
        let mut by_end: Vec<usize> = (1..first_endless).collect();
        by_end.sort_by_key(|node| ends[*node]);
        Open {
            ending: List::of(count, 1..first_endless),
            by_end: List::of(count, by_end),
            endless: List::of(count, first_endless..=count),
            calls,
            earliest,
            ends,
            first_endless,
        }
    }

    /// Who must come next at the latest, and when; None when nobody must any more.
    fn deadline(&self) -> Option<(usize, u64)> {
        let first = self.by_end.next(HEAD);
        (first != HEAD).then(|| (first, self.ends[first]))
    }

    /// Whom to look at after `node`; None when nobody further on was called by the deadline, that time included:
    /// intervals are closed.
    fn after(&self, node: usize, deadline: u64) -> Option<usize> {
        let in_time = |node: &usize| *node != HEAD && self.earliest[*node] <= deadline;
        if node >= self.first_endless {
            return Some(self.endless.next(node)).filter(in_time);
        }
        let ending = Some(self.ending.next(node)).filter(in_time);
        ending.or_else(|| Some(self.endless.next(HEAD)).filter(in_time))
    }

    fn remove(&mut self, node: usize) {
        if node < self.first_endless {
            self.ending.remove(node);
            self.by_end.remove(node);
        } else {
            self.endless.remove(node);
        }
    }

    /// In the opposite order of removal.
    fn restore(&mut self, node: usize) {
        if node < self.first_endless {
            self.ending.restore(node);
            self.by_end.restore(node);
        } else {
            self.endless.restore(node);
        }
    }
}

/// Nodes in some order, doubly linked; [`HEAD`] is before the first and behind the last.
struct List {
    next: Vec<usize>,
    prev: Vec<usize>,
}

impl List {
    /// Of `nodes`, none of them above `count`.
    fn of(count: usize, nodes: impl IntoIterator<Item = usize>) -> List {
        let mut list = List {
            next: vec![HEAD; count + 1],
            prev: vec![HEAD; count + 1],
        };
        let mut last = HEAD;
        for node in nodes {
            list.next[last] = node;
            list.prev[node] = last;
            last = node;
        }
        list.prev[HEAD] = last;
        list
    }

    fn next(&self, node: usize) -> usize {
        self.next[node]
    }

    fn remove(&mut self, node: usize) {
        let (prev, next) = (self.prev[node], self.next[node]);
        self.next[prev] = next;
        self.prev[next] = prev;
    }

    /// In the opposite order of removal.
    fn restore(&mut self, node: usize) {
        let (prev, next) = (self.prev[node], self.next[node]);
        self.next[prev] = node;
        self.prev[next] = node;
    }
}

/// States by number, each kept once.
struct States<S> {
    numbers: HashMap<S, u32>,
    all: Vec<S>,
    bytes: usize,
}

impl<S: Clone + Eq + std::hash::Hash> States<S> {
    fn new() -> States<S> {
        States {
            numbers: HashMap::new(),
            all: Vec::new(),
            bytes: 0,
        }
    }

    fn get(&self, number: u32) -> &S {
        &self.all[number as usize]
    }

    fn number(&mut self, state: S, heap_bytes: usize) -> u32 {
        if let Some(number) = self.numbers.get(&state) {
            return *number;
        }
        let number = u32::try_from(self.all.len()).expect("memory ends before four billion states");
        // In the map and in the list; both share what is outside of it.
        self.bytes += 2 * size_of::<S>() + heap_bytes + size_of::<u32>();
        self.all.push(state.clone());
        self.numbers.insert(state, number);
        number
    }
}

/// A fixed random number for each operation.
fn random_of(operation: usize) -> u128 {
    let spread = |seed: u64| {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let (high, low) = (spread(2 * operation as u64), spread(2 * operation as u64 + 1));
    (u128::from(high) << 64) | u128::from(low)
}

/// Hashes what is random already.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(8) ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn write_u128(&mut self, number: u128) {
        self.0 ^= number as u64;
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
