//! `bench put|range|mix|txn|watch|lease|keep-alive`: closed-loop clients, watchers, or leases that end, against a
//! cluster; rate, percentiles, and what an operation (of watchers: a delivered event) costs in CPU here and in the
//! servers.
//!
//! `load` makes the requests, `watch` fans events out, `lease` lets leases expire, `keep_alive` renews them,
//! `processes` reads what the kernel counted, `report` prints. Not here: a verdict. Compare two systems in one run on
//! one machine, alternating.

mod keep_alive;
mod lease;
mod load;
mod processes;
mod report;
mod watch;

use std::time::Duration;

use clap::{Args, Subcommand};
use tonic::transport::Channel;

use self::{
    load::{Kind, Outcome, Plan},
    processes::Usage,
    report::Report,
};
use crate::{
    failure::Failure,
    global::{Global, duration},
};

/// What a run did, and what it cost here and in the servers.
type Measured = (Outcome, Usage, Usage);

#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    operation: Operation,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Operation {
    /// Writes keys
    Put(Settings),
    /// Reads keys that `bench put` wrote, or one given range
    Range(Settings),
    /// Reads --reads percent of the time, else writes
    Mix(Settings),
    /// Compares and puts keys, as Kubernetes does
    Txn(Settings),
    /// Grants leases with a key each and waits until they are gone; the latency counts from when the last was due
    Lease(lease::Settings),
    /// Renews leases, each client one of its own over one stream
    KeepAlive(keep_alive::Settings),
    /// Writes one key that many watch; an operation is one event that reached one watch
    Watch(watch::Settings),
}

#[derive(Clone, Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Settings {
    /// `range` only: a key, and the excluded end of a range ("\0": no end)
    pub range: Vec<String>,
    /// Closed-loop clients
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Connections, spread over the endpoints; at most one per client
    #[arg(long, default_value_t = 16)]
    pub conns: usize,
    /// Threads that the clients share
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Operations go over long-lived streams instead of a call each, writes to the leader: as the library does it.
    /// --conns are clients of the library, each with a stream to each member that it asks
    #[arg(long)]
    pub stream: bool,
    /// Operations to do
    #[arg(long, default_value_t = 10_000, conflicts_with = "seconds")]
    pub total: u64,
    /// Go on for this long instead
    #[arg(long, value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Operations per second at most, all clients together (0: as many as possible)
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Bytes of each key
    #[arg(long, default_value_t = 32)]
    pub key_size: usize,
    /// Bytes of each value
    #[arg(long, default_value_t = 256)]
    pub val_size: usize,
    /// Different keys
    #[arg(long, default_value_t = 100_000)]
    pub key_space_size: u64,
    /// One key after another instead of random ones
    #[arg(long)]
    pub sequential_keys: bool,
    /// `range` only: at most so many keys per reply
    #[arg(long, default_value_t = 0)]
    pub limit: i64,
    /// `range` only: Linearizable(l) or Serializable(s)
    #[arg(long, default_value = "l")]
    pub consistency: String,
    /// `range` only: as --consistency s
    #[arg(long)]
    pub serializable: bool,
    /// `range` only: just the count
    #[arg(long)]
    pub count_only: bool,
    /// `range` only: keys without their values
    #[arg(long)]
    pub keys_only: bool,
    /// `range` only: as of this revision (0: the latest)
    #[arg(long, default_value_t = 0)]
    pub revision: i64,
    /// `mix` only: percent of the operations that read
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub reads: u64,
    /// `txn` only: keys that each transaction puts
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub ops: u64,
    /// Processes of the servers, to measure their CPU and writes per operation
    #[arg(long, value_delimiter = ',')]
    pub server_pids: Vec<u32>,
}

/// `10`, or a duration such as `1m`.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| duration(text))
}

/// gRPC's own channel number `connection`, for loads that the library would shape; each on one of the endpoints.
fn connect(endpoints: &[String], connection: usize) -> Result<Channel, Failure> {
    let endpoint = &endpoints[connection % endpoints.len()];
    let url = if endpoint.contains("://") {
        endpoint.clone()
    } else {
        format!("http://{endpoint}")
    };
    let endpoint = Channel::from_shared(url).map_err(|error| Failure::arguments(error.to_string()))?;
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
}

impl Bench {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let output = global.output()?;
        let report = |(outcome, client, servers): Measured, pids: &[u32]| {
            let servers = (!pids.is_empty()).then_some(servers);
            Report {
                outcome,
                client,
                servers,
            }
            .print(output.format)
        };
        let (settings, kind) = match &self.operation {
            Operation::Put(settings) => (settings.clone(), Kind::Put),
            Operation::Range(settings) => (settings.clone(), Kind::Range),
            Operation::Mix(settings) => (settings.clone(), Kind::Mix),
            Operation::Txn(settings) => (settings.clone(), Kind::Txn),
            Operation::Watch(settings) => return report(watch::run(settings.clone(), global)?, &settings.server_pids),
            Operation::Lease(settings) => return report(lease::run(settings, global)?, &settings.server_pids),
            Operation::KeepAlive(settings) => {
                return report(keep_alive::run(settings, global)?, &settings.server_pids);
            }
        };
        if settings.clients == 0 || settings.conns == 0 || settings.threads == 0 || settings.key_space_size == 0 {
            return Err(Failure::arguments(
                "--clients, --conns, --threads and --key-space-size must not be 0",
            ));
        }
        if kind != Kind::Range && !settings.range.is_empty() {
            return Err(Failure::arguments(
                "only bench range takes a key: see --key-size and --key-space-size",
            ));
        }
        let servers = settings.server_pids.clone();
        let before = (Usage::of_self()?, Usage::of_all(&servers)?);
        let outcome = Plan::new(settings, kind, global).run()?;
        let cost = (
            Usage::of_self()?.since(before.0),
            Usage::of_all(&servers)?.since(before.1),
        );
        report((outcome, cost.0, cost.1), &servers)
    }
}
