//! Wakes the streams of one runtime together. Waking a task from another thread costs a system call, and a task that
//! comes alone sends its bytes alone: with one bell for each runtime, a thousand streams that are told of an
//! event are one wake-up, and their connections send what all of them had to say.

use super::Stream;
use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;

/// The bell of one runtime.
#[derive(Default)]
pub struct Bell {
    /// Who is to be woken; each stream at most once.
    streams: Mutex<Vec<Arc<Stream>>>,
    rung: Notify,
}

/// Whether a stream waits for its bell.
#[derive(Default)]
pub struct Listed(AtomicBool);

thread_local! {
    static BELL: Arc<Bell> = Bell::spawn();
}

impl Bell {
    /// The bell of the current-thread runtime that calls.
    pub fn of_this_thread() -> Arc<Self> {
        BELL.with(Arc::clone)
    }

    /// Its task ends with its runtime.
    fn spawn() -> Arc<Self> {
        let bell = Arc::<Self>::default();
        let task = Arc::clone(&bell);
        tokio::spawn(async move {
            loop {
                task.rung.notified().await;
                for stream in mem::take(&mut *task.lock()) {
                    // Before it is woken, so that what happens from here on lists it again.
                    stream.listed.0.store(false, Ordering::Release);
                    stream.wake.notify_one();
                }
            }
        });
        bell
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Stream>>> {
        self.streams
            .lock()
            .expect("no panic is survived, so no lock is poisoned")
    }
}

/// Wakes streams, each through its runtime's bell if it has one.
pub fn wake(streams: Vec<Arc<Stream>>) {
    let mut bells: Vec<Arc<Bell>> = Vec::new();
    for stream in streams {
        let Some(bell) = stream.bell.clone() else {
            stream.wake.notify_one();
            continue;
        };
        if !stream.listed.0.swap(true, Ordering::AcqRel) {
            bell.lock().push(stream);
            if !bells.iter().any(|known| Arc::ptr_eq(known, &bell)) {
                bells.push(bell);
            }
        }
    }
    for bell in bells {
        bell.rung.notify_one();
    }
}
