//! The Watch service: one session a client stream, pulled by the connection. Live tailing, catching up and
//! recovering from lag are the same code, and nothing is queued per watch.
//!
//! ```text
//!   a turn:   a request | a mark | a tick | an end     then pages for watches that are behind, a page each
//!   outbox:   what this turn has to say; it is empty before the next turn begins, so a page's fragments are
//!             contiguous, `created` comes before the first event, and a client that does not read is not read
//! ```
//!
//! Progress is claimed at the index's `notified` revision, after every watch that has a mark has pulled: see
//! `watchers`.

use super::{
    call::{self, Context},
    counters::{Rpc, Started},
    cursor::{Cursor, EncodedPage, Form, requested_range},
    ending::Ending,
    exact::exact_status,
    header::header,
    member::Member,
    pulled::Source,
    replies::Replies,
    reply::{Outbox, Reply},
};
use crate::{
    limits::{
        BLOCKING_RETRY, GRPC_OVERHEAD_BYTES, WATCH_CATCH_UP_BYTES, WATCH_PAGE_BYTES, WATCH_PAGES_PER_TURN, WATCHES_MAX,
    },
    watchers::{Encodings, Stream},
};
use kv::Compacted;
use proto::{
    Error, KeyRange,
    codec::FittingBuffers,
    etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion, watch_server},
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};
use tonic::{
    Status, Streaming,
    body::Body,
    codec::Codec,
    codegen::{BoxFuture, Service, http},
    metadata::{GRPC_CONTENT_TYPE, MetadataMap, MetadataValue},
    server::NamedService,
};

/// What a response says that is about no watch: an error at creation, or progress of all.
const NO_WATCH: i64 = -1;
/// The service's one method.
const METHOD: &str = "/etcdserverpb.Watch/Watch";

/// The service, as the generated server would do it, but for the body of its answer.
pub struct Watch<M> {
    context: Context<M>,
    /// The largest request.
    request_bytes_max: usize,
}

impl<M: Member> Watch<M> {
    /// The service of a member.
    pub fn new(context: Context<M>, request_bytes_max: usize) -> Self {
        Self {
            context,
            request_bytes_max,
        }
    }

    async fn watch(self, request: http::Request<Body>) -> Result<Body, Status> {
        refuse_compressed(request.headers())?;
        let (parts, body) = request.into_parts();
        let metadata = MetadataMap::from_headers(parts.headers);
        let decoder = FittingBuffers::<WatchResponse, WatchRequest>::default().decoder();
        let requests = Streaming::new_request(decoder, body, None, Some(self.request_bytes_max));
        let member = &*self.context.member;
        let call = self.context.begin(Rpc::Watch, &metadata)?;
        // A watch from "now" on a member that has just started would tell again what its client knows.
        if let Err(error) = member.settled_view(call.deadline).await {
            return Err(call.refuse(&error));
        }
        let ending = Ending::new(member, call::requires_leader(&metadata));
        let encodings = Arc::clone(member.watchers().encodings());
        let session = Session::new(self.context.clone(), call.into_stream(), requests, ending);
        Ok(Body::new(Replies::new(session, encodings)))
    }
}

impl<M> Clone for Watch<M> {
    fn clone(&self) -> Self {
        Self {
            context: self.context.clone(),
            request_bytes_max: self.request_bytes_max,
        }
    }
}

impl<M> NamedService for Watch<M> {
    const NAME: &'static str = watch_server::SERVICE_NAME;
}

impl<M: Member> Service<http::Request<Body>> for Watch<M> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("").into_http());
            }
            Ok(match service.watch(request).await {
                Ok(body) => {
                    let mut reply = http::Response::new(body);
                    reply
                        .headers_mut()
                        .insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
                    reply
                }
                Err(status) => status.into_http(),
            })
        })
    }
}

/// No compression is served, as in the services that are generated, whose words these are.
fn refuse_compressed(headers: &http::HeaderMap) -> Result<(), Status> {
    let Some(encoding) = headers.get("grpc-encoding").filter(|encoding| *encoding != "identity") else {
        return Ok(());
    };
    let encoding = String::from_utf8_lossy(encoding.as_bytes());
    let mut status = Status::unimplemented(format!("Content is compressed with `{encoding}` which isn't supported"));
    status
        .metadata_mut()
        .insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
    Err(status)
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
    outbox: Outbox,
    next_id: i64,
    /// The revision at which the client asked for progress.
    progress_asked: Option<i64>,
    /// Kept from turn to turn: setting a timer costs more than the rest of a turn.
    tick: Pin<Box<Sleep>>,
    tick_interval: Duration,
}

impl<M: Member> Source for Session<M> {
    type Item = VecDeque<Reply>;

    /// What one turn has to say, or more of them that had nothing.
    async fn next(&mut self) -> Option<Result<VecDeque<Reply>, Status>> {
        let mut result = Ok(());
        while result.is_ok() && self.outbox.is_empty() {
            result = self.turn().await;
        }
        self.started.end_on_error(&result);
        Some(result.map(|()| self.outbox.take()))
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
            stream: Arc::new(Stream::on_this_runtime()),
            cursors: HashMap::new(),
            compacted: HashSet::new(),
            behind: VecDeque::new(),
            outbox: Outbox::default(),
            next_id: 0,
            progress_asked: None,
            tick: Box::pin(sleep(tick_interval)),
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
            () = &mut self.tick => self.tell_progress_of_quiet_watches(),
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
        self.outbox.push(WatchResponse {
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
            self.outbox.push(WatchResponse {
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

    /// A page for each of the watches that have waited longest, as long as that is quick and the outbox takes more.
    async fn pull(&mut self) {
        // At least as new as every mark that was followed, which is all that a watch needs to be done.
        let view = self.context.member.view();
        let mut last = None;
        for _ in 0..WATCH_PAGES_PER_TURN {
            let Some(watch_id) = self.behind.pop_front() else {
                return;
            };
            let Some(cursor) = self.cursors.get(&watch_id).filter(|cursor| cursor.is_behind()) else {
                continue;
            };
            if !view.events_in_memory(cursor.next()) {
                return self.catch_up(watch_id).await;
            }
            let place = Place::of(cursor);
            let page = match last.take().filter(|(known, _)| *known == place) {
                Some((_, page)) => page,
                None => match view.events(&place.range, place.from, WATCH_PAGE_BYTES) {
                    Ok(page) => place.form.encode(&page, view.revision(), self.encodings()),
                    Err(compacted) => return self.cancel_compacted(watch_id, compacted),
                },
            };
            self.take_page(watch_id, &page);
            // Whoever looked at much without finding anything has taken long enough.
            if page.is_empty() || self.outbox.is_full() {
                return;
            }
            last = Some((place, page));
        }
    }

    /// A page from the disk.
    async fn catch_up(&mut self, watch_id: i64) {
        let Some(cursor) = self.cursors.get(&watch_id) else {
            return;
        };
        let (view, place) = (self.context.member.view(), Place::of(cursor));
        let encodings = Arc::clone(self.context.member.watchers().encodings());
        // Encoded there, so that what waits for this stream is shared already.
        let read = move || {
            let page = view.events(&place.range, place.from, WATCH_CATCH_UP_BYTES)?;
            Ok(place.form.encode(&page, view.revision(), &encodings))
        };
        match self.context.member.blocking(read).await {
            Ok(Ok(page)) => self.take_page(watch_id, &page),
            Ok(Err(compacted)) => self.cancel_compacted(watch_id, compacted),
            // The pool is full: nobody is refused for that, it only takes longer.
            Err(_) => {
                self.behind.push_back(watch_id);
                sleep(BLOCKING_RETRY).await;
            }
        }
    }

    fn take_page(&mut self, watch_id: i64, page: &EncodedPage) {
        let member = &*self.context.member;
        let Some(cursor) = self.cursors.get_mut(&watch_id) else {
            return;
        };
        let bytes_max = member.limits().max_request_bytes + GRPC_OVERHEAD_BYTES;
        let header = header(member, page.next_revision() - 1);
        if cursor.take_page(page, header, bytes_max, &mut self.outbox) {
            self.behind.push_back(watch_id);
        }
    }

    fn encodings(&self) -> &Encodings {
        self.context.member.watchers().encodings()
    }

    /// Its own message, behind `created`, with revision 0: clients tell it from an error by that.
    fn cancel_compacted(&mut self, watch_id: i64, Compacted { compact_revision }: Compacted) {
        if let Some(cursor) = self.cursors.remove(&watch_id) {
            cursor.close(self.context.member.watchers());
            self.compacted.insert(watch_id);
        }
        let response = self.response(watch_id, 0);
        self.outbox.push(WatchResponse {
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
                self.outbox.push(self.response(NO_WATCH, notified));
            }
            Some(needed) => self.context.member.watchers().wake_after(&self.stream, needed),
            // A mark that has not been followed yet has woken the stream, too.
            None => {}
        }
    }

    fn tell_progress_of_quiet_watches(&mut self) {
        self.tick.as_mut().reset(Instant::now() + self.tick_interval);
        let notified = self.context.member.watchers().notified();
        let mut quiet = Vec::new();
        for (&watch_id, cursor) in self.cursors.iter_mut().filter(|(_, cursor)| cursor.wants_progress()) {
            let has_seen_all = cursor.progress_from().is_some_and(|needed| needed <= notified);
            if cursor.take_quiet() && has_seen_all {
                quiet.push(watch_id);
            }
        }
        for watch_id in quiet {
            self.outbox.push(self.response(watch_id, notified));
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

/// What decides which page a watch gets from a View.
#[derive(PartialEq, Eq)]
struct Place {
    range: KeyRange,
    from: i64,
    form: Form,
}

impl Place {
    fn of(cursor: &Cursor) -> Self {
        Self {
            range: cursor.range().clone(),
            from: cursor.next(),
            form: cursor.form(),
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
