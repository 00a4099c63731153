//! How an outcome reaches the request that waits for it: in batches, one wake-up per runtime.
//!
//! Waking a task of another thread's runtime costs a system call, and a batch of the apply thread answers
//! dozens of requests at once. So the outcomes for one runtime are put into its [`Returns`] together, and
//! one task of that runtime hands them out, where waking is only an entry in a list.
//!
//! ```text
//!   apply, raft thread --Outcomes::add--> Returns of each runtime --one notify--> its task --> requests
//!                                     --> Mailbox of a stream     --one notify--> the stream
//! ```

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use kv::Response;
use proto::Error;
use tokio::sync::{Notify, oneshot};

use crate::{mailbox::Mailbox, replica::Answer};

/// What a request is told.
#[derive(Debug)]
pub enum Outcome {
    Written(Result<Response, Error>),
    Answered(Answer),
}

/// Who waits for an input's outcome.
pub struct Reply {
    to: Address,
    /// When the request asked.
    pub since: Instant,
}

/// Where an outcome goes.
enum Address {
    Request(oneshot::Sender<Outcome>, Arc<Returns>),
    /// An operation of a stream, under its id.
    Stream(Arc<Mailbox>, u64),
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
        let since = Instant::now();
        let to = Address::Request(waiter, returns);
        (Self { to, since }, outcome)
    }

    /// For a write of a stream; it ends in the mailbox.
    pub fn to_stream(mailbox: Arc<Mailbox>, id: u64, since: Instant) -> Self {
        let to = Address::Stream(mailbox, id);
        Self { to, since }
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

impl Outcome {
    /// What became of a write.
    pub fn written(self) -> Result<Response, Error> {
        match self {
            Self::Written(result) => result,
            Self::Answered(Answer::Failed(error)) => Err(error),
            Self::Answered(answer) => unreachable!("a write ends applied or failed, not as {answer:?}"),
        }
    }
}

/// The outcomes of one batch.
#[derive(Default)]
pub struct Outcomes {
    runtimes: Vec<Arc<Returns>>,
    streams: Vec<Arc<Mailbox>>,
}

impl Outcomes {
    /// Adds one; it leaves with [`Self::send`].
    pub fn add(&mut self, reply: Reply, outcome: Outcome) {
        match reply.to {
            Address::Request(waiter, returns) => {
                let outcomes = returns.outcomes.lock();
                outcomes.unwrap_or_else(PoisonError::into_inner).push((waiter, outcome));
                touch(&mut self.runtimes, returns);
            }
            Address::Stream(mailbox, id) => {
                mailbox.put((id, outcome.written()));
                touch(&mut self.streams, mailbox);
            }
        }
    }

    /// Wakes each runtime and each stream that has something, once.
    pub fn send(&mut self) {
        for returns in self.runtimes.drain(..) {
            returns.arrived.notify_one();
        }
        for mailbox in self.streams.drain(..) {
            mailbox.announce();
        }
    }
}

/// Notes a receiver, once. There are a handful at most: a search beats a map.
fn touch<T>(touched: &mut Vec<Arc<T>>, receiver: Arc<T>) {
    if !touched.iter().any(|own| Arc::ptr_eq(own, &receiver)) {
        touched.push(receiver);
    }
}
