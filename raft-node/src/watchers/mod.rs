//! Who watches what. The driver calls [`Watchers::published`] after each apply, before any reply goes out; it
//! looks up which watches the new events match and wakes just the streams that own them.
//!
//! A watch is a cursor, not a queue: a wake-up carries no event, only "something at this revision matches you".
//! The stream pulls the events itself from the View. What the index promises, and what makes it exact:
//!
//! ```text
//!   registered at N      every event at a revision > N that matches leaves a mark  (N: notified() at that time)
//!   events <= N          are the stream's own business: it pulls them (catch-up)
//!   notified() == R      every mark for a revision <= R has been left: a watch without a mark that had caught
//!                        up has seen everything up to R, without anybody having looked at it
//! ```
//!
//! So a quiet watch costs nothing, is never behind a compaction, and progress R can be claimed for it in O(1).
//! Not here: which events there are (`kv`), how they are sent (`grpc/watch`).

mod bell;
mod encoded;
mod intervals;

pub use encoded::{Encoded, Encodings, SharedEvents};

use crate::limits::{WATCH_MATCH_BYTES, WATCHES_MAX};
use bell::{Bell, Listed};
use bytes::Bytes;
use intervals::Intervals;
use kv::{View, engine::Engine};
use proto::{Error, KeyRange};
use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};
use tokio::sync::Notify;

/// The index of all watches of one member.
pub struct Watchers {
    index: Mutex<Index>,
    encodings: Arc<Encodings>,
    notified: AtomicI64,
    watches: AtomicUsize,
    streams: AtomicUsize,
}

/// One client stream: where its wake-ups go.
#[derive(Default)]
pub struct Stream {
    /// Ids of watches with a mark. At most one entry a watch, so it is bounded by their number.
    marked: Mutex<Vec<i64>>,
    wake: Notify,
    /// `None`: it is woken by itself.
    bell: Option<Arc<Bell>>,
    listed: Listed,
}

/// One watch in the index. Lives until [`Watchers::unregister`].
pub struct Registration {
    number: u64,
    watch_id: i64,
    range: KeyRange,
    stream: Arc<Stream>,
    /// The first revision since the mark was last taken that holds an event in `range`; 0 is none.
    mark: AtomicI64,
}

type Group = BTreeMap<u64, Arc<Registration>>;

#[derive(Default)]
struct Index {
    notified: i64,
    numbers: u64,
    keys: HashMap<Bytes, Group>,
    ranges: Intervals<Group>,
    at_next: Vec<Arc<Stream>>,
}

impl Watchers {
    /// An empty index of a member whose state is at `revision`.
    pub fn new(revision: i64) -> Self {
        Self {
            index: Mutex::new(Index {
                notified: revision,
                ..Index::default()
            }),
            encodings: Arc::default(),
            notified: AtomicI64::new(revision),
            watches: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
        }
    }

    /// Marks and wakes the watches that the events up to `view`'s revision match. Call it after each publication
    /// of a View, from one thread, before anything else tells a client of the new revision.
    pub fn published<E: Engine>(&self, view: &View<E>) {
        let mut index = self.lock();
        let mut woken = mem::take(&mut index.at_next);
        if view.revision() > index.notified {
            if self.watches.load(Ordering::Relaxed) > 0 {
                index.mark_since(view, &mut woken);
            }
            index.notified = view.revision();
            self.notified.store(view.revision(), Ordering::Release);
        }
        drop(index);
        bell::wake(woken);
    }

    /// The revision up to which every mark has been left.
    pub fn notified(&self) -> i64 {
        self.notified.load(Ordering::Acquire)
    }

    /// Adds a watch. Also returns the revision up to which it gets no marks: see the file's promise.
    pub fn register(
        &self,
        stream: &Arc<Stream>,
        watch_id: i64,
        range: KeyRange,
    ) -> Result<(Arc<Registration>, i64), Error> {
        let mut index = self.lock();
        if self.watches.load(Ordering::Relaxed) >= WATCHES_MAX {
            return Err(Error::RequestTooManyRequests);
        }
        index.numbers += 1;
        let registration = Arc::new(Registration {
            number: index.numbers,
            watch_id,
            range,
            stream: Arc::clone(stream),
            mark: AtomicI64::new(0),
        });
        index
            .group(&registration.range)
            .insert(registration.number, Arc::clone(&registration));
        self.watches.fetch_add(1, Ordering::Relaxed);
        Ok((registration, index.notified))
    }

    /// Takes a watch out. Marks left before stay on the stream and name an id that it no longer knows.
    pub fn unregister(&self, registration: &Registration) {
        if self.lock().remove(registration) {
            self.watches.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Wakes `stream` at the next publication, whatever it holds; at once if `revision` has been notified.
    pub fn wake_after(&self, stream: &Arc<Stream>, revision: i64) {
        let mut index = self.lock();
        if index.notified >= revision {
            stream.wake.notify_one();
        } else if !index.at_next.iter().any(|waiting| Arc::ptr_eq(waiting, stream)) {
            index.at_next.push(Arc::clone(stream));
        }
    }

    /// The events that watches are told of, as bytes.
    pub fn encodings(&self) -> &Arc<Encodings> {
        &self.encodings
    }

    /// Counts a stream that begins.
    pub fn stream_opened(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a stream that ended.
    pub fn stream_closed(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many watches are registered.
    pub fn watches(&self) -> usize {
        self.watches.load(Ordering::Relaxed)
    }

    /// How many client streams are open.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("no panic is survived, so no lock is poisoned")
    }
}

impl Stream {
    /// A stream that is served on the calling current-thread runtime.
    pub fn on_this_runtime() -> Self {
        Self {
            bell: Some(Bell::of_this_thread()),
            ..Self::default()
        }
    }

    /// Completes when a watch was marked or an awaited publication happened since the last time.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The ids of watches that have got a mark.
    pub fn take_marked(&self) -> Vec<i64> {
        mem::take(
            &mut *self
                .marked
                .lock()
                .expect("no panic is survived, so no lock is poisoned"),
        )
    }
}

impl Registration {
    /// The first matching revision since the last call, if there was one.
    pub fn take_mark(&self) -> Option<i64> {
        Some(self.mark.swap(0, Ordering::AcqRel)).filter(|&revision| revision > 0)
    }

    /// Whether a mark waits to be taken.
    pub fn is_marked(&self) -> bool {
        self.mark.load(Ordering::Acquire) > 0
    }

    /// What is watched.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// Adds the stream to `woken` with the first mark that it has not taken.
    fn leave_mark(&self, revision: i64, woken: &mut Vec<Arc<Stream>>) {
        if self
            .mark
            .compare_exchange(0, revision, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            let mut marked = self
                .stream
                .marked
                .lock()
                .expect("no panic is survived, so no lock is poisoned");
            if marked.is_empty() {
                woken.push(Arc::clone(&self.stream));
            }
            marked.push(self.watch_id);
        }
    }
}

impl Index {
    fn group(&mut self, range: &KeyRange) -> &mut Group {
        match range {
            KeyRange::Key(key) => self.keys.entry(key.clone()).or_default(),
            _ => self.ranges.entry(range),
        }
    }

    fn remove(&mut self, registration: &Registration) -> bool {
        match &registration.range {
            KeyRange::Key(key) => {
                let Some(group) = self.keys.get_mut(key) else {
                    return false;
                };
                let was_in = group.remove(&registration.number).is_some();
                if group.is_empty() {
                    self.keys.remove(key);
                }
                was_in
            }
            range => {
                let group = self.ranges.entry(range);
                let was_in = group.remove(&registration.number).is_some();
                if group.is_empty() {
                    self.ranges.remove(range);
                }
                was_in
            }
        }
    }

    fn mark_since<E: Engine>(&self, view: &View<E>, woken: &mut Vec<Arc<Stream>>) {
        let everything = KeyRange::From(Bytes::new());
        let mut from = self.notified + 1;
        while from <= view.revision() {
            // The events are not in memory when the state jumped (a snapshot was installed). Everybody looks for
            // himself, off this thread; a stream that finds nothing has lost a moment, not an event.
            let page = view
                .events_in_memory(from)
                .then(|| view.events(&everything, from, WATCH_MATCH_BYTES));
            let Some(Ok(page)) = page else {
                return self.mark_all(from, woken);
            };
            for event in &page.events {
                self.mark_key(&event.key, event.revision, woken);
            }
            from = page.next_revision;
        }
    }

    fn mark_key(&self, key: &[u8], revision: i64, woken: &mut Vec<Arc<Stream>>) {
        for registration in self.keys.get(key).into_iter().flat_map(BTreeMap::values) {
            registration.leave_mark(revision, woken);
        }
        self.ranges.containing(key, &mut |group| {
            for registration in group.values() {
                registration.leave_mark(revision, woken);
            }
        });
    }

    fn mark_all(&self, revision: i64, woken: &mut Vec<Arc<Stream>>) {
        for registration in self.keys.values().flat_map(BTreeMap::values) {
            registration.leave_mark(revision, woken);
        }
        self.ranges.each(&mut |group| {
            for registration in group.values() {
                registration.leave_mark(revision, woken);
            }
        });
    }
}
