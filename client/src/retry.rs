//! When a call is tried again. Reads race endpoints; writes go to one endpoint at a time and are sent again
//! only when `error` judges that they were surely not done.
//!
//! ```text
//! read:   a ------150 ms------ silent ...........
//!                             b ---- answer          (the first answer wins, the others are dropped)
//! write:  leader -- refused to connect -- next -- answer, or "unknown" and the end
//! ```
//! Whoever has another endpoint has its writes refused by a member that has lost its leader: the next one may have it.
//!
//! Not here: what a status means (`error`), whom to ask (`route`). Streams resume by their own rules.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::{Response, Status};

use crate::{
    Client, Error,
    client::Terms,
    error::{Fate, fate_of_read, fate_of_write, from_status, is_from_server, with_sources},
    route::{Endpoint, Failure, follows_next_leader},
};

/// The pause once every endpoint has failed: long enough not to spin, short beside an election.
pub(crate) const ROUND_PAUSE: Duration = Duration::from_millis(25);

/// A write's pauses grow with the rounds it has made, up to this many [`ROUND_PAUSE`]s.
const ROUNDS_PAUSED_MAX: usize = 4;

impl Client {
    /// Asks until someone answers or the deadline passes. `call` must not change anything on the server.
    pub(crate) async fn read<T, C, F>(&self, call: C) -> Result<T, Error>
    where
        C: Fn(Arc<Endpoint>, Terms) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.deadline();
        // Failures of other calls move the route on, so the order is fixed here.
        let order = self.route.order();
        let endpoints = order.len();
        let mut racing = FuturesUnordered::new();
        let mut last = None;
        let mut turn = 0;
        let terms = Terms {
            deadline,
            requires_leader: false,
        };
        loop {
            if racing.len() < endpoints {
                let endpoint = Arc::clone(&order[turn % endpoints]);
                let attempt = call(Arc::clone(&endpoint), terms);
                racing.push(async move { (endpoint, attempt.await) });
                turn += 1;
            }
            let hedge = sleep(self.options.hedge_after);
            tokio::select! {
                biased;
                Some((endpoint, outcome)) = racing.next() => match outcome {
                    Ok(answer) => {
                        if turn > 1 {
                            self.route.answered(&endpoint);
                        }
                        return Ok(answer.into_inner());
                    }
                    Err(status) if fate_of_read(&status) == Fate::Decided => return Err(from_status(&status)),
                    Err(status) => {
                        self.route.failed(&endpoint, failure_of(&status));
                        last = Some(from_status(&status));
                        if turn.is_multiple_of(endpoints) {
                            pause(ROUND_PAUSE, deadline).await;
                        }
                    }
                },
                () = sleep_until(deadline) => return Err(last.unwrap_or_else(|| Error::timeout(self.options.call_deadline))),
                () = hedge, if racing.len() < endpoints => {}
            }
        }
    }

    /// Sends a write to one endpoint after another until one takes it, and once it may have been taken,
    /// never again.
    pub(crate) async fn write<T, C, F>(&self, call: C) -> Result<T, Error>
    where
        C: Fn(Arc<Endpoint>, Terms) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.deadline();
        let endpoints = self.route.endpoints().len();
        let mut turn = 0;
        let mut last = None;
        let terms = Terms {
            deadline,
            requires_leader: endpoints > 1,
        };
        while Instant::now() < deadline {
            let endpoint = self.for_write().await;
            match timeout_at(deadline, call(Arc::clone(&endpoint), terms)).await {
                Ok(Ok(answer)) => {
                    if turn > 0 {
                        self.route.answered(&endpoint);
                    }
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => last = Some(self.judge_write(&endpoint, &status)?),
                Err(_) => return Err(self.late_write(&endpoint)),
            }
            turn += 1;
            // Longer and longer: an election that takes its time is not to be met by every client at full speed.
            let rounds = (turn / endpoints).min(ROUNDS_PAUSED_MAX);
            pause(ROUND_PAUSE * rounds as u32, deadline).await;
        }
        Err(last.unwrap_or_else(|| Error::timeout(self.options.call_deadline)))
    }

    /// `Ok` holds the reason of an attempt that may be repeated; `Err` ends the call.
    fn judge_write(&self, endpoint: &Arc<Endpoint>, status: &Status) -> Result<Error, Error> {
        match fate_of_write(status) {
            Fate::Decided => Err(from_status(status)),
            fate => {
                if !follows_next_leader(status) {
                    self.route.failed(endpoint, failure_of(status));
                }
                self.follow_hint(status);
                if fate == Fate::NotDone {
                    return Ok(from_status(status));
                }
                Err(Error::UnknownOutcome {
                    cause: with_sources(status),
                })
            }
        }
    }

    fn late_write(&self, endpoint: &Arc<Endpoint>) -> Error {
        self.route.failed(endpoint, Failure::Silent);
        let late = Error::timeout(self.options.call_deadline);
        if endpoint.never_connected() {
            late
        } else {
            Error::UnknownOutcome {
                cause: late.to_string(),
            }
        }
    }
}

async fn pause(length: Duration, deadline: Instant) {
    if !length.is_zero() {
        sleep_until(deadline.min(Instant::now() + length)).await;
    }
}

pub(crate) fn failure_of(status: &Status) -> Failure {
    if is_from_server(status) {
        Failure::Refused
    } else {
        Failure::Silent
    }
}
