//! When a call is tried again. Reads race endpoints; writes go to one endpoint at a time and are sent again
//! only when `error` judges that they were surely not done.
//!
//! ```text
//! read:   a ------150 ms------ silent ...........
//!                             b ---- answer          (the first answer wins, the others are dropped)
//! write:  leader -- refused to connect -- next -- answer, or "unknown" and the end
//! ```
//!
//! Not here: what a status means (`error`), whom to ask (`route`). Streams resume by their own rules.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::{Response, Status};

use crate::{
    Client, Error,
    error::{Fate, fate_of_read, fate_of_write, from_status, with_sources},
    route::Endpoint,
};

/// The pause once every endpoint has failed: long enough not to spin, short beside an election.
pub(crate) const ROUND_PAUSE: Duration = Duration::from_millis(25);

impl Client {
    /// Asks until someone answers or the deadline passes. `call` must not change anything on the server.
    pub(crate) async fn read<T, C, F>(&self, call: C) -> Result<T, Error>
    where
        C: Fn(Arc<Endpoint>, Instant) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.deadline();
        let endpoints = self.route.endpoints().len();
        let first = self.route.any(0);
        let mut racing = FuturesUnordered::new();
        let mut last = None;
        let mut turn = 0;
        // `route.any` counts from an endpoint that failures move on, so the order is fixed here.
        let start = self
            .route
            .endpoints()
            .iter()
            .position(|each| Arc::ptr_eq(each, &first))
            .unwrap_or_default();
        loop {
            if racing.len() < endpoints {
                let endpoint = Arc::clone(&self.route.endpoints()[(start + turn) % endpoints]);
                let attempt = call(Arc::clone(&endpoint), deadline);
                racing.push(async move { (endpoint, attempt.await) });
                turn += 1;
            }
            let hedge = sleep(self.options.hedge_after);
            tokio::select! {
                biased;
                Some((endpoint, outcome)) = racing.next() => match outcome {
                    Ok(answer) => {
                        if turn > 1 {
                            self.route.prefer(&endpoint);
                        }
                        return Ok(answer.into_inner());
                    }
                    Err(status) if fate_of_read(&status) == Fate::Decided => return Err(from_status(&status)),
                    Err(status) => {
                        self.route.failed(&endpoint);
                        last = Some(from_status(&status));
                        pause_after_round(turn, endpoints, deadline).await;
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
        C: Fn(Arc<Endpoint>, Instant) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.deadline();
        let endpoints = self.route.endpoints().len();
        let mut turn = 0;
        let mut last = None;
        while Instant::now() < deadline {
            let endpoint = self.for_write(0).await;
            match timeout_at(deadline, call(Arc::clone(&endpoint), deadline)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => last = Some(self.judge_write(&endpoint, &status)?),
                Err(_) => return Err(self.late_write(&endpoint)),
            }
            turn += 1;
            pause_after_round(turn, endpoints, deadline).await;
        }
        Err(last.unwrap_or_else(|| Error::timeout(self.options.call_deadline)))
    }

    /// `Ok` holds the reason of an attempt that may be repeated; `Err` ends the call.
    fn judge_write(&self, endpoint: &Arc<Endpoint>, status: &Status) -> Result<Error, Error> {
        match fate_of_write(status) {
            Fate::Decided => Err(from_status(status)),
            fate => {
                self.route.failed(endpoint);
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
        self.route.failed(endpoint);
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

async fn pause_after_round(turn: usize, endpoints: usize, deadline: Instant) {
    if turn.is_multiple_of(endpoints) {
        sleep_until(deadline.min(Instant::now() + ROUND_PAUSE)).await;
    }
}
