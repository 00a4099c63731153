//! How an outcome reaches the request that waits for it: in batches, one wake-up per runtime.
//!
//! Waking a task of another thread's runtime costs a system call, and a batch of the apply thread answers
//! dozens of requests at once. So the outcomes for one runtime are put into its [`Returns`] together, and
//! one task of that runtime hands them out, where waking is only an entry in a list.
//!
//! ```text
//!   apply, raft thread --Outcomes::add--> Returns of each runtime --one notify--> its task --> requests
//! ```

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use kv::Response;
use proto::Error;
use tokio::sync::{Notify, oneshot};

use crate::replica::Answer;

/// What a request is told.
#[derive(Debug)]
pub enum Outcome {
    Written(Result<Response, Error>),
    Answered(Answer),
}

/// Who waits for an input's outcome.
pub struct Reply {
    waiter: oneshot::Sender<Outcome>,
    returns: Arc<Returns>,
    /// When the request asked.
    pub since: Instant,
}

/// Outcomes on their way to one runtime.
#[derive(Default)]
struct Returns {
    // Bounded by the requests that wait: each gets one outcome.
    outcomes: Mutex<Vec<(oneshot::Sender<Outcome>, Outcome)>>,
    arrived: Notify,
}

thread_local! {
    /// The returns of the runtime that this thread drives.
    static OWN: RefCell<Option<Arc<Returns>>> = const { RefCell::new(None) };
}

impl Reply {
    /// For a request of the runtime that this runs on.
    pub fn new() -> (Self, oneshot::Receiver<Outcome>) {
        let returns = OWN.with_borrow_mut(|own| Arc::clone(own.get_or_insert_with(Returns::start)));
        let (waiter, outcome) = oneshot::channel();
        (
            Self {
                waiter,
                returns,
                since: Instant::now(),
            },
            outcome,
        )
    }
}

impl Returns {
    fn start() -> Arc<Self> {
        let returns = Arc::new(Self::default());
        let handed_out = Arc::clone(&returns);
        // Ends with its runtime, like the requests it serves.
        tokio::spawn(async move {
            loop {
                handed_out.arrived.notified().await;
                for (waiter, outcome) in handed_out.take() {
                    // Whoever waited may have gone; that is their right.
                    drop(waiter.send(outcome));
                }
            }
        });
        returns
    }

    fn take(&self) -> Vec<(oneshot::Sender<Outcome>, Outcome)> {
        std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The outcomes of one batch.
#[derive(Default)]
pub struct Outcomes {
    touched: Vec<Arc<Returns>>,
}

impl Outcomes {
    /// Adds one; it leaves with [`Self::send`].
    pub fn add(&mut self, reply: Reply, outcome: Outcome) {
        let Reply { waiter, returns, .. } = reply;
        returns
            .outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((waiter, outcome));
        // A handful of runtimes at most: a search beats a map.
        if !self.touched.iter().any(|own| Arc::ptr_eq(own, &returns)) {
            self.touched.push(returns);
        }
    }

    /// Wakes each runtime that has something, once.
    pub fn send(&mut self) {
        for returns in self.touched.drain(..) {
            returns.arrived.notify_one();
        }
    }
}
