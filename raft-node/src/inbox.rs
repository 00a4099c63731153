//! What stands between threads: a bounded queue that is drained whole.
//!
//! A receiver takes everything that queued while it was busy, which is where batches come from; a sender
//! never waits. When a queue is full the item comes back, and the caller decides: a client is refused, a
//! peer's message is dropped. There is no unbounded way in.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A bounded multi-producer queue with one consumer.
pub struct Inbox<T> {
    name: &'static str,
    capacity: usize,
    items: Mutex<Vec<T>>,
    arrived: Condvar,
    refused: AtomicU64,
}

impl<T> Inbox<T> {
    /// An empty queue; `name` is how metrics and logs call it.
    pub fn new(name: &'static str, capacity: usize) -> Self {
        Self {
            name,
            capacity,
            items: Mutex::new(Vec::new()),
            arrived: Condvar::new(),
            refused: AtomicU64::new(0),
        }
    }

    /// The name it was made with.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many items found no place.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an item, or gives it back when the queue is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut items = self.lock();
        if items.len() >= self.capacity {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(item);
        }
        self.append(&mut items, item);
        Ok(())
    }

    /// Adds an item whose number is bounded by its sender: a completion of work that this queue's owner
    /// gave out, or one of a fixed set of signals. Refusing one would lose it.
    pub fn push_completion(&self, item: T) {
        let mut items = self.lock();
        self.append(&mut items, item);
    }

    /// Moves everything that waits into `out`; waits for the first item, but no longer than `wait`.
    pub fn drain(&self, out: &mut Vec<T>, wait: Duration) {
        let mut items = self.lock();
        if items.is_empty() && !wait.is_zero() {
            items = self
                .arrived
                .wait_timeout(items, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if out.is_empty() {
            std::mem::swap(&mut *items, out);
        } else {
            out.append(&mut items);
        }
    }

    fn append(&self, items: &mut Vec<T>, item: T) {
        items.push(item);
        // The consumer takes all at once, so only the first item has somebody to wake.
        if items.len() == 1 {
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        // A panic aborts the process, so a poisoned lock is never seen; it need not be a second panic.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_gives_back_and_drain_takes_all() {
        let inbox = Inbox::new("test", 2);
        assert_eq!(inbox.push(1), Ok(()));
        assert_eq!(inbox.push(2), Ok(()));
        assert_eq!(inbox.push(3), Err(3));
        inbox.push_completion(4);
        let mut out = vec![0];
        inbox.drain(&mut out, Duration::ZERO);
        assert_eq!(out, [0, 1, 2, 4]);
        assert!(inbox.is_empty());
        inbox.drain(&mut out, Duration::from_millis(1));
        assert_eq!(out.len(), 4);
    }
}
