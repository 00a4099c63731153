//! The changes of one batch on their way into the engine: every put and delete goes through here, whoever
//! asked for it, and what a later command of the batch reads has the earlier ones in it.
//!
//! ```text
//! reads      touched (changed, or known from the ring or the prefetch)  ->  base (snapshot of the engine)
//! put k      cur[k]; ev[revision]; gone[k] goes; lease rows; counts, bytes and hashes of the state
//! ```
//! Rows are written in one piece with the state row. A write set that outgrows [`PIECE_BYTES_MAX`] is written
//! in several, and the state row with the last of them:
//!
//! | crash after | at open | |
//! |---|---|---|
//! | some pieces | events above the state row's revision | undone from what they hold (`rollback`), entry applied again |
//! | the last piece | the state row speaks of all | nothing to do |
//!
//! Readers see nothing of it before the store publishes a View. Not here: what commands mean (`apply`, `txn`).

use crate::{
    appended::Appended,
    arena::Arena,
    count::{self, Fences},
    engine::{Batch, Engine, Family, Row, Rows},
    hash, layout, mutants,
    record::{Event, Record, Revision, row_hash},
    registry::Registry,
    ring::Change,
    shared::Shared,
    state::State,
    touched::{Held, Touched},
};
use bytes::Bytes;
use std::{cmp::Ordering, collections::BTreeMap, iter::Peekable};

/// Rows that are written at once: what a member needs in memory for the largest write set.
pub const PIECE_BYTES_MAX: usize = 64 << 20;
/// What a row costs in memory besides its key and value.
const ROW_BYTES: usize = 96;

/// Events for the ring.
type Recent = Vec<Change>;
type Changes = BTreeMap<Bytes, Held>;

/// One batch being applied.
pub(crate) struct Writer<'s, E: Engine> {
    engine: &'s E,
    shared: &'s Shared,
    pub(crate) registry: &'s mut Registry,
    arena: &'s mut Arena,
    pub(crate) state: State,
    base: E::Snapshot,
    touched: [Touched; 4],
    /// In the place of the touched rows of `ev`.
    events: Appended,
    changed_bytes: usize,
    piece_bytes_max: usize,
    /// Rows that ride with the state row: they are not events, so nothing could undo them.
    rest: Changes,
    /// Changes of the request at hand.
    sub: i64,
    recent: Recent,
    recent_bytes: usize,
    recent_bytes_max: usize,
    /// Keys that came and went, by the fence that counts them.
    counted: BTreeMap<Bytes, i64>,
}

/// What a batch changed, written and ready to be published.
pub(crate) struct Written<S> {
    pub(crate) state: State,
    pub(crate) snapshot: S,
    /// `None` if it was more than the ring would hold.
    pub(crate) recent: Option<Recent>,
    pub(crate) counted: Counted,
}

/// What happened to the fences.
pub(crate) struct Counted {
    deltas: BTreeMap<Bytes, i64>,
    splits: Vec<Vec<(Bytes, i64)>>,
}

impl Counted {
    /// Finds better fences for gaps that grew; `rows` already hold the changes.
    pub(crate) fn new<R: Rows>(shared: &Shared, rows: &R, deltas: BTreeMap<Bytes, i64>) -> Self {
        let crowded = shared.read().fences.crowded(&deltas);
        let splits = crowded.into_iter().map(|(low, to)| {
            let keys = rows.scan(Family::Cur, &low, to.as_deref()).map(|(key, _)| key);
            count::fence_in(low.clone(), keys)
        });
        let splits = splits.collect();
        Self { deltas, splits }
    }

    pub(crate) fn add_to(self, fences: &mut Fences) {
        fences.add(&self.deltas);
        for pieces in self.splits {
            fences.split(pieces);
        }
    }
}

impl<'s, E: Engine> Writer<'s, E> {
    pub(crate) fn new(
        engine: &'s E,
        shared: &'s Shared,
        registry: &'s mut Registry,
        arena: &'s mut Arena,
        state: State,
        (recent_bytes_max, piece_bytes_max): (usize, usize),
    ) -> Self {
        Self {
            engine,
            shared,
            registry,
            arena,
            state,
            base: engine.snapshot(),
            touched: Default::default(),
            events: Appended::default(),
            changed_bytes: 0,
            piece_bytes_max,
            rest: Changes::new(),
            sub: 0,
            recent: Recent::default(),
            recent_bytes: 0,
            recent_bytes_max,
            counted: BTreeMap::new(),
        }
    }

    /// Reads the rows of these keys at once: what changed lately from the ring, the rest from the engine.
    pub(crate) fn prefetch(&mut self, keys: Vec<Bytes>) {
        // Of each put a row of `cur` and one of `ev`.
        let mut cur = Touched::with_room(keys.len());
        self.events = Appended::with_room(keys.len());
        let recent = self.shared.read();
        let (mut asked, mut positions) = (Vec::new(), Vec::new());
        for key in keys {
            let Some(position) = cur.note(key) else { continue };
            let key = cur.key(position);
            // Not for a deleted key: whether its row in `gone` was swept is the engine's to say.
            let latest = recent.ring.latest(key);
            if let Some(row) = latest.and_then(Change::record) {
                cur.know(position, Some(row));
            } else {
                asked.push(key.clone());
                positions.push(position);
            }
        }
        drop(recent);
        let rows = self.engine.multi_get(Family::Cur, &asked);
        for (position, row) in positions.into_iter().zip(rows) {
            cur.know(position, row);
        }
        let missing: Vec<Bytes> = cur.without_row().cloned().collect();
        let mut gone = Touched::with_room(missing.len());
        let rows = self.engine.multi_get(Family::Gone, &missing);
        for (key, row) in missing.into_iter().zip(rows) {
            let position = gone.note(key).expect("each key is once in `cur`");
            gone.know(position, row);
        }
        self.touched[Family::Cur as usize] = cur;
        self.touched[Family::Gone as usize] = gone;
    }

    /// The revision that the request at hand has made so far.
    pub(crate) fn revision(&self) -> i64 {
        self.state.revision + i64::from(self.sub > 0)
    }

    /// Ends the request at hand: if it changed anything, that is a revision.
    pub(crate) fn end_request(&mut self) {
        self.state.revision = self.revision();
        self.sub = 0;
    }

    /// Sets a key; what it replaced comes back.
    pub(crate) fn put(&mut self, key: &Bytes, value: Bytes, lease: i64) -> Option<Record> {
        let prev_row = self.get(Family::Cur, key);
        let prev = prev_row.clone().map(Record::decode);
        let before = if prev.is_none() { self.revive(key) } else { None };
        let at = self.next_change();
        let record = Record {
            create_revision: prev.as_ref().map_or(at.main, |prev| prev.create_revision),
            modified: at,
            version: prev.as_ref().map_or(1, |prev| prev.version + 1),
            lease,
            value,
        };
        let (revision, sub, key) = (at.main, at.sub, key.clone());
        let event = Event {
            revision,
            sub,
            key,
            record: Some(record),
            prev,
            before,
        };
        self.change(&event, prev_row.as_deref());
        event.prev
    }

    /// Deletes a live key.
    pub(crate) fn delete(&mut self, key: Bytes, prev: Record) {
        let at = self.next_change();
        self.set(Family::Gone, key.clone(), Some(layout::event_key(at)));
        self.set(Family::Meta, layout::gone_at(at), Some(key.clone()));
        let (revision, sub, prev_row) = (at.main, at.sub, prev.encode());
        let event = Event {
            revision,
            sub,
            key,
            record: None,
            prev: Some(prev),
            before: None,
        };
        self.change(&event, Some(&prev_row));
    }

    /// Sets a row of `meta` that is written with the state row.
    pub(crate) fn set_rest(&mut self, key: Bytes, row: Option<Bytes>) {
        self.rest.insert(key, row);
    }

    /// The fences on both sides of a key.
    pub(crate) fn around(&self, key: &[u8]) -> (Bytes, Option<Bytes>) {
        self.shared.read().fences.around(key)
    }

    /// The live keys of `[from, to)` as counted by fences: the keys of whole gaps, and where those are.
    pub(crate) fn whole(&self, from: &[u8], to: Option<&[u8]>) -> Option<count::Whole> {
        let mut whole = self.shared.read().fences.whole(from, to)?;
        let within = self.counted.iter().filter(|(low, _)| whole.contains(low));
        whole.keys += within.map(|(_, delta)| delta).sum::<i64>();
        Some(whole)
    }

    /// Writes what is left, with the state row.
    pub(crate) fn finish(mut self) -> Written<E::Snapshot> {
        assert!(self.sub == 0, "a batch ends with a request that has not ended");
        let mut batch = self.take_batch();
        for (key, row) in std::mem::take(&mut self.rest) {
            match row {
                Some(row) => batch.put(Family::Meta, key, row),
                None => batch.delete(Family::Meta, key),
            }
        }
        if let Some((from, to)) = self.registry.take_compacted() {
            let to = to + i64::from(mutants::is("compaction-takes-one-more"));
            batch.delete_range(Family::Ev, layout::revision_key(from.max(0)), layout::revision_key(to));
        }
        if mutants::is("applied-apart") {
            let mut state = Batch::default();
            state.put(Family::Meta, Bytes::from_static(layout::STATE), self.state.encode());
            self.engine.write(&state);
        }
        batch.put(Family::Meta, Bytes::from_static(layout::STATE), self.state.encode());
        self.engine.write(&batch);
        let snapshot = self.engine.snapshot();
        let counted = Counted::new(self.shared, &snapshot, self.counted);
        let recent = (self.recent_bytes <= self.recent_bytes_max).then_some(self.recent);
        Written {
            state: self.state,
            snapshot,
            recent,
            counted,
        }
    }

    pub(crate) fn next_change(&mut self) -> Revision {
        let at = Revision {
            main: self.state.revision + 1,
            sub: self.sub,
        };
        self.sub += 1;
        at
    }

    /// Takes a key out of the deleted ones; its delete comes back, if it was one.
    fn revive(&mut self, key: &Bytes) -> Option<Revision> {
        let before = layout::revision_of(&self.get(Family::Gone, key)?);
        self.set(Family::Gone, key.clone(), None);
        self.set(Family::Meta, layout::gone_at(before), None);
        Some(before)
    }

    fn change(&mut self, event: &Event, prev_row: Option<&[u8]>) {
        let (at, key) = (event.at(), &event.key);
        let event_key = layout::event_key_in(at, self.arena);
        let sealed = event.seal(prev_row, self.arena);
        let hash = |row: &[u8]| row_hash(key, row);
        let (row_is, row_was) = (sealed.record.as_deref().map(hash), prev_row.map(hash));
        let bytes = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.live_bytes(key));
        self.state.live_bytes += bytes(&event.record) - bytes(&event.prev);
        self.state.keys_total += event.keys_delta();
        self.state.rows_hash = self
            .state
            .rows_hash
            .wrapping_sub(row_was.unwrap_or(0))
            .wrapping_add(row_is.unwrap_or(0));
        self.state.events_hash = hash::chained(self.state.events_hash, at, key, row_is);
        if event.keys_delta() != 0 {
            let fence = self.shared.read().fences.fence_of(key);
            *self.counted.entry(fence).or_default() += event.keys_delta();
        }
        self.attach(event);
        let row = sealed.row.clone();
        self.keep_recent(Change { at, row });
        self.changed_bytes += ROW_BYTES + event_key.len() + sealed.row.len();
        self.events.push(event_key, sealed.row);
        self.set(Family::Cur, key.clone(), sealed.record);
        if self.changed_bytes > self.piece_bytes_max {
            self.write_piece();
        }
    }

    fn attach(&mut self, event: &Event) {
        let lease = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.lease);
        let (was, is) = (lease(&event.prev), lease(&event.record));
        if was != is && was != 0 {
            self.set(Family::Meta, layout::lease_key(was, &event.key), None);
        }
        if was != is && is != 0 {
            self.set(Family::Meta, layout::lease_key(is, &event.key), Some(Bytes::new()));
        }
    }

    fn keep_recent(&mut self, change: Change) {
        self.recent_bytes += change.bytes();
        if self.recent_bytes <= self.recent_bytes_max {
            self.recent.push(change);
        } else {
            // Not even this batch fits into the ring: holding more of it would serve nobody.
            self.recent = Recent::default();
        }
    }

    fn set(&mut self, family: Family, key: Bytes, row: Option<Bytes>) {
        self.changed_bytes += ROW_BYTES + key.len() + row.as_ref().map_or(0, Bytes::len);
        self.touched[family as usize].set(key, row);
    }

    fn write_piece(&mut self) {
        let batch = self.take_batch();
        if !batch.is_empty() {
            self.engine.write(&batch);
            self.base = self.engine.snapshot();
        }
    }

    fn take_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        let mut add = |family, key, row| match row {
            Some(row) => batch.put(family, key, row),
            None => batch.delete(family, key),
        };
        for (key, row) in std::mem::take(&mut self.events).into_rows() {
            add(Family::Ev, key, row);
        }
        for (family, touched) in Family::ALL.into_iter().zip(std::mem::take(&mut self.touched)) {
            for (key, row) in touched.into_changes() {
                add(family, key, row);
            }
        }
        self.changed_bytes = 0;
        batch
    }
}

impl<E: Engine> Rows for Writer<'_, E> {
    fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        let touched = match family {
            Family::Ev => self.events.get(key),
            family => self.touched[family as usize].get(key),
        };
        touched.map_or_else(|| self.base.get(family, key), Clone::clone)
    }

    fn scan<'a>(&'a self, family: Family, from: &'a [u8], to: Option<&'a [u8]>) -> impl Iterator<Item = Row> + 'a {
        // Of one of the two there are none.
        let events = (family == Family::Ev).then(|| self.events.in_range(from, to));
        let touched = (family != Family::Ev).then(|| self.touched[family as usize].changes_in(from, to));
        let mut over = events
            .into_iter()
            .flatten()
            .chain(touched.into_iter().flatten())
            .peekable();
        let mut under = self.base.scan(family, from, to).peekable();
        std::iter::from_fn(move || next_row(&mut under, &mut over))
    }
}

/// The next row of two sources, of which `over` decides where both have a key.
fn next_row<'a>(
    under: &mut Peekable<impl Iterator<Item = Row>>,
    over: &mut Peekable<impl Iterator<Item = (&'a Bytes, &'a Held)>>,
) -> Option<Row> {
    loop {
        let Some((key, row)) = over.peek() else {
            return under.next();
        };
        match under.peek().map_or(Ordering::Greater, |(under, _)| under.cmp(key)) {
            Ordering::Less => return under.next(),
            Ordering::Equal => drop(under.next()),
            Ordering::Greater => {}
        }
        let row = row.as_ref().map(|row| ((*key).clone(), row.clone()));
        over.next();
        if row.is_some() {
            return row;
        }
    }
}
