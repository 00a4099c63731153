//! Leases: grant, revoke, inspect, and a task that keeps one alive for as long as its handle is held.
//!
//! The task renews every third of the TTL and gives up when the server says that the lease is gone, or when
//! a whole TTL has passed without an answer: from then on nobody can know, and a holder must assume the loss.
//! Not here: any claim that holding a lease excludes others. Guard writes with a comparison in a txn.

use std::{sync::Arc, time::Duration};

use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    lease_client::LeaseClient,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};

use crate::{
    Client, Error,
    client::request_under,
    error::from_status,
    retry::{ROUND_PAUSE, failure_of},
    route::{Endpoint, Failure},
    wire::Wire,
};

/// A lease is renewed so many times per TTL: two answers may be lost before it ends.
const RENEWALS_PER_TTL: u32 = 3;

/// The shortest time between two renewals, whatever the TTL.
const RENEW_EVERY_MIN: Duration = Duration::from_millis(300);

fn lease(endpoint: &Endpoint) -> LeaseClient<Wire> {
    LeaseClient::new(endpoint.wire.clone()).max_decoding_message_size(usize::MAX)
}

impl Client {
    /// Grants a lease of `ttl_seconds`; the server chooses its id. (It may also grant a longer TTL.)
    ///
    /// With [`Error::UnknownOutcome`] a lease that nobody knows may exist; it ends by itself.
    pub async fn lease_grant(&self, ttl_seconds: i64) -> Result<LeaseGrantResponse, Error> {
        self.lease_grant_with(LeaseGrantRequest {
            ttl: ttl_seconds,
            id: 0,
        })
        .await
    }

    /// As [`Client::lease_grant`], under an id of the caller's choice. An id that is taken is an error.
    pub async fn lease_grant_with(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Error> {
        self.write(|endpoint, terms| async move { lease(&endpoint).lease_grant(request_under(request, terms)).await })
            .await
    }

    /// Ends a lease and deletes its keys, all in one revision.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        let request = LeaseRevokeRequest { id };
        self.write(|endpoint, terms| async move { lease(&endpoint).lease_revoke(request_under(request, terms)).await })
            .await
    }

    /// How long a lease has left, in seconds (-1: it is gone), and its keys if `keys` asks for them.
    pub async fn lease_time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, Error> {
        self.read(
            |endpoint, terms| async move { lease(&endpoint).lease_time_to_live(request_under(request, terms)).await },
        )
        .await
    }

    /// The ids of all leases.
    pub async fn lease_list(&self) -> Result<LeaseLeasesResponse, Error> {
        self.read(|endpoint, terms| async move {
            lease(&endpoint)
                .lease_leases(request_under(LeaseLeasesRequest {}, terms))
                .await
        })
        .await
    }

    /// Renews a lease once. Errors: `LeaseNotFound` when it is gone. Renewing twice does no harm, so this is
    /// retried like a read.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        let answer = self
            .read(|endpoint, _| async move {
                let mut stream = KeepAliveStream::open(&endpoint, id).await?;
                stream.answer().await.map(Response::new)
            })
            .await?;
        if answer.ttl > 0 { Ok(answer) } else { Err(gone()) }
    }

    /// Keeps a lease alive in a task until the handle is closed or dropped. Must be called within a runtime.
    pub fn lease_keep_alive(&self, id: i64) -> KeepAlive {
        let (sender, state) = watch::channel(KeepAliveState::Starting);
        let task = tokio::spawn(
            Renewal {
                client: self.clone(),
                id,
                state: sender,
            }
            .run(),
        );
        KeepAlive { state, task }
    }
}

fn gone() -> Error {
    Error::from_text(tonic::Code::NotFound, proto::Error::LeaseNotFound.text())
}

/// What a [`KeepAlive`] last knew of its lease.
#[derive(Clone, Debug, PartialEq)]
pub enum KeepAliveState {
    /// No answer yet.
    Starting,
    /// The server's last answer; its `ttl` counts from then.
    Alive(LeaseKeepAliveResponse),
    /// The lease is gone, or nothing was heard for a whole TTL. The task has ended.
    Lost(Error),
}

/// A lease that is being kept alive. Dropping it stops the renewals; the lease then ends by its TTL.
#[derive(Debug)]
pub struct KeepAlive {
    state: watch::Receiver<KeepAliveState>,
    task: JoinHandle<()>,
}

impl KeepAlive {
    /// The current state.
    pub fn state(&self) -> KeepAliveState {
        self.state.borrow().clone()
    }

    /// Waits for the next answer or the loss; `None` once the loss has been seen.
    pub async fn changed(&mut self) -> Option<KeepAliveState> {
        self.state.changed().await.ok()?;
        Some(self.state.borrow_and_update().clone())
    }

    /// Stops the renewals and waits until the task has ended. Does not revoke the lease.
    pub async fn close(mut self) {
        self.task.abort();
        // Aborted or ended: either way it is over, which is all that is asked here.
        let _ = (&mut self.task).await;
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Renewal {
    client: Client,
    id: i64,
    state: watch::Sender<KeepAliveState>,
}

impl Renewal {
    async fn run(self) {
        // Until the first answer the TTL is unknown; the call deadline bounds the wait for it.
        let mut lost_at = self.client.deadline();
        let mut last = Error::timeout(self.client.options.call_deadline);
        while Instant::now() < lost_at {
            let endpoint = self.client.for_write().await;
            let mut failure = Failure::Silent;
            match timeout_at(lost_at, self.renew_on(&endpoint, &mut lost_at)).await {
                Ok(End::Gone) => {
                    last = gone();
                    break;
                }
                Ok(End::Stream(status)) => {
                    failure = failure_of(&status);
                    last = from_status(&status);
                }
                Err(_) => {}
            }
            self.client.route.failed(&endpoint, failure);
            sleep(ROUND_PAUSE).await;
        }
        self.state.send_replace(KeepAliveState::Lost(last));
    }

    /// Renews over one stream until it ends or stops answering; moves `lost_at` with every answer.
    async fn renew_on(&self, endpoint: &Arc<Endpoint>, lost_at: &mut Instant) -> End {
        let mut stream = match KeepAliveStream::open(endpoint, self.id).await {
            Ok(stream) => stream,
            Err(status) => return End::Stream(status),
        };
        loop {
            let answer = match stream.answer().await {
                Ok(answer) if answer.ttl <= 0 => return End::Gone,
                Ok(answer) => answer,
                Err(status) => return End::Stream(status),
            };
            let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
            *lost_at = Instant::now() + ttl;
            self.state.send_replace(KeepAliveState::Alive(answer));
            sleep((ttl / RENEWALS_PER_TTL).max(RENEW_EVERY_MIN)).await;
            if stream.ask(self.id).await.is_err() {
                return End::Stream(Status::unavailable("the stream ended"));
            }
        }
    }
}

/// Why one stream of renewals ended.
enum End {
    Gone,
    Stream(Status),
}

struct KeepAliveStream {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAliveStream {
    /// An answer is a few milliseconds away; a member that takes this long is left for another.
    const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

    /// Opens a stream and asks once.
    async fn open(endpoint: &Endpoint, id: i64) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(1);
        requests
            .try_send(LeaseKeepAliveRequest { id })
            .expect("a new channel has room");
        let mut request = Request::new(ReceiverStream::new(receiver));
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::from_static("true"));
        let answers = timeout(Self::ANSWER_WITHIN, lease(endpoint).lease_keep_alive(request)).await;
        let answers = answers.map_err(|_| Self::late())??.into_inner();
        Ok(Self { requests, answers })
    }

    async fn ask(&self, id: i64) -> Result<(), mpsc::error::SendError<LeaseKeepAliveRequest>> {
        self.requests.send(LeaseKeepAliveRequest { id }).await
    }

    async fn answer(&mut self) -> Result<LeaseKeepAliveResponse, Status> {
        let answer = timeout(Self::ANSWER_WITHIN, self.answers.message())
            .await
            .map_err(|_| Self::late())??;
        answer.ok_or_else(|| Status::unavailable("the stream ended"))
    }

    fn late() -> Status {
        Status::unavailable("no answer to a keep-alive")
    }
}
