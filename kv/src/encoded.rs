//! The answer to a range, written while it is read: from the engine's memory into the pieces that go to the client, so
//! that ten thousand rows are copied once and never allocated one by one.
//!
//! ```text
//!   rest     header, count, more                         fields of RangeResponse; a message is its fields in any order
//!   pieces   kvs: row | row | row ..   row | row ..      as they are on the wire
//!   tail     so many bytes more                          read again, from the same snapshot, when there is room for them
//! ```
//! A message begins with its length, so a long answer is walked twice: the first time what is beyond the pieces is only
//! measured. It takes no more memory than a short one.
//!
//! What is sorted or of the past goes the long way (`range`) and is encoded then; the answer is the same.

use crate::{
    engine::{Engine, Family, Rows},
    range::{self, ANSWER_ROW_BYTES, At, REPLY_BYTES_MAX},
    record::RecordRef,
    state::header,
    view::View,
};
use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use proto::{
    Error, KeyRange,
    etcdserverpb::{RangeRequest, RangeResponse},
};
use std::ops::ControlFlow;

/// RangeResponse's field of rows, and the fields of a row.
const KVS: u32 = 2;
const KEY: u32 = 1;
const CREATE_REVISION: u32 = 2;
const MOD_REVISION: u32 = 3;
const VERSION: u32 = 4;
const VALUE: u32 = 5;
const LEASE: u32 = 6;

/// What of an answer is encoded at once: beyond it a second walk costs less than the memory.
const PIECES_BYTES_MAX: usize = 4 << 20;
/// What of its tail is, each time that there is room.
const TURN_BYTES: usize = 1 << 20;

/// An answer to a range, in parts of one message.
pub struct EncodedRange<E: Engine> {
    /// Everything but rows.
    pub rest: RangeResponse,
    /// Rows; none of the pieces is empty.
    pub pieces: Vec<Bytes>,
    /// Further rows.
    pub tail: Option<RangeTail<E>>,
}

/// Rows whose bytes are known, and that are still to be encoded.
pub struct RangeTail<E: Engine> {
    view: View<E>,
    request: RangeRequest,
    from: Bytes,
    bytes: usize,
}

impl<E: Engine> View<E> {
    /// As [`View::range`]. May read the disk.
    pub fn range_encoded(&self, request: &RangeRequest) -> Result<EncodedRange<E>, Error> {
        let at = self.admit(request)?;
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let is_many = !matches!(range, KeyRange::Key(_)) && !range.is_empty() && !request.count_only;
        if is_many && at == At::Latest && range::is_in_order_of_keys(request) {
            return self.encode_latest(request, &range);
        }
        let mut rest = self.range_at(request, at)?;
        let kvs = std::mem::take(&mut rest.kvs);
        let rows = RangeResponse {
            kvs,
            ..RangeResponse::default()
        };
        let rows = Bytes::from(rows.encode_to_vec());
        // A frame of nothing costs as much as any, and to HTTP/2 many of them are an attack.
        let pieces = Some(rows).filter(|rows| !rows.is_empty()).into_iter().collect();
        let tail = None;
        Ok(EncodedRange { rest, pieces, tail })
    }

    fn encode_latest(&self, request: &RangeRequest, range: &KeyRange) -> Result<EncodedRange<E>, Error> {
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        let (mut pieces, mut from, mut tail_bytes) = (Pieces::default(), None, 0);
        let (mut walked, mut rows, mut bytes, mut more) = (0_i64, 0, 0, false);
        let end = range.to();
        let see = |key: &[u8], row: &[u8]| {
            walked += 1;
            let Some(row) = WireRow::of(request, key, row) else {
                return ControlFlow::Continue(());
            };
            more = limit.is_some_and(|limit| rows == limit);
            if more {
                return ControlFlow::Break(());
            }
            rows += 1;
            bytes += key.len() + row.value.len() + ANSWER_ROW_BYTES;
            if bytes > REPLY_BYTES_MAX {
                return ControlFlow::Break(());
            }
            if pieces.bytes < PIECES_BYTES_MAX {
                pieces.add(&row);
            } else {
                from.get_or_insert_with(|| Bytes::copy_from_slice(key));
                tail_bytes += row.bytes();
            }
            ControlFlow::Continue(())
        };
        self.snapshot.visit(Family::Cur, range.from(), end.as_deref(), see);
        if bytes > REPLY_BYTES_MAX {
            return Err(range::too_large(REPLY_BYTES_MAX));
        }
        let count = if more {
            self.unless_forgotten(At::Latest, self.count(range, At::Latest))?
        } else {
            walked
        };
        let rest = RangeResponse {
            header: header(self.revision()),
            more,
            count,
            ..RangeResponse::default()
        };
        let tail = from.map(|from| RangeTail {
            view: self.clone(),
            request: request.clone(),
            from,
            bytes: tail_bytes,
        });
        let pieces = pieces.finish();
        Ok(EncodedRange { rest, pieces, tail })
    }
}

impl<E: Engine> RangeTail<E> {
    /// Of all that is still to come.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next pieces, about a mebibyte; none when there are no more. May read the disk.
    pub fn next_pieces(&mut self) -> Vec<Bytes> {
        let mut pieces = Pieces::default();
        let mut next = None;
        let range = KeyRange::new(self.request.key.clone(), self.request.range_end.clone());
        let end = range.to();
        let (request, left) = (&self.request, self.bytes);
        let see = |key: &[u8], row: &[u8]| {
            let Some(row) = WireRow::of(request, key, row) else {
                return ControlFlow::Continue(());
            };
            // What is beyond the limit was not promised.
            if pieces.bytes == left {
                return ControlFlow::Break(());
            }
            if pieces.bytes >= TURN_BYTES {
                next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            pieces.add(&row);
            ControlFlow::Continue(())
        };
        if left > 0 {
            self.view.snapshot.visit(Family::Cur, &self.from, end.as_deref(), see);
        }
        let read = pieces.bytes;
        assert!(
            read <= left && (next.is_some() || read == left),
            "a second walk over a snapshot found {read} bytes where the first had found {left}"
        );
        self.bytes -= read;
        if let Some(next) = next {
            self.from = next;
        }
        pieces.finish()
    }
}

/// A row as a client sees it.
struct WireRow<'a> {
    key: &'a [u8],
    value: &'a [u8],
    /// Fields and what they say; 0 is not said.
    numbers: [(u32, i64); 4],
    /// Of its fields.
    body: usize,
}

impl<'a> WireRow<'a> {
    /// `None` if the request has a filter that the row does not pass.
    fn of(request: &RangeRequest, key: &'a [u8], row: &'a [u8]) -> Option<Self> {
        let record = RecordRef::read(row);
        if !range::passes(request, record.create_revision, record.modified.main) {
            return None;
        }
        let (value, lease) = if request.keys_only {
            (&[][..], 0)
        } else {
            (record.value, record.lease)
        };
        let numbers = [
            (CREATE_REVISION, record.create_revision),
            (MOD_REVISION, record.modified.main),
            (VERSION, record.version),
            (LEASE, lease),
        ];
        let number_bytes = |(field, number): &(u32, i64)| match number {
            0 => 0,
            number => key_len(*field) + encoded_len_varint(*number as u64),
        };
        let slice_bytes = |field, slice: &[u8]| match slice.len() {
            0 => 0,
            length => key_len(field) + encoded_len_varint(length as u64) + length,
        };
        let body = numbers.iter().map(number_bytes).sum::<usize>() + slice_bytes(KEY, key) + slice_bytes(VALUE, value);
        Some(Self {
            key,
            value,
            numbers,
            body,
        })
    }

    fn bytes(&self) -> usize {
        key_len(KVS) + encoded_len_varint(self.body as u64) + self.body
    }

    fn encode(&self, piece: &mut BytesMut) {
        encode_key(KVS, WireType::LengthDelimited, piece);
        encode_varint(self.body as u64, piece);
        for (field, slice) in [(KEY, self.key), (VALUE, self.value)] {
            if !slice.is_empty() {
                encode_key(field, WireType::LengthDelimited, piece);
                encode_varint(slice.len() as u64, piece);
                piece.put_slice(slice);
            }
        }
        for (field, number) in self.numbers.iter().filter(|(_, number)| *number != 0) {
            encode_key(*field, WireType::Varint, piece);
            encode_varint(*number as u64, piece);
        }
    }
}

/// Rows, one after the other.
#[derive(Default)]
struct Pieces {
    full: Vec<Bytes>,
    piece: BytesMut,
    bytes: usize,
}

impl Pieces {
    const FIRST_BYTES: usize = 4 << 10;
    const BYTES_MAX: usize = 256 << 10;

    fn add(&mut self, row: &WireRow<'_>) {
        let bytes = row.bytes();
        self.make_room(bytes);
        row.encode(&mut self.piece);
        self.bytes += bytes;
    }

    /// Each piece is larger than the one before, up to a size that HTTP/2 sends at once.
    fn make_room(&mut self, bytes: usize) {
        if self.piece.capacity() - self.piece.len() >= bytes {
            return;
        }
        let next = (2 * self.piece.capacity()).clamp(Self::FIRST_BYTES, Self::BYTES_MAX);
        let full = std::mem::replace(&mut self.piece, BytesMut::with_capacity(next.max(bytes)));
        self.keep(full);
    }

    fn keep(&mut self, piece: BytesMut) {
        if !piece.is_empty() {
            self.full.push(piece.freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        let last = std::mem::take(&mut self.piece);
        self.keep(last);
        self.full
    }
}
