//! A watch that outlives its connection. The watcher knows the next revision it has not delivered; when a
//! stream ends it opens another, on the next endpoint, from exactly there.
//!
//! ```text
//! created  (start 0)      next = header.revision + 1      "from now on" is fixed here
//! events ... 7, 8, 9      next = 10                       a whole response, its fragments joined
//! progress at 12          next = 13                       nothing up to 12 is missing
//! stream lost             ask another member for start_revision = next
//! ```
//!
//! A fragment that was not followed by its last part is dropped with its stream: `next` has not moved.
//! Each watcher has a stream of its own. It sends `hasleader`, so a member that is cut off from the cluster
//! ends the stream and the watcher moves on; without that it would hang there in silence.
//! Not here: a buffer or a task. The watcher reads when it is asked to; flow control does the rest.

use std::sync::Arc;

use bytes::Bytes;
use proto::{
    etcdserverpb::{
        ResponseHeader, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        watch_client::WatchClient, watch_create_request::FilterType, watch_request::RequestUnion,
    },
    mvccpb::Event,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, metadata::MetadataValue};

use crate::{
    Client, Error,
    error::{Fate, fate_of_read, from_status},
    kv::{first_key, prefix_pair},
    retry::ROUND_PAUSE,
    route::{Endpoint, Failure},
};

/// Requests that may wait to be written: the create and a few progress requests.
const REQUESTS_MAX: usize = 8;

/// A watch that is being described; nothing happens before [`Watch::open`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent before open()"]
pub struct Watch<'a> {
    client: &'a Client,
    request: WatchCreateRequest,
}

impl Client {
    /// Watches `key`, or a range that starts there.
    pub fn watch(&self, key: impl Into<Bytes>) -> Watch<'_> {
        // Fragments keep each message below what any connection carries; they are joined again here.
        let request = WatchCreateRequest {
            key: key.into(),
            fragment: true,
            ..Default::default()
        };
        Watch { client: self, request }
    }
}

impl Watch<'_> {
    /// Every key that starts with the given key.
    pub fn prefix(mut self) -> Self {
        (self.request.key, self.request.range_end) = prefix_pair(self.request.key);
        self
    }

    /// Every key that is not smaller than the given key.
    pub fn from_key(mut self) -> Self {
        self.request.key = first_key(self.request.key);
        self.request.range_end = Bytes::from_static(&[0]);
        self
    }

    /// Every key from the given key up to `end`, which is excluded.
    pub fn range_end(mut self, end: impl Into<Bytes>) -> Self {
        self.request.range_end = end.into();
        self
    }

    /// From this revision on, which is included; 0 is from now on.
    pub fn start_revision(mut self, revision: i64) -> Self {
        self.request.start_revision = revision;
        self
    }

    /// With the record that each event replaced, as far as it is not compacted.
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// With a batch without events now and then, so that the revision is known while nothing happens.
    pub fn progress_notify(mut self) -> Self {
        self.request.progress_notify = true;
        self
    }

    /// Without these events.
    pub fn filter(mut self, filter: FilterType) -> Self {
        self.request.filters.push(filter.into());
        self
    }

    /// Starts the watch and waits until a member has confirmed it, at most for the call deadline. Whatever
    /// is written after this returns will be delivered.
    pub async fn open(self) -> Result<Watcher, Error> {
        let client = self.client.clone();
        let deadline = client.deadline();
        let mut watcher = Watcher {
            next: self.request.start_revision,
            request: self.request,
            header: ResponseHeader::default(),
            client,
            open: None,
        };
        let mut last = None;
        loop {
            let endpoint = watcher.client.route.first();
            match timeout_at(deadline, watcher.connect(&endpoint)).await {
                Ok(Ok(())) => return Ok(watcher),
                Ok(Err(Stop::Final(error))) => return Err(error),
                Ok(Err(Stop::Resume(error))) => last = Some(error),
                Err(_) => {
                    return Err(last.unwrap_or_else(|| Error::timeout(watcher.client.options.call_deadline)));
                }
            }
            sleep(ROUND_PAUSE).await;
        }
    }
}

/// Events that belong together, or none: then it says that everything up to `header.revision` was delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The header of the server's response.
    pub header: ResponseHeader,
    /// Complete revisions, in order, each event once.
    pub events: Vec<Event>,
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    request: WatchCreateRequest,
    next: i64,
    header: ResponseHeader,
    open: Option<Open>,
}

/// One stream, and the fragments it has brought of an unfinished response.
#[derive(Debug)]
struct Open {
    endpoint: Arc<Endpoint>,
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    fragments: Vec<Event>,
}

/// Why a stream ended.
#[derive(Debug)]
enum Stop {
    Resume(Error),
    Final(Error),
}

impl Watcher {
    /// The next revision that has not been delivered: where another watch would have to start.
    pub fn next_revision(&self) -> i64 {
        self.next
    }

    /// The header of the server's last response, the one that ended the watch included.
    pub fn last_header(&self) -> ResponseHeader {
        self.header
    }

    /// Waits for the next batch, through lost connections and elections, for as long as that takes.
    /// `None` never comes; the caller decides when to stop. Cancelling the wait loses nothing.
    ///
    /// Errors are final: [`Error::Compacted`] when history below the start is gone, [`Error::Server`] when
    /// the server refuses the watch.
    pub async fn next(&mut self) -> Option<Result<Batch, Error>> {
        loop {
            let step = match &mut self.open {
                None => self.reconnect().await.map(|()| None),
                Some(open) => match open.receive().await {
                    Ok(response) => self.take(response),
                    Err(stop) => Err(stop),
                },
            };
            match step {
                Ok(Some(batch)) => return Some(Ok(batch)),
                Ok(None) => {}
                Err(Stop::Final(error)) => return Some(Err(error)),
                Err(Stop::Resume(error)) => {
                    self.leave(&error);
                    sleep(ROUND_PAUSE).await;
                }
            }
        }
    }

    /// Asks for a batch without events as soon as everything before it was delivered.
    pub fn request_progress(&mut self) {
        if let Some(open) = &self.open {
            let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
            // A full queue holds progress requests already; one answer serves them all.
            let _ = open.requests.try_send(WatchRequest {
                request_union: Some(progress),
            });
        }
    }

    /// A member that takes the stream and then says nothing is left for the next one.
    async fn reconnect(&mut self) -> Result<(), Stop> {
        let within = self.client.options.call_deadline;
        let endpoint = self.client.route.first();
        timeout(within, self.connect(&endpoint)).await.unwrap_or_else(|_| {
            self.client.route.failed(&endpoint, Failure::Silent);
            Err(Stop::Resume(Error::timeout(within)))
        })
    }

    /// Opens a stream at `next` and waits for its confirmation.
    async fn connect(&mut self, endpoint: &Arc<Endpoint>) -> Result<(), Stop> {
        let opened = open_stream(
            endpoint,
            WatchCreateRequest {
                start_revision: self.next,
                ..self.request.clone()
            },
        );
        let result = match opened.await {
            Ok(mut open) => match open.receive().await {
                Ok(response) => self.confirm(&response).map(|()| self.open = Some(open)),
                Err(stop) => Err(stop),
            },
            Err(status) => Err(stop_of(&status)),
        };
        if let Err(Stop::Resume(error)) = &result {
            self.client.route.failed(endpoint, failure_of(error));
        }
        result
    }

    fn confirm(&mut self, response: &WatchResponse) -> Result<(), Stop> {
        self.header = response.header.unwrap_or_default();
        ended_by(response)?;
        if !response.created {
            return Err(Stop::Resume(Error::from_text(
                Code::Internal,
                "the first response does not confirm the watch",
            )));
        }
        if self.next == 0 {
            self.next = self.header.revision + 1;
        }
        Ok(())
    }

    /// Takes one response; fragments are kept until their last part.
    fn take(&mut self, response: WatchResponse) -> Result<Option<Batch>, Stop> {
        let header = response.header.unwrap_or_default();
        self.header = header;
        ended_by(&response)?;
        let open = self.open.as_mut().expect("a response comes from an open stream");
        let progress = response.events.is_empty() && open.fragments.is_empty();
        open.fragments.extend(response.events);
        if response.fragment || response.created {
            return Ok(None);
        }
        let mut events = std::mem::take(&mut open.fragments);
        // A correct server never sends these; delivering an event twice would be worse than dropping it.
        events.retain(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision >= self.next));
        let delivered = match events.last().and_then(|event| event.kv.as_ref()) {
            Some(kv) => kv.mod_revision,
            None if progress => header.revision,
            None => return Ok(None),
        };
        self.next = self.next.max(delivered + 1);
        Ok(Some(Batch { header, events }))
    }

    fn leave(&mut self, error: &Error) {
        if let Some(open) = self.open.take() {
            self.client.route.failed(&open.endpoint, failure_of(error));
        }
    }
}

impl Open {
    async fn receive(&mut self) -> Result<WatchResponse, Stop> {
        match self.responses.message().await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(Stop::Resume(Error::Unavailable {
                cause: "the stream ended".to_owned(),
            })),
            Err(status) => Err(stop_of(&status)),
        }
    }
}

async fn open_stream(endpoint: &Arc<Endpoint>, create: WatchCreateRequest) -> Result<Open, Status> {
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    let create = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    requests.try_send(create).expect("a new channel has room");
    let mut request = Request::new(ReceiverStream::new(receiver));
    request
        .metadata_mut()
        .insert("hasleader", MetadataValue::from_static("true"));
    let mut client = WatchClient::new(endpoint.wire.clone()).max_decoding_message_size(usize::MAX);
    let responses = client.watch(request).await?.into_inner();
    Ok(Open {
        endpoint: Arc::clone(endpoint),
        requests,
        responses,
        fragments: Vec::new(),
    })
}

fn failure_of(error: &Error) -> Failure {
    match error {
        Error::Unavailable { .. } | Error::Timeout { .. } => Failure::Silent,
        _ => Failure::Refused,
    }
}

/// Whether the server ended the watch with this response, and why.
fn ended_by(response: &WatchResponse) -> Result<(), Stop> {
    if response.compact_revision != 0 {
        return Err(Stop::Final(Error::Compacted {
            compact_revision: response.compact_revision,
        }));
    }
    if !response.canceled {
        return Ok(());
    }
    let reason = if response.cancel_reason.is_empty() {
        proto::Error::WatchCanceled.text()
    } else {
        response.cancel_reason.as_str()
    };
    let error = Error::from_text(Code::Cancelled, reason);
    match error.row() {
        Some(proto::Error::NoLeader | proto::Error::Stopped) => Err(Stop::Resume(error)),
        _ => Err(Stop::Final(error)),
    }
}

fn stop_of(status: &Status) -> Stop {
    let error = from_status(status);
    // Losing a stream costs nothing here, so a reset without a reason is as good as a lost connection.
    let lost = matches!(status.code(), Code::Unavailable | Code::Internal | Code::Cancelled);
    if lost || fate_of_read(status) != Fate::Decided {
        Stop::Resume(error)
    } else {
        Stop::Final(error)
    }
}
