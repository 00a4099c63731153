//! Where the outcomes of one stream's writes arrive: one lock and one wake-up for a whole batch of them.
//!
//! Not here: who puts them there (`driver/replies`) and what is made of them (`grpc/operations`).

use std::sync::{Mutex, PoisonError};

use kv::Response;
use proto::Error;
use tokio::sync::Notify;

/// The id under which a write was submitted, and what became of it.
pub type Written = (u64, Result<Response, Error>);

/// See the file's essay.
#[derive(Default)]
pub struct Mailbox {
    // Bounded by the stream: it submits no more while much is in flight.
    outcomes: Mutex<Vec<Written>>,
    arrived: Notify,
}

impl Mailbox {
    /// Adds one; its reader hears of it with [`Self::announce`].
    pub fn put(&self, outcome: Written) {
        self.outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(outcome);
    }

    /// Wakes the reader.
    pub fn announce(&self) {
        self.arrived.notify_one();
    }

    /// Everything that has arrived, in the order in which it did.
    pub fn take(&self) -> Vec<Written> {
        std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Completes when something has been announced since the last call.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}
