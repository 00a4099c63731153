//! What happened from a revision on: the one source of watches, whether they tail, catch up or come back.
//!
//! A page holds whole revisions. It ends when it is large, or when it has looked at much without finding
//! much; the next begins at `next_revision`. Recent events come from the ring, which shares them; older ones
//! are read from `ev`, each page on its own.

use crate::{
    engine::{Engine, Family, Rows},
    layout, mutants,
    record::Event,
    view::View,
};
use proto::KeyRange;
use std::sync::Arc;

/// Events read from the disk for one page, matching or not, before it ends.
const PAGE_EVENTS_MAX: usize = 64 * 1024;

/// The events of some revisions.
#[derive(Clone, Debug, Default)]
pub struct EventsPage {
    /// In order; whole revisions.
    pub events: Vec<Arc<Event>>,
    /// The first revision that the page does not speak of.
    pub next_revision: i64,
}

/// The revision asked for is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The first revision that can be asked for.
    pub compact_revision: i64,
}

/// A page being filled.
struct Filling<'a> {
    page: EventsPage,
    range: &'a KeyRange,
    bytes: usize,
    bytes_max: usize,
    looked_at: usize,
    revision: i64,
}

impl<E: Engine> View<E> {
    /// The events of a range from a revision on, up to this View's. May read the disk.
    pub fn events(&self, range: &KeyRange, from_revision: i64, bytes_max: usize) -> Result<EventsPage, Compacted> {
        if from_revision < self.compact_revision() {
            return Err(Compacted {
                compact_revision: self.compact_revision(),
            });
        }
        if from_revision > self.revision() {
            return Ok(EventsPage {
                events: Vec::new(),
                next_revision: from_revision,
            });
        }
        let filling = Filling::new(range, from_revision, bytes_max);
        let segments = self.shared.read().ring.since(from_revision);
        if let Some(segments) = segments {
            let events = segments.iter().flat_map(|segment| segment.events().iter().cloned());
            return Ok(self.without_forgotten(filling.fill(events, usize::MAX, self.revision())));
        }
        let from = layout::revision_key(from_revision);
        let end = layout::revision_key(self.revision() + 1);
        let rows = self.snapshot.scan(Family::Ev, &from, Some(&end));
        let events = rows.map(|(key, row)| Arc::new(Event::decode(layout::revision_of(&key), row)));
        let page = filling.fill(events, PAGE_EVENTS_MAX, self.revision());
        // Rows of a compacted revision may be gone even from a snapshot.
        let compact_revision = self.shared.read().compact_revision;
        if from_revision < compact_revision {
            return Err(Compacted { compact_revision });
        }
        Ok(self.without_forgotten(page))
    }

    /// Whether the events from a revision on are all in memory, so that reading them touches no disk.
    pub fn events_in_memory(&self, from_revision: i64) -> bool {
        self.shared.read().ring.knows(from_revision)
    }

    /// What an event at the compacted revision replaced is of a revision that nobody can read any more.
    fn without_forgotten(&self, mut page: EventsPage) -> EventsPage {
        let compact_revision = self.compact_revision();
        for event in page
            .events
            .iter_mut()
            .take_while(|event| event.revision <= compact_revision)
        {
            if event.prev.is_some() {
                Arc::make_mut(event).prev = None;
            }
        }
        page
    }
}

impl<'a> Filling<'a> {
    fn new(range: &'a KeyRange, from_revision: i64, bytes_max: usize) -> Self {
        let page = EventsPage {
            events: Vec::new(),
            next_revision: from_revision,
        };
        Self {
            page,
            range,
            bytes: 0,
            bytes_max,
            looked_at: 0,
            revision: from_revision,
        }
    }

    /// Takes events up to revision `last`, and at least one revision.
    fn fill(mut self, events: impl Iterator<Item = Arc<Event>>, looked_at_max: usize, last: i64) -> EventsPage {
        let first = self.revision;
        for event in events {
            if event.revision < first {
                continue;
            }
            if event.revision > last {
                break;
            }
            let is_full = self.bytes >= self.bytes_max || self.looked_at >= looked_at_max;
            if event.revision != self.revision && is_full {
                self.page.next_revision = if mutants::is("watch-drops") {
                    last + 1
                } else {
                    event.revision
                };
                return self.page;
            }
            self.revision = event.revision;
            self.looked_at += 1;
            if self.range.contains(&event.key) {
                self.bytes += event.bytes();
                self.page.events.push(event);
            }
        }
        self.page.next_revision = last + 1;
        self.page
    }
}
