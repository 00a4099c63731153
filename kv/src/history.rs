//! Reading the past: the record of a key at a revision, and the keys of a range at a revision.
//!
//! ```text
//! cur  "a" -> written at 9          reading at 5:
//! ev   9   -> replaced what 6 wrote     9 > 5: take what 9 replaced
//! ev   6   -> replaced what 3 wrote     6 > 5: take what 6 replaced; that is from 3: the answer
//! ```
//! A deleted key starts from its row in `gone` instead. Rows are only ever followed while they are younger
//! than the revision asked for, so nothing that a compaction below it drops is missed.

use crate::{
    engine::{Family, Rows},
    layout,
    record::{Event, Record, Revision},
};
use bytes::Bytes;
use std::{cmp::Ordering, iter::Peekable};

/// A live key at the revision that was asked for.
pub type Live = (Bytes, Record);

/// An event that should be there is not: the history was compacted while it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten;

/// The latest record of a key.
pub fn latest<R: Rows>(rows: &R, key: &[u8]) -> Option<Record> {
    rows.get(Family::Cur, key).map(Record::decode)
}

/// The record of a key as of a revision that is not compacted.
pub fn record_at<R: Rows>(rows: &R, key: &[u8], revision: i64) -> Result<Option<Record>, Forgotten> {
    if let Some(record) = latest(rows, key) {
        let modified = record.modified;
        return follow(rows, Some(record), modified, revision);
    }
    match rows.get(Family::Gone, key) {
        Some(row) => follow(rows, None, layout::revision_of(&row), revision),
        None => Ok(None),
    }
}

/// The live keys of `[from, to)`, in order.
pub fn scan_latest<'a, R: Rows>(
    rows: &'a R,
    from: &'a [u8],
    to: Option<&'a [u8]>,
) -> impl Iterator<Item = Result<Live, Forgotten>> + 'a {
    rows.scan(Family::Cur, from, to)
        .map(|(key, row)| Ok((key, Record::decode(row))))
}

/// The keys of `[from, to)` that were live at a revision that is not compacted, in order.
pub fn scan_at<'a, R: Rows>(
    rows: &'a R,
    from: &'a [u8],
    to: Option<&'a [u8]>,
    revision: i64,
) -> impl Iterator<Item = Result<Live, Forgotten>> + 'a {
    let mut live = rows.scan(Family::Cur, from, to).peekable();
    let mut gone = rows.scan(Family::Gone, from, to).peekable();
    std::iter::from_fn(move || {
        loop {
            let (key, record, at) = next_key(&mut live, &mut gone)?;
            match follow(rows, record, at, revision) {
                Ok(Some(record)) => return Some(Ok((key, record))),
                Ok(None) => {}
                Err(forgotten) => return Some(Err(forgotten)),
            }
        }
    })
}

type LastChange = (Bytes, Option<Record>, Revision);

/// The next key of either family; no key is in both.
fn next_key<I: Iterator<Item = (Bytes, Bytes)>, J: Iterator<Item = (Bytes, Bytes)>>(
    live: &mut Peekable<I>,
    gone: &mut Peekable<J>,
) -> Option<LastChange> {
    let take_gone = match (live.peek(), gone.peek()) {
        (None, None) => return None,
        (Some(_), None) => false,
        (None, Some(_)) => true,
        (Some((live, _)), Some((gone, _))) => match live.cmp(gone) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => panic!("the key {live:?} is both live and deleted"),
        },
    };
    if take_gone {
        gone.next().map(|(key, row)| (key, None, layout::revision_of(&row)))
    } else {
        live.next().map(|(key, row)| {
            let record = Record::decode(row);
            let at = record.modified;
            (key, Some(record), at)
        })
    }
}

/// Goes back from the last change of a key to its state at `revision`.
fn follow<R: Rows>(
    rows: &R,
    mut record: Option<Record>,
    mut at: Revision,
    revision: i64,
) -> Result<Option<Record>, Forgotten> {
    while at.main > revision {
        let row = rows.get(Family::Ev, &layout::event_key(at)).ok_or(Forgotten)?;
        let event = Event::decode(at, row);
        let previous = event.previous();
        record = event.prev;
        match previous {
            Some(previous) => {
                assert!(previous < at, "the event at {at:?} follows one at {previous:?}");
                at = previous;
            }
            None => return Ok(None),
        }
    }
    Ok(record)
}
