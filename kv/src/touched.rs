//! The rows of one family that a batch has read or changed, found by a hash and not by comparing keys: a batch of a
//! thousand puts would compare each key fifty times.
//!
//! The order of keys exists only for whoever asks for it, from then on to the end of the batch; few batches do.

use bytes::Bytes;
use std::{
    cell::OnceCell,
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};
use xxhash_rust::xxh3::xxh3_64;

/// A row that is there, or is not.
pub(crate) type Held = Option<Bytes>;

#[derive(Debug)]
struct Slot {
    hash: u64,
    key: Bytes,
    row: Held,
    is_changed: bool,
}

/// See the file's essay.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    slots: Vec<Slot>,
    /// Open addressing: positions in `slots` counted from 1, 0 is free. Never more than half full.
    places: Vec<u32>,
    /// The changed slots by their keys, once somebody has asked.
    ordered: OnceCell<BTreeMap<Bytes, usize>>,
}

impl Touched {
    /// With room for so many rows.
    pub(crate) fn with_room(rows: usize) -> Self {
        Self {
            slots: Vec::with_capacity(rows),
            places: vec![0; (2 * rows).next_power_of_two()],
            ordered: OnceCell::new(),
        }
    }

    /// The row, if it was read or changed.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Held> {
        let position = self.find(xxh3_64(key), key).ok()?;
        Some(&self.slots[position].row)
    }

    /// Notes that a row is to be read: what it is comes with [`Self::know`]. `None` if it was noted before.
    pub(crate) fn note(&mut self, key: Bytes) -> Option<usize> {
        self.make_room();
        let hash = xxh3_64(&key);
        let place = self.find(hash, &key).err()?;
        Some(self.add(place, hash, key, None, false))
    }

    /// What was read.
    pub(crate) fn know(&mut self, position: usize, row: Held) {
        self.slots[position].row = row;
    }

    /// The key that was noted.
    pub(crate) fn key(&self, position: usize) -> &Bytes {
        &self.slots[position].key
    }

    /// Keys that are known not to have a row.
    pub(crate) fn without_row(&self) -> impl Iterator<Item = &Bytes> {
        self.slots
            .iter()
            .filter(|slot| slot.row.is_none())
            .map(|slot| &slot.key)
    }

    /// Changes a row.
    pub(crate) fn set(&mut self, key: Bytes, row: Held) {
        self.make_room();
        let hash = xxh3_64(&key);
        let position = match self.find(hash, &key) {
            Ok(position) => {
                let slot = &mut self.slots[position];
                (slot.row, slot.is_changed) = (row, true);
                position
            }
            Err(place) => self.add(place, hash, key, row, true),
        };
        if let Some(ordered) = self.ordered.get_mut() {
            ordered.insert(self.slots[position].key.clone(), position);
        }
    }

    /// The changed rows of `[from, to)` in order.
    pub(crate) fn changes_in(&self, from: &[u8], to: Option<&[u8]>) -> impl Iterator<Item = (&Bytes, &Held)> {
        let is_empty = to.is_some_and(|to| to <= from);
        let changed = || self.slots.iter().enumerate().filter(|(_, slot)| slot.is_changed);
        let ordered = self
            .ordered
            .get_or_init(|| changed().map(|(position, slot)| (slot.key.clone(), position)).collect());
        let end = if is_empty {
            Excluded(from)
        } else {
            to.map_or(Unbounded, Excluded)
        };
        let range = ordered.range::<[u8], _>((Included(from), end));
        range.map(|(key, position)| (key, &self.slots[*position].row))
    }

    /// All changes, by their keys: that is the order in which the engine takes them best.
    pub(crate) fn into_changes(self) -> impl Iterator<Item = (Bytes, Held)> {
        let mut changed: Vec<Slot> = self.slots.into_iter().filter(|slot| slot.is_changed).collect();
        changed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        changed.into_iter().map(|slot| (slot.key, slot.row))
    }

    fn add(&mut self, place: usize, hash: u64, key: Bytes, row: Held, is_changed: bool) -> usize {
        let slot = Slot {
            hash,
            key,
            row,
            is_changed,
        };
        self.slots.push(slot);
        self.places[place] = self.slots.len() as u32;
        self.slots.len() - 1
    }

    /// Where a key is, or the place where it would be noted.
    fn find(&self, hash: u64, key: &[u8]) -> Result<usize, usize> {
        let Some(mask) = self.places.len().checked_sub(1) else {
            return Err(0);
        };
        let mut place = hash as usize & mask;
        loop {
            let Some(position) = (self.places[place] as usize).checked_sub(1) else {
                return Err(place);
            };
            let slot = &self.slots[position];
            if slot.hash == hash && slot.key == key {
                return Ok(position);
            }
            place = (place + 1) & mask;
        }
    }

    /// For one more.
    fn make_room(&mut self) {
        if self.places.len() >= 2 * (self.slots.len() + 1) {
            return;
        }
        let places = (4 * (self.slots.len() + 1)).next_power_of_two();
        self.places = vec![0; places];
        for (slot, position) in self.slots.iter().zip(1..) {
            let mut place = slot.hash as usize & (places - 1);
            while self.places[place] != 0 {
                place = (place + 1) & (places - 1);
            }
            self.places[place] = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Bytes {
        format!("{number:05}").into()
    }

    #[test]
    fn what_was_read_and_changed_is_found() {
        let mut touched = Touched::default();
        assert_eq!(touched.get(b"a"), None);
        let read = touched.note(key(1)).expect("it is new");
        assert_eq!(touched.note(key(1)), None, "noted twice");
        assert_eq!(touched.without_row().collect::<Vec<_>>(), [&key(1)]);
        touched.know(read, Some("old".into()));
        assert_eq!(touched.get(&key(1)), Some(&Some("old".into())));
        for number in (0..1000).rev() {
            touched.set(key(number), (number % 3 > 0).then(|| key(number)));
        }
        assert_eq!(touched.get(&key(1)), Some(&Some(key(1))), "the change counts");
        assert_eq!(touched.get(&key(999)), Some(&None));
        assert_eq!(touched.get(&key(1000)), None);
        let changes: Vec<_> = touched.into_changes().map(|(key, _)| key).collect();
        assert_eq!(changes, (0..1000).map(key).collect::<Vec<_>>());
    }

    #[test]
    fn a_range_of_changes_has_those_made_since_it_was_asked_for_first() {
        let mut touched = Touched::default();
        let read = touched.note(key(2)).expect("it is new");
        touched.know(read, Some("unchanged".into()));
        touched.set(key(3), Some("x".into()));
        let in_range = |touched: &Touched, from, to: Option<u32>| {
            let (from, to) = (key(from), to.map(key));
            let found = touched.changes_in(&from, to.as_deref());
            found.map(|(key, row)| (key.clone(), row.clone())).collect::<Vec<_>>()
        };
        assert_eq!(in_range(&touched, 0, None), [(key(3), Some("x".into()))]);
        touched.set(key(1), None);
        touched.set(key(3), None);
        touched.set(key(5), None);
        assert_eq!(in_range(&touched, 1, Some(5)), [(key(1), None), (key(3), None)]);
        assert_eq!(in_range(&touched, 5, Some(1)), []);
        assert_eq!(in_range(&touched, 3, Some(3)), []);
    }
}
