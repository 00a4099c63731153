//! How many keys are in a range, without walking it: fences.
//!
//! ```text
//! keys    ""........"f".........."m"......"t"..........   fences: sparse keys, every ~256th
//! counts       201        388          90       267       live keys from one fence up to the next
//! range          [----------------------)                 = scan to "f", + 388, + scan from "m"
//! ```
//! Fences are grouped in blocks with sums, so that a count adds up some hundreds of numbers for a hundred
//! million keys. Memory is about a third of a byte per key. A block is one row on disk, written with a flush
//! when it changed since the last.
//!
//! Not here: who scans the two ends, and what happened since the fences counted (see `view`, `writer`).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};
use std::collections::BTreeMap;

/// Keys between fences when they are set.
pub const FENCE_KEYS: i64 = 256;
/// More keys between two fences than this are worth another fence.
pub const FENCE_KEYS_MAX: i64 = 2 * FENCE_KEYS;
/// Fewer keys than this do not deserve a fence of their own.
const FENCE_KEYS_MIN: i64 = 32;
/// Fences in a block: about the square root of what 100 million keys need.
const BLOCK_FENCES_MAX: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fence {
    low: Bytes,
    keys: i64,
}

#[derive(Clone, Debug)]
struct Block {
    fences: Vec<Fence>,
    total: i64,
    is_dirty: bool,
}

/// Exact counts between sparse keys.
#[derive(Clone, Debug)]
pub struct Fences {
    blocks: Vec<Block>,
    dropped: Vec<Bytes>,
}

/// Sets a fence at every so many keys of a gap that begins at `low`. Fences live long: their keys are copied.
pub fn fence_in(low: Bytes, keys: impl Iterator<Item = Bytes>) -> Vec<(Bytes, i64)> {
    let mut fences = vec![(low, 0)];
    for key in keys {
        match fences.last_mut() {
            Some((_, counted)) if *counted < FENCE_KEYS => *counted += 1,
            _ => fences.push((Bytes::copy_from_slice(&key), 1)),
        }
    }
    fences
}

/// The part of a range that consists of whole gaps between fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its first possible key.
    pub from: Bytes,
    /// The first key behind it.
    pub to: Option<Bytes>,
    /// Live keys in it.
    pub keys: i64,
}

impl Whole {
    /// Whether it covers a key.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.from.as_ref() <= key && self.to.as_ref().is_none_or(|to| key < to.as_ref())
    }
}

impl Default for Fences {
    fn default() -> Self {
        Self::new(vec![(Bytes::new(), 0)])
    }
}

impl Fences {
    /// Fences at the given keys, of which the first is "" and counts what is before the second.
    pub fn new(fences: Vec<(Bytes, i64)>) -> Self {
        assert!(
            fences.first().is_some_and(|(low, _)| low.is_empty()),
            "the first fence is before all keys"
        );
        let fences: Vec<_> = fences.into_iter().map(|(low, keys)| Fence { low, keys }).collect();
        let blocks = fences
            .chunks(BLOCK_FENCES_MAX / 2)
            .map(|fences| Block::new(fences.to_vec()))
            .collect();
        Self {
            blocks,
            dropped: Vec::new(),
        }
    }

    /// The key of the fence that counts `key`.
    pub fn fence_of(&self, key: &[u8]) -> Bytes {
        let (block, fence) = self.find(key);
        self.blocks[block].fences[fence].low.clone()
    }

    /// The fence that counts `key`: its own key, and the next fence's.
    pub fn around(&self, key: &[u8]) -> (Bytes, Option<Bytes>) {
        let (block, fence) = self.find(key);
        let next = self.blocks[block].fences.get(fence + 1);
        let next = next.or_else(|| self.blocks.get(block + 1).map(|block| &block.fences[0]));
        (
            self.blocks[block].fences[fence].low.clone(),
            next.map(|fence| fence.low.clone()),
        )
    }

    /// The gaps that would hold too many keys after these were counted: from where, to where.
    pub fn crowded(&self, deltas: &BTreeMap<Bytes, i64>) -> Vec<(Bytes, Option<Bytes>)> {
        let crowded = deltas
            .iter()
            .filter(|(low, delta)| self.keys_at(low) + *delta > FENCE_KEYS_MAX);
        crowded.map(|(low, _)| self.around(low)).collect()
    }

    /// The keys that the fence at `low` counts.
    pub fn keys_at(&self, low: &[u8]) -> i64 {
        let (block, fence) = self.find(low);
        let fence = &self.blocks[block].fences[fence];
        assert!(fence.low == low, "there is no fence at {low:?}");
        fence.keys
    }

    /// All live keys.
    pub fn total(&self) -> i64 {
        self.blocks.iter().map(|block| block.total).sum()
    }

    /// The whole gaps within `[from, to)`, if there are any.
    pub fn whole(&self, from: &[u8], to: Option<&[u8]>) -> Option<Whole> {
        let first = self.first_at_or_after(from)?;
        let last = match to {
            // The gap that `to` falls into is not whole.
            Some(to) => self.find(to),
            None => (self.blocks.len(), 0),
        };
        if first >= last {
            return None;
        }
        let from = self.blocks[first.0].fences[first.1].low.clone();
        let to = self.blocks.get(last.0).map(|block| block.fences[last.1].low.clone());
        Some(Whole {
            from,
            to,
            keys: self.sum(first, last),
        })
    }

    /// Counts keys that came and went, by the fence that counts them.
    pub fn add(&mut self, deltas: &BTreeMap<Bytes, i64>) {
        for (low, delta) in deltas {
            let (at, fence) = self.find(low);
            let block = &mut self.blocks[at];
            assert!(block.fences[fence].low == low, "there is no fence at {low:?}");
            block.fences[fence].keys += delta;
            block.total += delta;
            block.is_dirty = true;
            let keys = block.fences[fence].keys;
            assert!(keys >= 0, "the fence at {low:?} counts {keys} keys");
            if keys < FENCE_KEYS_MIN {
                self.merge(at, fence);
            }
        }
    }

    /// Replaces one fence by several, of which the first is at the same key.
    pub fn split(&mut self, pieces: Vec<(Bytes, i64)>) {
        let low = &pieces.first().expect("a split leaves something").0;
        let (at, fence) = self.find(low);
        let block = &mut self.blocks[at];
        let keys: i64 = pieces.iter().map(|(_, keys)| keys).sum();
        let old = &block.fences[fence];
        assert!(
            old.low == low && old.keys == keys,
            "the fence at {:?} counts {}, not {keys}",
            old.low,
            old.keys
        );
        block
            .fences
            .splice(fence..=fence, pieces.into_iter().map(|(low, keys)| Fence { low, keys }));
        block.is_dirty = true;
        if block.fences.len() > BLOCK_FENCES_MAX {
            let fences = std::mem::take(&mut block.fences);
            let halves = fences
                .chunks(BLOCK_FENCES_MAX / 2)
                .map(|fences| Block::new(fences.to_vec()));
            self.blocks.splice(at..=at, halves.collect::<Vec<_>>());
        }
    }

    /// The rows that changed since they were last taken: by the first fence of the block, `None` if there is
    /// no such block any more.
    pub fn take_rows(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        let mut rows: Vec<_> = std::mem::take(&mut self.dropped)
            .into_iter()
            .map(|low| (low, None))
            .collect();
        for block in self.blocks.iter_mut().filter(|block| block.is_dirty) {
            block.is_dirty = false;
            rows.push((block.fences[0].low.clone(), Some(block.encode())));
        }
        rows
    }

    /// Fences from all their rows, in order.
    pub fn from_rows(rows: impl Iterator<Item = Bytes>) -> Self {
        let blocks: Vec<_> = rows.map(Block::decode).collect();
        let first = blocks.first().map(|block| &block.fences[0].low);
        assert!(
            first.is_some_and(Bytes::is_empty),
            "corrupt fences: the first is at {first:?}"
        );
        Self {
            blocks,
            dropped: Vec::new(),
        }
    }

    /// The fence whose gap `key` falls into.
    fn find(&self, key: &[u8]) -> (usize, usize) {
        let block = self.blocks.partition_point(|block| block.fences[0].low <= key) - 1;
        let fence = self.blocks[block].fences.partition_point(|fence| fence.low <= key) - 1;
        (block, fence)
    }

    fn first_at_or_after(&self, key: &[u8]) -> Option<(usize, usize)> {
        let (block, fence) = self.find(key);
        if self.blocks[block].fences[fence].low == key {
            Some((block, fence))
        } else if fence + 1 < self.blocks[block].fences.len() {
            Some((block, fence + 1))
        } else {
            (block + 1 < self.blocks.len()).then_some((block + 1, 0))
        }
    }

    fn sum(&self, first: (usize, usize), last: (usize, usize)) -> i64 {
        let keys = |fences: &[Fence]| fences.iter().map(|fence| fence.keys).sum::<i64>();
        if first.0 == last.0 {
            return keys(&self.blocks[first.0].fences[first.1..last.1]);
        }
        let between: i64 = self.blocks[first.0 + 1..last.0].iter().map(|block| block.total).sum();
        let ending = self.blocks.get(last.0).map_or(0, |block| keys(&block.fences[..last.1]));
        keys(&self.blocks[first.0].fences[first.1..]) + between + ending
    }

    /// Joins a fence that counts little to the one before it, if that does not count too much.
    fn merge(&mut self, at: usize, fence: usize) {
        let keys = self.blocks[at].fences[fence].keys;
        if fence > 0 {
            let block = &mut self.blocks[at];
            if block.fences[fence - 1].keys + keys <= FENCE_KEYS {
                block.fences[fence - 1].keys += keys;
                block.fences.remove(fence);
            }
        } else if at > 0 && self.blocks[at].fences.len() == 1 {
            // The last fence of a block: the block goes with it.
            let before = &mut self.blocks[at - 1];
            let last = before.fences.last_mut().expect("a block has a fence");
            if last.keys + keys <= FENCE_KEYS {
                last.keys += keys;
                before.total += keys;
                before.is_dirty = true;
                let block = self.blocks.remove(at);
                self.dropped.push(block.fences[0].low.clone());
            }
        }
    }
}

impl Block {
    fn new(fences: Vec<Fence>) -> Self {
        let total = fences.iter().map(|fence| fence.keys).sum();
        Self {
            fences,
            total,
            is_dirty: true,
        }
    }

    fn encode(&self) -> Bytes {
        let mut row = BytesMut::new();
        for fence in &self.fences {
            encode_varint(fence.low.len() as u64, &mut row);
            row.put_slice(&fence.low);
            encode_varint(fence.keys as u64, &mut row);
        }
        row.freeze()
    }

    fn decode(mut row: Bytes) -> Self {
        let mut fences = Vec::new();
        while row.has_remaining() {
            let length = decode_varint(&mut row).expect("corrupt fences: a length does not end") as usize;
            assert!(
                length <= row.len(),
                "corrupt fences: a key of {length} bytes in {}",
                row.len()
            );
            let low = Bytes::copy_from_slice(&row.split_to(length));
            let keys = decode_varint(&mut row).expect("corrupt fences: a count does not end") as i64;
            fences.push(Fence { low, keys });
        }
        assert!(!fences.is_empty(), "corrupt fences: a block without a fence");
        Self {
            is_dirty: false,
            ..Self::new(fences)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: i64) -> Bytes {
        Bytes::from(format!("{number:06}"))
    }

    fn counted(keys: i64) -> Fences {
        let fences = (0..keys / 10)
            .map(|i| (if i == 0 { Bytes::new() } else { key(i * 10) }, 10))
            .collect();
        Fences::new(fences)
    }

    #[test]
    fn whole_gaps_add_up() {
        let fences = counted(20_000);
        assert_eq!(fences.total(), 20_000);
        for (from, to) in [(5, 25), (10, 20), (11, 19), (0, 19_999), (9_995, 15_005)] {
            let (low, high) = ((from + 9) / 10 * 10, to / 10 * 10);
            let whole = fences.whole(&key(from), Some(&key(to)));
            if from == 0 || low < high {
                let whole = whole.expect("there is a whole gap");
                assert_eq!(
                    whole.keys,
                    if from == 0 { high - 10 } else { high - low },
                    "{from} {to}"
                );
            } else {
                assert_eq!(whole, None);
            }
        }
        assert_eq!(fences.whole(b"", None).map(|whole| whole.keys), Some(20_000));
    }

    #[test]
    fn rows_hold_everything_and_small_fences_merge() {
        let mut fences = counted(20_000);
        let mut rows: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        let mut save = |fences: &mut Fences| {
            for (low, row) in fences.take_rows() {
                match row {
                    Some(row) => rows.insert(low, row),
                    None => rows.remove(&low),
                };
            }
            Fences::from_rows(rows.values().cloned())
        };
        assert_eq!(save(&mut fences).total(), 20_000);
        let mut left = 20_000;
        for number in (10..20_000).step_by(10) {
            let low = fences.around(&key(number)).0;
            fences.add(&BTreeMap::from([(low, -i64::from(number % 20 == 0) * 5)]));
            left -= i64::from(number % 20 == 0) * 5;
        }
        assert_eq!(fences.total(), left);
        let saved = save(&mut fences);
        assert_eq!(saved.total(), left);
        assert!(saved.blocks.iter().map(|block| block.fences.len()).sum::<usize>() < 200);
    }

    #[test]
    fn a_split_keeps_the_count() {
        let mut fences = Fences::default();
        fences.add(&BTreeMap::from([(Bytes::new(), 600)]));
        fences.split(
            (0..600)
                .map(|i| (if i == 0 { Bytes::new() } else { key(i) }, 1))
                .collect(),
        );
        assert_eq!(fences.total(), 600);
        assert_eq!(fences.blocks.len(), 3);
        assert_eq!(fences.around(&key(256)), (key(256), Some(key(257))));
    }
}
