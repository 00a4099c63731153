//! The recent past in memory: every event from one revision on, bounded in bytes. It serves watches that
//! tail, and tells counts at revisions a moment old from counts now.
//!
//! Events come and go in the segments in which they were applied, so that a reader takes what it needs with
//! one reference per segment, and holds the lock no longer than that.

use crate::record::Event;
use std::{collections::VecDeque, sync::Arc};

/// The events of one applied batch, in order.
#[derive(Debug)]
pub struct Segment {
    /// Its events.
    pub events: Vec<Arc<Event>>,
    last: i64,
    bytes: usize,
}

/// All events from `start` on.
#[derive(Debug)]
pub struct Ring {
    segments: VecDeque<Arc<Segment>>,
    start: i64,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    /// A ring that knows nothing of revisions before `start`.
    pub fn new(start: i64, bytes_max: usize) -> Self {
        Self {
            segments: VecDeque::new(),
            start,
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds what one batch did; the oldest batches go when there is no room.
    pub fn push(&mut self, events: Vec<Arc<Event>>) {
        let Some(last) = events.last().map(|event| event.revision) else {
            return;
        };
        let bytes = events.iter().map(|event| event.bytes()).sum();
        self.bytes += bytes;
        self.segments.push_back(Arc::new(Segment { events, last, bytes }));
        while self.bytes > self.bytes_max {
            let oldest = self.segments.pop_front().expect("bytes are only held by segments");
            self.bytes -= oldest.bytes;
            self.start = oldest.last + 1;
        }
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

    fn event(revision: i64) -> Arc<Event> {
        Arc::new(Event {
            revision,
            sub: 0,
            key: "k".into(),
            record: None,
            prev: None,
            before: None,
        })
    }

    #[test]
    fn the_oldest_goes_and_is_missed() {
        let mut ring = Ring::new(2, 3 * event(0).bytes());
        assert!(ring.since(1).is_none());
        assert!(ring.since(2).is_some_and(|segments| segments.is_empty()));
        for revision in 2..=5 {
            ring.push(vec![event(revision)]);
        }
        assert!(ring.since(2).is_none());
        assert_eq!(ring.since(3).expect("it is kept").len(), 3);
        assert_eq!(ring.since(6).expect("nothing happened since").len(), 0);
    }
}
