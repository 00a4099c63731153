//! The recent past in memory: every event from one revision on, bounded in bytes. It serves watches that
//! tail, and tells counts at revisions a moment old from counts now.
//!
//! Events come and go in the segments in which they were applied, so that a reader takes what it needs with
//! one reference per segment, and holds the lock no longer than that.
//!
//! It holds every change from `start` on, so the newest event here of a key is its present state: apply need not
//! ask the engine for keys that changed lately.

use crate::{
    record::{EVENT_BYTES, Event, EventRef, Revision},
    shared::MadeOnce,
};
use bytes::Bytes;
use std::{collections::VecDeque, sync::Arc};
use xxhash_rust::xxh3::xxh3_64;

/// One change, as it is stored.
#[derive(Clone, Debug)]
pub struct Change {
    pub at: Revision,
    /// The row of `ev`.
    pub row: Bytes,
}

impl Change {
    /// The row of `cur` that it made.
    pub fn record(&self) -> Option<Bytes> {
        EventRef::read(&self.row)
            .record
            .map(|record| self.row.slice_ref(record))
    }

    /// What it holds in memory, once somebody has read it.
    pub fn bytes(&self) -> usize {
        EVENT_BYTES + self.row.len()
    }
}

/// The events of one applied batch, in order.
#[derive(Debug)]
pub struct Segment {
    changes: Vec<Change>,
    /// Read from their rows when somebody first wants them: most events are never looked at.
    events: MadeOnce<Vec<Arc<Event>>>,
    last: i64,
    bytes: usize,
}

impl Segment {
    /// Its events as they are stored.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Its events.
    pub fn events(&self) -> &[Arc<Event>] {
        let read = |change: &Change| Arc::new(Event::decode(change.at, change.row.clone()));
        self.events.get(|| self.changes.iter().map(read).collect())
    }
}

/// Bytes of events to a slot: about those of a small event.
const SLOT_BYTES: usize = 512;

/// Where an event is: the number of its segment, counted from 1 since the ring was made, and its place in that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    segment: u64,
    event: u32,
    /// Of the key's hash, other bits than those that chose the slot: another key is seldom looked at in vain.
    tag: u32,
}

/// All events from `start` on.
#[derive(Debug)]
pub struct Ring {
    segments: VecDeque<Arc<Segment>>,
    /// Segments that have gone.
    gone: u64,
    /// Where a key's newest event is, in the slot of its hash; the newer one's of two keys with one slot.
    newest: Vec<Place>,
    start: i64,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    /// A ring that knows nothing of revisions before `start`.
    pub fn new(start: i64, bytes_max: usize) -> Self {
        Self {
            segments: VecDeque::new(),
            gone: 0,
            newest: vec![Place::default(); (bytes_max / SLOT_BYTES).next_power_of_two()],
            start,
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds what one batch did; the oldest batches go when there is no room.
    pub fn push(&mut self, changes: Vec<Change>) {
        let Some(last) = changes.last().map(|change| change.at.main) else {
            return;
        };
        let bytes = changes.iter().map(Change::bytes).sum();
        self.bytes += bytes;
        let segment = self.gone + self.segments.len() as u64 + 1;
        for (change, at) in changes.iter().zip(0..) {
            let (slot, tag) = self.slot(EventRef::read(&change.row).key);
            self.newest[slot] = Place {
                segment,
                event: at,
                tag,
            };
        }
        let segment = Segment {
            changes,
            events: MadeOnce::default(),
            last,
            bytes,
        };
        self.segments.push_back(Arc::new(segment));
        while self.bytes > self.bytes_max {
            let oldest = self.segments.pop_front().expect("bytes are only held by segments");
            self.bytes -= oldest.bytes;
            self.start = oldest.last + 1;
            self.gone += 1;
        }
    }

    /// The last change of a key, if it is found among these: a look that may miss, never one that errs.
    pub fn latest(&self, key: &[u8]) -> Option<&Change> {
        let (slot, tag) = self.slot(key);
        let place = Some(self.newest[slot]).filter(|place| place.tag == tag)?;
        let segment = place.segment.checked_sub(self.gone + 1)?;
        let change = &self.segments[segment as usize].changes[place.event as usize];
        (EventRef::read(&change.row).key == key).then_some(change)
    }

    /// Of a key, and what its place is marked with.
    fn slot(&self, key: &[u8]) -> (usize, u32) {
        let hash = xxh3_64(key);
        (hash as usize & (self.newest.len() - 1), (hash >> 32) as u32)
    }

    /// Forgets everything: what happened before `start` was more than there is room for.
    pub fn restart(&mut self, start: i64) {
        *self = Self::new(start, self.bytes_max);
    }

    /// Whether every event from `revision` on is here.
    pub fn knows(&self, revision: i64) -> bool {
        revision >= self.start
    }

    /// The segments with the events from `revision` on (the first may begin earlier), or `None` if they are
    /// not all here.
    pub fn since(&self, revision: i64) -> Option<Vec<Arc<Segment>>> {
        let first = self.segments.partition_point(|segment| segment.last < revision);
        (revision >= self.start).then(|| self.segments.range(first..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;

    fn change(key: &'static str, revision: i64, sub: i64) -> Change {
        let event = Event {
            revision,
            sub,
            key: key.into(),
            record: None,
            prev: None,
            before: None,
        };
        Change {
            at: event.at(),
            row: event.seal(None, &mut Arena::default()).row,
        }
    }

    fn any(revision: i64) -> Change {
        change("k", revision, 0)
    }

    #[test]
    fn the_last_change_of_a_key_is_found_until_it_goes() {
        let at = |ring: &Ring, key: &str| {
            let latest = ring.latest(key.as_bytes())?;
            Some((latest.at.main, latest.at.sub))
        };
        // Room for four events, and slots enough that these keys do not share one.
        let mut ring = Ring::new(2, 64 << 10);
        ring.bytes_max = 4 * any(0).bytes() + 4;
        ring.push(vec![change("a", 2, 0), change("b", 2, 1), change("a", 2, 2)]);
        assert_eq!((at(&ring, "a"), at(&ring, "b")), (Some((2, 2)), Some((2, 1))));
        ring.push(vec![change("b", 3, 0)]);
        assert_eq!((at(&ring, "b"), at(&ring, "c")), (Some((3, 0)), None));
        ring.push(vec![change("c", 4, 0)]);
        assert_eq!(ring.start, 3, "the first segment went");
        assert_eq!((at(&ring, "a"), at(&ring, "b")), (None, Some((3, 0))));
        ring.restart(5);
        assert_eq!(at(&ring, "b"), None);
        ring.push(vec![change("c", 5, 0)]);
        assert_eq!((at(&ring, "b"), at(&ring, "c")), (None, Some((5, 0))));
    }

    #[test]
    fn a_key_in_anothers_slot_is_not_taken_for_it() {
        let mut ring = Ring::new(2, 4 * any(0).bytes());
        ring.push(vec![change("a", 2, 0)]);
        let (slot, tag) = ring.slot(b"z");
        ring.newest[slot] = Place {
            tag,
            ..ring.newest[ring.slot(b"a").0]
        };
        assert!(ring.latest(b"z").is_none());
    }

    #[test]
    fn events_are_read_from_their_rows() {
        let mut ring = Ring::new(2, 64 << 10);
        ring.push(vec![change("a", 2, 0), change("b", 2, 1)]);
        let segments = ring.since(2).expect("it is kept");
        let events = segments[0].events().iter();
        let seen: Vec<_> = events
            .map(|event| (event.revision, event.sub, &event.key[..]))
            .collect();
        assert_eq!(seen, [(2, 0, &b"a"[..]), (2, 1, &b"b"[..])]);
    }

    #[test]
    fn the_oldest_goes_and_is_missed() {
        let mut ring = Ring::new(2, 3 * any(0).bytes());
        assert!(ring.since(1).is_none());
        assert!(ring.since(2).is_some_and(|segments| segments.is_empty()));
        for revision in 2..=5 {
            ring.push(vec![any(revision)]);
        }
        assert!(ring.since(2).is_none());
        assert_eq!(ring.since(3).expect("it is kept").len(), 3);
        assert_eq!(ring.since(6).expect("nothing happened since").len(), 0);
    }
}
