//! What every key of a partition holds: a tree, of which all states share what does not differ.
//!
//! ```text
//!   state 7    root -- branch -- leaf a b c d e f g h
//!                  `-- branch -- leaf i j k l m n o p
//!                                    |  put j copies a leaf and what is above it,
//!   state 8    root'- branch'- leaf' i j'k l m n o p      and takes everything else over
//! ```
//! One partition may have thousands of keys (the receipts of payments hang together by the accounts), and a search
//! keeps each state that it was in: as whole copies, 9,000 steps of such a partition were more than a gigabyte.
//! Two states are equal when their cells are; the digest only finds a candidate quickly.
//! Not here: what the cells mean (`machine`).

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// A number for the text.
    pub value: u32,
    pub version: i64,
    /// Names of the writes that created and last changed it; below 0: nobody has told them yet.
    pub create: i64,
    pub modified: i64,
}

/// Children of a branch, and cells of a leaf: a power of two.
const WIDTH: usize = 1 << WIDTH_BITS;
const WIDTH_BITS: u32 = 3;
/// With the two counters of an `Rc`.
const LEAF_BYTES: usize = size_of::<[Option<Cell>; WIDTH]>() + 16;
const BRANCH_BYTES: usize = size_of::<[Node; WIDTH]>() + 16;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Leaf(Rc<[Option<Cell>; WIDTH]>),
    Branch(Rc<[Node; WIDTH]>),
}

/// A cell for each key, by its number.
#[derive(Clone, Debug)]
pub struct Cells {
    root: Node,
    /// Branches on the way to a leaf.
    height: u32,
    /// The xor of a hash for each cell that is there.
    digest: u64,
    /// What it does not share with the state that it was made from.
    own_bytes: usize,
}

impl Cells {
    /// `count` keys that hold nothing.
    pub fn none(count: usize) -> Cells {
        let mut root = Node::Leaf(Rc::new([None; WIDTH]));
        let mut own_bytes = LEAF_BYTES;
        let (mut height, mut reach) = (0, WIDTH);
        while reach < count {
            root = Node::Branch(Rc::new(std::array::from_fn(|_| root.clone())));
            (height, reach) = (height + 1, reach * WIDTH);
            own_bytes += BRANCH_BYTES;
        }
        Cells {
            root,
            height,
            digest: 0,
            own_bytes,
        }
    }

    /// The same cells, to be changed.
    pub fn successor(&self) -> Cells {
        Cells {
            own_bytes: 0,
            ..self.clone()
        }
    }

    /// Bytes that were allocated for this state alone.
    pub fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    pub fn get(&self, key: usize) -> Option<Cell> {
        let mut node = &self.root;
        let mut level = self.height;
        loop {
            match node {
                Node::Leaf(cells) => return cells[slot(key, 0)],
                Node::Branch(children) => node = &children[slot(key, level)],
            }
            level -= 1;
        }
    }

    pub fn set(&mut self, key: usize, cell: Option<Cell>) {
        let old = self.get(key);
        if old == cell {
            return;
        }
        self.digest ^= digest_of(key, old) ^ digest_of(key, cell);
        let mut node = &mut self.root;
        let mut level = self.height;
        loop {
            match node {
                Node::Leaf(cells) => {
                    self.own_bytes += if Rc::strong_count(cells) > 1 { LEAF_BYTES } else { 0 };
                    Rc::make_mut(cells)[slot(key, 0)] = cell;
                    return;
                }
                Node::Branch(children) => {
                    self.own_bytes += if Rc::strong_count(children) > 1 {
                        BRANCH_BYTES
                    } else {
                        0
                    };
                    node = &mut Rc::make_mut(children)[slot(key, level)];
                }
            }
            level -= 1;
        }
    }
}

impl PartialEq for Cells {
    fn eq(&self, other: &Cells) -> bool {
        // Nodes that both share are equal without a look into them.
        self.digest == other.digest && self.root == other.root
    }
}

impl Eq for Cells {}

impl Hash for Cells {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.digest);
    }
}

/// Where a key is in a node with `level` branches below it, itself included.
fn slot(key: usize, level: u32) -> usize {
    key >> (level * WIDTH_BITS) & (WIDTH - 1)
}

fn digest_of(key: usize, cell: Option<Cell>) -> u64 {
    cell.map_or(0, |cell| {
        BuildHasherDefault::<DefaultHasher>::default().hash_one((key, cell))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn cell(version: i64) -> Cell {
        Cell {
            value: 0,
            version,
            create: 1,
            modified: version,
        }
    }

    #[test]
    fn states_hold_what_a_plain_list_holds_and_leave_their_ancestors_alone() {
        for count in [1, 8, 9, 64, 65, 700] {
            let mut rng = Rng::new(count as u64);
            let mut plain = vec![None; count];
            let mut states = vec![(Cells::none(count), plain.clone())];
            for version in 1..300 {
                let key = rng.below(count as u64) as usize;
                let mut next = states[rng.below(states.len() as u64) as usize].clone();
                plain.clone_from(&next.1);
                plain[key] = (!rng.permille(200)).then(|| cell(version % 3));
                next.0 = next.0.successor();
                next.0.set(key, plain[key]);
                states.push((next.0, plain.clone()));
            }
            for (cells, plain) in &states {
                let held: Vec<_> = (0..count).map(|key| cells.get(key)).collect();
                assert_eq!(held, *plain);
            }
            for (a, b) in std::iter::zip(&states, states.iter().rev()) {
                assert_eq!(a.0 == b.0, a.1 == b.1);
                assert!(a.0 != b.0 || a.0.digest == b.0.digest);
            }
        }
    }

    #[test]
    fn the_way_to_a_state_does_not_matter_and_a_step_costs_a_path() {
        let (mut there, mut back) = (Cells::none(6000), Cells::none(6000));
        for key in 0..6000 {
            there.set(key, Some(cell(1)));
            back.set(5999 - key, Some(cell(1)));
        }
        assert!(there == back && there.digest == back.digest);
        let mut next = there.successor();
        next.set(17, Some(cell(2)));
        assert!(next != there && next.own_bytes() == LEAF_BYTES + 4 * BRANCH_BYTES);
        next.set(17, Some(cell(1)));
        assert!(next == there && next.digest == there.digest);
    }
}
