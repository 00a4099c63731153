//! Who takes the turns and who writes the log: two threads that stand in for each other.
//!
//! Waking a thread costs as much as a turn does, so the raft thread writes by itself what its turn brought. The log
//! thread stands by: it does what must happen between two writes and takes long (truncation, the installation of
//! a snapshot, MARK), and when a sync lasts longer than [`STUCK_AFTER`] it takes the turns until that ends, so
//! that consensus never waits for a disk. What is decided meanwhile waits in the queue for whoever writes next.
//!
//! ```text
//!   raft thread   turn -> write, sync -> turn -> write, sync ......................... -> turn
//!   log thread    MARK ....... truncate ............... turn -> turn -> turn (it hangs) -> MARK
//! ```
//!
//! For the same reason, when the raft thread sleeps, the thread that brings something takes the turn ([`StandIn`]): a
//! request's own gRPC thread sends it to the peers, and the peers' thread counts their answers. It never writes; what
//! it ordered the raft thread is called for.
//!
//! On a slow disk the log thread writes everything: there the turns that go on meanwhile are worth more than a
//! wake-up, of which there are few.
//!
//! Orders are taken from the queue by whoever holds the writer and by nobody else, so they are carried out in
//! their order.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use super::log::LogTask;
use crate::{inbox::StandIn, priority};

/// A write that takes longer leaves the turns to the log thread: a tick, of which an election timeout has fifteen.
const STUCK_AFTER: Duration = Duration::from_millis(10);
/// After a write that took longer the log thread writes the next one.
const SLOW: Duration = Duration::from_millis(2);
/// How long the log thread sleeps when nothing is written.
const NAP: Duration = Duration::from_secs(1);

/// What takes turns.
pub trait Turn {
    /// One turn; its orders are in the [`LogQueue`] then. False when there are no more turns.
    fn turn(&mut self) -> bool;
}

/// Where whoever takes turns waits for the next one.
pub trait Bench: Send + Sync {
    /// Returns when there is something for a turn.
    fn sleep(&self);

    /// Ends the sleep of whoever does.
    fn call(&self);
}

/// What carries out orders.
pub trait Writer {
    /// Carries out all of them; false after [`LogTask::Stop`].
    fn carry_out(&mut self, tasks: Vec<LogTask>) -> bool;

    /// Writes MARK when that is due; whether it says all there is to say.
    fn mark_if_due(&mut self) -> bool;
}

/// Orders that wait, in their order.
#[derive(Default)]
pub struct LogQueue {
    // Bounded by the replica: it limits what is not yet persisted.
    tasks: Mutex<Vec<LogTask>>,
    log_thread: OnceLock<Thread>,
}

impl LogQueue {
    /// Adds an order.
    pub fn push(&self, task: LogTask) {
        lock(&self.tasks).push(task);
    }

    /// How many orders wait.
    pub fn len(&self) -> usize {
        lock(&self.tasks).len()
    }

    fn take(&self) -> Vec<LogTask> {
        std::mem::take(&mut *lock(&self.tasks))
    }

    fn call_log_thread(&self) {
        if let Some(thread) = self.log_thread.get() {
            thread.unpark();
        }
    }
}

/// Where the log is written, by one thread at a time.
pub struct Desk<W, T> {
    queue: Arc<LogQueue>,
    bench: Arc<dyn Bench>,
    writer: Mutex<W>,
    turns: Mutex<T>,
    clock: Instant,
    /// Since when the raft thread is writing, in microseconds of `clock` and never 0; 0 when it is not.
    writing_since: AtomicU64,
    /// The last write took long.
    is_slow: AtomicBool,
    /// The log thread looks whether the raft thread is stuck.
    is_watched: AtomicBool,
}

impl<W: Writer, T: Turn> Desk<W, T> {
    pub fn new(queue: Arc<LogQueue>, bench: Arc<dyn Bench>, writer: W, turns: T) -> Self {
        Self {
            queue,
            bench,
            writer: Mutex::new(writer),
            turns: Mutex::new(turns),
            clock: Instant::now(),
            writing_since: AtomicU64::new(0),
            is_slow: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
        }
    }

    /// The raft thread: turns, and the writes that they bring.
    pub fn run_raft(&self) {
        priority::go_first();
        while lock(&self.turns).turn() {
            self.see_to();
            self.bench.sleep();
            // What a stand-in ordered meanwhile.
            self.see_to();
        }
        self.queue.push(LogTask::Stop);
        self.queue.call_log_thread();
    }

    /// Writes what waits, unless the log thread is at the desk or has to go there.
    fn see_to(&self) {
        loop {
            let mut writer = {
                let tasks = lock(&self.queue.tasks);
                if tasks.is_empty() {
                    return;
                }
                let is_plain = tasks.iter().all(|task| matches!(task, LogTask::Write(_)));
                let is_ours = |_: &_| is_plain && !self.is_slow.load(Ordering::Relaxed);
                let Some(writer) = self.writer.try_lock().ok().filter(is_ours) else {
                    return self.queue.call_log_thread();
                };
                writer
            };
            self.writing_since.store(self.now() | 1, Ordering::SeqCst);
            if !self.is_watched.load(Ordering::SeqCst) {
                self.queue.call_log_thread();
            }
            // Whoever took the turns meanwhile may have left more; it is taken in the next round.
            self.carry_out(&mut writer);
            self.writing_since.store(0, Ordering::Relaxed);
        }
    }

    /// The log thread.
    pub fn run_log(&self) {
        priority::go_first();
        self.queue.log_thread.get_or_init(thread::current);
        let mut is_watching = false;
        loop {
            self.is_watched.store(is_watching, Ordering::SeqCst);
            is_watching |= self.writing_since.load(Ordering::SeqCst) != 0;
            thread::park_timeout(if is_watching { STUCK_AFTER } else { NAP });
            while self.is_stuck() && lock(&self.turns).turn() {
                self.bench.sleep();
            }
            is_watching = true;
            let Ok(mut writer) = self.writer.try_lock() else {
                // The raft thread has it, and calls when it leaves something.
                continue;
            };
            if !self.carry_out(&mut writer) {
                return;
            }
            is_watching = !writer.mark_if_due();
        }
    }

    fn carry_out(&self, writer: &mut W) -> bool {
        let tasks = self.queue.take();
        if tasks.is_empty() {
            return true;
        }
        let began = Instant::now();
        let goes_on = writer.carry_out(tasks);
        self.is_slow.store(began.elapsed() >= SLOW, Ordering::Relaxed);
        goes_on
    }

    fn is_stuck(&self) -> bool {
        let since = self.writing_since.load(Ordering::Relaxed);
        since != 0 && self.now().saturating_sub(since) >= STUCK_AFTER.as_micros() as u64
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_micros() as u64
    }
}

impl<W: Send, T: Turn + Send> StandIn for Desk<W, T> {
    fn stand_in(&self) -> bool {
        let Ok(mut turns) = self.turns.try_lock() else {
            return false;
        };
        let goes_on = turns.turn();
        drop(turns);
        if !goes_on || self.queue.len() > 0 {
            self.bench.call();
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

    use super::*;
    use crate::{
        log::{EntryId, LogWrite},
        replica::Write,
    };

    fn write(number: u64) -> LogTask {
        let group = LogWrite::default();
        LogTask::Write(Write { number, group })
    }

    /// Orders what the test sends, and says who took the turn.
    struct Scripted {
        script: Receiver<Vec<LogTask>>,
        queue: Arc<LogQueue>,
        taken: Sender<String>,
    }

    fn me() -> String {
        thread::current().name().unwrap().to_owned()
    }

    /// The script is what is waited for, in the turn itself.
    struct NoBench;

    impl Bench for NoBench {
        fn sleep(&self) {}

        fn call(&self) {}
    }

    impl Turn for Scripted {
        fn turn(&mut self) -> bool {
            let tasks = match self.script.recv_timeout(STUCK_AFTER) {
                Ok(tasks) => tasks,
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            };
            self.taken.send(me()).unwrap();
            for task in tasks {
                self.queue.push(task);
            }
            true
        }
    }

    /// Says who writes what, and returns when the test says so.
    struct Gated {
        written: Sender<(String, Vec<u64>)>,
        gate: Receiver<()>,
    }

    impl Writer for Gated {
        fn carry_out(&mut self, tasks: Vec<LogTask>) -> bool {
            let numbers = tasks.iter().filter_map(|task| match task {
                LogTask::Write(write) => Some(write.number),
                _ => None,
            });
            let numbers: Vec<u64> = numbers.collect();
            let goes_on = !tasks.iter().any(|task| matches!(task, LogTask::Stop));
            if !numbers.is_empty() {
                self.written.send((me(), numbers)).unwrap();
                self.gate.recv().unwrap();
            }
            goes_on
        }

        fn mark_if_due(&mut self) -> bool {
            true
        }
    }

    struct Stage {
        script: Option<Sender<Vec<LogTask>>>,
        taken: Receiver<String>,
        written: Receiver<(String, Vec<u64>)>,
        gate: Sender<()>,
        threads: Vec<thread::JoinHandle<()>>,
    }

    impl Stage {
        fn new() -> Self {
            let queue = Arc::new(LogQueue::default());
            let ((script, turns), (taken, takes)) = (channel(), channel());
            let ((written, writes), (gate, gates)) = (channel(), channel());
            let writer = Gated { written, gate: gates };
            let turns = Scripted {
                script: turns,
                queue: queue.clone(),
                taken,
            };
            let desk = Arc::new(Desk::new(queue, Arc::new(NoBench), writer, turns));
            let named = |name: &str| thread::Builder::new().name(name.to_owned());
            let raft = desk.clone();
            let threads = vec![
                named("raft").spawn(move || raft.run_raft()).unwrap(),
                named("log").spawn(move || desk.run_log()).unwrap(),
            ];
            Self {
                script: Some(script),
                taken: takes,
                written: writes,
                gate,
                threads,
            }
        }

        fn turn(&self, tasks: Vec<LogTask>) -> String {
            self.script.as_ref().unwrap().send(tasks).unwrap();
            self.taken.recv_timeout(Duration::from_secs(10)).unwrap()
        }

        fn written(&self) -> (String, Vec<u64>) {
            self.written.recv_timeout(Duration::from_secs(10)).unwrap()
        }

        fn end(mut self) {
            self.script = None;
            for thread in self.threads {
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn the_log_thread_takes_the_turns_while_a_write_hangs_and_gives_them_back() {
        let stage = Stage::new();
        assert_eq!(stage.turn(vec![write(1)]), "raft");
        let (first, numbers) = stage.written();
        assert_eq!(numbers, [1]);
        // The log thread may have been at the desk to look after it; what hangs then is a write of its own.
        let other = if first == "raft" { "log" } else { "raft" };
        assert_eq!(stage.turn(vec![]), other);
        assert_eq!(stage.turn(vec![write(2)]), other);
        assert_eq!(stage.turn(vec![write(3)]), other);
        assert!(stage.written.try_recv().is_err(), "two writes at once");
        stage.gate.send(()).unwrap();
        let mut rest = Vec::new();
        while rest.len() < 2 {
            rest.extend(stage.written().1);
            stage.gate.send(()).unwrap();
        }
        assert_eq!(rest, [2, 3], "in their order");
        while stage.turn(vec![]) != "raft" {}
        stage.end();
    }

    #[test]
    fn after_a_slow_write_the_log_thread_writes_until_one_is_fast() {
        let stage = Stage::new();
        stage.turn(vec![write(1)]);
        stage.written();
        thread::sleep(SLOW);
        stage.gate.send(()).unwrap();
        stage.turn(vec![]);
        stage.gate.send(()).unwrap();
        stage.turn(vec![write(2)]);
        assert_eq!(stage.written(), ("log".to_owned(), vec![2]));
        stage.end();
    }

    #[test]
    fn what_is_more_than_a_write_is_the_log_threads() {
        let stage = Stage::new();
        stage.gate.send(()).unwrap();
        stage.turn(vec![LogTask::Truncate(EntryId::default()), write(1)]);
        assert_eq!(stage.written(), ("log".to_owned(), vec![1]));
        stage.end();
    }

    /// Orders one write a turn.
    struct Orderly(Arc<LogQueue>);

    impl Turn for Orderly {
        fn turn(&mut self) -> bool {
            self.0.push(write(1));
            true
        }
    }

    #[derive(Default)]
    struct Calls(AtomicU64);

    impl Bench for Calls {
        fn sleep(&self) {}

        fn call(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_stand_in_takes_one_turn_and_leaves_the_writing_to_the_raft_thread() {
        let (queue, calls) = (Arc::new(LogQueue::default()), Arc::new(Calls::default()));
        let (written, writes) = channel();
        let writer = Gated {
            written,
            gate: channel().1,
        };
        let desk = Desk::new(queue.clone(), calls.clone(), writer, Orderly(queue.clone()));
        assert!(desk.stand_in());
        assert_eq!((queue.len(), calls.0.load(Ordering::Relaxed)), (1, 1));
        assert!(writes.try_recv().is_err(), "it wrote");
        let turn = lock(&desk.turns);
        assert!(!desk.stand_in(), "somebody else is at it");
        drop(turn);
    }
}
