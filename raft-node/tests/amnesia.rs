//! A member whose directory was lost must not come back under its old name: it may have voted, and acknowledged
//! writes, that it no longer knows of. It is refused, says why, and the others go on.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

#[path = "harness/files.rs"]
mod files;
mod harness;

use std::{fs, time::Duration};

use files::{Started, start};
use harness::{Cluster, Kind, rpc::Rpc};
use raft_node::error::Cause;

/// What a refusal costs at most: a handshake, and the way out.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

fn put_on(cluster: &Cluster, i: usize, key: &str) {
    let put = Rpc::connect(cluster.client_url(i)).put(key.as_bytes(), b"v");
    assert!(put.is_ok(), "member {i} does not go on: {put:?}");
}

/// Starts member `i` on what is there now and returns why it ended.
fn refusal(cluster: &mut Cluster, i: usize) -> String {
    let member = cluster.member_mut(i);
    let from = member.log_text().len();
    member.spawn();
    let exit = member.await_exit(ENDS_WITHIN);
    assert_eq!(exit.code(), Some(1), "{}", member.log_tail());
    files::log_from(member, from)
}

#[test]
fn a_member_whose_directory_was_deleted_is_refused_and_the_others_go_on() {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    put_on(&cluster, 0, "before");
    let lost = (cluster.await_leader(Duration::from_secs(10)) + 1) % 3;
    cluster.kill(lost);
    let directory = cluster.member(lost).data_dir.clone();
    let kept = cluster.directory().join("kept");
    fs::rename(&directory, &kept).expect("moving the directory away");

    // The second time it finds what the first attempt made, and that must not be taken for a member.
    for attempt in 1..=2 {
        let said = refusal(&mut cluster, lost);
        assert!(
            said.contains(Cause::Amnesia.phrase()) && said.contains("Bring the old directory back"),
            "attempt {attempt} does not say why: {said}"
        );
        for other in (0..3).filter(|i| *i != lost) {
            put_on(&cluster, other, &format!("attempt {attempt}"));
        }
    }

    // The way back that it names.
    fs::remove_dir_all(&directory).expect("removing what the refused starts made");
    fs::rename(&kept, &directory).expect("bringing the old directory back");
    assert!(matches!(start(cluster.member_mut(lost)), Started::Serves));
    let read = Rpc::connect(cluster.client_url(lost))
        .get(b"attempt 2")
        .expect("a read");
    assert_eq!(read.kvs.len(), 1, "it has what was written without it");
    put_on(&cluster, lost, "back");
}

#[test]
fn a_whole_cluster_that_lost_one_directory_refuses_it_after_a_common_start() {
    // The others learn incarnations durably: all of them being down at the time does not help an amnesiac.
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    put_on(&cluster, 0, "before");
    for i in 0..3 {
        cluster.kill(i);
    }
    fs::remove_dir_all(&cluster.member(2).data_dir).expect("removing a test's own directory");
    cluster.restart(0);
    cluster.restart(1);
    let said = refusal(&mut cluster, 2);
    assert!(said.contains(Cause::Amnesia.phrase()), "{said}");
    cluster.await_ready(Duration::from_mins(1)).expect("two of three serve");
    for survivor in 0..2 {
        put_on(&cluster, survivor, "after");
        let read = Rpc::connect(cluster.client_url(survivor))
            .get(b"before")
            .expect("a read");
        assert_eq!(read.kvs.len(), 1);
    }
}

#[test]
fn a_member_on_another_ones_directory_is_refused() {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    cluster.stop(0, Duration::from_secs(10));
    cluster.stop(1, Duration::from_secs(10));
    let (first, second) = (cluster.member(0).data_dir.clone(), cluster.member(1).data_dir.clone());
    let between = cluster.directory().join("between");
    for (from, to) in [(&first, &between), (&second, &first), (&between, &second)] {
        fs::rename(from, to).expect("swapping directories");
    }
    for i in 0..2 {
        let said = refusal(&mut cluster, i);
        assert!(said.contains(Cause::OtherMember.phrase()), "{said}");
    }
}
