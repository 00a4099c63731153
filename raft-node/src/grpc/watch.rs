//! The Watch service: one session a client stream, pulled by the connection. Live tailing, catching up and
//! recovering from lag are the same code, and nothing is queued per watch.
//!
//! ```text
//!   a turn:   a request | a mark | a tick | an end     then one page for one watch that is behind
//!   outbox:   what this turn has to say; it is empty before the next turn begins, so a page's fragments are
//!             contiguous, `created` comes before the first event, and a client that does not read is not read
//! ```
//!
//! Progress is claimed at the index's `notified` revision, after every watch that has a mark has pulled: see
//! `watchers`.

use super::{
    call::{self, Context},
    counters::{Rpc, Started},
    cursor::{Cursor, requested_range},
    ending::Ending,
    exact::exact_status,
    header::header,
    member::Member,
    pulled::{Pulled, Source},
};
use crate::{
    limits::{BLOCKING_RETRY, GRPC_OVERHEAD_BYTES, WATCH_CATCH_UP_BYTES, WATCH_PAGE_BYTES, WATCHES_MAX},
    watchers::Stream,
};
use kv::{Compacted, EventsPage};
use proto::{
    Error,
    etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion, watch_server},
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::ready,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Request, Response, Status, Streaming, async_trait};

/// What a response says that is about no watch: an error at creation, or progress of all.
const NO_WATCH: i64 = -1;

/// The service.
pub struct Watch<M>(pub Context<M>);

#[async_trait]
impl<M: Member> watch_server::Watch for Watch<M> {
    type WatchStream = Pulled<Session<M>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let call = self.0.begin(Rpc::Watch, request.metadata())?;
        // A watch from "now" on a member that has just started would tell again what its client knows.
        if let Err(error) = self.0.member.settled_view(call.deadline).await {
            return Err(call.refuse(&error));
        }
        let ending = Ending::new(&*self.0.member, call::requires_leader(request.metadata()));
        let session = Session::new(self.0.clone(), call.into_stream(), request.into_inner(), ending);
        Ok(Response::new(Pulled::new(session)))
    }
}

/// One client stream with its watches.
pub struct Session<M: Member> {
    context: Context<M>,
    started: Started,
    /// `None` when the client has said everything; its watches go on.
    requests: Option<Streaming<WatchRequest>>,
    ending: Ending,
    stream: Arc<Stream>,
    cursors: HashMap<i64, Cursor>,
    /// Watches that a compaction ended: as in etcd their ids stay taken until the client cancels them.
    compacted: HashSet<i64>,
    /// Ids of watches that are behind; ids that are not, or are gone, are skipped.
    behind: VecDeque<i64>,
    outbox: VecDeque<WatchResponse>,
    next_id: i64,
    /// The revision at which the client asked for progress.
    progress_asked: Option<i64>,
    tick: Instant,
    tick_interval: Duration,
}

impl<M: Member> Source for Session<M> {
    type Item = WatchResponse;

    async fn next(&mut self) -> Option<Result<WatchResponse, Status>> {
        let result = loop {
            match self.outbox.pop_front() {
                Some(response) => break Ok(response),
                None => {
                    if let Err(status) = self.turn().await {
                        break Err(status);
                    }
                }
            }
        };
        self.started.end_on_error(&result);
        Some(result)
    }
}

impl<M: Member> Drop for Session<M> {
    fn drop(&mut self) {
        let watchers = self.context.member.watchers();
        self.cursors.values().for_each(|cursor| cursor.close(watchers));
        watchers.stream_closed();
    }
}

impl<M: Member> Session<M> {
    fn new(context: Context<M>, started: Started, requests: Streaming<WatchRequest>, ending: Ending) -> Self {
        context.member.watchers().stream_opened();
        let tick_interval = spread(
            context.member.limits().progress_interval,
            context.member.watchers().streams(),
        );
        Self {
            context,
            started,
            requests: Some(requests),
            ending,
            stream: Arc::default(),
            cursors: HashMap::new(),
            compacted: HashSet::new(),
            behind: VecDeque::new(),
            outbox: VecDeque::new(),
            next_id: 0,
            progress_asked: None,
            tick: Instant::now() + tick_interval,
            tick_interval,
        }
    }

    async fn turn(&mut self) -> Result<(), Status> {
        let work_waits = !self.behind.is_empty();
        let request = next_request(&mut self.requests);
        tokio::select! {
            biased;
            error = self.ending.ended() => return Err(self.context.status(&error)),
            request = request => match request {
                Ok(Some(request)) => self.take_request(request),
                Ok(None) => self.requests = None,
                Err(status) => return Err(exact_status(status)),
            },
            () = self.stream.woken() => {}
            () = sleep_until(self.tick) => self.tell_progress_of_quiet_watches(),
            () = ready(()), if work_waits => {}
        }
        // Always, because a request may have come first and the wake-up be still unread.
        self.follow_marks();
        self.pull().await;
        self.answer_progress();
        Ok(())
    }

    fn take_request(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(&create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.progress_asked = Some(self.context.member.view().revision()),
            // Something that a newer client can ask: etcd ignores it.
            None => {}
        }
    }

    fn create(&mut self, request: &WatchCreateRequest) {
        let response = match self.open(request) {
            Ok((watch_id, revision)) => self.response(watch_id, revision),
            Err(reason) => WatchResponse {
                canceled: true,
                cancel_reason: reason,
                ..self.response(NO_WATCH, self.context.member.view().revision())
            },
        };
        self.outbox.push_back(WatchResponse {
            created: true,
            ..response
        });
    }

    /// Opens a watch: its id, and the revision behind which it sees everything; or the reason why not.
    fn open(&mut self, request: &WatchCreateRequest) -> Result<(i64, i64), String> {
        if request.start_revision < 0 {
            return Err(Error::Compacted.text().to_owned());
        }
        if self.compacted.len() >= WATCHES_MAX {
            return Err(Error::RequestTooManyRequests.text().to_owned());
        }
        let range = requested_range(request);
        if range.is_empty() {
            return Err("mvcc: watcher range is empty".to_owned());
        }
        let watch_id = match request.watch_id {
            0 => self.unused_id(),
            asked if self.is_taken(asked) => {
                return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
            }
            asked => asked,
        };
        let member = &*self.context.member;
        let published = || member.view().revision();
        let (cursor, revision) = Cursor::open(member.watchers(), published, &self.stream, watch_id, range, request)
            .map_err(|error| error.text().to_owned())?;
        if cursor.is_behind() {
            self.behind.push_back(watch_id);
        }
        self.cursors.insert(watch_id, cursor);
        Ok((watch_id, revision))
    }

    fn unused_id(&mut self) -> i64 {
        while self.is_taken(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn is_taken(&self, watch_id: i64) -> bool {
        self.cursors.contains_key(&watch_id) || self.compacted.contains(&watch_id)
    }

    /// An id that is not known gets no answer.
    fn cancel(&mut self, watch_id: i64) {
        let cursor = self.cursors.remove(&watch_id);
        if let Some(cursor) = &cursor {
            cursor.close(self.context.member.watchers());
        }
        if cursor.is_some() || self.compacted.remove(&watch_id) {
            let response = self.response(watch_id, self.context.member.view().revision());
            self.outbox.push_back(WatchResponse {
                canceled: true,
                ..response
            });
        }
    }

    fn follow_marks(&mut self) {
        for watch_id in self.stream.take_marked() {
            if self.cursors.get_mut(&watch_id).is_some_and(Cursor::follow_mark) {
                self.behind.push_back(watch_id);
            }
        }
    }

    /// One page for the watch that has waited longest.
    async fn pull(&mut self) {
        let Some(watch_id) = self.behind.pop_front() else {
            return;
        };
        let Some(cursor) = self.cursors.get(&watch_id).filter(|cursor| cursor.is_behind()) else {
            return;
        };
        let view = self.context.member.view();
        let revision = view.revision();
        let from = cursor.next();
        let page = if view.events_in_memory(from) {
            Ok(view.events(cursor.range(), from, WATCH_PAGE_BYTES))
        } else {
            let range = cursor.range().clone();
            self.context
                .member
                .blocking(move || view.events(&range, from, WATCH_CATCH_UP_BYTES))
                .await
        };
        match page {
            Ok(Ok(page)) => self.take_page(watch_id, &page, revision),
            Ok(Err(compacted)) => self.cancel_compacted(watch_id, compacted),
            // The pool is full: nobody is refused for that, it only takes longer.
            Err(_) => {
                self.behind.push_back(watch_id);
                sleep(BLOCKING_RETRY).await;
            }
        }
    }

    fn take_page(&mut self, watch_id: i64, page: &EventsPage, revision: i64) {
        let member = &*self.context.member;
        let Some(cursor) = self.cursors.get_mut(&watch_id) else {
            return;
        };
        let bytes_max = member.limits().max_request_bytes + GRPC_OVERHEAD_BYTES;
        let header = header(member, page.next_revision - 1);
        if cursor.take_page(page, revision, header, bytes_max, &mut self.outbox) {
            self.behind.push_back(watch_id);
        }
    }

    /// Its own message, behind `created`, with revision 0: clients tell it from an error by that.
    fn cancel_compacted(&mut self, watch_id: i64, Compacted { compact_revision }: Compacted) {
        if let Some(cursor) = self.cursors.remove(&watch_id) {
            cursor.close(self.context.member.watchers());
            self.compacted.insert(watch_id);
        }
        let response = self.response(watch_id, 0);
        self.outbox.push_back(WatchResponse {
            canceled: true,
            compact_revision,
            ..response
        });
    }

    /// Answers a request for progress once everything up to the revision at which it was asked has been sent.
    fn answer_progress(&mut self) {
        let Some(asked) = self.progress_asked else { return };
        if self.cursors.is_empty() {
            self.progress_asked = None;
            return;
        }
        if !self.behind.is_empty() {
            return;
        }
        // Read before the marks are looked at: what they say is then complete up to it.
        let notified = self.context.member.watchers().notified();
        let needed = self
            .cursors
            .values()
            .try_fold(asked, |needed, cursor| Some(needed.max(cursor.progress_from()?)));
        match needed {
            Some(needed) if needed <= notified => {
                self.progress_asked = None;
                self.outbox.push_back(self.response(NO_WATCH, notified));
            }
            Some(needed) => self.context.member.watchers().wake_after(&self.stream, needed),
            // A mark that has not been followed yet has woken the stream, too.
            None => {}
        }
    }

    fn tell_progress_of_quiet_watches(&mut self) {
        self.tick = Instant::now() + self.tick_interval;
        let notified = self.context.member.watchers().notified();
        let mut quiet = Vec::new();
        for (&watch_id, cursor) in self.cursors.iter_mut().filter(|(_, cursor)| cursor.wants_progress()) {
            let has_seen_all = cursor.progress_from().is_some_and(|needed| needed <= notified);
            if cursor.take_quiet() && has_seen_all {
                quiet.push(watch_id);
            }
        }
        for watch_id in quiet {
            self.outbox.push_back(self.response(watch_id, notified));
        }
    }

    fn response(&self, watch_id: i64, revision: i64) -> WatchResponse {
        let header = Some(header(&*self.context.member, revision));
        WatchResponse {
            header,
            watch_id,
            ..WatchResponse::default()
        }
    }
}

async fn next_request(requests: &mut Option<Streaming<WatchRequest>>) -> Result<Option<WatchRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}

/// Up to a tenth longer, different for streams opened one after the other, so that they do not all tick at once.
fn spread(interval: Duration, stream: usize) -> Duration {
    interval + interval * u32::try_from(stream % 11).expect("it is below 11") / 100
}
