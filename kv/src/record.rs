//! What is known of a key at one revision, what one change did to it, and the bytes of both.
//!
//! ```text
//! record   1, create, mod main, mod sub, version, lease, value...
//! event    flags, key length, key, [record length, record], [prev length, prev], [before main, before sub]
//! ```
//! Numbers are varints; the first byte of a record is its format. An event holds the record it made *and*
//! the one it replaced, so that reading the past needs no row that a compaction could have dropped, and
//! `prev_kv` needs no second read.
//!
//! Not here: where rows live (`layout`), what changes them (`writer`).

use crate::arena::Arena;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use proto::mvccpb;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const RECORD_FORMAT: u8 = 1;
const HAS_RECORD: u8 = 1;
const HAS_PREV: u8 = 2;
const HAS_BEFORE: u8 = 4;
/// Room for the numbers of a record and its format, so that encoding allocates once.
const RECORD_NUMBERS_BYTES: usize = 51;
/// What an event costs in memory beside its row, once somebody has read it: itself, its count of references, and its
/// places in a segment.
pub(crate) const EVENT_BYTES: usize = size_of::<Event>() + 96;
/// What a live key costs besides its key and value: the numbers of its record and its share of an index.
const LIVE_ROW_BYTES: i64 = 48;

/// When a change happened: the store's revision, and the position among the changes of that revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// What etcd calls the revision: one per write request.
    pub main: i64,
    /// The position of the change within its request.
    pub sub: i64,
}

/// The latest state of a live key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the key came into being.
    pub create_revision: i64,
    /// The last change.
    pub modified: Revision,
    /// Changes since it came into being.
    pub version: i64,
    /// The lease it is attached to, or 0.
    pub lease: i64,
    /// The client's bytes.
    pub value: Bytes,
}

impl Record {
    /// The row of `cur`.
    pub fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(RECORD_NUMBERS_BYTES + self.value.len());
        self.encode_into(&mut row);
        row.freeze()
    }

    fn encode_into(&self, row: &mut BytesMut) {
        row.put_u8(RECORD_FORMAT);
        for number in self.numbers() {
            encode_varint(number as u64, row);
        }
        row.put_slice(&self.value);
    }

    fn encoded_len(&self) -> usize {
        let numbers = self.numbers().map(|number| encoded_len_varint(number as u64));
        1 + numbers.iter().sum::<usize>() + self.value.len()
    }

    fn numbers(&self) -> [i64; 5] {
        let Revision { main, sub } = self.modified;
        [self.create_revision, main, sub, self.version, self.lease]
    }

    /// Reads a row; the value stays a slice of it.
    pub fn decode(mut row: Bytes) -> Self {
        let RecordRef {
            create_revision,
            modified,
            version,
            lease,
            value,
        } = RecordRef::read(&row);
        row.advance(row.len() - value.len());
        Self {
            create_revision,
            modified,
            version,
            lease,
            value: row,
        }
    }

    /// The key and its record as clients see them.
    pub fn to_proto(&self, key: Bytes) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key,
            create_revision: self.create_revision,
            mod_revision: self.modified.main,
            version: self.version,
            value: self.value.clone(),
            lease: self.lease,
        }
    }

    /// What the pair counts against the quota.
    pub fn live_bytes(&self, key: &[u8]) -> i64 {
        (key.len() + self.value.len()) as i64 + LIVE_ROW_BYTES
    }
}

/// A record as it is in its row.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// See [`Record`], as the others.
    pub create_revision: i64,
    pub modified: Revision,
    pub version: i64,
    pub lease: i64,
    pub value: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// Reads a row.
    pub fn read(mut row: &'a [u8]) -> Self {
        let format = row.first().copied();
        assert!(
            format == Some(RECORD_FORMAT),
            "corrupt record row: format byte is {format:?}, not {RECORD_FORMAT}"
        );
        row.advance(1);
        let create_revision = number(&mut row);
        let modified = Revision {
            main: number(&mut row),
            sub: number(&mut row),
        };
        let (version, lease) = (number(&mut row), number(&mut row));
        Self {
            create_revision,
            modified,
            version,
            lease,
            value: row,
        }
    }
}

/// The share of one row in an order-independent sum over rows.
pub fn row_hash(key: &[u8], row: &[u8]) -> u64 {
    xxh3_64_with_seed(row, xxh3_64(key))
}

/// An event as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    /// The row of `ev`.
    pub(crate) row: Bytes,
    /// The row of `cur` that it made, a part of `row`.
    pub(crate) record: Option<Bytes>,
}

/// Whether an event is rendered with the record that it replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrevKv {
    /// As a watch with `prev_kv` asks.
    With,
    /// As any other watch gets it.
    Without,
}

/// The head of an event as it is in its row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventRef<'a> {
    pub(crate) key: &'a [u8],
    /// The row of `cur` that it made.
    pub(crate) record: Option<&'a [u8]>,
    has_prev: bool,
}

impl<'a> EventRef<'a> {
    /// Reads what a row begins with.
    pub(crate) fn read(mut row: &'a [u8]) -> Self {
        let flags = row.get_u8();
        let key = slice(&mut row);
        let record = (flags & HAS_RECORD != 0).then(|| slice(&mut row));
        let has_prev = flags & HAS_PREV != 0;
        Self { key, record, has_prev }
    }

    /// As [`Event::keys_delta`].
    pub(crate) fn keys_delta(&self) -> i64 {
        i64::from(self.record.is_some()) - i64::from(self.has_prev)
    }
}

/// The change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The store's revision after the request that did it.
    pub revision: i64,
    /// The position among that request's changes.
    pub sub: i64,
    /// The key.
    pub key: Bytes,
    /// What it is now; `None` is a delete.
    pub record: Option<Record>,
    /// What it was before; `None` if there was none, or if that revision is compacted.
    pub prev: Option<Record>,
    /// The delete before it, for a put that made a key anew which is not forgotten yet.
    pub before: Option<Revision>,
}

impl Event {
    /// When it happened.
    pub fn at(&self) -> Revision {
        Revision {
            main: self.revision,
            sub: self.sub,
        }
    }

    /// The previous event of the key, as far as it is known.
    pub fn previous(&self) -> Option<Revision> {
        self.prev.as_ref().map(|prev| prev.modified).or(self.before)
    }

    /// What it holds in memory, roughly.
    pub fn bytes(&self) -> usize {
        let value = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.value.len());
        EVENT_BYTES + self.key.len() + value(&self.record) + value(&self.prev)
    }

    /// +1 for a key that came into being, -1 for one that went, 0 for an overwrite.
    pub fn keys_delta(&self) -> i64 {
        i64::from(self.record.is_some()) - i64::from(self.prev.is_some())
    }

    /// The event as a watch delivers it. A delete's `kv` has only the key and the revision.
    pub fn to_proto(&self, prev_kv: PrevKv) -> mvccpb::Event {
        let kv = match &self.record {
            Some(record) => record.to_proto(self.key.clone()),
            None => mvccpb::KeyValue {
                key: self.key.clone(),
                mod_revision: self.revision,
                ..Default::default()
            },
        };
        let kind = if self.record.is_some() {
            mvccpb::event::EventType::Put
        } else {
            mvccpb::event::EventType::Delete
        };
        let prev = match prev_kv {
            PrevKv::With => self.prev.as_ref().map(|prev| prev.to_proto(self.key.clone())),
            PrevKv::Without => None,
        };
        mvccpb::Event {
            r#type: kind as i32,
            kv: Some(kv),
            prev_kv: prev,
        }
    }

    /// The row of `ev`; its key holds the revision. `prev` is the row of what it replaced, which its caller has.
    pub(crate) fn seal(&self, prev: Option<&[u8]>, arena: &mut Arena) -> Sealed {
        assert!(prev.is_some() == self.prev.is_some(), "the row of what it replaced");
        // Exactly what it takes: the ring holds tens of thousands of them.
        let piece = |length: usize| encoded_len_varint(length as u64) + length;
        let number = |number: i64| encoded_len_varint(number as u64);
        let size = 1
            + piece(self.key.len())
            + self.record.as_ref().map_or(0, |record| piece(record.encoded_len()))
            + prev.map_or(0, |prev| piece(prev.len()))
            + self.before.map_or(0, |before| number(before.main) + number(before.sub));
        let row = arena.room(size);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        row.put_u8(
            flag(self.record.is_some(), HAS_RECORD)
                | flag(prev.is_some(), HAS_PREV)
                | flag(self.before.is_some(), HAS_BEFORE),
        );
        put_piece(row, &self.key);
        let record = self.record.as_ref().map(|record| {
            encode_varint(record.encoded_len() as u64, row);
            let start = row.len();
            record.encode_into(row);
            start..row.len()
        });
        if let Some(prev) = prev {
            put_piece(row, prev);
        }
        if let Some(before) = self.before {
            encode_varint(before.main as u64, row);
            encode_varint(before.sub as u64, row);
        }
        debug_assert_eq!(row.len(), size, "the size that was reckoned");
        let row = arena.take();
        let record = record.map(|record| row.slice(record));
        Sealed { row, record }
    }

    /// Reads a row; keys and values stay slices of it.
    pub fn decode(at: Revision, mut row: Bytes) -> Self {
        assert!(
            row.first().is_some_and(|flags| *flags < 8),
            "corrupt event row at {at:?}: flags {:?}",
            row.first()
        );
        let flags = row.get_u8();
        let key = piece(&mut row);
        let record = (flags & HAS_RECORD != 0).then(|| Record::decode(piece(&mut row)));
        let prev = (flags & HAS_PREV != 0).then(|| Record::decode(piece(&mut row)));
        let before = (flags & HAS_BEFORE != 0).then(|| Revision {
            main: number(&mut row),
            sub: number(&mut row),
        });
        assert!(
            row.is_empty(),
            "corrupt event row at {at:?}: {} bytes behind its end",
            row.len()
        );
        Self {
            revision: at.main,
            sub: at.sub,
            key,
            record,
            prev,
            before,
        }
    }
}

fn number(row: &mut impl Buf) -> i64 {
    decode_varint(row).expect("corrupt row: a number in it does not end") as i64
}

fn put_piece(row: &mut BytesMut, piece: &[u8]) {
    encode_varint(piece.len() as u64, row);
    row.put_slice(piece);
}

fn piece(row: &mut Bytes) -> Bytes {
    let length = length(row);
    row.split_to(length)
}

fn slice<'a>(row: &mut &'a [u8]) -> &'a [u8] {
    let length = length(row);
    let (piece, rest) = row.split_at(length);
    *row = rest;
    piece
}

fn length(row: &mut impl Buf) -> usize {
    let length = number(row) as usize;
    assert!(
        length <= row.remaining(),
        "corrupt row: a piece of {length} bytes in the {} that are left",
        row.remaining()
    );
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_round_trip() {
        let modified = Revision { main: 9, sub: 2 };
        let record = Record {
            create_revision: 3,
            modified,
            version: 4,
            lease: -5,
            value: "v".into(),
        };
        assert_eq!(Record::decode(record.encode()), record);
        for (record, prev, before) in [
            (Some(record.clone()), None, None),
            (None, Some(record.clone()), None),
            (Some(record.clone()), Some(record.clone()), None),
            (Some(record.clone()), None, Some(Revision { main: 7, sub: 1 })),
        ] {
            let event = Event {
                revision: 9,
                sub: 2,
                key: "k".into(),
                record,
                prev,
                before,
            };
            let row = |record: &Option<Record>| record.as_ref().map(Record::encode);
            let sealed = event.seal(row(&event.prev).as_deref(), &mut Arena::default());
            assert_eq!(sealed.record, row(&event.record));
            let head = EventRef::read(&sealed.row);
            assert_eq!((head.key, head.record), (&event.key[..], sealed.record.as_deref()));
            assert_eq!(head.keys_delta(), event.keys_delta());
            assert_eq!(Event::decode(event.at(), sealed.row), event);
        }
    }
}
