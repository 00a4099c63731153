//! The flush thread: it makes the state durable, as long as the disk takes for it, while the apply thread goes on.
//!
//! Once a burst of writes is over it also gives back the memory that the burst took.
//!
//! A flush is megabytes and several syncs. Whoever waits for a write that is committed must not wait for them too;
//! on a disk that hangs that was seconds, although the cluster had long had another leader.
//!
//! Not here: when a flush is due (`apply`).

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use kv::{Flush, engine::Engine};

use crate::allocator;

/// What follows a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// More writes: what the flush has freed will be needed again.
    Writes,
    /// Nothing for now.
    Silence,
}

/// The apply thread's hold on the flush thread, which ends with it.
pub struct Flusher<E> {
    orders: SyncSender<(Flush<E>, After)>,
    done: Receiver<()>,
    is_busy: bool,
}

impl<E: Engine> Flusher<E> {
    pub fn start() -> io::Result<Self> {
        // One flush at a time.
        let (orders, flushes) = sync_channel::<(Flush<E>, After)>(1);
        let (finished, done) = sync_channel(1);
        thread::Builder::new().name("flush".to_owned()).spawn(move || {
            for (flush, after) in flushes {
                flush.run();
                if after == After::Silence {
                    allocator::give_back_freed_memory();
                }
                if finished.send(()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            orders,
            done,
            is_busy: false,
        })
    }

    /// Whether a flush is under way; another one has to wait for its end.
    pub fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Whether the flush that was under way is over; true once.
    pub fn has_ended(&mut self) -> bool {
        let has_ended = self.is_busy && self.done.try_recv().is_ok();
        self.is_busy &= !has_ended;
        has_ended
    }

    /// Runs a flush; none may be under way.
    pub fn run(&mut self, flush: Flush<E>, after: After) {
        assert!(!self.is_busy, "one flush at a time");
        self.is_busy = true;
        let order = (flush, after);
        self.orders.send(order).expect("the flush thread outlives its orders");
    }

    /// Until none is under way.
    pub fn wait(&mut self) {
        if self.is_busy {
            self.done.recv().expect("the flush thread outlives its orders");
            self.is_busy = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use kv::{
        LogEntry, MemoryEngine, Store, StoreOptions,
        engine::{Batch, Family, memory::MemorySnapshot},
    };
    use proto::node::Membership;

    use super::*;

    /// Its flush waits while the test holds the gate.
    #[derive(Clone)]
    struct Gated {
        inner: MemoryEngine,
        gate: Arc<Mutex<()>>,
    }

    impl Engine for Gated {
        type Snapshot = MemorySnapshot;

        fn snapshot(&self) -> MemorySnapshot {
            self.inner.snapshot()
        }

        fn get(&self, family: Family, key: &[u8]) -> Option<bytes::Bytes> {
            self.inner.get(family, key)
        }

        fn multi_get(&self, family: Family, keys: &[bytes::Bytes]) -> Vec<Option<bytes::Bytes>> {
            self.inner.multi_get(family, keys)
        }

        fn write(&self, batch: &Batch) {
            self.inner.write(batch);
        }

        fn flush(&self) {
            drop(self.gate.lock());
            self.inner.flush();
        }

        fn get_persisted(&self, family: Family, key: &[u8]) -> Option<bytes::Bytes> {
            self.inner.get_persisted(family, key)
        }

        fn reclaim(&self, family: Family, last: &[u8]) {
            self.inner.reclaim(family, last);
        }

        fn checkpoint(&self, directory: &std::path::Path) -> Result<(), String> {
            self.inner.checkpoint(directory)
        }

        fn disk_bytes(&self) -> u64 {
            self.inner.disk_bytes()
        }
    }

    fn entry(index: u64) -> LogEntry {
        LogEntry {
            index,
            term: 1,
            ..LogEntry::default()
        }
    }

    #[test]
    fn entries_are_applied_while_a_flush_hangs() {
        let engine = Gated {
            inner: MemoryEngine::new(),
            gate: Arc::default(),
        };
        let gate = Arc::clone(&engine.gate);
        let mut store = Store::open(engine, StoreOptions::default());
        store.bootstrap(Membership::default());
        let mut flusher = Flusher::start().unwrap();
        let hangs = gate.lock().unwrap();
        store.apply(&[entry(1)]);
        flusher.run(store.begin_flush(), After::Silence);
        store.apply(&[entry(2)]);
        assert_eq!((store.applied().index, store.flushed().index), (2, 0));
        assert!(!flusher.has_ended() && flusher.is_busy());
        drop(hangs);
        flusher.wait();
        assert!(!flusher.is_busy());
        assert_eq!(store.flushed().index, 2, "a flush takes along what came while it began");
    }
}
