//! Many operations over one stream: Dipper's own service beside etcd's, see `proto/dipper/operations.proto`.
//!
//! ```text
//!   request --+-- writes, checked --> Member::submit --> mailbox --+
//!             +-- reads: a future each, as unary ones ------------+--> outcomes that are there --> response
//! ```
//! A write costs no task, no future and no wake-up of its own. What an operation does, and which errors it meets, is
//! the KV service's. While much is in flight, or the client does not read, no request is read.
//!
//! A member that stops says so and goes on: everything that it was sent is answered, and the client half-closes.

use super::{
    call::Context,
    check::{self, TxnRead},
    counters::{Rpc, Started},
    ending::Ending,
    exact::exact_status,
    header::filled,
    kv,
    member::Member,
    pulled::{Pulled, Source},
};
use crate::{
    limits::{OPERATIONS_BYTES_MAX, OPERATIONS_IN_FLIGHT_MAX, OUTCOMES_CHUNK_BYTES},
    mailbox::{Mailbox, Written},
};
use ::kv::Response as Applied;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use prost::Message;
use proto::{
    Error,
    etcdserverpb::{DeleteRangeResponse, PutResponse, TxnResponse},
    node::{Command, command::Op},
    operations::{
        Failure, Operation, OperationsRequest, OperationsResponse, Outcome, operation, operations_server,
        outcome::Result as Outcomes,
    },
};
use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

/// The service.
pub struct Operations<M>(pub Context<M>);

#[async_trait]
impl<M: Member> operations_server::Operations for Operations<M> {
    type StreamStream = Pulled<Session<M>>;

    async fn stream(
        &self,
        request: Request<Streaming<OperationsRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let call = self.0.begin(Rpc::Stream, request.metadata())?;
        Ok(Response::new(Pulled::new(Session {
            context: self.0.clone(),
            started: call.into_stream(),
            ending: Some(Ending::new(&*self.0.member, false)),
            requests: Some(request.into_inner()),
            open: HashMap::new(),
            bytes: 0,
            mailbox: Arc::default(),
            written: VecDeque::new(),
            reads: FuturesUnordered::new(),
            done: Vec::new(),
        })))
    }
}

type Read = BoxFuture<'static, (u64, Result<Outcomes, Error>)>;

/// One client's stream.
pub struct Session<M: Member> {
    context: Context<M>,
    started: Started,
    /// `None` once the client has been told.
    ending: Option<Ending>,
    /// `None` once the client has half-closed.
    requests: Option<Streaming<OperationsRequest>>,
    open: HashMap<u64, Open>,
    /// Of all that are open.
    bytes: usize,
    mailbox: Arc<Mailbox>,
    /// What came out of the mailbox.
    written: VecDeque<Written>,
    reads: FuturesUnordered<Read>,
    /// Operations that ended without any wait.
    done: Vec<Outcome>,
}

/// An operation without an outcome.
struct Open {
    bytes: usize,
    is_wanted: bool,
}

impl<M: Member> Source for Session<M> {
    type Item = OperationsResponse;

    async fn next(&mut self) -> Option<Result<OperationsResponse, Status>> {
        loop {
            let outcomes = self.collect();
            if !outcomes.is_empty() {
                let closing = false;
                return Some(Ok(OperationsResponse { outcomes, closing }));
            }
            if self.requests.is_none() && self.open.is_empty() {
                self.started.end(Code::Ok);
                return None;
            }
            let has_room = self.bytes < OPERATIONS_BYTES_MAX && self.open.len() < OPERATIONS_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                _ = ended(&mut self.ending) => {
                    self.ending = None;
                    return Some(Ok(OperationsResponse { outcomes: Vec::new(), closing: true }));
                }
                () = self.mailbox.arrived() => {}
                Some((id, result)) = self.reads.next() => self.end(id, result),
                request = message(&mut self.requests), if has_room => match request {
                    Ok(Some(request)) => {
                        if let Err(status) = self.begin(request) {
                            self.started.end(status.code());
                            return Some(Err(status));
                        }
                    }
                    Ok(None) => self.requests = None,
                    Err(status) => {
                        let status = exact_status(status);
                        self.started.end(status.code());
                        return Some(Err(status));
                    }
                },
            }
        }
    }
}

async fn ended(ending: &mut Option<Ending>) -> Error {
    match ending {
        Some(ending) => ending.ended().await,
        None => std::future::pending().await,
    }
}

async fn message(requests: &mut Option<Streaming<OperationsRequest>>) -> Result<Option<OperationsRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}

impl<M: Member> Session<M> {
    /// The outcomes that are there, as many as one response takes.
    fn collect(&mut self) -> Vec<Outcome> {
        self.written.extend(self.mailbox.take());
        let mut bytes = self.done.iter().map(Outcome::encoded_len).sum::<usize>();
        while bytes < OUTCOMES_CHUNK_BYTES {
            let (id, result) = match self.written.pop_front() {
                Some((id, result)) => (id, result.map(|applied| self.reply(applied))),
                None => match self.reads.next().now_or_never().flatten() {
                    Some(read) => read,
                    None => break,
                },
            };
            self.end(id, result);
            bytes += self.done.last().map_or(0, Outcome::encoded_len);
        }
        std::mem::take(&mut self.done)
    }

    /// Begins what a request asks for. Fails if the client has lost count of its own ids.
    fn begin(&mut self, request: OperationsRequest) -> Result<(), Status> {
        for id in request.cancels {
            if let Some(open) = self.open.get_mut(&id) {
                open.is_wanted = false;
            }
        }
        let is_leaderless = self.context.member.standing().leader == 0;
        let mut writes = Vec::new();
        for operation in request.operations {
            let (id, bytes) = (operation.id, operation.encoded_len());
            match self.open.entry(id) {
                Entry::Vacant(place) => place.insert(Open { bytes, is_wanted: true }),
                Entry::Occupied(_) => {
                    let text = format!("operation {id} is in flight on this stream already");
                    return Err(Status::invalid_argument(text));
                }
            };
            self.bytes += bytes;
            if is_leaderless && operation.requires_leader {
                self.end(id, Err(Error::NoLeader));
                continue;
            }
            match self.step(operation) {
                Ok(Step::Write(command, deadline)) => writes.push((id, command, deadline)),
                Ok(Step::Read(read)) => self.reads.push(read),
                Err(error) => self.end(id, Err(error)),
            }
        }
        for id in self.context.member.submit(writes, &self.mailbox) {
            self.end(id, Err(Error::RequestTooManyRequests));
        }
        Ok(())
    }

    fn step(&self, operation: Operation) -> Result<Step, Error> {
        let timeout = (operation.timeout_ms > 0).then(|| Duration::from_millis(operation.timeout_ms.into()));
        let deadline = self.context.deadline(timeout);
        let (id, member) = (operation.id, Arc::clone(&self.context.member));
        let op = match operation.op {
            Some(operation::Op::Put(request)) => Op::Put(request),
            Some(operation::Op::DeleteRange(request)) => Op::DeleteRange(request),
            Some(operation::Op::Txn(request)) if check::txn_read(&request) == TxnRead::No => Op::Txn(request),
            Some(operation::Op::Txn(request)) => {
                let read = async move { (id, kv::txn(&*member, request, deadline).await.map(Outcomes::Txn)) };
                return Ok(Step::Read(Box::pin(read)));
            }
            Some(operation::Op::Range(request)) => {
                let read = async move { (id, kv::range(&*member, request, deadline).await.map(Outcomes::Range)) };
                return Ok(Step::Read(Box::pin(read)));
            }
            // A newer client's.
            None => return Err(Error::Unimplemented("this member does not know the operation")),
        };
        Ok(Step::Write(kv::admitted(&*member, op)?, deadline))
    }

    fn reply(&self, applied: Applied) -> Outcomes {
        let member = &*self.context.member;
        match applied {
            Applied::Put(reply) => Outcomes::Put(PutResponse {
                header: Some(filled(member, reply.header)),
                ..reply
            }),
            Applied::DeleteRange(reply) => Outcomes::DeleteRange(DeleteRangeResponse {
                header: Some(filled(member, reply.header)),
                ..reply
            }),
            Applied::Txn(reply) => Outcomes::Txn(TxnResponse {
                header: Some(filled(member, reply.header)),
                ..reply
            }),
            other => panic!("an operation of a stream was applied as {other:?}"),
        }
    }

    /// An operation is over; its outcome goes out, unless nobody waits for it.
    fn end(&mut self, id: u64, result: Result<Outcomes, Error>) {
        let open = self.open.remove(&id).expect("what ends had begun, and ends once");
        self.bytes -= open.bytes;
        if open.is_wanted {
            let result = result.unwrap_or_else(|error| {
                Outcomes::Failure(Failure {
                    code: error.code() as i32,
                    message: error.text().to_owned(),
                    leader: self.context.hint(&error).unwrap_or_default(),
                })
            });
            let result = Some(result);
            self.done.push(Outcome { id, result });
        }
    }
}

enum Step {
    Write(Command, Instant),
    Read(Read),
}
