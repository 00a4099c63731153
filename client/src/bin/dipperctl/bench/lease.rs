//! Leases that all end within a moment: how long after the last one was due the last key is gone.
//!
//! Each lease holds one key. They are granted as fast as the cluster takes them, so they are due within the time that
//! this took, one TTL later.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use dipper_client::{Client, ConnectOptions, Writes};
use tokio::task::JoinSet;

use super::{Measured, load::Outcome, processes::Usage};
use crate::{
    failure::{Exit, Failure},
    global::Global,
};

const KEYS: &str = "bench-lease-";
const POLL_EVERY: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Leases, with a key each
    #[arg(long, default_value_t = 10_000)]
    pub leases: u64,
    /// Seconds that each lasts; longer than all grants take
    #[arg(long, default_value_t = 60)]
    pub ttl: i64,
    /// Clients that grant
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// The run fails when the keys are not gone this many seconds after the last was due
    #[arg(long, default_value_t = 300)]
    pub patience: u64,
    /// Processes of the servers, to measure their CPU per lease from the first due to the last gone
    #[arg(long, value_delimiter = ',')]
    pub server_pids: Vec<u32>,
}

/// Runs to the end.
pub fn run(settings: &Settings, global: &Global) -> Result<Measured, Failure> {
    if settings.leases == 0 || settings.clients == 0 {
        return Err(Failure::arguments("--leases and --clients must not be 0"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = ConnectOptions {
            writes: Writes::ToEndpoints,
            ..global.options()
        };
        let client = Client::lazy(&global.endpoints, options).map_err(|error| Failure::arguments(error.to_string()))?;
        let ttl = Duration::from_secs(settings.ttl.unsigned_abs());
        let began = Instant::now();
        grant_all(&client, settings).await?;
        let granted = Instant::now();
        if granted - began > ttl {
            let text = format!(
                "granting took {:?}, longer than --ttl {}",
                granted - began,
                settings.ttl
            );
            return Err(Failure::new(Exit::Error, text));
        }
        tokio::time::sleep_until((began + ttl).into()).await;
        let servers = &settings.server_pids;
        let before = (Usage::of_self()?, Usage::of_all(servers)?);
        tokio::time::sleep_until((granted + ttl).into()).await;
        let late = await_gone(&client, granted + ttl, settings.patience).await?;
        let mut outcome = Outcome::new();
        outcome.elapsed = granted - began + late;
        let record = outcome.latency.record_n(late.as_micros() as u64, settings.leases);
        record.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        Ok((
            outcome,
            Usage::of_self()?.since(before.0),
            Usage::of_all(servers)?.since(before.1),
        ))
    })
}

async fn grant_all(client: &Client, settings: &Settings) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..settings.clients {
        let (client, next, (leases, ttl)) = (client.clone(), Arc::clone(&next), (settings.leases, settings.ttl));
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= leases {
                    return Ok(());
                }
                let lease = client.lease_grant(ttl).await?.id;
                client.put(format!("{KEYS}{number:08}"), "").lease(lease).send().await?;
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        let done: Result<(), dipper_client::Error> =
            done.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        done.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
    }
    Ok(())
}

/// How long after `due` the last key was gone.
async fn await_gone(client: &Client, due: Instant, patience: u64) -> Result<Duration, Failure> {
    loop {
        let found = client.get(KEYS).prefix().count_only().send().await;
        let left = found
            .map_err(|error| Failure::new(Exit::Error, error.to_string()))?
            .count;
        if left == 0 {
            return Ok(due.elapsed());
        }
        if due.elapsed() > Duration::from_secs(patience) {
            let text = format!("{left} keys are still there {patience} s after their leases were due");
            return Err(Failure::new(Exit::Error, text));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
