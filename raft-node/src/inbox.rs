//! What stands between threads: a bounded queue that is drained whole.
//!
//! A receiver takes everything that queued while it was busy, which is where batches come from, and may say
//! what it would rather sleep through, because waking a thread costs as much as much of the work; a sender
//! never waits. For the same reason whoever brings something while the receiver sleeps may do its work for it
//! ([`StandIn`]). When a queue is full the item comes back, and the caller decides: a client is refused, a
//! peer's message is dropped. There is no unbounded way in.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A bounded multi-producer queue with one consumer.
pub struct Inbox<T> {
    capacity: usize,
    items: Mutex<Items<T>>,
    arrived: Condvar,
    /// Held by the consumer that sleeps: two threads may be consumers in turn.
    seat: Mutex<()>,
    stand_in: OnceLock<Weak<dyn StandIn>>,
    refused: AtomicU64,
}

/// What can do a sleeping consumer's work on the thread that would have to wake it.
pub trait StandIn: Send + Sync {
    /// Takes what waits, works, and says [`Inbox::rest`] again; false when somebody else is at it.
    fn stand_in(&self) -> bool;
}

/// What a consumer may sleep through: items with which it could do nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Less than this weight of what came by [`Inbox::push_patiently`].
    pub below: usize,
    /// Everything that came by [`Inbox::push_quietly`] and [`Inbox::offer_quietly`].
    pub is_deaf: bool,
}

impl Patience {
    /// Whatever arrives wakes the consumer.
    pub const NONE: Self = Self {
        below: 1,
        is_deaf: false,
    };
}

struct Items<T> {
    waiting: Vec<T>,
    /// Of those that were pushed patiently.
    weight: usize,
    /// One was pushed quietly.
    is_quiet: bool,
    /// One was pushed in another way.
    is_urgent: bool,
    patience: Patience,
    /// Until when the consumer may sleep if nothing arrives that its patience does not cover.
    until: Option<Instant>,
    /// It does, and has not been woken: until when it sleeps.
    asleep: Option<Instant>,
}

impl<T> Items<T> {
    fn are_due(&self) -> bool {
        self.is_urgent || self.weight >= self.patience.below || (self.is_quiet && !self.patience.is_deaf)
    }
}

impl<T> Inbox<T> {
    /// An empty queue.
    pub fn new(capacity: usize) -> Self {
        let items = Items {
            waiting: Vec::new(),
            weight: 0,
            is_quiet: false,
            is_urgent: false,
            patience: Patience::NONE,
            until: None,
            asleep: None,
        };
        Self {
            capacity,
            items: Mutex::new(items),
            arrived: Condvar::new(),
            seat: Mutex::new(()),
            stand_in: OnceLock::new(),
            refused: AtomicU64::new(0),
        }
    }

    /// Lets `stand_in` work whenever something is announced while the consumer sleeps.
    pub fn let_stand_in(&self, stand_in: Weak<dyn StandIn>) {
        // The first one stays; there is one.
        drop(self.stand_in.set(stand_in));
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
        self.push_unannounced(item)?;
        self.announce();
        Ok(())
    }

    /// As [`Self::push`], but the consumer hears of it at the next [`Self::announce`] only: whoever brings
    /// many items one by one says so once, when there are no more for now.
    pub fn push_unannounced(&self, item: T) -> Result<(), T> {
        self.push_bounded(item, |items| items.is_urgent = true)
    }

    /// As [`Self::push_unannounced`], and lets a consumer sleep whose patience covers it: something that is on
    /// its way will wake it, or enough of such items, and until then it could only let the item wait.
    pub fn push_patiently(&self, item: T, weight: usize) -> Result<(), T> {
        self.push_bounded(item, |items| items.weight += weight)
    }

    /// Wakes the consumer if something waits that it would want to be woken for, or stands in for it.
    pub fn announce(&self) {
        let is_wanted = {
            let items = self.lock();
            items.asleep.is_some() && items.are_due()
        };
        if !is_wanted {
            return;
        }
        let stands_in = self.stand_in.get().and_then(Weak::upgrade);
        if !stands_in.is_some_and(|stand_in| stand_in.stand_in()) {
            // Whoever is at it may have taken what waited before this came.
            self.wake(self.lock());
        }
    }

    /// Wakes the consumer.
    pub fn call(&self) {
        let mut items = self.lock();
        items.is_urgent = true;
        self.wake(items);
    }

    /// Adds an item whose number is bounded by its sender: a completion of work that this queue's owner
    /// gave out, or one of a fixed set of signals. Refusing one would lose it.
    pub fn push_completion(&self, item: T) {
        let mut items = self.lock();
        items.waiting.push(item);
        items.is_urgent = true;
        self.wake(items);
    }

    /// As [`Self::push_completion`], for what only matters to a consumer that waits for it.
    pub fn push_quietly(&self, item: T) {
        let mut items = self.lock();
        items.waiting.push(item);
        items.is_quiet = true;
        self.wake(items);
    }

    /// As [`Self::push_unannounced`], for what only matters to a consumer that waits for it.
    pub fn offer_quietly(&self, item: T) -> Result<(), T> {
        self.push_bounded(item, |items| items.is_quiet = true)
    }

    /// Moves everything that waits into `out`; waits for something that `patience` does not cover, but no
    /// longer than `wait`.
    pub fn drain(&self, out: &mut Vec<T>, wait: Duration, patience: Patience) {
        self.rest(Instant::now() + wait, patience);
        self.sleep();
        self.take(out);
    }

    /// Says how the consumer may sleep from now on: `until` then, as far as its `patience` covers what arrives.
    pub fn rest(&self, until: Instant, patience: Patience) {
        let mut items = self.lock();
        (items.until, items.patience) = (Some(until), patience);
        // It sleeps by what was said before.
        let is_late = items.asleep.is_some_and(|planned| until < planned);
        if is_late {
            drop(items);
            self.arrived.notify_one();
        } else {
            self.wake(items);
        }
    }

    /// Sleeps as [`Self::rest`] allows.
    pub fn sleep(&self) {
        let _seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        let mut items = self.lock();
        // A stand-in's turn may have put off what there was to wake for.
        while let Some(until) = items.until
            && !items.are_due()
        {
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            items.asleep = Some(until);
            let woken = self.arrived.wait_timeout(items, wait);
            items = woken.unwrap_or_else(PoisonError::into_inner).0;
            items.asleep = None;
        }
    }

    /// Moves everything that waits into `out`.
    pub fn take(&self, out: &mut Vec<T>) {
        let mut items = self.lock();
        (items.weight, items.is_quiet, items.is_urgent) = (0, false, false);
        if out.is_empty() {
            std::mem::swap(&mut items.waiting, out);
        } else {
            out.append(&mut items.waiting);
        }
    }

    fn push_bounded(&self, item: T, note: impl FnOnce(&mut Items<T>)) -> Result<(), T> {
        let mut items = self.lock();
        if items.waiting.len() >= self.capacity {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(item);
        }
        items.waiting.push(item);
        note(&mut items);
        Ok(())
    }

    /// Once per sleep: the consumer takes all that waits.
    fn wake(&self, mut items: MutexGuard<'_, Items<T>>) {
        let wakes = items.asleep.is_some() && items.are_due();
        if wakes {
            items.asleep = None;
        }
        drop(items);
        if wakes {
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Items<T>> {
        // A panic aborts the process, so a poisoned lock is never seen; it need not be a second panic.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn full_gives_back_and_drain_takes_all() {
        let inbox = Inbox::new(2);
        assert_eq!(inbox.push(1), Ok(()));
        assert_eq!(inbox.push(2), Ok(()));
        assert_eq!(inbox.push(3), Err(3));
        inbox.push_completion(4);
        let mut out = vec![0];
        inbox.drain(&mut out, Duration::ZERO, Patience::NONE);
        assert_eq!(out, [0, 1, 2, 4]);
        assert!(inbox.is_empty());
        inbox.drain(&mut out, Duration::from_millis(1), Patience::NONE);
        assert_eq!(out.len(), 4);
    }

    #[test]
    fn patience_covers_what_it_names_and_nothing_else() {
        let patience = Patience {
            below: 3,
            is_deaf: true,
        };
        let is_due = |push: &dyn Fn(&Inbox<u8>)| {
            let inbox = Inbox::new(9);
            push(&inbox);
            let mut items = inbox.lock();
            items.patience = patience;
            items.are_due()
        };
        let patiently = |inbox: &Inbox<u8>, weight| inbox.push_patiently(0, weight).expect("there is room");
        assert!(!is_due(&|_| {}));
        assert!(!is_due(&|inbox| patiently(inbox, 2)));
        assert!(is_due(&|inbox| patiently(inbox, 3)));
        assert!(is_due(&|inbox| {
            patiently(inbox, 2);
            patiently(inbox, 1);
        }));
        assert!(!is_due(&|inbox| inbox.push_quietly(0)));
        assert!(!is_due(&|inbox| inbox.offer_quietly(0).expect("there is room")));
        assert!(is_due(&|inbox| inbox.push_completion(0)));
        assert!(is_due(&|inbox| inbox.push(0).expect("there is room")));
    }

    /// Takes what waits, if it may, and lets the consumer sleep for as long as it says.
    struct Helper {
        inbox: Arc<Inbox<u8>>,
        is_free: bool,
        took: Mutex<Vec<u8>>,
    }

    impl StandIn for Helper {
        fn stand_in(&self) -> bool {
            if self.is_free {
                self.inbox.take(&mut self.took.lock().unwrap());
                self.inbox.rest(Instant::now() + Duration::from_mins(2), Patience::NONE);
            }
            self.is_free
        }
    }

    fn with_helper(is_free: bool) -> (Arc<Inbox<u8>>, Arc<Helper>, std::thread::JoinHandle<Vec<u8>>) {
        let inbox = Arc::new(Inbox::new(9));
        let helper = Arc::new(Helper {
            inbox: inbox.clone(),
            is_free,
            took: Mutex::default(),
        });
        inbox.let_stand_in(Arc::downgrade(&helper) as Weak<dyn StandIn>);
        let sleeper = std::thread::spawn({
            let inbox = inbox.clone();
            move || {
                let mut out = Vec::new();
                inbox.drain(&mut out, Duration::from_mins(1), Patience::NONE);
                out
            }
        });
        while inbox.lock().asleep.is_none() {
            std::thread::yield_now();
        }
        (inbox, helper, sleeper)
    }

    #[test]
    fn who_announces_stands_in_and_the_sleeper_sleeps_on() {
        let (inbox, helper, sleeper) = with_helper(true);
        inbox.push(1).expect("there is room");
        inbox.push(2).expect("there is room");
        assert_eq!(*helper.took.lock().unwrap(), [1, 2]);
        assert!(inbox.lock().asleep.is_some() && !sleeper.is_finished());
        // What nobody announces is the sleeper's.
        inbox.push_completion(3);
        assert_eq!(sleeper.join().expect("it does not panic"), [3]);
    }

    #[test]
    fn the_sleeper_wakes_when_nobody_can_stand_in() {
        let (inbox, helper, sleeper) = with_helper(false);
        inbox.push(1).expect("there is room");
        assert_eq!(sleeper.join().expect("it does not panic"), [1]);
        assert!(helper.took.lock().unwrap().is_empty());
        // Nor when it is gone.
        let (inbox, helper, sleeper) = with_helper(true);
        drop(helper);
        inbox.push(1).expect("there is room");
        assert_eq!(sleeper.join().expect("it does not panic"), [1]);
    }

    #[test]
    fn the_sleeper_keeps_to_what_was_said_last() {
        let (inbox, _helper, sleeper) = with_helper(true);
        inbox.rest(Instant::now() + Duration::from_millis(20), Patience::NONE);
        assert_eq!(sleeper.join().expect("it does not panic"), [0; 0]);
    }

    #[test]
    fn a_sleeper_wakes_for_what_is_due_and_takes_the_rest_with_it() {
        let inbox = Arc::new(Inbox::new(9));
        let sleeper = std::thread::spawn({
            let inbox = inbox.clone();
            move || {
                let mut out = Vec::new();
                let patience = Patience {
                    below: usize::MAX,
                    is_deaf: true,
                };
                inbox.drain(&mut out, Duration::from_mins(1), patience);
                out
            }
        });
        while inbox.lock().asleep.is_none() {
            std::thread::yield_now();
        }
        inbox.push_patiently(1, 1000).expect("there is room");
        inbox.announce();
        inbox.push_quietly(2);
        assert!(inbox.lock().asleep.is_some());
        inbox.push_completion(3);
        assert_eq!(sleeper.join().expect("it does not panic"), [1, 2, 3]);
    }
}
