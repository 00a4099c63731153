//! A member that was down while the log was truncated past it comes back by a snapshot of 200 MB while writes
//! go on; the receiver and the sender are each killed with half of it on its way.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod harness;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use harness::{
    Cluster, Kind,
    load::{Writers, assert_final_state, assert_hashes_equal, history, judge},
    rpc::{Rpc, block_on, runtime},
};
use proto::etcdserverpb::PutRequest;

/// Values that do not compress, so that the snapshot is as large as the data.
const VALUES: usize = 51_200;
const VALUE_BYTES: usize = 4096;
const LOADERS: usize = 16;
/// Entries between two flushes of the state; the log keeps half as many.
const SNAPSHOT_COUNT: &str = "--snapshot-count=200";
const WRITERS: usize = 32;
/// From the start of the lagging member to the end of its installation, a killed sender included.
const INSTALLED_WITHIN: Duration = Duration::from_mins(2);

#[test]
fn a_member_behind_the_log_comes_back_by_snapshot() {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[SNAPSHOT_COUNT]);
    let urls: Vec<String> = (0..3).map(|i| cluster.client_url(i).to_owned()).collect();
    let lagging = (cluster.await_leader(Duration::from_secs(10)) + 1) % 3;
    cluster.kill(lagging);
    let up: Vec<String> = (0..3).filter(|i| *i != lagging).map(|i| urls[i].clone()).collect();
    put_values(&up);
    let writers = Writers::start(&up, WRITERS);

    receiver_killed_half_way(&mut cluster, lagging);
    cluster.kill(lagging);
    put_until_truncated(&cluster, lagging, &up[0]);
    sender_killed_half_way(&mut cluster, lagging);

    let installed = metric(&cluster, lagging, "dipper_snapshots_installed_total");
    assert_eq!(
        installed as u64, 1,
        "the log was not kept while a snapshot was installed: another one followed"
    );
    let writes = writers.stop();
    let rpc = Rpc::connect(&urls[lagging]);
    let last = rpc
        .put(b"load/end", b"end")
        .expect("a put")
        .header
        .expect("a header")
        .revision;
    let mut events = history(&urls[lagging], 2, last);
    assert_eq!(events.pop().expect("the end").value, "end");
    let tally = judge(&writes, &events);
    println!("writes while members lagged: {tally:?}, revision {last}");
    assert!(tally.acked > 1000, "too few writes went on: {tally:?}");
    rpc.delete(b"load/end").expect("a delete");
    let hash = assert_hashes_equal(&urls, last);
    println!("HashKV at revision {last}: {hash:x} on all members");
    for url in &urls {
        assert_final_state(&Rpc::connect(url), &events);
        assert_eq!(count_values(url), VALUES as i64, "values on {url}");
    }
}

fn receiver_killed_half_way(cluster: &mut Cluster, lagging: usize) {
    assert_truncated_past(cluster, lagging);
    let total = await_half_way(cluster, lagging);
    cluster.kill(lagging);
    let arrived = incoming_bytes(cluster, lagging);
    println!("receiver killed with {arrived} of {total} bytes");
    assert!(
        arrived * 10 < total * 9,
        "too late to be half-way: {arrived} of {total} bytes"
    );
    let began = Instant::now();
    cluster.restart(lagging);
    await_installed(cluster, lagging, began);
    let received = metric(cluster, lagging, "etcd_network_peer_received_bytes_total") as u64;
    println!("received since the restart: {received} bytes");
    assert!(
        received < total - arrived / 2,
        "what had arrived was sent again: {received} of {total} bytes"
    );
}

fn sender_killed_half_way(cluster: &mut Cluster, lagging: usize) {
    assert_truncated_past(cluster, lagging);
    let total = await_half_way(cluster, lagging);
    let sender = (0..3)
        .find(|i| *i != lagging && outgoing_bytes(cluster, *i) > 0)
        .expect("one member sends");
    cluster.kill(sender);
    let arrived = incoming_bytes(cluster, lagging);
    println!("sender killed with {arrived} of {total} bytes");
    assert!(
        arrived * 10 < total * 9,
        "too late to be half-way: {arrived} of {total} bytes"
    );
    // The lagging member is now needed for a quorum: the rest serves only once it has what it needs.
    let began = Instant::now();
    cluster.restart_ready(sender);
    await_installed(cluster, lagging, began);
}

/// Starts the lagging member and waits until more than half of a snapshot has arrived there; how much there
/// is to send.
fn await_half_way(cluster: &mut Cluster, lagging: usize) -> u64 {
    cluster.restart(lagging);
    let deadline = Instant::now() + INSTALLED_WITHIN;
    loop {
        let total = (0..3).map(|i| outgoing_bytes(cluster, i)).max().unwrap_or(0);
        if total > 0 && incoming_bytes(cluster, lagging) * 2 > total {
            return total;
        }
        assert!(
            Instant::now() < deadline,
            "no snapshot came:\n{}",
            cluster.member(lagging).log_tail()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the lagging member has installed a snapshot since it started, and serves.
fn await_installed(cluster: &mut Cluster, lagging: usize, began: Instant) {
    if let Err(why) = cluster.await_member(lagging, began + INSTALLED_WITHIN) {
        panic!("the lagging member did not come back: {why}");
    }
    let installed = metric(cluster, lagging, "dipper_snapshots_installed_total");
    println!("back after {:?}, snapshots installed: {installed}", began.elapsed());
    assert!(installed >= 1.0, "it came back without a snapshot");
}

/// Where the log begins that reaches back furthest: any of those who run may be the next leader.
fn first_kept(cluster: &Cluster, lagging: usize) -> f64 {
    let running = (0..3).filter(|member| *member != lagging);
    running
        .map(|member| metric(cluster, member, "dipper_log_first_index"))
        .fold(f64::MAX, f64::min)
}

/// Asserts that no running member's log reaches back to where the killed one's ends.
fn assert_truncated_past(cluster: &Cluster, lagging: usize) {
    let first = first_kept(cluster, lagging);
    println!("the others' logs begin at {first} or later; member {lagging} is down");
    assert!(first > 300.0, "a log was not truncated: it begins at {first}");
}

/// Writes on, until every log begins behind everything that is there now.
fn put_until_truncated(cluster: &Cluster, lagging: usize, url: &str) {
    let leader = cluster.await_leader(Duration::from_secs(10));
    let last = metric(cluster, leader, "dipper_log_last_index");
    let deadline = Instant::now() + Duration::from_mins(1);
    let rpc = Rpc::connect(url);
    while first_kept(cluster, lagging) <= last {
        rpc.put(b"more", b"entries").expect("a put with two members");
        assert!(Instant::now() < deadline, "the logs are not truncated past {last}");
    }
}

/// 200 MB, each value its own.
fn put_values(urls: &[String]) {
    let began = Instant::now();
    let tasks: Vec<_> = (0..LOADERS)
        .map(|loader| {
            let rpc = Rpc::connect(&urls[loader % urls.len()]);
            runtime().spawn(async move {
                for i in (loader..VALUES).step_by(LOADERS) {
                    let request = PutRequest {
                        key: format!("value/{i:06}").into(),
                        value: noise(i as u64).into(),
                        ..PutRequest::default()
                    };
                    rpc.kv.clone().put(request).await.expect("a put with two members");
                }
            })
        })
        .collect();
    for task in tasks {
        block_on(task).expect("a loader does not panic");
    }
    let megabytes = VALUES * VALUE_BYTES / 1_000_000;
    println!("{megabytes} MB in {:?}", began.elapsed());
}

/// Bytes that no compression makes smaller (splitmix64).
fn noise(seed: u64) -> Vec<u8> {
    // Far apart: the sequences of two values must not overlap, or the pages that hold both would compress.
    let mut state = (seed + 1) << 32;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    (0..VALUE_BYTES / 8).flat_map(|_| next().to_le_bytes()).collect()
}

fn count_values(url: &str) -> i64 {
    let request = proto::etcdserverpb::RangeRequest {
        key: b"value/".to_vec().into(),
        range_end: b"value0".to_vec().into(),
        count_only: true,
        ..Default::default()
    };
    Rpc::connect(url).range(request).expect("a count").count
}

/// A metric's value, or the sum over its labels.
fn metric(cluster: &Cluster, member: usize, name: &str) -> f64 {
    let (code, page) = cluster.http(member, "/metrics").expect("the metrics page");
    assert_eq!(code, 200, "{page}");
    let values: Vec<f64> = page
        .lines()
        .filter(|line| line.split([' ', '{']).next() == Some(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(!values.is_empty(), "no metric {name} in:\n{page}");
    values.iter().sum()
}

/// What has arrived of a snapshot that is not complete.
fn incoming_bytes(cluster: &Cluster, member: usize) -> u64 {
    bytes_below(&cluster.member(member).data_dir.join("kv/incoming"), "")
}

/// The checkpoint that is on its way to another member.
fn outgoing_bytes(cluster: &Cluster, member: usize) -> u64 {
    bytes_below(&cluster.member(member).data_dir.join("kv"), "outgoing-")
}

/// Bytes of the files in the subdirectories whose names begin so. Files come and go meanwhile: what is not
/// there any more counts as nothing.
fn bytes_below(directory: &Path, prefix: &str) -> u64 {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    entries(directory)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .flat_map(|entry| entries(&entry.path()).collect::<Vec<_>>())
        .filter_map(|file| file.metadata().ok())
        .map(|facts| facts.len())
        .sum()
}
