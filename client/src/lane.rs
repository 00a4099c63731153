//! Many operations over one long-lived stream to a member, see `proto/dipper/operations.proto`.
//!
//! ```text
//!   callers --operation--> queue --as many as there are, CHUNK_BYTES--> stream --> member
//!      ^                                                                              |
//!      +--------- by its id, each its own outcome, in any order -----------------------+
//! ```
//! The stream is opened by the first operation and again by the first one after it broke. What was sent by then may be
//! done; what still waited in the queue was surely not. Callers wait while WINDOW_BYTES of operations are open. A
//! caller that goes away takes its operation along if it was not sent, and tells the member otherwise.
//!
//! Not here: which member, and what may be asked again (`retry`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use prost::Message;
use proto::operations::{
    Failure, Operation, OperationsRequest, OperationsResponse, operation::Op, operations_client::OperationsClient,
    outcome,
};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, metadata::MetadataValue};

use crate::{
    client::Terms,
    error::{NotSent, with_sources},
    route::LEADER_HINT,
    wire::Wire,
};

/// Operations in one message; one operation may be larger.
const CHUNK_BYTES: usize = 64 << 10;
/// Operations that have no outcome yet, by their size on the wire.
const WINDOW_BYTES: usize = 4 << 20;
/// Messages between the lane and the connection: HTTP/2's windows do the rest.
const MESSAGES_WAITING_MAX: usize = 2;

/// Why an operation has no result.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// As a unary call's.
    Status(Status),
    /// The member has no such service: etcd, or an older Dipper. Nothing was done.
    NoStreams,
}

type Answer = Result<outcome::Result, Refusal>;

/// One member's stream, open or not.
#[derive(Debug)]
pub(crate) struct Lane {
    window: Semaphore,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    queued: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether a task runs the stream.
    is_running: bool,
    /// The member has asked to be left alone.
    is_leaving: bool,
    last_id: u64,
    queue: Vec<Operation>,
    cancels: Vec<u64>,
    /// Sent or queued.
    open: HashMap<u64, oneshot::Sender<Answer>>,
}

impl State {
    fn refuse_queued(&mut self, end: &End) {
        for operation in std::mem::take(&mut self.queue) {
            if let Some(reply) = self.open.remove(&operation.id) {
                drop(reply.send(Err(end.of_unsent())));
            }
        }
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            window: Semaphore::new(WINDOW_BYTES),
            shared: Arc::new(Shared {
                state: Mutex::default(),
                queued: Notify::new(),
            }),
        }
    }
}

impl Lane {
    /// Has the member do it. Waits without a limit of its own; may be dropped at any time.
    pub async fn operate(&self, wire: &Wire, op: Op, terms: Terms) -> Answer {
        let mut operation = Operation {
            id: 0,
            timeout_ms: terms.millis_left(),
            op: Some(op),
            requires_leader: terms.requires_leader,
        };
        let bytes = operation.encoded_len().clamp(1, WINDOW_BYTES) as u32;
        let _window = self
            .window
            .acquire_many(bytes)
            .await
            .expect("the window is never closed");
        let (reply, answer) = oneshot::channel();
        let mut waits = {
            let mut state = self.shared.state();
            if state.is_leaving {
                return Err(End::Done.of_unsent());
            }
            state.last_id += 1;
            operation.id = state.last_id;
            state.open.insert(operation.id, reply);
            let waits = Waits {
                shared: &self.shared,
                id: Some(operation.id),
            };
            state.queue.push(operation);
            if !state.is_running {
                state.is_running = true;
                let (shared, wire) = (Arc::clone(&self.shared), wire.clone());
                tokio::spawn(run(shared, wire));
            }
            if state.queue.len() == 1 {
                self.shared.queued.notify_one();
            }
            waits
        };
        let answer = answer.await;
        waits.id = None;
        answer.expect("whatever is open is answered before it is forgotten")
    }
}

/// Takes an operation back if its caller goes away.
struct Waits<'a> {
    shared: &'a Shared,
    id: Option<u64>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut state = self.shared.state();
        state.open.remove(&id);
        if let Some(at) = state.queue.iter().position(|operation| operation.id == id) {
            state.queue.remove(at);
        } else {
            state.cancels.push(id);
            self.shared.queued.notify_one();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock can panic")
    }

    /// The next message, if there is one.
    fn next_request(&self) -> Option<OperationsRequest> {
        let mut state = self.state();
        if state.queue.is_empty() && state.cancels.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fits = |operation: &&Operation| {
            let is_first = bytes == 0;
            bytes += operation.encoded_len();
            is_first || bytes <= CHUNK_BYTES
        };
        let count = state.queue.iter().take_while(fits).count();
        let rest = state.queue.split_off(count);
        Some(OperationsRequest {
            operations: std::mem::replace(&mut state.queue, rest),
            cancels: std::mem::take(&mut state.cancels),
        })
    }

    fn take_in(&self, response: OperationsResponse) {
        let mut state = self.state();
        for outcome in response.outcomes {
            // Nobody waits for one that was canceled.
            if let Some(reply) = state.open.remove(&outcome.id) {
                let answer = match outcome.result {
                    Some(outcome::Result::Failure(failure)) => Err(Refusal::Status(status_of(&failure))),
                    Some(result) => Ok(result),
                    None => Err(Refusal::Status(Status::internal(
                        "an outcome that this client does not know",
                    ))),
                };
                drop(reply.send(answer));
            }
        }
    }

    /// The stream is over: every caller is told what is known of his operation.
    fn end(&self, end: &End) {
        let mut state = self.state();
        (state.is_running, state.is_leaving) = (false, false);
        state.cancels.clear();
        state.refuse_queued(end);
        for (_, reply) in state.open.drain() {
            drop(reply.send(Err(end.of_sent())));
        }
    }

    fn leave(&self) {
        let mut state = self.state();
        state.is_leaving = true;
        state.refuse_queued(&End::Done);
    }

    fn is_idle(&self) -> bool {
        self.state().open.is_empty()
    }
}

/// How a stream ended.
enum End {
    NoStreams,
    /// It was never open.
    Closed(String),
    Broken(String),
    /// The member stops, and has answered everything.
    Done,
}

impl End {
    fn of_unsent(&self) -> Refusal {
        let cause = match self {
            Self::NoStreams => return Refusal::NoStreams,
            Self::Closed(cause) | Self::Broken(cause) => cause.clone(),
            Self::Done => "the member is stopping".to_owned(),
        };
        Refusal::Status(Status::from_error(Box::new(NotSent::new(cause))))
    }

    fn of_sent(&self) -> Refusal {
        match self {
            Self::NoStreams | Self::Closed(_) => self.of_unsent(),
            Self::Broken(cause) => {
                let lost = std::io::Error::new(std::io::ErrorKind::ConnectionReset, cause.clone());
                let mut status = Status::unavailable("the stream of operations broke");
                status.set_source(Arc::new(lost));
                Refusal::Status(status)
            }
            Self::Done => Refusal::Status(Status::internal("the stream ended without an outcome")),
        }
    }
}

/// Ends the stream for everybody who waits, also when its runtime is shut down under it.
struct Running {
    shared: Arc<Shared>,
    end: End,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.end(&self.end);
    }
}

async fn run(shared: Arc<Shared>, wire: Wire) {
    let end = End::Broken("the runtime that drove it has ended".to_owned());
    let mut running = Running { shared, end };
    running.end = serve(&running.shared, wire).await;
}

async fn serve(shared: &Shared, wire: Wire) -> End {
    let (requests, messages) = mpsc::channel(MESSAGES_WAITING_MAX);
    let mut client = OperationsClient::new(wire).max_decoding_message_size(usize::MAX);
    let responses = match client.stream(ReceiverStream::new(messages)).await {
        Ok(responses) => responses.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return End::NoStreams,
        // Nothing was handed to it before: whatever is open is still in the queue.
        Err(status) => return End::Closed(with_sources(&status)),
    };
    exchange(shared, requests, responses).await
}

async fn exchange(
    shared: &Shared,
    requests: mpsc::Sender<OperationsRequest>,
    mut responses: Streaming<OperationsResponse>,
) -> End {
    let mut requests = Some(requests);
    let mut has_more = true;
    loop {
        let place = room(requests.clone().filter(|_| has_more));
        tokio::select! {
            biased;
            response = responses.message() => match response {
                Ok(Some(response)) => {
                    if response.closing {
                        // The end of the requests: what was sent is answered, the rest goes elsewhere.
                        requests = None;
                        shared.leave();
                    }
                    shared.take_in(response);
                }
                Ok(None) if shared.is_idle() => return End::Done,
                Ok(None) => return End::Broken("the member ended it".to_owned()),
                Err(status) => return End::Broken(with_sources(&status)),
            },
            place = place => match place {
                Ok(place) => match shared.next_request() {
                    Some(request) => drop(place.send(request)),
                    None => has_more = false,
                },
                Err(_) => has_more = false,
            },
            () = shared.queued.notified(), if !has_more => has_more = true,
        }
    }
}

async fn room<T>(requests: Option<mpsc::Sender<T>>) -> Result<mpsc::OwnedPermit<T>, mpsc::error::SendError<()>> {
    match requests {
        Some(requests) => requests.reserve_owned().await,
        None => std::future::pending().await,
    }
}

fn status_of(failure: &Failure) -> Status {
    let mut status = Status::new(Code::from_i32(failure.code), failure.message.clone());
    if let Ok(url) = MetadataValue::try_from(failure.leader.as_str())
        && !failure.leader.is_empty()
    {
        status.metadata_mut().insert(LEADER_HINT, url);
    }
    status
}
