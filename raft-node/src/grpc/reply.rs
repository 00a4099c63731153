//! One response of a watch stream on its way to HTTP/2: what is its own (header, watch id, flags), and the events it
//! shares with every other stream that is told of them.
//!
//! ```text
//!   on the wire    0, length | header, watch_id, ...  | event | event | ...
//!                  own bytes, copied                    shared bytes
//! ```
//! A message of protobuf is the concatenation of its fields, so the events need no copy to become part of it.

use crate::{
    limits::WATCH_TURN_BYTES,
    watchers::{Encoded, SharedEvents},
};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb::WatchResponse;
use std::{collections::VecDeque, mem, ops::Range, sync::Arc};
use tonic::Status;

/// gRPC's prefix: not compressed, length.
const PREFIX_BYTES: usize = 5;

/// One response.
pub struct Reply {
    /// Without events.
    own: WatchResponse,
    events: SharedEvents,
    /// Those of the events that are in this response.
    range: Range<usize>,
    bytes: usize,
}

impl From<WatchResponse> for Reply {
    fn from(own: WatchResponse) -> Self {
        Self::new(own, Arc::default())
    }
}

impl Reply {
    /// A response with all of these events.
    pub fn new(own: WatchResponse, events: SharedEvents) -> Self {
        let range = 0..events.len();
        Self::with_range(own, events, range)
    }

    fn with_range(own: WatchResponse, events: SharedEvents, range: Range<usize>) -> Self {
        assert!(own.events.is_empty(), "events are shared, not a response's own");
        let shared: usize = events[range.clone()].iter().map(|event| event.bytes().len()).sum();
        let bytes = own.encoded_len() + shared;
        Self {
            own,
            events,
            range,
            bytes,
        }
    }

    /// The message, as a client gets it.
    pub fn message(&self) -> Vec<u8> {
        let mut message = self.own.encode_to_vec();
        for event in &self.events[self.range.clone()] {
            message.extend_from_slice(event.bytes());
        }
        message
    }

    /// Splits it between events so that no piece reaches `bytes_max`, unless one event does by itself. All pieces but
    /// the last say that more follows.
    pub fn fragments(self, bytes_max: usize, out: &mut Outbox) {
        if self.bytes < bytes_max || self.range.len() < 2 {
            out.push(self);
            return;
        }
        let piece = WatchResponse {
            fragment: true,
            ..self.own.clone()
        };
        let own_bytes = piece.encoded_len();
        let (mut from, mut bytes) = (self.range.start, own_bytes);
        for (i, event) in self.events.iter().enumerate().take(self.range.end).skip(from) {
            if i > from && bytes + event.bytes().len() >= bytes_max {
                out.push(Self::with_range(piece.clone(), Arc::clone(&self.events), from..i));
                (from, bytes) = (i, own_bytes);
            }
            bytes += event.bytes().len();
        }
        let rest = from..self.range.end;
        out.push(Self::with_range(self.own, self.events, rest));
    }
}

/// What a stream has to say and has not handed over.
#[derive(Default)]
pub struct Outbox {
    replies: VecDeque<Reply>,
    bytes: usize,
}

impl Outbox {
    /// Adds a response.
    pub fn push(&mut self, reply: impl Into<Reply>) {
        let reply = reply.into();
        self.bytes += reply.bytes;
        self.replies.push_back(reply);
    }

    /// Whether there is enough for one turn.
    pub fn is_full(&self) -> bool {
        self.bytes >= WATCH_TURN_BYTES
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Everything in it, in order.
    pub fn take(&mut self) -> VecDeque<Reply> {
        self.bytes = 0;
        mem::take(&mut self.replies)
    }
}

/// What goes to HTTP/2 next.
pub enum Chunk {
    /// Small pieces, copied together.
    Copied(BytesMut),
    /// One event.
    Shared(Bytes),
}

/// Responses on their way into chunks.
#[derive(Default)]
pub struct Chunks {
    replies: VecDeque<Reply>,
    /// How many events of the first response have left; `None` before its own bytes have.
    sent: Option<usize>,
    copied: BytesMut,
}

impl Chunks {
    /// Adds responses behind the others.
    pub fn extend(&mut self, replies: VecDeque<Reply>) {
        if self.replies.is_empty() {
            self.replies = replies;
        } else {
            self.replies.extend(replies);
        }
    }

    /// The next chunk that is full: one that holds `chunk_bytes`, or an event of that size. `None` when more
    /// responses fit into the chunk that is begun, see [`Chunks::rest`].
    pub fn next_full(&mut self, chunk_bytes: usize) -> Result<Option<Chunk>, Status> {
        while let Some(reply) = self.replies.front() {
            if self.copied.len() >= chunk_bytes {
                return Ok(self.rest());
            }
            if self.sent.is_none() {
                if self.copied.capacity() == 0 {
                    self.copied.reserve(room(&self.replies, chunk_bytes));
                }
                put_own(reply, &mut self.copied)?;
                self.sent = Some(0);
                continue;
            }
            let sent = self.sent.unwrap_or_default();
            let Some(event) = reply.events[reply.range.clone()].get(sent) else {
                self.replies.pop_front();
                self.sent = None;
                continue;
            };
            if event.bytes().len() < chunk_bytes {
                self.copied.extend_from_slice(event.bytes());
            } else if self.copied.is_empty() {
                self.sent = Some(sent + 1);
                return Ok(Some(Chunk::Shared(Encoded::shared(event))));
            } else {
                return Ok(self.rest());
            }
            self.sent = Some(sent + 1);
        }
        Ok(if self.copied.len() >= chunk_bytes {
            self.rest()
        } else {
            None
        })
    }

    /// The chunk that is begun.
    pub fn rest(&mut self) -> Option<Chunk> {
        (!self.copied.is_empty()).then(|| Chunk::Copied(mem::take(&mut self.copied)))
    }
}

/// Room for exactly what will be copied into one chunk: an unsent one must not hold more than it says.
fn room(replies: &VecDeque<Reply>, chunk_bytes: usize) -> usize {
    let mut room = 0;
    for reply in replies {
        room += PREFIX_BYTES + reply.own.encoded_len();
        for event in &reply.events[reply.range.clone()] {
            if room >= chunk_bytes || event.bytes().len() >= chunk_bytes {
                return room;
            }
            room += event.bytes().len();
        }
        if room >= chunk_bytes {
            return room;
        }
    }
    room
}

fn put_own(reply: &Reply, copied: &mut BytesMut) -> Result<(), Status> {
    let Ok(length) = u32::try_from(reply.bytes) else {
        let text = format!(
            "Cannot return body with more than 4GB of data but got {} bytes",
            reply.bytes
        );
        return Err(Status::resource_exhausted(text));
    };
    copied.put_u8(0);
    copied.put_u32(length);
    reply.own.encode(copied).expect("the buffer grows as it must");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watchers::Encodings;
    use kv::{Event, PrevKv, Record, Revision};
    use proto::etcdserverpb::ResponseHeader;

    fn events(value_sizes: &[usize]) -> SharedEvents {
        let event = |(sub, size): (usize, &usize)| {
            Arc::new(Event {
                revision: 9,
                sub: sub as i64,
                key: "k".into(),
                record: Some(Record {
                    create_revision: 9,
                    modified: Revision {
                        main: 9,
                        sub: sub as i64,
                    },
                    version: 1,
                    lease: 0,
                    value: vec![7; *size].into(),
                }),
                prev: None,
                before: None,
            })
        };
        let events: Vec<_> = value_sizes.iter().enumerate().map(event).collect();
        Encodings::default().of(events.iter(), PrevKv::Without)
    }

    fn own(watch_id: i64) -> WatchResponse {
        let header = Some(ResponseHeader {
            revision: 9,
            ..ResponseHeader::default()
        });
        WatchResponse {
            header,
            watch_id,
            ..WatchResponse::default()
        }
    }

    fn decoded(reply: &Reply) -> WatchResponse {
        WatchResponse::decode(reply.message().as_slice()).expect("a response")
    }

    const SIZES: [&[usize]; 7] = [
        &[300, 300, 300, 300],
        &[10; 50],
        &[2000, 1, 1],
        &[1, 2000],
        &[2000],
        &[400, 590, 1],
        &[],
    ];

    #[test]
    fn fragments_are_below_the_limit_and_add_up() {
        for sizes in SIZES {
            let whole = decoded(&Reply::new(own(3), events(sizes)));
            assert_eq!(whole.events.len(), sizes.len());
            let mut outbox = Outbox::default();
            Reply::new(own(3), events(sizes)).fragments(1000, &mut outbox);
            let pieces: Vec<_> = outbox.take().iter().map(decoded).collect();
            let events: Vec<_> = pieces.iter().flat_map(|piece| piece.events.clone()).collect();
            assert_eq!(events, whole.events);
            for (i, piece) in pieces.iter().enumerate() {
                assert_eq!(piece.fragment, i + 1 < pieces.len());
                assert_eq!(piece.header, whole.header);
                assert!(piece.events.len() <= 1 || piece.encoded_len() < 1000);
            }
        }
    }

    #[test]
    fn chunks_of_any_size_are_the_messages_one_after_the_other() {
        let replies = || {
            SIZES
                .iter()
                .enumerate()
                .map(|(i, sizes)| Reply::new(own(i as i64), events(sizes)))
        };
        let mut expected = BytesMut::new();
        for reply in replies() {
            expected.put_u8(0);
            expected.put_u32(reply.message().len() as u32);
            expected.put_slice(&reply.message());
        }
        for chunk_bytes in [1, 50, 350, 1000, 1 << 20] {
            let mut chunks = Chunks::default();
            let mut sent = BytesMut::new();
            let mut shared = 0;
            for reply in replies() {
                chunks.extend([reply].into());
                while let Some(chunk) = chunks.next_full(chunk_bytes).expect("below 4 GB") {
                    if let Chunk::Copied(copied) = &chunk {
                        assert!(copied.capacity() < 2 * chunk_bytes + 100, "chunks of {chunk_bytes}");
                    }
                    shared += usize::from(matches!(chunk, Chunk::Shared(_)));
                    put(&mut sent, chunk);
                }
            }
            if let Some(rest) = chunks.rest() {
                put(&mut sent, rest);
            }
            assert_eq!(sent, expected, "chunks of {chunk_bytes}");
            let large = SIZES
                .iter()
                .flat_map(|sizes| sizes.iter())
                .filter(|size| **size > chunk_bytes);
            assert!(shared >= large.count(), "chunks of {chunk_bytes}: {shared} shared");
        }
    }

    fn put(sent: &mut BytesMut, chunk: Chunk) {
        match chunk {
            Chunk::Copied(bytes) => sent.extend_from_slice(&bytes),
            Chunk::Shared(bytes) => sent.extend_from_slice(&bytes),
        }
    }
}
