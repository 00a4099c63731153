//! All three members killed at once under load, and started again: everything acknowledged is there, the
//! states are equal, and no read goes back in time.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Cluster, Kind,
    load::{
        Outcome, Read, Readers, Write, Writers, assert_dense, assert_final_state, assert_hashes_equal, history, judge,
    },
    rpc::Rpc,
};
use rustix::process::Signal;

const WRITERS: usize = 32;
const ROUNDS: usize = 5;
/// Load on the complete cluster before each kill.
const LOADED_FOR: Duration = Duration::from_millis(800);

#[test]
fn all_members_killed_at_once_keep_what_was_acknowledged() {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    let urls: Vec<String> = (0..3).map(|i| cluster.client_url(i).to_owned()).collect();
    let writers = Writers::start(&urls, WRITERS);
    let readers = Readers::start(&urls);
    let mut served_again = Vec::new();
    for _ in 0..ROUNDS {
        std::thread::sleep(LOADED_FOR);
        kill_all(&mut cluster);
        let began = Instant::now();
        (0..3).for_each(|i| cluster.restart(i));
        cluster
            .await_ready(Duration::from_mins(1))
            .expect("all members serve again");
        served_again.push(began.elapsed());
    }
    std::thread::sleep(LOADED_FOR);
    let writes = writers.stop();
    let reads = readers.stop();
    println!("from the start of three killed members until all serve: {served_again:?}");

    let header = Rpc::connect(&urls[0]).get(b"\0").expect("a read").header;
    let last = header.expect("a header").revision;
    for url in &urls {
        let events = history(url, 2, last);
        assert_dense(&events, 2, last, &format!("the history of {url}"));
        let tally = judge(&writes, &events);
        println!("{url}: {tally:?}, revision {last}");
        assert!(
            tally.acked > ROUNDS * WRITERS,
            "too little load to prove anything: {tally:?}"
        );
        assert_final_state(&Rpc::connect(url), &events);
    }
    assert_hashes_equal(&urls, last);
    check_reads(&writes, &reads);
}

/// All signals are sent before the first process is waited for.
fn kill_all(cluster: &mut Cluster) {
    (0..3).for_each(|i| cluster.member(i).signal(Signal::KILL));
    (0..3).for_each(|i| cluster.kill(i));
}

/// A linearizable read is not older than what any client knew before it was sent; a serializable one not older
/// than what its own member had told.
fn check_reads(writes: &[Write], reads: &[Read]) {
    let acks: Vec<(Instant, usize, i64)> = writes
        .iter()
        .filter_map(|write| match write.outcome {
            Outcome::Acked(revision) => Some((write.ended, write.member, revision)),
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        })
        .collect();
    let linearizable = reads.iter().filter(|read| !read.is_serializable);
    let told_by_any = linearizable.clone().filter_map(told).chain(acks.iter().copied());
    let checked = assert_not_older(linearizable, told_by_any.collect());
    println!("linearizable reads: {checked}");
    assert!(checked > 100, "too few linearizable reads to prove anything");
    for member in 0..3 {
        let own = reads.iter().filter(|read| read.member == member);
        let told_here = own
            .clone()
            .filter_map(told)
            .chain(acks.iter().copied().filter(|ack| ack.1 == member));
        let checked = assert_not_older(own, told_here.collect());
        println!("reads of member {member}, serializable ones included: {checked}");
        assert!(checked > 100, "too few reads of member {member} to prove anything");
    }
    let failed = reads.iter().filter(|read| read.revision.is_err()).count();
    let waited = reads
        .iter()
        .filter(|read| read.revision.is_ok())
        .map(|read| read.ended - read.sent)
        .max();
    println!("reads that failed: {failed}; the longest wait of an answered one: {waited:?}");
}

fn told(read: &Read) -> Option<(Instant, usize, i64)> {
    Some((read.ended, read.member, *read.revision.as_ref().ok()?))
}

/// Holds each answered read against the largest revision that was told before it was sent.
fn assert_not_older<'a>(reads: impl Iterator<Item = &'a Read>, mut told: Vec<(Instant, usize, i64)>) -> usize {
    told.sort_unstable();
    let mut largest = 0;
    for (.., revision) in &mut told {
        largest = largest.max(*revision);
        *revision = largest;
    }
    let mut checked = 0;
    for read in reads {
        let Ok(revision) = &read.revision else { continue };
        let before = told.partition_point(|(at, ..)| *at < read.sent);
        let known = before.checked_sub(1).map_or(0, |i| told[i].2);
        assert!(
            *revision >= known,
            "a read went back in time: {read:?}, but revision {known} was told before"
        );
        checked += 1;
    }
    checked
}
