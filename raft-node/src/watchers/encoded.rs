//! Events as they stand in a WatchResponse, encoded once and shared by everybody who is told of them: ten thousand
//! streams that wait for their clients hold references to the same bytes.
//!
//! ```text
//!   alive    every encoding that somebody still holds, found by (revision, sub, form); holds none itself
//!   recent   the newest encodings, so that streams that come one after the other find what the one before them sent
//! ```
//!
//! Also what all streams together have copied and not sent: beyond a bound they copy less and share more.
//!
//! Not here: who is told of what (`grpc/watch`), how the bytes leave (`grpc/replies`).

use crate::limits::{
    WATCH_CHUNK_BYTES, WATCH_CHUNK_BYTES_MIN, WATCH_COPIED_BYTES, WATCH_RECENT_BYTES, WATCH_RECENT_EVENTS,
};
use bytes::{Bytes, BytesMut};
use kv::{Event, PrevKv};
use prost::{
    Message,
    encoding::{WireType, encode_key},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

/// `WatchResponse.events`.
const EVENTS_TAG: u32 = 11;
/// Before the table of living encodings has so many rows, nobody looks for dead ones.
const SWEEP_FROM: usize = 1024;

/// One event as a field of a WatchResponse: tag, length and message.
pub struct Encoded(Vec<u8>);

/// Some events in order, as one kind of watch wants them.
pub type SharedEvents = Arc<[Arc<Encoded>]>;

/// The encodings of one member.
#[derive(Default)]
pub struct Encodings {
    known: Mutex<Known>,
    /// Bytes that were copied for streams and that HTTP/2 has not sent.
    copied: AtomicUsize,
}

/// Revision, position in it, and whether with what the event replaced. An event whose predecessor is forgotten has
/// one form only, so the last part says what was encoded, not what was asked for.
type Key = (i64, i64, bool);

#[derive(Default)]
struct Known {
    alive: HashMap<Key, Weak<Encoded>>,
    sweep_at: usize,
    recent: VecDeque<Arc<Encoded>>,
    recent_bytes: usize,
}

impl Encoded {
    fn of(event: &Event, prev_kv: PrevKv) -> Self {
        let message = event.to_proto(prev_kv);
        let bytes = message.encoded_len();
        let mut field = Vec::with_capacity(1 + prost::length_delimiter_len(bytes) + bytes);
        encode_key(EVENTS_TAG, WireType::LengthDelimited, &mut field);
        message
            .encode_length_delimited(&mut field)
            .expect("a vector grows as it must");
        Self(field)
    }

    /// Its bytes on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same bytes for HTTP/2, which holds on to them until they are sent.
    pub fn shared(self: &Arc<Self>) -> Bytes {
        struct Owner(Arc<Encoded>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0.0
            }
        }
        Bytes::from_owner(Owner(Arc::clone(self)))
    }
}

impl Encodings {
    /// The encodings of events, each made if nobody holds it.
    pub fn of<'a>(&self, events: impl Iterator<Item = &'a Arc<Event>>, prev_kv: PrevKv) -> SharedEvents {
        let mut known = self.known.lock().expect("no panic is survived, so no lock is poisoned");
        events.map(|event| known.encoding(event, prev_kv)).collect()
    }

    /// How much a stream may copy into one chunk; what is larger it sends as a reference.
    pub fn chunk_bytes(&self) -> usize {
        if self.copied.load(Ordering::Relaxed) < WATCH_COPIED_BYTES {
            WATCH_CHUNK_BYTES
        } else {
            WATCH_CHUNK_BYTES_MIN
        }
    }

    /// A chunk for HTTP/2, counted until it has been sent.
    pub fn copied(self: &Arc<Self>, chunk: BytesMut) -> Bytes {
        struct Copied(BytesMut, Arc<Encodings>);
        impl AsRef<[u8]> for Copied {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        impl Drop for Copied {
            fn drop(&mut self) {
                self.1.copied.fetch_sub(self.0.len(), Ordering::Relaxed);
            }
        }
        self.copied.fetch_add(chunk.len(), Ordering::Relaxed);
        Bytes::from_owner(Copied(chunk, Arc::clone(self)))
    }
}

impl Known {
    fn encoding(&mut self, event: &Event, prev_kv: PrevKv) -> Arc<Encoded> {
        let has_prev = prev_kv == PrevKv::With && event.prev.is_some();
        let key = (event.revision, event.sub, has_prev);
        if let Some(known) = self.alive.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let encoded = Arc::new(Encoded::of(event, prev_kv));
        if self.alive.len() >= self.sweep_at {
            self.alive.retain(|_, weak| weak.strong_count() > 0);
            self.sweep_at = SWEEP_FROM.max(2 * self.alive.len());
        }
        self.alive.insert(key, Arc::downgrade(&encoded));
        self.keep(Arc::clone(&encoded));
        encoded
    }

    fn keep(&mut self, encoded: Arc<Encoded>) {
        self.recent_bytes += encoded.0.len();
        self.recent.push_back(encoded);
        while self.recent_bytes > WATCH_RECENT_BYTES || self.recent.len() > WATCH_RECENT_EVENTS {
            let oldest = self.recent.pop_front().expect("bytes are only held by encodings");
            self.recent_bytes -= oldest.0.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv::{Record, Revision};
    use proto::etcdserverpb::WatchResponse;

    fn event(revision: i64, value_bytes: usize, prev: bool) -> Arc<Event> {
        let record = |main| Record {
            create_revision: 1,
            modified: Revision { main, sub: 0 },
            version: main,
            lease: 0,
            value: vec![7; value_bytes].into(),
        };
        Arc::new(Event {
            revision,
            sub: 0,
            key: "k".into(),
            record: Some(record(revision)),
            prev: prev.then(|| record(revision - 1)),
            before: None,
        })
    }

    #[test]
    fn an_event_is_encoded_once_for_each_form() {
        let encodings = Encodings::default();
        let one = |event: &Arc<Event>, prev_kv| Arc::clone(&encodings.of([event].into_iter(), prev_kv)[0]);
        let (first, again) = (event(5, 10, true), event(5, 10, true));
        let without = one(&first, PrevKv::Without);
        assert!(Arc::ptr_eq(&without, &one(&again, PrevKv::Without)));
        let with = one(&first, PrevKv::With);
        assert!(!Arc::ptr_eq(&without, &with));
        // What it replaced has been forgotten in between.
        assert!(Arc::ptr_eq(&without, &one(&event(5, 10, false), PrevKv::With)));
        for (encoded, prev_kv) in [(without, PrevKv::Without), (with, PrevKv::With)] {
            let response = WatchResponse::decode(encoded.bytes()).expect("it is a field of one");
            assert_eq!(response.events, [first.to_proto(prev_kv)]);
        }
    }

    #[test]
    fn what_nobody_holds_is_bounded_and_what_somebody_holds_is_found() {
        let encodings = Encodings::default();
        let held = encodings.of([&event(1, 100_000, false)].into_iter(), PrevKv::Without);
        for revision in 2..4_000 {
            let size = if revision % 10 == 0 { 100_000 } else { 10 };
            encodings.of([&event(revision, size, false)].into_iter(), PrevKv::Without);
        }
        let again = encodings.of([&event(1, 100_000, false)].into_iter(), PrevKv::Without);
        assert!(Arc::ptr_eq(&held[0], &again[0]));
        let known = encodings.known.lock().expect("no test panics with it");
        let alive = known.alive.values().filter_map(Weak::upgrade);
        let bytes: usize = alive.map(|encoded| encoded.0.len()).sum();
        assert!(bytes <= WATCH_RECENT_BYTES + 2 * 100_100, "{bytes} bytes");
        assert!(
            known.alive.len() <= 2 * SWEEP_FROM.max(known.recent.len() + 2),
            "{}",
            known.alive.len()
        );
    }

    #[test]
    fn streams_copy_less_when_much_is_unsent() {
        let encodings = Arc::new(Encodings::default());
        assert_eq!(encodings.chunk_bytes(), WATCH_CHUNK_BYTES);
        let unsent = encodings.copied(BytesMut::zeroed(WATCH_COPIED_BYTES));
        assert_eq!(encodings.chunk_bytes(), WATCH_CHUNK_BYTES_MIN);
        drop(unsent);
        assert_eq!(encodings.chunk_bytes(), WATCH_CHUNK_BYTES);
    }
}
