//! The load: clients that each wait for one answer before they send the next request.
//!
//! ```text
//! thread 1   runtime   client 1, 1+T, ..     each on connection (client mod conns),
//! thread 2   runtime   client 2, 2+T, ..     each connection on endpoint (conn mod endpoints)
//! ```
//!
//! Operations are numbered from one shared counter: the number decides when to stop, the key of a
//! sequential run, and the due time of a run with a rate. With a rate, latency counts from the due time, so
//! a stall is not hidden by the requests that were never sent during it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dipper_client::{Client, Compare, ConnectOptions, Error, Writes, etcdserverpb::response_op::Response};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use super::Settings;
use crate::{
    failure::{Exit, Failure},
    global::Global,
};

/// Different error texts that are counted apart; the rest is counted together.
const ERROR_TEXTS_MAX: usize = 8;

/// The longest latency that the histogram tells apart, in microseconds: a minute.
const LATENCY_MAX_MICROS: u64 = 60_000_000;

const SCREEN_EVERY: Duration = Duration::from_millis(100);

/// What happened.
pub struct Outcome {
    /// Microseconds of each successful operation.
    pub latency: Histogram<u64>,
    pub errors: BTreeMap<String, u64>,
    pub elapsed: Duration,
}

impl Outcome {
    pub fn new() -> Self {
        let latency = Histogram::new_with_max(LATENCY_MAX_MICROS, 3).expect("three digits of a minute are valid");
        Self {
            latency,
            errors: BTreeMap::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// Successful operations.
    pub fn done(&self) -> u64 {
        self.latency.len()
    }

    pub fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("both have the same range");
        self.elapsed = self.elapsed.max(other.elapsed);
        for (text, count) in &other.errors {
            self.count_error(text, *count);
        }
    }

    pub fn count_error(&mut self, text: &str, count: u64) {
        let known = self.errors.len() < ERROR_TEXTS_MAX || self.errors.contains_key(text);
        *self
            .errors
            .entry(if known { text.to_owned() } else { "others".to_owned() })
            .or_default() += count;
    }
}

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Range,
    /// A share of reads, else puts.
    Mix,
    /// As Kubernetes writes: if nobody has changed the key since, put, else read it. Each client has keys of its own.
    Txn,
}

/// A run that is about to begin.
#[derive(Debug)]
pub struct Plan {
    settings: Settings,
    kind: Kind,
    endpoints: Vec<String>,
    options: ConnectOptions,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Plan {
    pub fn new(settings: Settings, kind: Kind, global: &Global) -> Self {
        // A connection stays with its endpoint, so that the load is spread as it was asked for. Streams are the
        // library's own, and go where it sends them: to the leader.
        let writes = if settings.stream {
            Writes::ToLeader
        } else {
            Writes::ToEndpoints
        };
        let options = ConnectOptions {
            writes,
            streams: settings.stream,
            ..global.options()
        };
        let endpoints = global.endpoints.clone();
        Self {
            settings,
            kind,
            endpoints,
            options,
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Runs to the end and adds up what every client saw.
    pub fn run(self) -> Result<Outcome, Failure> {
        let plan = Arc::new(self);
        let start = Instant::now();
        let threads: Vec<_> = (0..plan.settings.threads)
            .map(|thread| {
                let plan = Arc::clone(&plan);
                thread::spawn(move || plan.run_thread(thread, start))
            })
            .collect();
        plan.show_progress(start, || threads.iter().all(thread::JoinHandle::is_finished));
        let mut total = Outcome::new();
        for thread in threads {
            let one = thread
                .join()
                .map_err(|_| Failure::new(Exit::Error, "a bench thread panicked"))??;
            total.add(&one);
        }
        Ok(total)
    }

    fn run_thread(self: Arc<Self>, thread: usize, start: Instant) -> Result<Outcome, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mine = (0..self.settings.clients).filter(|client| client % self.settings.threads == thread);
            let mut connections: BTreeMap<usize, Client> = BTreeMap::new();
            let mut clients = tokio::task::JoinSet::new();
            for number in mine {
                let connection = number % self.settings.conns;
                let client = match connections.entry(connection) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => new.insert(self.connect(connection)?).clone(),
                };
                let plan = Arc::clone(&self);
                clients.spawn(async move { Worker::new(plan, client, number).run(start).await });
            }
            let mut total = Outcome::new();
            while let Some(one) = clients.join_next().await {
                total.add(&one.map_err(|error| Failure::new(Exit::Error, error.to_string()))?);
            }
            total.elapsed = start.elapsed();
            Ok(total)
        })
    }

    fn connect(&self, connection: usize) -> Result<Client, Failure> {
        let endpoints = match connection % self.endpoints.len() {
            _ if self.settings.stream => &self.endpoints[..],
            one => &self.endpoints[one..=one],
        };
        Client::lazy(endpoints, self.options.clone()).map_err(|error| Failure::arguments(error.to_string()))
    }

    /// The number of the next operation, or `None` at the end.
    fn take_number(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let over = self.settings.seconds.is_none() && number >= self.settings.total;
        (!over && !self.stop.load(Ordering::Relaxed)).then_some(number)
    }

    /// Draws on standard error until the run is over, and ends a run that has a time.
    fn show_progress(&self, start: Instant, over: impl Fn() -> bool) {
        let length = self
            .settings
            .seconds
            .map_or(self.settings.total, |time| time.as_millis() as u64);
        let bar = ProgressBar::new(length);
        let style = ProgressStyle::with_template("{bar:40} {percent:>3}% {msg} {elapsed}");
        bar.set_style(style.expect("the template is a constant"));
        while !over() {
            thread::sleep(SCREEN_EVERY);
            let sent = self.next.load(Ordering::Relaxed);
            let elapsed = start.elapsed();
            bar.set_position(
                self.settings
                    .seconds
                    .map_or(sent, |_| elapsed.as_millis() as u64)
                    .min(length),
            );
            bar.set_message(format!("{:.0} op/s", sent as f64 / elapsed.as_secs_f64()));
            if self.settings.seconds.is_some_and(|time| elapsed >= time) {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        bar.finish_and_clear();
    }
}

/// One closed-loop client.
struct Worker {
    plan: Arc<Plan>,
    client: Client,
    number: u64,
    /// Of the keys that it wrote by transactions.
    revisions: BTreeMap<u64, i64>,
    random: u64,
    value: Bytes,
    outcome: Outcome,
}

impl Worker {
    fn new(plan: Arc<Plan>, client: Client, number: usize) -> Self {
        let mut worker = Self {
            plan,
            client,
            number: number as u64,
            revisions: BTreeMap::new(),
            random: 0,
            value: Bytes::new(),
            outcome: Outcome::new(),
        };
        // Seeded by its number: two runs ask for the same keys. The odd constant spreads neighbours apart.
        worker.random = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Not compressible, as data is.
        let size = worker.plan.settings.val_size;
        worker.value = (0..size).map(|_| worker.draw() as u8).collect::<Vec<_>>().into();
        worker
    }

    async fn run(mut self, start: Instant) -> Outcome {
        while let Some(number) = self.plan.take_number() {
            let due = self.wait_for_turn(number, start).await;
            match self.operate(number).await {
                Ok(()) => {
                    let micros = due.elapsed().as_micros() as u64;
                    self.outcome.latency.saturating_record(micros);
                }
                Err(error) => self.outcome.count_error(&error.to_string(), 1),
            }
        }
        self.outcome
    }

    async fn wait_for_turn(&self, number: u64, start: Instant) -> Instant {
        let rate = self.plan.settings.rate;
        if rate == 0 {
            return Instant::now();
        }
        let due = start + Duration::from_secs_f64(number as f64 / rate as f64);
        tokio::time::sleep_until(due.into()).await;
        due
    }

    async fn operate(&mut self, number: u64) -> Result<(), Error> {
        if self.plan.kind == Kind::Txn {
            return self.swap().await;
        }
        let key = self.key(number);
        let writes = match self.plan.kind {
            Kind::Mix => self.draw() % 100 >= self.plan.settings.reads,
            kind => kind == Kind::Put,
        };
        if writes {
            return self.client.put(key, self.value.clone()).send().await.map(drop);
        }
        let settings = &self.plan.settings;
        let mut get = match settings.range.as_slice() {
            [] => self.client.get(key),
            [key] => self.client.get(key.clone()),
            [key, end, ..] => self.client.get(key.clone()).range_end(end.replace("\\0", "\0")),
        };
        get = get.limit(settings.limit).revision(settings.revision);
        if settings.serializable || settings.consistency == "s" {
            get = get.serializable();
        }
        if settings.count_only {
            get = get.count_only();
        }
        if settings.keys_only {
            get = get.keys_only();
        }
        get.send().await.map(drop)
    }

    async fn swap(&mut self) -> Result<(), Error> {
        let Settings {
            key_size: width,
            key_space_size: space,
            clients,
            ops,
            ..
        } = self.plan.settings;
        let clients = clients as u64;
        let index = self.draw() % (space / clients).max(1) * clients + self.number;
        let key = format!("{index:0width$}");
        let known = self.revisions.get(&index).copied().unwrap_or(0);
        let mut txn = self.client.txn().when(Compare::mod_revision(key.clone()).equal(known));
        txn = txn.then_put(key.clone(), self.value.clone());
        for further in 1..ops {
            // Keys that nobody compares, and no other client writes.
            txn = txn.then_put(format!("{key}/{further}"), self.value.clone());
        }
        let reply = txn.or_else_get(key).send().await?;
        let found = match reply.responses.first().and_then(|first| first.response.as_ref()) {
            // A key of a run before this one: known from now on.
            Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.mod_revision),
            _ => reply.header.map_or(0, |header| header.revision),
        };
        self.revisions.insert(index, found);
        Ok(())
    }

    /// A key of exactly the wanted size, as long as the number fits into it.
    fn key(&mut self, number: u64) -> String {
        let settings = &self.plan.settings;
        let (width, space) = (settings.key_size, settings.key_space_size);
        let sequential = settings.sequential_keys;
        let index = if sequential { number } else { self.draw() } % space;
        format!("{index:0width$}")
    }

    /// xorshift64*: enough to spread keys, and the same everywhere.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
