//! Watchers of one key and one writer: what it costs to tell many of one event, and how long that takes.
//!
//! ```text
//! writer           put at its due time, value = when it was sent, in nanoseconds of this run
//! stream 1, 2, ..  each with its share of the watches; an event counts once for each watch that it reaches
//! ```
//!
//! The streams are gRPC's own, not the library's watchers: those take one stream for each watch. Nothing is
//! measured before every watch is confirmed. Latency counts from when the put was due to when the event had come.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use dipper_client::{Client, ConnectOptions, Writes};
use proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_client::WatchClient, watch_request::RequestUnion,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{Measured, connect, load::Outcome, processes::Usage, seconds};
use crate::{
    failure::{Exit, Failure},
    global::Global,
    output::print_line,
};

/// Without one more event for this long, the run is over: something was lost.
const SILENCE: Duration = Duration::from_secs(20);
/// Requests of one stream that wait to be sent.
const REQUESTS_MAX: usize = 64;
const POLL_EVERY: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// The key that is watched and written
    #[arg(default_value = "bench-watch")]
    pub key: String,
    /// Watches of the key
    #[arg(long, default_value_t = 1_000)]
    pub watchers: usize,
    /// Streams that the watches share
    #[arg(long, default_value_t = 10)]
    pub streams: usize,
    /// Connections that the streams share, spread over the endpoints
    #[arg(long, default_value_t = 10)]
    pub conns: usize,
    /// Threads that the streams share
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Puts to make
    #[arg(long, default_value_t = 100, conflicts_with = "seconds")]
    pub total: u64,
    /// Put for this long instead
    #[arg(long, value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Puts per second
    #[arg(long, default_value_t = 20)]
    pub rate: u64,
    /// Bytes of each value; at least 8, which hold the time
    #[arg(long, default_value_t = 256)]
    pub val_size: usize,
    /// Puts nothing: the watches begin at revision 1, and the run is over when each has found so many events
    #[arg(long, conflicts_with_all = ["total", "seconds"])]
    pub catch_up: Option<u64>,
    /// Puts nothing, and waits to be ended: says "confirmed" when every watch is open
    #[arg(long, conflicts_with_all = ["total", "seconds", "catch_up"])]
    pub idle: bool,
    /// With the value that each put replaced
    #[arg(long)]
    pub prev_kv: bool,
    /// Processes of the servers, to measure their CPU per delivered event
    #[arg(long, value_delimiter = ',')]
    pub server_pids: Vec<u32>,
}

/// What the threads of a run share.
struct Run {
    settings: Settings,
    endpoints: Vec<String>,
    start: Instant,
    confirmed: AtomicUsize,
    delivered: AtomicU64,
}

/// Runs to the end.
pub fn run(settings: Settings, global: &Global) -> Result<Measured, Failure> {
    let shares = [settings.watchers, settings.streams, settings.conns, settings.threads];
    if shares.contains(&0) || settings.rate == 0 {
        return Err(Failure::arguments(
            "--watchers, --streams, --conns, --threads and --rate must not be 0",
        ));
    }
    if settings.val_size < size_of::<u64>() {
        return Err(Failure::arguments("--val-size must be at least 8"));
    }
    let run = Arc::new(Run {
        settings,
        endpoints: global.endpoints.clone(),
        start: Instant::now(),
        confirmed: AtomicUsize::new(0),
        delivered: AtomicU64::new(0),
    });
    let mut readers = Vec::new();
    for number in 0..run.settings.threads {
        let (end, ended) = oneshot::channel();
        let run = Arc::clone(&run);
        readers.push((end, thread::spawn(move || run.read(number, ended))));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let written = runtime.block_on(run.write(global.options(), || {
        readers.iter().any(|(_, thread)| thread.is_finished())
    }));
    let mut total = Outcome::new();
    for (end, thread) in readers {
        // A thread that failed has dropped its end, and says why below.
        let _ = end.send(());
        let outcome = thread
            .join()
            .map_err(|_| Failure::new(Exit::Error, "a bench thread panicked"))??;
        total.add(&outcome);
    }
    let (elapsed, client, servers) = written?;
    total.elapsed = elapsed;
    Ok((total, client, servers))
}

impl Run {
    /// Opens this thread's streams and reads them until told that it is over.
    fn read(self: Arc<Self>, thread: usize, mut ended: oneshot::Receiver<()>) -> Result<Outcome, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut channels: BTreeMap<usize, Channel> = BTreeMap::new();
            let mut streams = JoinSet::new();
            let mut outcomes = Vec::new();
            for number in (0..self.settings.streams).filter(|number| number % self.settings.threads == thread) {
                let connection = number % self.settings.conns;
                let channel = match channels.get(&connection) {
                    Some(known) => known.clone(),
                    None => channels
                        .entry(connection)
                        .or_insert(connect(&self.endpoints, connection)?)
                        .clone(),
                };
                let (tell, outcome) = mpsc::channel(1);
                outcomes.push(outcome);
                streams.spawn(Arc::clone(&self).read_stream(number, channel, tell));
            }
            tokio::select! {
                _ = &mut ended => {}
                Some(failed) = streams.join_next() => {
                    return Err(Failure::new(Exit::Error, format!("a watch stream ended early: {failed:?}")));
                }
            }
            streams.abort_all();
            while streams.join_next().await.is_some() {}
            let mut total = Outcome::new();
            for mut outcome in outcomes {
                if let Some(outcome) = outcome.recv().await {
                    total.add(&outcome);
                }
            }
            Ok(total)
        })
    }

    async fn read_stream(self: Arc<Self>, number: usize, channel: Channel, tell: mpsc::Sender<Outcome>) {
        let mut telling = Telling(Outcome::new(), tell);
        if let Err(status) = self.follow(number, channel, &mut telling.0).await {
            telling.0.count_error(&status.to_string(), 1);
            eprintln!("stream {number}: {status}");
        }
    }

    async fn follow(&self, number: usize, channel: Channel, outcome: &mut Outcome) -> Result<(), tonic::Status> {
        let Settings { watchers, streams, .. } = self.settings;
        let watches = watchers / streams + usize::from(number < watchers % streams);
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        let create = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: self.settings.key.clone().into(),
                start_revision: i64::from(self.settings.catch_up.is_some()),
                prev_kv: self.settings.prev_kv,
                ..WatchCreateRequest::default()
            })),
        };
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let asking = async move {
            for _ in 0..watches {
                if requests.send(create.clone()).await.is_err() {
                    break;
                }
            }
            requests
        };
        let reading = async {
            let mut responses = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
            self.take_all(&mut responses, outcome).await
        };
        // What sends stays open: etcd ends the watches of a client that has said everything.
        let (_requests, read) = futures_util::future::join(asking, reading).await;
        read
    }

    async fn take_all(
        &self,
        responses: &mut Streaming<WatchResponse>,
        outcome: &mut Outcome,
    ) -> Result<(), tonic::Status> {
        while let Some(response) = responses.message().await? {
            if response.canceled {
                return Err(tonic::Status::aborted(response.cancel_reason));
            }
            self.confirmed
                .fetch_add(usize::from(response.created), Ordering::Relaxed);
            for event in &response.events {
                let value = event.kv.as_ref().map(|kv| kv.value.as_ref()).unwrap_or_default();
                if let Some(sent) = value.first_chunk() {
                    let sent = Duration::from_nanos(u64::from_be_bytes(*sent));
                    // What was written before this run has no time that means anything.
                    let sent = if self.settings.catch_up.is_some() {
                        Duration::ZERO
                    } else {
                        sent
                    };
                    let latency = self.start.elapsed().saturating_sub(sent);
                    outcome.latency.saturating_record(latency.as_micros() as u64);
                }
            }
            self.delivered
                .fetch_add(response.events.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits for the watches, puts, and waits for the last event: how long that took, and what it cost.
    async fn write(
        &self,
        options: ConnectOptions,
        reader_failed: impl Fn() -> bool,
    ) -> Result<(Duration, Usage, Usage), Failure> {
        let Settings { watchers, .. } = self.settings;
        let servers = &self.settings.server_pids;
        let before = (Usage::of_self()?, Usage::of_all(servers)?);
        if let Some(events) = self.settings.catch_up {
            let delivered = || self.delivered.load(Ordering::Relaxed);
            self.until("events delivered", events * watchers as u64, delivered, &reader_failed)
                .await?;
            let client = Usage::of_self()?.since(before.0);
            return Ok((self.start.elapsed(), client, Usage::of_all(servers)?.since(before.1)));
        }
        let confirmed = || self.confirmed.load(Ordering::Relaxed) as u64;
        self.until("watches confirmed", watchers as u64, confirmed, &reader_failed)
            .await?;
        if self.settings.idle {
            print_line("confirmed")?;
            while !reader_failed() {
                tokio::time::sleep(SILENCE).await;
            }
        }
        let options = ConnectOptions {
            writes: Writes::ToEndpoints,
            ..options
        };
        let client =
            Client::lazy(&self.endpoints[..1], options).map_err(|error| Failure::arguments(error.to_string()))?;
        let before = (Usage::of_self()?, Usage::of_all(servers)?);
        let (began, rate) = (Instant::now(), self.settings.rate);
        let mut puts = 0;
        while self
            .settings
            .seconds
            .map_or(puts < self.settings.total, |time| began.elapsed() < time)
        {
            let due = began + Duration::from_secs_f64(puts as f64 / rate as f64);
            tokio::time::sleep_until(due.into()).await;
            let mut value = vec![b'v'; self.settings.val_size];
            let sent = due.duration_since(self.start).as_nanos() as u64;
            value[..size_of::<u64>()].copy_from_slice(&sent.to_be_bytes());
            let put = client.put(self.settings.key.clone(), value).send().await;
            put.map_err(|error| Failure::new(Exit::Error, format!("put {puts}: {error}")))?;
            puts += 1;
        }
        let delivered = || self.delivered.load(Ordering::Relaxed);
        self.until("events delivered", puts * watchers as u64, delivered, &reader_failed)
            .await?;
        let elapsed = began.elapsed();
        let client = Usage::of_self()?.since(before.0);
        Ok((elapsed, client, Usage::of_all(servers)?.since(before.1)))
    }

    async fn until(
        &self,
        what: &str,
        expected: u64,
        count: impl Fn() -> u64,
        reader_failed: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        let (mut seen, mut since) = (0, Instant::now());
        while count() < expected {
            if count() > seen {
                (seen, since) = (count(), Instant::now());
            }
            if since.elapsed() > SILENCE || reader_failed() {
                let text = format!("{} of {expected} {what}, and no more come", count());
                return Err(Failure::new(Exit::Error, text));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }
}

/// What a stream saw, told when it is dropped: streams end by being aborted.
struct Telling(Outcome, mpsc::Sender<Outcome>);

impl Drop for Telling {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.0, Outcome::new());
        // Nobody asks after a failure.
        let _ = self.1.try_send(outcome);
    }
}
