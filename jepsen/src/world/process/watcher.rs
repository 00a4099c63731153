//! A watch of everything on one member, exactly as its server sends it.
//!
//! It speaks to the wire itself: the client library drops what a correct server never sends, and that is what
//! a judge wants to see. When the stream breaks it resumes behind the last revision that it has wholly seen,
//! under the same number.
//! Not here: what is right (`checkers`).

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dipper_client::etcdserverpb as pb;
use pb::{watch_client::WatchClient, watch_request::RequestUnion};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use super::{
    clock::Clock,
    load::Records,
    network::{CLIENT_PORT, client_address},
};
use crate::{
    history::{Record, Watch, WatchRequest, WatchStep},
    world::messages,
};

const CONNECT_TIME_MAX: Duration = Duration::from_millis(500);
/// A stream says something at least this often: progress is asked for in between.
const SILENCE_MAX: Duration = Duration::from_secs(3);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

pub struct Watcher {
    pub number: u32,
    pub member: usize,
    pub starts: Arc<AtomicU32>,
    pub request: WatchRequest,
    pub clock: Clock,
    pub records: Records,
    /// Everything up to here was seen; others wait for it.
    pub seen: Rc<Cell<i64>>,
    /// Asked, and neither lost nor ended.
    pub is_open: bool,
    /// Whether it goes on behind a compaction that has cut it off; a hole stays, which the others fill.
    pub survives_compactions: bool,
}

/// Why a stream is not read on.
enum Ending {
    /// No connection, so no question.
    NeverAsked,
    Lost,
    /// What it asked for was compacted away while it was not connected; it asks for what there is.
    Compacted,
    /// The server will not go on.
    Final,
}

impl Watcher {
    /// Watches until it is dropped or the server ends the watch for good.
    pub async fn run(mut self) {
        loop {
            match self.stream().await {
                Ending::NeverAsked => {}
                Ending::Lost => self.lose(),
                Ending::Compacted => self.is_open = false,
                Ending::Final => {
                    self.is_open = false;
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }

    fn lose(&mut self) {
        self.is_open = false;
        self.note(WatchStep::Lost);
    }

    fn note(&self, step: WatchStep) {
        self.records.borrow_mut().push(Record::Watch(Watch {
            watcher: self.number,
            member: self.member as u32,
            incarnation: self.starts.load(Ordering::SeqCst),
            at: self.clock.now(),
            step,
        }));
    }

    async fn stream(&mut self) -> Ending {
        let address = format!("http://{}:{CLIENT_PORT}", client_address(self.member));
        let endpoint = Endpoint::from_shared(address).expect("an address of our own network");
        let endpoint = endpoint.tcp_nodelay(true);
        let Ok(Ok(channel)) = timeout(CONNECT_TIME_MAX, endpoint.connect()).await else {
            return Ending::NeverAsked;
        };
        self.note(WatchStep::Asked(self.request.clone()));
        self.is_open = true;
        let (requests, receiver) = mpsc::channel(4);
        let create = RequestUnion::CreateRequest(messages::watch(&self.request));
        requests.try_send(message(create)).expect("a new channel has room");
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let opening = client.watch(ReceiverStream::new(receiver));
        match timeout(SILENCE_MAX, opening).await {
            Ok(Ok(responses)) => self.read(responses.into_inner(), &requests).await,
            _ => Ending::Lost,
        }
    }

    async fn read(
        &mut self,
        mut responses: Streaming<pb::WatchResponse>,
        requests: &mpsc::Sender<pb::WatchRequest>,
    ) -> Ending {
        let mut silent = Duration::ZERO;
        loop {
            match timeout(PROGRESS_INTERVAL, responses.message()).await {
                Ok(Ok(Some(response))) => {
                    silent = Duration::ZERO;
                    if let Some(ending) = self.take(response) {
                        return ending;
                    }
                }
                Ok(_) => return Ending::Lost,
                Err(_) if silent >= SILENCE_MAX => return Ending::Lost,
                Err(_) => {
                    silent += PROGRESS_INTERVAL;
                    // A full queue holds a question already.
                    let _ = requests.try_send(message(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})));
                }
            }
        }
    }

    fn take(&mut self, response: pb::WatchResponse) -> Option<Ending> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.canceled || response.compact_revision != 0 {
            self.note(WatchStep::Canceled {
                revision,
                compact_revision: response.compact_revision,
                reason: response.cancel_reason,
            });
            if self.survives_compactions && response.compact_revision > self.request.start_revision {
                self.request.start_revision = response.compact_revision;
                return Some(Ending::Compacted);
            }
            return Some(Ending::Final);
        }
        if response.created {
            self.note(WatchStep::Created { revision });
            if self.request.start_revision == 0 {
                // "From now on" is fixed here; a stream that resumes must not begin anew.
                self.request.start_revision = revision + 1;
            }
            return None;
        }
        if response.events.is_empty() && !response.fragment {
            self.note(WatchStep::Progress { revision });
            self.saw(revision);
            return None;
        }
        let last = response
            .events
            .last()
            .and_then(|event| event.kv.as_ref())
            .map_or(0, |kv| kv.mod_revision);
        let is_whole = !response.fragment;
        self.note(WatchStep::Events {
            revision,
            events: response.events.iter().map(messages::event).collect(),
            fragment: response.fragment,
        });
        if is_whole {
            self.saw(last);
        }
        None
    }

    fn saw(&mut self, revision: i64) {
        let seen = self.seen.get().max(revision);
        self.seen.set(seen);
        self.request.start_revision = self.request.start_revision.max(seen + 1);
    }
}

/// Nobody listens any more: what it has not received is not missing.
impl Drop for Watcher {
    fn drop(&mut self) {
        if self.is_open {
            self.lose();
        }
    }
}

fn message(request: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(request),
    }
}
