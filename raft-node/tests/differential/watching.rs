//! One watch stream as a log: what was created and canceled, and each watch's events in order, whatever the
//! boundaries of the responses were. The properties that every single response must have are judged here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proto::{
    etcdserverpb::{
        WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        watch_request::RequestUnion,
    },
    mvccpb::Event,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::rpc::{Rpc, runtime};

/// An answer or an event that is due arrives within this time, or never.
pub const DUE_WITHIN: Duration = Duration::from_secs(10);
/// Responses between two drains; a full channel only holds the server back.
const RESPONSES: usize = 4096;

/// A stream and everything it said so far.
pub struct WatchStream {
    /// Index of the member that serves it.
    pub member: usize,
    requests: mpsc::Sender<WatchRequest>,
    responses: mpsc::Receiver<Result<WatchResponse, tonic::Status>>,
    pub log: WatchLog,
    last_asked: String,
}

/// What a stream said, in the form that is compared.
#[derive(Clone, Debug, Default)]
pub struct WatchLog {
    /// Created, canceled and stream-wide progress responses, in order, without ids of cluster and member.
    pub controls: Vec<WatchResponse>,
    /// The events of each watch, in the order in which the watches were created.
    pub events: Vec<Vec<Event>>,
    /// What no stream may ever say.
    pub faults: Vec<String>,
    /// How many responses said that they were fragments.
    pub fragments: usize,
    live: BTreeMap<i64, usize>,
    /// Ids that the server still knows: it answers a cancel of a watch that a compaction has ended.
    cancelable: BTreeSet<i64>,
    unfinished: Option<i64>,
}

impl WatchStream {
    /// Opens a stream; the server answers nothing before the first request.
    pub fn open(rpc: &Rpc, member: usize) -> WatchStream {
        let (requests, outgoing) = mpsc::channel(64);
        let (incoming, responses) = mpsc::channel(RESPONSES);
        let mut client = rpc.watch.clone();
        // Ends when either end of the stream is dropped.
        runtime().spawn(async move {
            match client.watch(ReceiverStream::new(outgoing)).await {
                Err(status) => drop(incoming.send(Err(status)).await),
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    while let Some(response) = stream.message().await.transpose() {
                        let ended = response.is_err();
                        if incoming.send(response).await.is_err() || ended {
                            return;
                        }
                    }
                }
            }
        });
        WatchStream {
            member,
            requests,
            responses,
            log: WatchLog::default(),
            last_asked: String::new(),
        }
    }

    /// Sends a create request and waits for its answer.
    pub async fn create(&mut self, request: WatchCreateRequest) {
        let expected = self.log.controls.len() + 1;
        self.send(RequestUnion::CreateRequest(request)).await;
        self.await_controls(expected).await;
    }

    /// Sends a cancel request; one for an unknown id has no answer to wait for.
    pub async fn cancel(&mut self, watch_id: i64) {
        let expected = self.log.controls.len() + usize::from(self.log.cancelable.contains(&watch_id));
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
            .await;
        self.await_controls(expected).await;
    }

    /// Asks for progress and waits for the answer.
    pub async fn progress(&mut self) {
        let expected = self.log.controls.len() + 1;
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
        self.await_controls(expected).await;
    }

    async fn send(&mut self, request: RequestUnion) {
        self.last_asked = format!("{request:?}");
        if self
            .requests
            .send(WatchRequest {
                request_union: Some(request),
            })
            .await
            .is_err()
        {
            self.log.faults.push("the stream ended".to_owned());
        }
    }

    /// Waits until the log holds `expected` control responses, or long enough to be sure that it never will.
    pub async fn await_controls(&mut self, expected: usize) {
        while self.log.controls.len() < expected {
            if !self.receive().await {
                let asked = self.last_asked.clone();
                return self
                    .log
                    .faults
                    .push(format!("no answer within {DUE_WITHIN:?} to {asked}"));
            }
        }
    }

    /// Waits until watch `index` has seen `expected` events.
    pub async fn await_events(&mut self, index: usize, expected: usize) {
        self.await_counted(index, expected, |_| true).await;
    }

    /// Waits until watch `index` has seen `expected` of the events that `counts` picks.
    pub async fn await_counted(&mut self, index: usize, expected: usize, counts: impl Fn(&Event) -> bool) {
        while self.log.events[index].iter().filter(|event| counts(event)).count() < expected {
            if !self.receive().await {
                return;
            }
        }
    }

    /// Takes one response into the log; false when none comes.
    async fn receive(&mut self) -> bool {
        match tokio::time::timeout(DUE_WITHIN, self.responses.recv()).await {
            Ok(Some(Ok(response))) => {
                self.log.absorb(response);
                true
            }
            Ok(Some(Err(status))) => {
                self.log.faults.push(format!("the stream ended: {status}"));
                false
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// Takes what is there already.
    pub fn drain(&mut self) {
        while let Ok(Ok(response)) = self.responses.try_recv() {
            self.log.absorb(response);
        }
    }
}

impl WatchLog {
    fn absorb(&mut self, mut response: WatchResponse) {
        let revision = self.take_header(&mut response);
        let continued = self.unfinished.take();
        if let Some(id) = continued.filter(|id| *id != response.watch_id) {
            self.faults
                .push(format!("fragments of watch {id} are interrupted by {response:?}"));
        }
        if response.created || response.canceled || response.watch_id == -1 {
            if !response.events.is_empty() {
                self.faults
                    .push(format!("a control response with events: {response:?}"));
            }
            self.absorb_control(response);
            return;
        }
        let Some(&index) = self.live.get(&response.watch_id) else {
            self.faults
                .push(format!("a response for a watch that is not open: {response:?}"));
            return;
        };
        self.absorb_events(index, revision, continued.is_some(), response);
    }

    fn absorb_control(&mut self, response: WatchResponse) {
        if response.created && !response.canceled {
            self.live.insert(response.watch_id, self.events.len());
            self.cancelable.insert(response.watch_id);
            self.events.push(Vec::new());
        } else if response.canceled {
            self.live.remove(&response.watch_id);
            if response.compact_revision == 0 {
                self.cancelable.remove(&response.watch_id);
            }
        }
        self.controls.push(response);
    }

    fn absorb_events(&mut self, index: usize, revision: i64, goes_on: bool, response: WatchResponse) {
        let mod_revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let mut last = self.events[index].last().map_or(0, mod_revision);
        if let Some(first) = response.events.first().map(mod_revision)
            && !goes_on
            && first <= last
        {
            self.faults.push(format!(
                "revision {first} comes after {last} was told whole: {response:?}"
            ));
        }
        for event in &response.events {
            if mod_revision(event) < last {
                self.faults
                    .push(format!("revision {} comes after {last}", mod_revision(event)));
            }
            last = mod_revision(event);
        }
        if last > revision {
            self.faults
                .push(format!("an event of {last} under a header of {revision}"));
        }
        self.fragments += usize::from(response.fragment);
        self.unfinished = response.fragment.then_some(response.watch_id);
        self.events[index].extend(response.events);
    }

    /// Judges the header, masks its ids, and returns its revision.
    fn take_header(&mut self, response: &mut WatchResponse) -> i64 {
        let said = format!("{response:?}");
        match response.header.as_mut() {
            Some(header) if header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0 => {
                (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
                header.revision
            }
            _ => {
                self.faults.push(format!("a header without ids or term: {said}"));
                0
            }
        }
    }
}
