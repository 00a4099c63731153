//! The leader killed and restarted twenty times under 64 writers: nothing acknowledged is lost or changed,
//! nothing is done twice, watches miss nothing, and writes go on within a second.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Cluster, Kind,
    load::{
        Outcome, Watcher, Writers, assert_dense, assert_final_state, assert_hashes_equal, distribution, history, judge,
        longest_silence, median,
    },
    rpc::Rpc,
};

const WRITERS: usize = 64;
const KILLS: usize = 20;
/// What the issue promises of the write gap.
const GAP_MEDIAN_MAX: Duration = Duration::from_millis(300);
const GAP_MAX: Duration = Duration::from_secs(1);
/// How long after a kill silences count: longer than any election.
const WATCHED_AFTER_KILL: Duration = Duration::from_millis(1500);
/// Load between a complete cluster and the next kill.
const BETWEEN_KILLS: Duration = Duration::from_millis(500);

struct Kill {
    at: Instant,
    leader: usize,
    until: Instant,
}

#[test]
fn twenty_killed_leaders_lose_no_acknowledged_write() {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    let urls: Vec<String> = (0..3).map(|i| cluster.client_url(i).to_owned()).collect();
    let watchers: Vec<Watcher> = urls.iter().map(|url| Watcher::start(url, 2)).collect();
    let writers = Writers::start(&urls, WRITERS);
    std::thread::sleep(BETWEEN_KILLS);

    let mut kills = Vec::new();
    for _ in 0..KILLS {
        kills.push(kill_the_leader(&mut cluster));
    }
    let writes = writers.stop();

    let last = Rpc::connect(&urls[0])
        .get(b"\0")
        .expect("a read after the last kill")
        .header
        .expect("a header")
        .revision;
    let events = history(&urls[1], 2, last);
    assert_dense(&events, 2, last, "the history");
    let tally = judge(&writes, &events);
    println!("{tally:?}, revision {last}");
    assert!(
        tally.acked > KILLS * WRITERS,
        "too little load to prove anything: {tally:?}"
    );
    for url in &urls {
        assert_final_state(&Rpc::connect(url), &events);
    }
    assert_hashes_equal(&urls, last);

    for (member, watcher) in watchers.into_iter().enumerate() {
        watcher.await_revision(last, Duration::from_secs(20));
        let log = watcher.stop();
        assert_dense(&log.events, 2, last, &format!("the watcher of member {member}"));
        assert_eq!(
            log.events, events,
            "the watcher of member {member} saw something else than the history"
        );
        for (at, why) in &log.breaks {
            let is_its_own_kill = kills
                .iter()
                .any(|k| k.leader == member && k.at <= *at && *at <= k.until);
            assert!(
                is_its_own_kill,
                "the watch on member {member} broke although it lived: {why}"
            );
        }
    }
    check_gaps(&writes, &kills);
}

/// Kills the leader, keeps it down for a while, restarts it and waits until it serves.
fn kill_the_leader(cluster: &mut Cluster) -> Kill {
    let leader = cluster.await_leader(Duration::from_secs(10));
    let at = Instant::now();
    cluster.kill(leader);
    std::thread::sleep(WATCHED_AFTER_KILL);
    cluster.restart_ready(leader);
    let until = Instant::now();
    std::thread::sleep(BETWEEN_KILLS);
    Kill { at, leader, until }
}

/// The write gap of a kill is the longest silence of a surviving endpoint.
fn check_gaps(writes: &[harness::load::Write], kills: &[Kill]) {
    let mut worst = Vec::new();
    for kill in kills {
        let until = kill.at + WATCHED_AFTER_KILL;
        let survivors = (0..3).filter(|member| *member != kill.leader);
        let gaps: Vec<Duration> = survivors
            .map(|member| longest_silence(writes, member, kill.at, until))
            .collect();
        worst.push(*gaps.iter().max().expect("two survivors"));
    }
    println!("{}", distribution("write gap after kill -9 of the leader", &worst));
    let acked = writes
        .iter()
        .filter(|write| matches!(write.outcome, Outcome::Acked(_)))
        .count();
    let on_survivors = writes
        .iter()
        .filter(|write| matches!(write.outcome, Outcome::Unknown(_)))
        .filter(|write| {
            !kills
                .iter()
                .any(|kill| kill.leader == write.member && kill.at <= write.ended && write.ended <= kill.until)
        })
        .count();
    println!("unknown outcomes on members that lived: {on_survivors}");
    println!("{acked} acknowledged writes over {} kills", kills.len());
    assert!(
        median(&worst) <= GAP_MEDIAN_MAX,
        "the median write gap is {:?}",
        median(&worst)
    );
    let max = worst.iter().max().expect("twenty kills");
    assert!(*max <= GAP_MAX, "the longest write gap is {max:?}");
}
