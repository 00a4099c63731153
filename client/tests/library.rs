//! The library against a real etcd: what it returns, what it retries, and what it refuses to retry.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cluster;

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use cluster::Cluster;
use dipper_client::{
    Client, Compare, ConnectOptions, Error, KeepAliveState, ServerError, Writes,
    etcdserverpb::{LeaseTimeToLiveRequest, response_op::Response},
};

#[tokio::test]
async fn put_get_delete_and_pages() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    for number in 0..25 {
        client
            .put(format!("k{number:02}"), format!("v{number}"))
            .send()
            .await
            .unwrap();
    }
    let replaced = client.put("k00", "new").prev_kv().send().await.unwrap();
    assert_eq!(replaced.prev_kv.unwrap().value, "v0");

    let mut pages = client.get("k").prefix().pages(10);
    let first = pages.next().await.unwrap().unwrap();
    assert_eq!((first.kvs.len(), first.count), (10, 25));
    // The pages stay at the revision of the first: this delete is not seen.
    let deleted = client.delete("k2").prefix().prev_kv().send().await.unwrap();
    assert_eq!((deleted.deleted, deleted.prev_kvs.len()), (5, 5));
    let mut seen = first.kvs.len();
    while let Some(page) = pages.next().await {
        seen += page.unwrap().kvs.len();
    }
    assert_eq!(seen, 25);

    let compacted_at = client.get("k").send().await.unwrap().header.unwrap().revision;
    client.compact(compacted_at).await.unwrap();
    let error = client.get("k").revision(1).send().await.unwrap_err();
    assert_eq!(error.row(), Some(&ServerError::Compacted));
    assert_eq!(
        client.put("", "").send().await.unwrap_err().row(),
        Some(&ServerError::EmptyKey)
    );
}

#[tokio::test]
async fn a_server_without_streams_is_called() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let options = ConnectOptions {
        streams: true,
        ..ConnectOptions::default()
    };
    let client = Client::connect(cluster.endpoints(), options).await.unwrap();
    let puts = (0..50).map(|number| client.put(format!("k{number}"), "v").send());
    for put in futures_util::future::join_all(puts).await {
        put.unwrap();
    }
    let found = client.get("k").prefix().count_only().send().await.unwrap();
    assert_eq!(found.count, 50);
}

#[tokio::test]
async fn transactions_take_one_branch() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let lock = || {
        client
            .txn()
            .when(Compare::version("lock").equal(0))
            .then_put("lock", "me")
            .or_else_get("lock")
    };
    assert!(lock().send().await.unwrap().succeeded);
    let lost = lock().send().await.unwrap();
    assert!(!lost.succeeded);
    let Some(Response::ResponseRange(range)) = &lost.responses[0].response else {
        panic!("not a range: {lost:?}")
    };
    assert_eq!(range.kvs[0].value, "me");
    let held = client
        .txn()
        .when(Compare::value("lock").equal("me"))
        .then_delete("lock")
        .send()
        .await
        .unwrap();
    assert!(held.succeeded);
}

#[tokio::test]
async fn a_watch_resumes_on_another_member_without_gap_or_duplicate() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let client = cluster.client().await;
    // The watch begins at the first endpoint, which dies twice in its course.
    let watched = Client::lazy(cluster.endpoints(), ConnectOptions::default()).unwrap();
    let mut watcher = watched.watch("w").prefix().open().await.unwrap();
    let first = watcher.next_revision();
    let mut written = Vec::new();
    for round in 0..30 {
        if round == 10 || round == 20 {
            let victim = usize::from(round == 20);
            cluster.members[victim].kill();
        }
        if round == 15 {
            cluster.members[0].start();
        }
        let value = format!("{round}");
        let start = Instant::now();
        let revision = loop {
            match client.put("w", value.clone()).send().await {
                Ok(done) => break Some(done.header.unwrap().revision),
                Err(error) if error.is_unknown_outcome() => break None,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
            }
        };
        written.push((value, revision));
    }
    let mut seen = Vec::new();
    let last = written.iter().filter_map(|(_, revision)| *revision).max().unwrap();
    while seen.last().is_none_or(|(_, revision)| *revision < last) {
        let batch = tokio::time::timeout(Duration::from_secs(20), watcher.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        for kv in batch.events.into_iter().filter_map(|event| event.kv) {
            seen.push((String::from_utf8(kv.value.to_vec()).unwrap(), kv.mod_revision));
        }
    }
    let revisions: Vec<_> = seen.iter().map(|(_, revision)| *revision).collect();
    let dense: Vec<_> = (first..=last).collect();
    assert_eq!(revisions, dense, "every revision once, in order");
    for (value, revision) in written {
        let count = seen.iter().filter(|(seen, _)| *seen == value).count();
        match revision {
            Some(revision) => assert!(seen.contains(&(value, revision))),
            None => assert!(count <= 1, "{value} appears {count} times"),
        }
    }
}

#[tokio::test]
async fn a_watch_below_the_compacted_revision_ends_with_that_revision() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    for value in ["1", "2", "3"] {
        client.put("k", value).send().await.unwrap();
    }
    client.compact(4).await.unwrap();
    let watcher = client.watch("k").start_revision(2).open().await;
    let error = match watcher {
        Ok(mut watcher) => watcher.next().await.unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error, Error::Compacted { compact_revision: 4 });
    let mut watcher = client.watch("k").start_revision(4).prev_kv().open().await.unwrap();
    let batch = watcher.next().await.unwrap().unwrap();
    assert_eq!(batch.events[0].kv.as_ref().unwrap().value, "3");
    watcher.request_progress();
    let progress = watcher.next().await.unwrap().unwrap();
    assert!(progress.events.is_empty());
    assert_eq!(watcher.next_revision(), progress.header.revision + 1);
}

#[tokio::test]
async fn fragments_are_joined() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let start = client.get("x").send().await.unwrap().header.unwrap().revision + 1;
    let value = vec![7_u8; 500_000];
    // One revision whose events together are larger than etcd's bound on a message.
    let mut watcher = client
        .watch("big")
        .prefix()
        .start_revision(start)
        .prev_kv()
        .open()
        .await
        .unwrap();
    for round in 0..2 {
        let txn = (0..5).fold(client.txn(), |txn, key| {
            txn.then_put(format!("big{key}"), value.clone())
        });
        let revision = txn.send().await.unwrap().header.unwrap().revision;
        let batch = watcher.next().await.unwrap().unwrap();
        assert_eq!(batch.events.len(), 5, "round {round}");
        assert!(
            batch
                .events
                .iter()
                .all(|event| event.kv.as_ref().unwrap().mod_revision == revision)
        );
    }
}

#[tokio::test]
async fn a_lease_lives_as_long_as_it_is_kept() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let client = cluster.client().await;
    let lease = client.lease_grant(2).await.unwrap();
    client.put("held", "x").lease(lease.id).send().await.unwrap();
    let mut keep_alive = client.lease_keep_alive(lease.id);
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        let state = keep_alive.changed().await.unwrap();
        assert!(matches!(state, KeepAliveState::Alive(_)), "{state:?}");
    }
    let left = client
        .lease_time_to_live(LeaseTimeToLiveRequest {
            id: lease.id,
            keys: true,
        })
        .await
        .unwrap();
    assert!(left.ttl > 0);
    assert_eq!(left.keys, ["held"]);
    assert_eq!(client.lease_list().await.unwrap().leases.len(), 1);

    client.lease_revoke(lease.id).await.unwrap();
    let lost = loop {
        match keep_alive.changed().await.unwrap() {
            KeepAliveState::Lost(error) => break error,
            other => assert!(matches!(other, KeepAliveState::Alive(_))),
        }
    };
    assert_eq!(lost.row(), Some(&ServerError::LeaseNotFound));
    keep_alive.close().await;
    assert_eq!(client.get("held").send().await.unwrap().count, 0);
    let error = client.lease_keep_alive_once(lease.id).await.unwrap_err();
    assert_eq!(error.row(), Some(&ServerError::LeaseNotFound));
}

#[tokio::test]
async fn a_dead_first_endpoint_costs_nothing_but_time() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let endpoints = ["127.0.0.1:1".to_owned(), cluster.endpoints().remove(0)];
    for writes in [Writes::ToEndpoints, Writes::ToLeader] {
        let options = ConnectOptions {
            writes,
            ..Default::default()
        };
        let client = Client::lazy(&endpoints, options).unwrap();
        client.put("a", "1").send().await.unwrap();
        assert_eq!(client.get("a").send().await.unwrap().kvs[0].value, "1");
    }
}

/// Given one follower, a client that follows the leader keeps writing when that follower hangs.
#[tokio::test]
async fn writes_follow_a_leader_that_was_not_given() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let follower = (cluster.leader().await + 1) % 3;
    let endpoint = cluster.members[follower].endpoint();
    let follows = Client::connect([&endpoint], ConnectOptions::default()).await.unwrap();
    let options = ConnectOptions {
        writes: Writes::ToEndpoints,
        ..Default::default()
    };
    let stays = Client::connect([&endpoint], options)
        .await
        .unwrap()
        .with_deadline(Duration::from_millis(500));
    follows.put("a", "1").send().await.unwrap();
    stays.put("a", "2").send().await.unwrap();
    cluster.members[follower].signal("-STOP");
    let followed = follows.put("a", "3").send().await;
    let stayed = stays.put("a", "4").send().await;
    cluster.members[follower].signal("-CONT");
    followed.unwrap();
    assert!(stayed.unwrap_err().is_unknown_outcome());
}

#[tokio::test]
async fn a_read_is_raced_against_a_member_that_hangs() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let client = Client::lazy(cluster.endpoints(), ConnectOptions::default()).unwrap();
    let leader = cluster.leader().await;
    let follower = (0..3).find(|at| *at != leader).unwrap();
    // The follower is asked first and hangs: its connection stays open.
    let mut endpoints = cluster.endpoints();
    endpoints.swap(0, follower);
    let hanging = Client::lazy(&endpoints, ConnectOptions::default()).unwrap();
    hanging.get("a").send().await.unwrap();
    client.put("a", "1").send().await.unwrap();
    cluster.members[follower].signal("-STOP");
    let start = Instant::now();
    let answer = hanging.get("a").send().await;
    let took = start.elapsed();
    cluster.members[follower].signal("-CONT");
    assert_eq!(answer.unwrap().count, 1);
    assert!(
        took >= Duration::from_millis(100) && took < Duration::from_secs(2),
        "{took:?}"
    );
}

#[tokio::test]
async fn writes_go_on_after_the_leader_dies() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let client = cluster.client().await;
    client.put("a", "0").send().await.unwrap();
    let leader = cluster.leader().await;
    cluster.members[leader].kill();
    let start = Instant::now();
    loop {
        match client.put("a", "1").send().await {
            Ok(_) => break,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
        }
    }
    assert_eq!(client.get("a").send().await.unwrap().kvs[0].value, "1");
}

/// A server that takes one request and closes the connection: it counts connections, so a retry shows.
fn server_that_hangs_up() -> (String, std::sync::mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let (requests, seen) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // An empty SETTINGS frame; then whatever comes until the request's headers must have come.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            while !bytes.windows(3).any(|window| window == b"key") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                }
            }
            if requests.send(bytes.len()).is_err() {
                return;
            }
        }
    });
    (endpoint, seen)
}

#[tokio::test]
async fn a_write_whose_connection_is_lost_is_unknown_and_not_repeated() {
    let (endpoint, seen) = server_that_hangs_up();
    let options = ConnectOptions {
        writes: Writes::ToEndpoints,
        ..Default::default()
    };
    let client = Client::lazy([&endpoint], options).unwrap();
    let error = client.put("key", "value").send().await.unwrap_err();
    assert!(error.is_unknown_outcome(), "{error:?}");
    assert!(seen.recv_timeout(Duration::from_secs(1)).is_ok());
    assert!(
        seen.recv_timeout(Duration::from_millis(300)).is_err(),
        "the write was sent twice"
    );

    let short = client.with_deadline(Duration::from_millis(400));
    let error = short.get("key").send().await.unwrap_err();
    assert!(!error.is_unknown_outcome(), "{error:?}");
    assert!(seen.try_iter().count() > 1, "a read is asked again");
}

#[tokio::test]
async fn a_write_that_was_never_sent_is_unavailable_and_one_that_hangs_unknown() {
    let options = ConnectOptions {
        call_deadline: Duration::from_millis(300),
        writes: Writes::ToEndpoints,
        ..Default::default()
    };
    let client = Client::lazy(["127.0.0.1:1"], options.clone()).unwrap();
    let error = client.put("a", "1").send().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");

    // Accepts by the kernel's backlog and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::lazy([silent.local_addr().unwrap().to_string()], options).unwrap();
    let error = client.put("a", "1").send().await.unwrap_err();
    assert!(error.is_unknown_outcome(), "{error:?}");
    let error = client.get("a").send().await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}
