//! A map from ranges of keys to values that answers "whose range holds this key?" in O(log n + found): a treap
//! ordered by (from, to), each node knowing the furthest end below it. Ten thousand watches on nested ranges
//! must neither be walked for each event (a list) nor be copied into each other's segments (a segment map).
//!
//! Equal ranges share one entry: most watches of a prefix are on the same prefix. Empty ranges hold no key and
//! must not be put in.

// A link is an option that is written through, and walked by the same name when it is only read.
#![allow(clippy::ref_option)]

use bytes::Bytes;
use proto::KeyRange;
use std::cmp::Ordering;

/// Ranges, each with a value.
pub struct Intervals<T> {
    root: Link<T>,
    /// Priorities come from a counter through a mixer: balanced for any order of insertion, no randomness.
    counter: u64,
}

type Link<T> = Option<Box<Node<T>>>;

struct Node<T> {
    from: Bytes,
    /// The first key behind the range; `None` is no end.
    to: Option<Bytes>,
    /// The largest `to` in this subtree.
    furthest: Option<Bytes>,
    priority: u64,
    value: T,
    left: Link<T>,
    right: Link<T>,
}

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Self { root: None, counter: 0 }
    }
}

impl<T: Default> Intervals<T> {
    /// The value of exactly this range, made if it was not there.
    pub fn entry(&mut self, range: &KeyRange) -> &mut T {
        let (from, to) = (range.from().clone(), range.to());
        if find(&self.root, &from, to.as_ref()).is_none() {
            self.counter += 1;
            let furthest = to.clone();
            let (left, right, priority) = (None, None, mix(self.counter));
            let value = T::default();
            insert(
                &mut self.root,
                Box::new(Node {
                    from: from.clone(),
                    to: to.clone(),
                    furthest,
                    priority,
                    value,
                    left,
                    right,
                }),
            );
        }
        find_mut(&mut self.root, &from, to.as_ref()).expect("it was found or inserted above")
    }

    /// Takes exactly this range out.
    pub fn remove(&mut self, range: &KeyRange) {
        remove(&mut self.root, range.from(), range.to().as_ref());
    }

    /// Calls `found` with the value of each range that holds `key`.
    pub fn containing<'a>(&'a self, key: &[u8], found: &mut impl FnMut(&'a T)) {
        containing(&self.root, key, found);
    }

    /// Calls `found` with every value.
    pub fn each<'a>(&'a self, found: &mut impl FnMut(&'a T)) {
        each(&self.root, found);
    }
}

fn containing<'a, T>(link: &'a Link<T>, key: &[u8], found: &mut impl FnMut(&'a T)) {
    let Some(node) = link else { return };
    if node.furthest.as_ref().is_some_and(|end| end.as_ref() <= key) {
        return;
    }
    containing(&node.left, key, found);
    if node.from.as_ref() <= key {
        if node.to.as_ref().is_none_or(|end| key < end.as_ref()) {
            found(&node.value);
        }
        containing(&node.right, key, found);
    }
}

fn each<'a, T>(link: &'a Link<T>, found: &mut impl FnMut(&'a T)) {
    if let Some(node) = link {
        each(&node.left, found);
        found(&node.value);
        each(&node.right, found);
    }
}

/// Orders ends: no end is behind every end.
fn compare_ends(a: Option<&Bytes>, b: Option<&Bytes>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

impl<T> Node<T> {
    fn compare(&self, from: &Bytes, to: Option<&Bytes>) -> Ordering {
        from.cmp(&self.from).then_with(|| compare_ends(to, self.to.as_ref()))
    }

    fn update(&mut self) {
        let below = [&self.left, &self.right]
            .into_iter()
            .flatten()
            .map(|child| child.furthest.as_ref());
        self.furthest = below
            .chain([self.to.as_ref()])
            .max_by(|a, b| compare_ends(*a, *b))
            .expect("the node's own end is always there")
            .cloned();
    }
}

fn find<'a, T>(mut link: &'a Link<T>, from: &Bytes, to: Option<&Bytes>) -> Option<&'a T> {
    while let Some(node) = link {
        link = match node.compare(from, to) {
            Ordering::Equal => return Some(&node.value),
            Ordering::Less => &node.left,
            Ordering::Greater => &node.right,
        };
    }
    None
}

fn find_mut<'a, T>(mut link: &'a mut Link<T>, from: &Bytes, to: Option<&Bytes>) -> Option<&'a mut T> {
    while let Some(node) = link {
        link = match node.compare(from, to) {
            Ordering::Equal => return Some(&mut node.value),
            Ordering::Less => &mut node.left,
            Ordering::Greater => &mut node.right,
        };
    }
    None
}

fn insert<T>(link: &mut Link<T>, mut new: Box<Node<T>>) {
    match link {
        Some(node) if node.priority >= new.priority => {
            let side = match node.compare(&new.from, new.to.as_ref()) {
                Ordering::Less => &mut node.left,
                _ => &mut node.right,
            };
            insert(side, new);
            node.update();
        }
        _ => {
            (new.left, new.right) = split(link.take(), &new.from, new.to.as_ref());
            new.update();
            *link = Some(new);
        }
    }
}

fn split<T>(link: Link<T>, from: &Bytes, to: Option<&Bytes>) -> (Link<T>, Link<T>) {
    let Some(mut node) = link else { return (None, None) };
    if node.compare(from, to) == Ordering::Less {
        let (before, behind) = split(node.left.take(), from, to);
        node.left = behind;
        node.update();
        (before, Some(node))
    } else {
        let (before, behind) = split(node.right.take(), from, to);
        node.right = before;
        node.update();
        (Some(node), behind)
    }
}

fn remove<T>(link: &mut Link<T>, from: &Bytes, to: Option<&Bytes>) {
    let Some(node) = link else { return };
    match node.compare(from, to) {
        Ordering::Less => remove(&mut node.left, from, to),
        Ordering::Greater => remove(&mut node.right, from, to),
        Ordering::Equal => {
            *link = merge(node.left.take(), node.right.take());
            return;
        }
    }
    node.update();
}

fn merge<T>(left: Link<T>, right: Link<T>) -> Link<T> {
    match (left, right) {
        (None, other) | (other, None) => other,
        (Some(mut left), Some(right)) if left.priority >= right.priority => {
            left.right = merge(left.right.take(), Some(right));
            left.update();
            Some(left)
        }
        (left, Some(mut right)) => {
            right.left = merge(left, right.left.take());
            right.update();
            Some(right)
        }
    }
}

/// splitmix64's finaliser.
fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = prop::collection::vec(0..4u8, 0..3);
        (key.clone(), key)
            .prop_map(|(from, to)| KeyRange::new(from.into(), to.into()))
            .prop_filter("only ranges that hold a key are put in", |range| {
                !range.is_empty() && !matches!(range, KeyRange::Key(_))
            })
    }

    proptest! {
        #[test]
        fn finds_what_a_list_finds(steps in prop::collection::vec((any::<bool>(), range()), 0..120)) {
            let mut intervals: Intervals<Option<KeyRange>> = Intervals::default();
            let mut list = BTreeSet::new();
            for (put, range) in steps {
                if put {
                    *intervals.entry(&range) = Some(range.clone());
                    list.insert(range);
                } else {
                    intervals.remove(&range);
                    list.remove(&range);
                }
                for key in [&[][..], &[0], &[1], &[1, 2], &[2, 0], &[3], &[3, 3, 3]] {
                    let mut found = BTreeSet::new();
                    intervals.containing(key, &mut |range| {
                        found.insert(range.clone().expect("each entry was filled"));
                    });
                    let expected: BTreeSet<_> = list.iter().filter(|range| range.contains(key)).cloned().collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }

    #[test]
    fn stays_shallow_in_any_order() {
        fn depth<T>(link: &Link<T>) -> usize {
            link.as_ref()
                .map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
        }
        let mut intervals: Intervals<()> = Intervals::default();
        for i in 0..10_000u32 {
            intervals.entry(&KeyRange::From(Bytes::copy_from_slice(&i.to_be_bytes())));
        }
        assert!(depth(&intervals.root) < 50, "depth {}", depth(&intervals.root));
    }
}
