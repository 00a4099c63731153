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
    items: Mutex<Items<T>>,
    arrived: Condvar,
    refused: AtomicU64,
}

struct Items<T> {
    waiting: Vec<T>,
    /// The consumer sleeps until something arrives.
    is_asleep: bool,
    /// The consumer said that it can do nothing with items that come by [`Inbox::push_patiently`] now.
    is_patient: bool,
    /// Something else waits too.
    is_urgent: bool,
}

impl<T> Inbox<T> {
    /// An empty queue; `name` is how metrics and logs call it.
    pub fn new(name: &'static str, capacity: usize) -> Self {
        let items = Items {
            waiting: Vec::new(),
            is_asleep: false,
            is_patient: false,
            is_urgent: false,
        };
        Self {
            name,
            capacity,
            items: Mutex::new(items),
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
        self.lock().waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an item, or gives it back when the queue is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.push_bounded(item, |_| true)
    }

    /// As [`Self::push`], but lets the consumer sleep when it said that it is patient: something that is
    /// already on its way will wake it, and until then it could only let the item wait.
    pub fn push_patiently(&self, item: T) -> Result<(), T> {
        self.push_bounded(item, |items| !items.is_patient)
    }

    /// Adds an item whose number is bounded by its sender: a completion of work that this queue's owner
    /// gave out, or one of a fixed set of signals. Refusing one would lose it.
    pub fn push_completion(&self, item: T) {
        let mut items = self.lock();
        items.waiting.push(item);
        Self::wake(&self.arrived, items);
    }

    /// Moves everything that waits into `out`; waits for the first item, but no longer than `wait`.
    pub fn drain(&self, out: &mut Vec<T>, wait: Duration, is_patient: bool) {
        let mut items = self.lock();
        items.is_patient = is_patient;
        let may_sleep = if is_patient {
            !items.is_urgent
        } else {
            items.waiting.is_empty()
        };
        if !wait.is_zero() && may_sleep {
            items.is_asleep = true;
            items = self
                .arrived
                .wait_timeout(items, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            items.is_asleep = false;
        }
        items.is_urgent = false;
        if out.is_empty() {
            std::mem::swap(&mut items.waiting, out);
        } else {
            out.append(&mut items.waiting);
        }
    }

    fn push_bounded(&self, item: T, wakes: impl FnOnce(&Items<T>) -> bool) -> Result<(), T> {
        let mut items = self.lock();
        if items.waiting.len() >= self.capacity {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(item);
        }
        items.waiting.push(item);
        if wakes(&items) {
            Self::wake(&self.arrived, items);
        }
        Ok(())
    }

    fn wake(arrived: &Condvar, mut items: MutexGuard<'_, Items<T>>) {
        items.is_urgent = true;
        // Once per sleep: the consumer takes all that waits.
        let was_asleep = std::mem::take(&mut items.is_asleep);
        drop(items);
        if was_asleep {
            arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Items<T>> {
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
        inbox.drain(&mut out, Duration::ZERO, false);
        assert_eq!(out, [0, 1, 2, 4]);
        assert!(inbox.is_empty());
        inbox.drain(&mut out, Duration::from_millis(1), false);
        assert_eq!(out.len(), 4);
    }
}
