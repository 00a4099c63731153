//! One partition's search, by Wing and Gong, with Lowe's memory of configurations; it can be interrupted.
//!
//! ```text
//!   list      callA  callB  returnA  callC  returnB  returnC
//!   lift A    callB  returnB ...                 A is taken out when the machine can do it now
//!   a return is met: whoever must have happened has not: put the last one back, try what follows it
//! ```
//! A configuration, which need not be tried twice, is a set of operations and a state. The set is kept as the xor
//! of a random 128-bit number for each of its members, the state as a number: 20 bytes, however long the history.
//! Two sets would have to collide in 128 bits for a wrong verdict.
//! An operation without an end has a call but no return in the list: nothing forces it.
//! Not here: how much time the search gets (`check_partitions`).

use super::{Dead, Interval, Model, Verdict};
use crate::history::NEVER;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

pub struct Search<M: Model> {
    model: M,
    intervals: Vec<Interval<M::Operation>>,
    list: List,
    /// Returns still in the list.
    returns: usize,
    state: u32,
    set: u128,
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
    pub fn new(model: M, intervals: Vec<Interval<M::Operation>>) -> Search<M> {
        let list = List::of(&intervals);
        let mut states = States::new();
        let initial = model.initial();
        let heap = model.heap_bytes(&initial);
        let state = states.number(initial, heap);
        Search {
            returns: intervals.iter().filter(|interval| interval.end != NEVER).count(),
            at: list.first(),
            model,
            intervals,
            list,
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
            if self.returns == 0 {
                return Some(Verdict::Linearizable);
            }
            self.steps += 1;
            match self.list.nodes[self.at].kind {
                Kind::Call(operation) => {
                    if !self.lift(operation) {
                        self.at = self.list.nodes[self.at].next;
                    }
                }
                Kind::Return(operation) => {
                    self.note_dead_end(operation);
                    let Some(frame) = self.stack.pop() else {
                        return Some(Verdict::Illegal(std::mem::take(&mut self.longest)));
                    };
                    self.put_back(&frame);
                }
                // Behind the last return nothing is forced: with returns left this cannot be reached.
                Kind::End => unreachable!("returns are left, so one is met before the end"),
            }
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

    fn lift(&mut self, operation: usize) -> bool {
        let next = self
            .model
            .step(self.states.get(self.state), &self.intervals[operation].operation);
        let Some(next) = next else { return false };
        let heap = self.model.heap_bytes(&next);
        let next = self.states.number(next, heap);
        let set = self.set ^ random_of(operation);
        if !self.seen.insert((set, next)) {
            return false;
        }
        self.stack.push(Frame {
            node: self.at,
            state: self.state,
            set: self.set,
        });
        (self.state, self.set) = (next, set);
        self.list.remove(self.at);
        if let Some(end) = self.list.returns[operation] {
            self.list.remove(end);
            self.returns -= 1;
        }
        self.at = self.list.first();
        true
    }

    fn put_back(&mut self, frame: &Frame) {
        (self.state, self.set) = (frame.state, frame.set);
        if let Kind::Call(operation) = self.list.nodes[frame.node].kind
            && let Some(end) = self.list.returns[operation]
        {
            self.list.restore(end);
            self.returns += 1;
        }
        self.list.restore(frame.node);
        self.at = self.list.nodes[frame.node].next;
    }

    fn note_dead_end(&mut self, operation: usize) {
        if self.dead_depth.is_some_and(|depth| depth >= self.stack.len()) {
            return;
        }
        self.dead_depth = Some(self.stack.len());
        let lifted = self
            .stack
            .iter()
            .filter_map(|frame| match self.list.nodes[frame.node].kind {
                Kind::Call(operation) => Some(self.intervals[operation].place),
                _ => None,
            });
        self.longest = Dead {
            linearized: lifted.collect(),
            blocked: self.intervals[operation].place,
        };
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Call(usize),
    Return(usize),
    End,
}

struct Node {
    kind: Kind,
    prev: usize,
    next: usize,
}

/// Calls and returns by time, doubly linked; node 0 is before the first and behind the last.
struct List {
    nodes: Vec<Node>,
    /// By operation, its return's node.
    returns: Vec<Option<usize>>,
}

impl List {
    fn of<O>(intervals: &[Interval<O>]) -> List {
        let mut ends: Vec<(u64, bool, usize)> = Vec::new();
        for (operation, interval) in intervals.iter().enumerate() {
            ends.push((interval.call, false, operation));
            if interval.end != NEVER {
                ends.push((interval.end, true, operation));
            }
        }
        // Calls before returns of the same time: intervals are closed.
        ends.sort_unstable();
        let last = ends.len();
        let mut nodes = vec![Node {
            kind: Kind::End,
            prev: last,
            next: usize::from(last > 0),
        }];
        let mut returns = vec![None; intervals.len()];
        for (at, (_, is_return, operation)) in ends.into_iter().enumerate() {
            if is_return {
                returns[operation] = Some(at + 1);
            }
            nodes.push(Node {
                kind: if is_return {
                    Kind::Return(operation)
                } else {
                    Kind::Call(operation)
                },
                prev: at,
                next: if at + 1 == last { 0 } else { at + 2 },
            });
        }
        List { nodes, returns }
    }

    fn first(&self) -> usize {
        self.nodes[0].next
    }

    fn remove(&mut self, at: usize) {
        let Node { prev, next, .. } = self.nodes[at];
        self.nodes[prev].next = next;
        self.nodes[next].prev = prev;
    }

    /// In the opposite order of removal.
    fn restore(&mut self, at: usize) {
        let Node { prev, next, .. } = self.nodes[at];
        self.nodes[prev].next = at;
        self.nodes[next].prev = at;
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
        self.bytes += 2 * (size_of::<S>() + heap_bytes) + size_of::<u32>();
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
