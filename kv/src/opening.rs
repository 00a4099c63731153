//! Making sense of what a crash left: pieces of a write set that was never published are undone, and the
//! fences, which count as of the last flush that the store asked for, are brought up to date with the events
//! since (the engine flushes by itself, too).

use crate::{
    count::Fences,
    engine::{Batch, Engine, Family, Rows},
    layout,
    record::{Event, Record, Revision},
    ring::Ring,
    shared::{Recent, Shared},
    state::State,
    writer::Counted,
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// Events that are undone with one write.
const UNDO_EVENTS: usize = 1024;

/// The state row.
pub(crate) fn state<R: Rows>(rows: &R) -> State {
    rows.get(Family::Meta, layout::STATE)
        .map_or(State::EMPTY, |row| State::decode(&row))
}

/// Takes back every event above the state row's revision, the latest first. A crash in between leaves fewer
/// of them to undo.
pub(crate) fn undo_unpublished<E: Engine>(engine: &E) {
    let snapshot = engine.snapshot();
    let published = state(&snapshot).revision;
    let from = layout::revision_key(published + 1);
    let events = snapshot
        .scan(Family::Ev, &from, None)
        .map(|(key, _)| layout::revision_of(&key));
    let events: Vec<Revision> = events.collect();
    let (mut batch, mut undone) = (Batch::default(), 0);
    for at in events.into_iter().rev() {
        let key = layout::event_key(at);
        let row = snapshot
            .get(Family::Ev, &key)
            .expect("a snapshot has the rows that its scan showed");
        undo(&Event::decode(at, row), &mut batch);
        batch.delete(Family::Ev, key);
        undone += 1;
        if undone % UNDO_EVENTS == 0 {
            engine.write(&std::mem::take(&mut batch));
        }
    }
    if !batch.is_empty() {
        engine.write(&batch);
    }
}

fn undo(event: &Event, batch: &mut Batch) {
    let lease = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.lease);
    let (was, is) = (lease(&event.prev), lease(&event.record));
    if is != 0 && is != was {
        batch.delete(Family::Meta, layout::lease_key(is, &event.key));
    }
    if was != 0 && is != was {
        batch.put(Family::Meta, layout::lease_key(was, &event.key), Bytes::new());
    }
    if event.record.is_none() {
        batch.delete(Family::Gone, event.key.clone());
        batch.delete(Family::Meta, layout::gone_at(event.at()));
    }
    match &event.prev {
        Some(prev) => batch.put(Family::Cur, event.key.clone(), prev.encode()),
        None => batch.delete(Family::Cur, event.key.clone()),
    }
    if let Some(before) = event.before {
        batch.put(Family::Gone, event.key.clone(), layout::event_key(before));
        batch.put(Family::Meta, layout::gone_at(before), event.key.clone());
    }
}

/// An empty ring, and fences that count what is there.
pub(crate) fn shared<R: Rows>(rows: &R, state: State, ring_bytes: usize) -> Arc<Shared> {
    let State {
        revision,
        compact_revision,
        ..
    } = state;
    let ring = Ring::new(revision + 1, ring_bytes);
    let counted_at = rows
        .get(Family::Meta, layout::FENCES_REVISION)
        .map(|row| layout::number_at(&row, 0));
    let fences = match counted_at {
        Some(counted_at) if compact_revision <= counted_at + 1 => Fences::from_rows(
            rows.scan(Family::Meta, &[layout::FENCES], Some(&[layout::FENCES + 1]))
                .map(|(_, row)| row),
        ),
        _ => {
            let shared = Shared::new(Recent {
                ring,
                fences: rescanned(rows),
                revision,
                compact_revision,
            });
            return checked(shared, state);
        }
    };
    let shared = Shared::new(Recent {
        ring,
        fences,
        revision,
        compact_revision,
    });
    let deltas = since(rows, &shared, counted_at.unwrap_or_default());
    let counted = Counted::new(&shared, rows, deltas);
    counted.add_to(&mut shared.write().fences);
    checked(shared, state)
}

/// Fences from a walk over all keys.
fn rescanned<R: Rows>(rows: &R) -> Fences {
    let keys = rows.scan(Family::Cur, &[], None).map(|(key, _)| key);
    Fences::new(crate::count::fence_in(Bytes::new(), keys))
}

/// The keys that came and went after a revision, by the fence that counts them.
fn since<R: Rows>(rows: &R, shared: &Shared, revision: i64) -> BTreeMap<Bytes, i64> {
    let from = layout::revision_key(revision + 1);
    let mut deltas = BTreeMap::new();
    for (key, row) in rows.scan(Family::Ev, &from, None) {
        let event = Event::decode(layout::revision_of(&key), row);
        if event.keys_delta() != 0 {
            let fence = shared.read().fences.fence_of(&event.key);
            *deltas.entry(fence).or_default() += event.keys_delta();
        }
    }
    deltas
}

fn checked(shared: Shared, state: State) -> Arc<Shared> {
    let counted = shared.read().fences.total();
    assert!(
        counted == state.keys_total,
        "corrupt counts: {counted} keys by the fences, {} by the state",
        state.keys_total
    );
    Arc::new(shared)
}
