//! One watch of a stream: a range, where it has got to, and what its client asked for. It holds no event; a page
//! of events goes through it to become responses.

use crate::watchers::{Registration, Stream, Watchers};
use kv::{Event, EventsPage, PrevKv};
use prost::Message;
use proto::{
    Error, KeyRange,
    etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse, watch_create_request::FilterType},
};
use std::{collections::VecDeque, sync::Arc};

/// One watch.
pub struct Cursor {
    registration: Arc<Registration>,
    watch_id: i64,
    /// As asked: 0 is "from now".
    start: i64,
    /// The first revision that it has not seen, unless the index vouches for more.
    next: i64,
    /// Whether it must pull. Otherwise it has seen everything that left no mark.
    behind: bool,
    wants: Wants,
    /// Whether it had events since the last progress tick.
    active: bool,
}

/// What its client asked for.
#[allow(clippy::struct_excessive_bools)] // they are the request's own fields
struct Wants {
    puts: bool,
    deletes: bool,
    prev_kv: PrevKv,
    fragment: bool,
    progress: bool,
}

/// The range that a request asks for; unlike Range, an empty key is the smallest one. The key is copied: a slice
/// would keep the whole frame it came in.
pub fn requested_range(request: &WatchCreateRequest) -> KeyRange {
    let copy = |bytes: &[u8]| bytes::Bytes::copy_from_slice(bytes);
    let key = if request.key.is_empty() {
        copy(&[0])
    } else {
        copy(&request.key)
    };
    KeyRange::new(key, copy(&request.range_end))
}

impl Cursor {
    /// Registers a watch, and returns the revision at which it did. From here on nothing is missed: what the index does not mark is pulled.
    pub fn open(
        watchers: &Watchers,
        published: impl FnOnce() -> i64,
        stream: &Arc<Stream>,
        watch_id: i64,
        range: KeyRange,
        request: &WatchCreateRequest,
    ) -> Result<(Self, i64), Error> {
        let (registration, unmarked_to) = watchers.register(stream, watch_id, range)?;
        // After registering, so that it is at least as new as what the index vouches for.
        let revision = published();
        let start = request.start_revision;
        let wants = Wants {
            puts: !request.filters.contains(&(FilterType::Noput as i32)),
            deletes: !request.filters.contains(&(FilterType::Nodelete as i32)),
            prev_kv: if request.prev_kv { PrevKv::With } else { PrevKv::Without },
            fragment: request.fragment,
            progress: request.progress_notify,
        };
        let next = if start == 0 { revision + 1 } else { start };
        let behind = next <= unmarked_to;
        Ok((
            Self {
                registration,
                watch_id,
                start,
                next,
                behind,
                wants,
                active: false,
            },
            revision,
        ))
    }

    /// Takes it out of the index.
    pub fn close(&self, watchers: &Watchers) {
        watchers.unregister(&self.registration);
    }

    /// Follows a mark; whether it now has to pull and had not before. While it is behind a mark tells nothing
    /// new: its last pull looks at a View at least as new as the mark.
    pub fn follow_mark(&mut self) -> bool {
        let Some(revision) = self.registration.take_mark() else {
            return false;
        };
        if self.behind {
            return false;
        }
        self.next = self.next.max(revision);
        self.behind = true;
        true
    }

    /// Whether it must pull.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// What is watched.
    pub fn range(&self) -> &KeyRange {
        self.registration.range()
    }

    /// The first revision to pull.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Whether its client wants to hear of progress by itself.
    pub fn wants_progress(&self) -> bool {
        self.wants.progress
    }

    /// The revision that must have been notified before progress can be told; `None` while it has to pull.
    pub fn progress_from(&self) -> Option<i64> {
        let caught_up = (!self.behind && !self.registration.is_marked()) || kv::mutants::is("progress-not-synced");
        caught_up.then(|| self.start.max(self.next - 1))
    }

    /// Whether it was quiet since the last call.
    pub fn take_quiet(&mut self) -> bool {
        !std::mem::take(&mut self.active)
    }

    /// Takes a page pulled from a View of `revision` and appends the responses; whether there is more to pull.
    pub fn take_page(
        &mut self,
        page: &EventsPage,
        revision: i64,
        header: ResponseHeader,
        bytes_max: usize,
        out: &mut VecDeque<WatchResponse>,
    ) -> bool {
        self.next = page.next_revision;
        self.behind = page.next_revision <= revision;
        let wanted = |event: &&Arc<Event>| {
            if event.record.is_some() {
                self.wants.puts
            } else {
                self.wants.deletes
            }
        };
        let events: Vec<_> = page
            .events
            .iter()
            .filter(wanted)
            .map(|event| event.to_proto(self.wants.prev_kv))
            .collect();
        if !events.is_empty() {
            self.active = true;
            let response = WatchResponse {
                header: Some(header),
                watch_id: self.watch_id,
                events,
                ..WatchResponse::default()
            };
            if self.wants.fragment {
                fragment(response, bytes_max, out);
            } else {
                out.push_back(response);
            }
        }
        self.behind
    }
}

/// Splits a response between events so that no piece reaches `bytes_max`, unless one event does by itself. All
/// pieces but the last say that more follows.
fn fragment(mut whole: WatchResponse, bytes_max: usize, out: &mut VecDeque<WatchResponse>) {
    if whole.encoded_len() < bytes_max || whole.events.len() < 2 {
        out.push_back(whole);
        return;
    }
    let events = std::mem::take(&mut whole.events);
    let empty = WatchResponse {
        fragment: true,
        ..whole
    };
    let overhead = empty.encoded_len();
    let (mut piece, mut bytes) = (empty.clone(), overhead);
    for event in events {
        let length = event.encoded_len();
        let event_bytes = 1 + prost::length_delimiter_len(length) + length;
        if !piece.events.is_empty() && bytes + event_bytes >= bytes_max {
            out.push_back(std::mem::replace(&mut piece, empty.clone()));
            bytes = overhead;
        }
        bytes += event_bytes;
        piece.events.push(event);
    }
    piece.fragment = false;
    out.push_back(piece);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::mvccpb;

    fn response(value_sizes: &[usize]) -> WatchResponse {
        let event = |size: &usize| {
            let kv = mvccpb::KeyValue {
                key: "k".into(),
                value: vec![7; *size].into(),
                ..Default::default()
            };
            mvccpb::Event {
                kv: Some(kv),
                ..Default::default()
            }
        };
        let header = Some(ResponseHeader {
            revision: 9,
            ..ResponseHeader::default()
        });
        WatchResponse {
            header,
            events: value_sizes.iter().map(event).collect(),
            ..WatchResponse::default()
        }
    }

    #[test]
    fn fragments_are_below_the_limit_and_add_up() {
        for sizes in [
            &[300, 300, 300, 300][..],
            &[10; 50],
            &[2000, 1, 1],
            &[1, 2000],
            &[2000],
            &[400, 590, 1],
        ] {
            let whole = response(sizes);
            let mut out = VecDeque::new();
            fragment(whole.clone(), 1000, &mut out);
            let events: Vec<_> = out.iter().flat_map(|piece| piece.events.clone()).collect();
            assert_eq!(events, whole.events);
            for (i, piece) in out.iter().enumerate() {
                assert_eq!(piece.fragment, i + 1 < out.len());
                assert_eq!(piece.header, whole.header);
                assert!(piece.events.len() == 1 || piece.encoded_len() < 1000);
            }
        }
    }
}
