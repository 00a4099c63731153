//! One watch of a stream: a range, where it has got to, and what its client asked for. It holds no event; a page
//! of events goes through it to become responses.

use super::reply::{Outbox, Reply};
use crate::watchers::{Encodings, Registration, SharedEvents, Stream, Watchers};
use kv::{Event, EventsPage, PrevKv};
use proto::{
    Error, KeyRange,
    etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse, watch_create_request::FilterType},
};
use std::sync::Arc;

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
struct Wants {
    form: Form,
    fragment: bool,
    progress: bool,
}

/// Which events a watch gets of its range, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    puts: bool,
    deletes: bool,
    prev_kv: PrevKv,
}

/// A page in the form that a watch gets it. Watches with the same range, place and form get the same one.
#[derive(Clone)]
pub struct EncodedPage {
    events: SharedEvents,
    next_revision: i64,
    /// The revision of the View that it was pulled from.
    revision: i64,
}

impl EncodedPage {
    /// The first revision that it does not speak of.
    pub fn next_revision(&self) -> i64 {
        self.next_revision
    }

    /// Whether there was nothing for the watch in it.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

impl Form {
    /// The events of a page pulled from a View of `revision`.
    pub fn encode(self, page: &EventsPage, revision: i64, encodings: &Encodings) -> EncodedPage {
        let wanted = |event: &&Arc<Event>| {
            if event.record.is_some() {
                self.puts
            } else {
                self.deletes
            }
        };
        EncodedPage {
            events: encodings.of(page.events.iter().filter(wanted), self.prev_kv),
            next_revision: page.next_revision,
            revision,
        }
    }
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
        let form = Form {
            puts: !request.filters.contains(&(FilterType::Noput as i32)),
            deletes: !request.filters.contains(&(FilterType::Nodelete as i32)),
            prev_kv: if request.prev_kv { PrevKv::With } else { PrevKv::Without },
        };
        let wants = Wants {
            form,
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

    /// How it wants its events.
    pub fn form(&self) -> Form {
        self.wants.form
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

    /// Takes a page and adds the responses; whether there is more to pull.
    pub fn take_page(
        &mut self,
        page: &EncodedPage,
        header: ResponseHeader,
        bytes_max: usize,
        out: &mut Outbox,
    ) -> bool {
        self.next = page.next_revision;
        self.behind = page.next_revision <= page.revision;
        if !page.events.is_empty() {
            self.active = true;
            let own = WatchResponse {
                header: Some(header),
                watch_id: self.watch_id,
                ..WatchResponse::default()
            };
            let reply = Reply::new(own, Arc::clone(&page.events));
            if self.wants.fragment {
                reply.fragments(bytes_max, out);
            } else {
                out.push(reply);
            }
        }
        self.behind
    }
}
