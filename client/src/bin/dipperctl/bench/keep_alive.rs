//! Leases that are kept alive: each client has one lease and one stream, and waits for an answer before it asks again.

use std::time::{Duration, Instant};

use clap::Args;
use dipper_client::{Client, ConnectOptions, Writes};
use proto::etcdserverpb::{LeaseKeepAliveRequest, lease_client::LeaseClient};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use super::{Measured, connect, load::Outcome, processes::Usage, seconds};
use crate::{
    failure::{Exit, Failure},
    global::Global,
};

/// Longer than any run.
const TTL: i64 = 3600;

#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Clients, each with a lease and a stream
    #[arg(long, default_value_t = 100)]
    pub clients: usize,
    /// Connections that the streams share, spread over the endpoints
    #[arg(long, default_value_t = 10)]
    pub conns: usize,
    /// How long
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Processes of the servers, to measure their CPU per renewal
    #[arg(long, value_delimiter = ',')]
    pub server_pids: Vec<u32>,
}

/// Runs to the end.
pub fn run(settings: &Settings, global: &Global) -> Result<Measured, Failure> {
    if settings.clients == 0 || settings.conns == 0 {
        return Err(Failure::arguments("--clients and --conns must not be 0"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = ConnectOptions {
            writes: Writes::ToEndpoints,
            ..global.options()
        };
        let client = Client::lazy(&global.endpoints, options).map_err(|error| Failure::arguments(error.to_string()))?;
        let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Error, error.to_string());
        let mut channels = Vec::new();
        for number in 0..settings.conns {
            channels.push(connect(&global.endpoints, number)?);
        }
        let mut leases = Vec::new();
        for _ in 0..settings.clients {
            leases.push(client.lease_grant(TTL).await.map_err(|error| failed(&error))?.id);
        }
        let before = (Usage::of_self()?, Usage::of_all(&settings.server_pids)?);
        let began = Instant::now();
        let mut renewing = JoinSet::new();
        for (number, lease) in leases.iter().enumerate() {
            let channel = channels[number % channels.len()].clone();
            renewing.spawn(renew(*lease, channel, began + settings.seconds));
        }
        let mut total = Outcome::new();
        while let Some(one) = renewing.join_next().await {
            total.add(&one.map_err(|error| failed(&error))?);
        }
        total.elapsed = began.elapsed();
        let cost = (Usage::of_self()?, Usage::of_all(&settings.server_pids)?);
        for lease in leases {
            client.lease_revoke(lease).await.map_err(|error| failed(&error))?;
        }
        Ok((total, cost.0.since(before.0), cost.1.since(before.1)))
    })
}

async fn renew(lease: i64, channel: Channel, until: Instant) -> Outcome {
    let mut outcome = Outcome::new();
    if let Err(status) = renew_until(lease, channel, until, &mut outcome).await {
        outcome.count_error(&status.to_string(), 1);
    }
    outcome
}

async fn renew_until(lease: i64, channel: Channel, until: Instant, outcome: &mut Outcome) -> Result<(), Status> {
    let (requests, outgoing) = mpsc::channel(1);
    let ended = || Status::unavailable("the stream ended early");
    let request = LeaseKeepAliveRequest { id: lease };
    // The first one is on its way before the answers begin.
    requests.send(request).await.map_err(|_| ended())?;
    let mut client = LeaseClient::new(channel);
    let mut sent = Instant::now();
    let mut answers = client
        .lease_keep_alive(ReceiverStream::new(outgoing))
        .await?
        .into_inner();
    loop {
        let answer = answers.message().await?.ok_or_else(ended)?;
        if answer.ttl <= 0 {
            return Err(Status::not_found(format!("lease {lease:x} is gone")));
        }
        outcome.latency.saturating_record(sent.elapsed().as_micros() as u64);
        if Instant::now() >= until {
            return Ok(());
        }
        sent = Instant::now();
        requests.send(request).await.map_err(|_| ended())?;
    }
}
