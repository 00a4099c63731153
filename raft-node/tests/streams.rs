//! The client library's streams of operations against real members: the same results as calls, and the same
//! guarantees when a member dies or stops.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod harness;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dipper_client::{Client, Compare, ConnectOptions, Error, ServerError, Writes};
use harness::{Cluster, Kind, rpc::block_on};
use tokio::task::JoinSet;

const LEADER_WITHIN: Duration = Duration::from_secs(20);
const WRITERS: usize = 96;

fn options() -> ConnectOptions {
    ConnectOptions {
        streams: true,
        ..ConnectOptions::default().for_dipper_only()
    }
}

fn urls(cluster: &Cluster, first: usize) -> Vec<String> {
    let url = |i| cluster.client_url((first + i) % cluster.len()).to_owned();
    (0..cluster.len()).map(url).collect()
}

/// How often any member was asked by the method.
fn started(cluster: &Cluster, method: &str) -> u64 {
    let pages = (0..cluster.len()).map(|i| cluster.http(i, "/metrics").unwrap().1);
    let name = format!("grpc_method=\"{method}\"");
    let count = |page: String| -> u64 {
        let mut lines = page
            .lines()
            .filter(|line| line.starts_with("grpc_server_started_total"));
        let line = lines.rfind(|line| line.contains(&name));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    pages.map(count).sum()
}

#[test]
fn operations_do_over_a_stream_what_calls_do() {
    let cluster = Cluster::start(Kind::Dipper, 3, &[]);
    cluster.await_leader(LEADER_WITHIN);
    let (streams_before, puts_before) = (started(&cluster, "Stream"), started(&cluster, "Put"));
    block_on(async {
        let client = Client::connect(urls(&cluster, 0), options()).await.unwrap();
        client.put("a", "1").send().await.unwrap();
        let replaced = client.put("a", "2").prev_kv().send().await.unwrap();
        assert_eq!(replaced.prev_kv.unwrap().value, "1");
        let large = "x".repeat(1 << 20);
        let mut many = JoinSet::new();
        for i in 0..500 {
            let (client, value) = (client.clone(), if i % 100 == 0 { large.clone() } else { i.to_string() });
            many.spawn(async move { client.put(format!("many-{i:03}"), value).send().await });
        }
        while let Some(put) = many.join_next().await {
            put.unwrap().unwrap();
        }
        let page = client.get("many-").prefix().limit(10).send().await.unwrap();
        assert_eq!((page.kvs.len(), page.count), (10, 500));
        assert_eq!(page.kvs[0].value, large);
        assert_eq!(client.delete("many-4").prefix().send().await.unwrap().deleted, 100);
        let swap = |from: &str| {
            client
                .txn()
                .when(Compare::value("a").equal(from.to_owned()))
                .then_put("a", "3")
        };
        assert!(swap("2").send().await.unwrap().succeeded);
        assert!(!swap("2").send().await.unwrap().succeeded);
        let error = client.put("", "").send().await.unwrap_err();
        assert_eq!(error.row(), Some(&ServerError::EmptyKey));
        // A caller that goes away takes nobody along.
        let hasty = client.with_deadline(Duration::from_micros(1));
        for _ in 0..20 {
            let outcome = hasty.put("hasty", "1").send().await;
            assert!(
                matches!(
                    outcome,
                    Ok(_) | Err(Error::UnknownOutcome { .. } | Error::Timeout { .. })
                ),
                "{outcome:?}"
            );
        }
        assert_eq!(client.get("a").send().await.unwrap().kvs[0].value, "3");
    });
    assert_eq!(started(&cluster, "Put"), puts_before, "a put was a call");
    let streams = started(&cluster, "Stream") - streams_before;
    assert!((1..=3).contains(&streams), "{streams} streams for one client");
}

/// Clients that share a stream per member and endpoint order, each writing keys of its own, each once.
struct Load {
    stop: Arc<AtomicBool>,
    writers: JoinSet<Vec<(String, Instant, Result<i64, Error>)>>,
}

impl Load {
    async fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        let mut clients = Vec::new();
        for first in 0..cluster.len() {
            let writes = if first == 0 {
                Writes::ToLeader
            } else {
                Writes::ToEndpoints
            };
            let options = ConnectOptions { writes, ..options() };
            clients.push(Client::connect(urls(cluster, first), options).await.unwrap());
        }
        for writer in 0..WRITERS {
            let (client, stop) = (clients[writer % clients.len()].clone(), Arc::clone(&stop));
            writers.spawn(async move {
                let mut writes = Vec::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("w{writer:02}-{number:06}");
                    let outcome = client.put(key.clone(), "v").send().await;
                    let outcome = outcome.map(|reply| reply.header.unwrap().revision);
                    writes.push((key, Instant::now(), outcome));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                writes
            });
        }
        Self { stop, writers }
    }

    async fn end(mut self) -> Vec<Vec<(String, Instant, Result<i64, Error>)>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut writes = Vec::new();
        while let Some(own) = self.writers.join_next().await {
            writes.push(own.unwrap());
        }
        writes
    }
}

/// Every acknowledged key is there once, at the revision that its writer was told.
async fn assert_kept(cluster: &Cluster, writes: &[Vec<(String, Instant, Result<i64, Error>)>]) -> usize {
    let client = Client::connect(urls(cluster, 0), options()).await.unwrap();
    let mut found = BTreeMap::new();
    let mut pages = client.get("w").prefix().pages(10_000);
    while let Some(page) = pages.next().await {
        for kv in page.unwrap().kvs {
            assert_eq!(kv.version, 1, "{:?} was written twice", kv.key);
            found.insert(String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision);
        }
    }
    let mut acknowledged = 0;
    for (key, _, outcome) in writes.iter().flatten() {
        match outcome {
            Ok(revision) => {
                acknowledged += 1;
                assert_eq!(found.get(key), Some(revision), "{key}");
            }
            Err(Error::UnknownOutcome { .. }) => {}
            Err(_) => assert!(!found.contains_key(key), "{key} failed, and is there"),
        }
    }
    acknowledged
}

#[test]
fn a_members_death_loses_nothing_that_was_acknowledged_over_a_stream() {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    let leader = cluster.await_leader(LEADER_WITHIN);
    block_on(async {
        let load = Load::start(&cluster).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.kill(leader);
        let killed = Instant::now();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let writes = load.end().await;
        let acknowledged = assert_kept(&cluster, &writes).await;
        for own in &writes {
            let went_on = own.iter().any(|(_, at, outcome)| *at > killed && outcome.is_ok());
            assert!(went_on, "a writer was never served again: {:?}", own.last());
            let failed = own.iter().filter(|(.., outcome)| outcome.is_err()).count();
            assert!(failed <= 4, "one writer met {failed} failures");
        }
        println!("{acknowledged} acknowledged writes over streams, all there");
    });
}

#[test]
fn a_graceful_stop_fails_no_operation_of_a_stream() {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    for _ in 0..3 {
        let leader = cluster.await_leader(LEADER_WITHIN);
        block_on(async {
            let load = Load::start(&cluster).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let status = cluster.stop(leader, Duration::from_secs(10));
            assert!(status.success(), "{status}");
            tokio::time::sleep(Duration::from_millis(500)).await;
            let writes = load.end().await;
            let failed: Vec<_> = writes
                .iter()
                .flatten()
                .filter(|(.., outcome)| outcome.is_err())
                .collect();
            assert!(
                failed.is_empty(),
                "{} of {} failed: {:?}",
                failed.len(),
                writes.len(),
                failed.first()
            );
        });
        cluster.restart_ready(leader);
    }
}
