//! Closed-loop writers, readers and watchers that write down all that they saw, and the judgement of it.
//! Every value is written once, so an event says which write it was.
//!
//! Not here: faults. The tests make them while the load runs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use proto::{
    etcdserverpb::{PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, watch_request::RequestUnion},
    mvccpb::KeyValue,
};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tonic::Status;

use super::rpc::{CALL_WITHIN, Rpc, block_on, runtime, within};

/// Keys of one writer: few, so that every key is overwritten often.
const KEYS_PER_WRITER: u64 = 8;
/// What a refused writer waits: a dead member refuses within microseconds.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// Texts that promise that the write was not done and never will be.
const NOT_DONE: [&str; 3] = [
    "etcdserver: no leader",
    "etcdserver: too many requests",
    "etcdserver: not leader",
];

/// How a write ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done at this revision.
    Acked(i64),
    /// Certainly not done, and what was said.
    Refused(String),
    /// Nobody told; what was said instead.
    Unknown(String),
}

/// One write of one writer.
#[derive(Clone, Debug)]
pub struct Write {
    pub writer: usize,
    pub member: usize,
    pub sequence: u64,
    pub sent: Instant,
    pub ended: Instant,
    pub outcome: Outcome,
}

impl Write {
    pub fn key(&self) -> String {
        key(self.writer, self.sequence)
    }

    pub fn value(&self) -> String {
        format!("{}-{}", self.writer, self.sequence)
    }
}

fn key(writer: usize, sequence: u64) -> String {
    format!("load/{writer:03}/{}", sequence % KEYS_PER_WRITER)
}

/// Ends the tasks that share it.
pub type Stop = Arc<AtomicBool>;

/// Writers that run until they are told to stop.
pub struct Writers {
    stop: Stop,
    tasks: Vec<JoinHandle<Vec<Write>>>,
}

impl Writers {
    /// `count` writers, writer i on the member `i % urls.len()` for all its life.
    pub fn start(urls: &[String], count: usize) -> Writers {
        Self::start_from(urls, count, 0)
    }

    /// As [`Writers::start`] with writers numbered from `first` on.
    pub fn start_from(urls: &[String], count: usize, first: usize) -> Writers {
        let stop = Stop::default();
        let connections: Vec<Rpc> = urls.iter().map(|url| Rpc::connect(url)).collect();
        let tasks = (first..first + count)
            .map(|writer| {
                let member = writer % urls.len();
                let (rpc, stop) = (connections[member].clone(), stop.clone());
                runtime().spawn(write_until(stop, rpc, writer, member))
            })
            .collect();
        Writers { stop, tasks }
    }

    /// Stops them, waits for their last writes and returns all of them.
    pub fn stop(self) -> Vec<Write> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks
            .into_iter()
            .flat_map(|task| block_on(task).expect("a writer does not panic"))
            .collect()
    }
}

async fn write_until(stop: Stop, rpc: Rpc, writer: usize, member: usize) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let request = PutRequest {
            key: key(writer, sequence).into(),
            value: format!("{writer}-{sequence}").into(),
            ..PutRequest::default()
        };
        let mut client = rpc.kv.clone();
        let answer = within(async move { client.put(request).await }).await;
        let outcome = match answer {
            Ok(response) => Outcome::Acked(response.header.expect("an answer has a header").revision),
            Err(status) if NOT_DONE.contains(&status.message()) => Outcome::Refused(status.message().to_owned()),
            Err(status) => Outcome::Unknown(status.message().to_owned()),
        };
        let was_acked = matches!(outcome, Outcome::Acked(_));
        writes.push(Write {
            writer,
            member,
            sequence,
            sent,
            ended: Instant::now(),
            outcome,
        });
        sequence += 1;
        if !was_acked {
            sleep(REFUSED_PAUSE).await;
        }
    }
    writes
}

/// An event as far as the judgement needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub revision: i64,
    pub key: String,
    pub value: String,
}

/// What a watcher has seen up to now.
#[derive(Default)]
pub struct WatchLog {
    pub events: Vec<Seen>,
    /// When each of its streams ended, and how.
    pub breaks: Vec<(Instant, String)>,
}

/// A watcher of everything below `load/` on one member, which resumes behind the last revision it saw.
pub struct Watcher {
    pub log: Arc<Mutex<WatchLog>>,
    stop: Stop,
    task: JoinHandle<()>,
}

impl Watcher {
    pub fn start(url: &str, from: i64) -> Watcher {
        let log = Arc::new(Mutex::new(WatchLog::default()));
        let stop = Stop::default();
        let task = runtime().spawn(watch_until(stop.clone(), Rpc::connect(url), log.clone(), from));
        Watcher { log, stop, task }
    }

    /// Waits until it has seen `revision`.
    pub fn await_revision(&self, revision: i64, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let seen = self.lock().events.last().map_or(0, |event| event.revision);
            if seen >= revision {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "a watcher is at {seen} and not at {revision} after {within:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn lock(&self) -> std::sync::MutexGuard<'_, WatchLog> {
        self.log.lock().expect("nobody panics with the log")
    }

    pub fn stop(self) -> WatchLog {
        self.stop.store(true, Ordering::Relaxed);
        self.task.abort();
        let _aborted = block_on(self.task);
        std::mem::take(&mut *self.log.lock().expect("nobody panics with the log"))
    }
}

async fn watch_until(stop: Stop, rpc: Rpc, log: Arc<Mutex<WatchLog>>, from: i64) {
    let mut next = from;
    while !stop.load(Ordering::Relaxed) {
        let ended = watch_once(&rpc, &log, &mut next).await;
        let why = ended.map_or_else(|status| status.to_string(), |()| "ended".to_owned());
        log.lock()
            .expect("nobody panics with the log")
            .breaks
            .push((Instant::now(), why));
        sleep(REFUSED_PAUSE).await;
    }
}

/// One stream, until it ends. Cancellation by the server is an end, too.
async fn watch_once(rpc: &Rpc, log: &Mutex<WatchLog>, next: &mut i64) -> Result<(), Status> {
    let (requests, receiver) = mpsc::channel(1);
    let create = WatchCreateRequest {
        key: b"load/".to_vec().into(),
        range_end: b"load0".to_vec().into(),
        start_revision: *next,
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    requests.send(request).await.expect("the receiver lives");
    let mut client = rpc.watch.clone();
    let requests_stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut stream = client.watch(requests_stream).await?.into_inner();
    while let Some(response) = stream.message().await? {
        if response.canceled {
            return Err(Status::cancelled(response.cancel_reason));
        }
        let mut log = log.lock().expect("nobody panics with the log");
        for event in response.events {
            let kv = event.kv.expect("an event has a key");
            // Two events of one revision cannot be: every write is one put.
            *next = kv.mod_revision + 1;
            log.events.push(seen(&kv));
        }
    }
    Ok(())
}

fn seen(kv: &KeyValue) -> Seen {
    Seen {
        revision: kv.mod_revision,
        key: String::from_utf8_lossy(&kv.key).into_owned(),
        value: String::from_utf8_lossy(&kv.value).into_owned(),
    }
}

/// One read of one reader.
#[derive(Clone, Debug)]
pub struct Read {
    pub member: usize,
    pub is_serializable: bool,
    pub sent: Instant,
    pub ended: Instant,
    /// The revision of the state that was read, or why there is none.
    pub revision: Result<i64, String>,
}

/// Readers of one key, one linearizable and one serializable for each member, until they are told to stop.
pub struct Readers {
    stop: Stop,
    tasks: Vec<JoinHandle<Vec<Read>>>,
}

impl Readers {
    pub fn start(urls: &[String]) -> Readers {
        let stop = Stop::default();
        let tasks = urls
            .iter()
            .enumerate()
            .flat_map(|(member, url)| [false, true].map(|is_serializable| (member, url, is_serializable)))
            .map(|(member, url, is_serializable)| {
                runtime().spawn(read_until(stop.clone(), Rpc::connect(url), member, is_serializable))
            })
            .collect();
        Readers { stop, tasks }
    }

    pub fn stop(self) -> Vec<Read> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks
            .into_iter()
            .flat_map(|task| block_on(task).expect("a reader does not panic"))
            .collect()
    }
}

async fn read_until(stop: Stop, rpc: Rpc, member: usize, is_serializable: bool) -> Vec<Read> {
    let mut reads = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let request = RangeRequest {
            key: key(0, 0).into(),
            serializable: is_serializable,
            ..RangeRequest::default()
        };
        let mut client = rpc.kv.clone();
        let answer = within(async move { client.range(request).await }).await;
        let revision = answer
            .map(|response| response.header.expect("an answer has a header").revision)
            .map_err(|status| status.to_string());
        reads.push(Read {
            member,
            is_serializable,
            sent,
            ended: Instant::now(),
            revision,
        });
        sleep(Duration::from_millis(1)).await;
    }
    reads
}

/// All events from revision `from` to `to` inclusive, as one member tells them.
pub fn history(url: &str, from: i64, to: i64) -> Vec<Seen> {
    let watcher = Watcher::start(url, from);
    watcher.await_revision(to, Duration::from_mins(1));
    let log = watcher.stop();
    assert!(log.breaks.is_empty(), "the history's stream broke: {:?}", log.breaks);
    log.events
}

/// Asserts that `events` are the revisions from `from` to `to`, each once and in order.
pub fn assert_dense(events: &[Seen], from: i64, to: i64, whose: &str) {
    for (expected, event) in (from..).zip(events) {
        assert_eq!(
            event.revision, expected,
            "{whose}: a revision is missing, repeated or out of order"
        );
    }
    assert_eq!(
        events.last().map_or(from - 1, |event| event.revision),
        to,
        "{whose}: the last revision"
    );
}

/// Counts of a judgement, for the report of a test.
#[derive(Debug, Default)]
pub struct Tally {
    pub acked: usize,
    pub refused: usize,
    pub unknown: usize,
    pub unknown_done: usize,
}

/// Holds writes against the history: an acknowledged one is there once, at its revision, with its key and
/// value; an unknown one at most once; a refused one never; and nothing else is there.
pub fn judge(writes: &[Write], events: &[Seen]) -> Tally {
    let mut by_value: HashMap<&str, Vec<&Seen>> = HashMap::new();
    for event in events {
        by_value.entry(&event.value).or_default().push(event);
    }
    let mut tally = Tally::default();
    for write in writes {
        let found = by_value.remove(write.value().as_str()).unwrap_or_default();
        assert!(
            found.iter().all(|event| event.key == write.key()),
            "a value is under another key: {write:?} {found:?}"
        );
        match &write.outcome {
            Outcome::Acked(revision) => {
                tally.acked += 1;
                assert_eq!(
                    found.len(),
                    1,
                    "an acknowledged write is there {} times: {write:?}",
                    found.len()
                );
                assert_eq!(
                    found[0].revision, *revision,
                    "an acknowledged write has another revision: {write:?}"
                );
            }
            Outcome::Refused(_) => {
                tally.refused += 1;
                assert!(found.is_empty(), "a refused write was done: {write:?} {found:?}");
            }
            Outcome::Unknown(_) => {
                tally.unknown += 1;
                tally.unknown_done += found.len();
                assert!(
                    found.len() <= 1,
                    "an unknown outcome appears {} times: {write:?}",
                    found.len()
                );
            }
        }
    }
    assert!(
        by_value.is_empty(),
        "events that nobody wrote: {:?}",
        by_value.values().next()
    );
    tally
}

/// Asserts that the keys below `load/` on a member are what the history leaves.
pub fn assert_final_state(rpc: &Rpc, events: &[Seen]) {
    let expected: BTreeMap<&str, (&str, i64)> = events
        .iter()
        .map(|event| (event.key.as_str(), (event.value.as_str(), event.revision)))
        .collect();
    let request = RangeRequest {
        key: b"load/".to_vec().into(),
        range_end: b"load0".to_vec().into(),
        ..RangeRequest::default()
    };
    let response = rpc.range(request).expect("a read of everything");
    let kvs: Vec<Seen> = response.kvs.iter().map(seen).collect();
    let found: BTreeMap<&str, (&str, i64)> = kvs
        .iter()
        .map(|kv| (kv.key.as_str(), (kv.value.as_str(), kv.revision)))
        .collect();
    assert_eq!(found, expected, "the keys are not what the history leaves");
}

/// Asserts that all members tell the same HashKV at one revision, and returns the hash. A member that is still
/// catching up is waited for.
pub fn assert_hashes_equal(urls: &[String], revision: i64) -> u32 {
    let deadline = Instant::now() + CALL_WITHIN;
    let hashes: Vec<u32> = urls
        .iter()
        .map(|url| {
            let rpc = Rpc::connect(url);
            rpc.get(b"\0")
                .expect("a linearizable read, behind which everything is applied");
            loop {
                match rpc.hash_kv(revision) {
                    Ok(response) => {
                        assert_eq!(response.hash_revision, revision, "HashKV of another revision");
                        return response.hash;
                    }
                    Err(status) => assert!(Instant::now() < deadline, "HashKV on {url}: {status}"),
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
        .collect();
    assert!(
        hashes.iter().all(|hash| *hash == hashes[0]),
        "HashKV at {revision} differs: {hashes:x?}"
    );
    hashes[0]
}

/// How long an endpoint went without an acknowledgement around a fault: the longest silence that begins before
/// `until` and ends after the fault. Silence to the end of the record counts as silence until then.
pub fn longest_silence(writes: &[Write], member: usize, fault: Instant, until: Instant) -> Duration {
    let mut acks: Vec<Instant> = writes
        .iter()
        .filter(|write| write.member == member && matches!(write.outcome, Outcome::Acked(_)))
        .map(|write| write.ended)
        .collect();
    acks.sort_unstable();
    let before = acks.iter().rev().find(|at| **at <= fault).copied().unwrap_or(fault);
    let mut silence = Duration::ZERO;
    let mut last = before;
    for at in acks.into_iter().filter(|at| *at > fault) {
        silence = silence.max(at - last);
        last = at;
        if at >= until {
            return silence;
        }
    }
    silence.max(until.saturating_duration_since(last))
}

/// A line with the smallest, the median, the 90th and 99th percentile and the largest, and then all of them.
pub fn distribution(name: &str, durations: &[Duration]) -> String {
    let mut sorted: Vec<u128> = durations.iter().map(Duration::as_millis).collect();
    sorted.sort_unstable();
    let at = |share: usize| sorted[(sorted.len() * share).div_ceil(100).clamp(1, sorted.len()) - 1];
    format!(
        "{name}: {} samples, min {} p50 {} p90 {} p99 {} max {} ms; all: {sorted:?}",
        sorted.len(),
        sorted[0],
        at(50),
        at(90),
        at(99),
        sorted[sorted.len() - 1]
    )
}

/// The median.
pub fn median(durations: &[Duration]) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) / 2]
}
