//! The data directory through its door: first starts cut off anywhere, restarts, and peers' incarnations.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use raft_node::config::ClusterState;
use raft_node::data_dir::{Amnesia, DataDir, DataDirLock, Expected, Incarnation};
use raft_node::ids::{ClusterId, MemberId};
use raft_node::open_files::{check_open_files, raise_open_files};

fn open(data_dir: &Path, wal_dir: Option<&Path>) -> (DataDir, DataDirLock) {
    let expected = Expected {
        cluster: ClusterId(0xc1),
        member: MemberId(0xa1),
        state: ClusterState::New,
    };
    DataDir::open(data_dir, wal_dir, expected).unwrap()
}

#[test]
fn a_directory_is_made_once_and_then_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/er");
    let (mut made, lock) = open(&root, None);
    assert!(made.is_new && made.raft.is_dir() && made.kv.is_dir());
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    made.begin().unwrap();
    drop(lock);
    fs::write(made.raft.join("MARK"), "kept").unwrap();
    let (again, lock) = open(&root, None);
    assert!(!again.is_new);
    assert_eq!(again.incarnation, made.incarnation);
    assert_eq!(fs::read_to_string(again.raft.join("MARK")).unwrap(), "kept");
    // A member restarts with the flags it joined with.
    drop(lock);
    let existing = Expected {
        cluster: ClusterId(0xc1),
        member: MemberId(0xa1),
        state: ClusterState::Existing,
    };
    assert!(DataDir::open(&root, None, existing).is_ok());
}

#[test]
fn a_log_of_its_own_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (data, wal) = (dir.path().join("d"), dir.path().join("w"));
    let (mut made, lock) = open(&data, Some(&wal));
    assert_eq!(made.raft, wal.join("raft"));
    assert!(!data.join("raft").exists());
    made.begin().unwrap();
    drop(lock);
    assert_eq!(open(&data, Some(&wal)).0.incarnation, made.incarnation);
}

/// The crash table of `data_dir`: whatever a first start leaves behind before `begin`, the next one starts over.
#[test]
fn a_first_start_cut_off_anywhere_starts_over() {
    for wal in [false, true] {
        for cut in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            let (data, wal_dir) = (dir.path().join("d"), dir.path().join("w"));
            let wal_dir = wal.then_some(wal_dir.as_path());
            let (made, lock) = open(&data, wal_dir);
            drop(lock);
            leave_after_step(cut, &made, &data, wal_dir);
            let (mut again, _lock) = open(&data, wal_dir);
            assert!(again.is_new, "cut after step {cut}");
            assert!(
                fs::read_dir(&again.raft).unwrap().next().is_none(),
                "cut after step {cut}: a log is left"
            );
            again.begin().unwrap();
        }
    }
}

fn leave_after_step(step: usize, made: &DataDir, data: &Path, wal_dir: Option<&Path>) {
    if step >= 4 {
        // What the log made before `begin`.
        return fs::write(made.raft.join("MARK"), "half").unwrap();
    }
    fs::remove_file(data.join("FORMAT")).unwrap();
    fs::write(data.join("FORMAT.tmp"), "dipper da").unwrap();
    if step < 3 {
        wal_dir
            .map_or(Ok(()), |wal_dir| fs::remove_file(wal_dir.join("FORMAT")))
            .unwrap();
    }
    if step < 2 {
        fs::write(data.join("PEERS.tmp"), "").unwrap();
        fs::remove_file(data.join("PEERS")).unwrap();
        fs::remove_dir(&made.raft).unwrap();
    }
    if step < 1 {
        fs::remove_dir(&made.kv).unwrap();
        fs::remove_file(data.join("LOCK")).unwrap();
    }
}

#[test]
fn a_peer_with_another_directory_has_amnesia_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (peer, first, second) = (MemberId(7), Incarnation::random(), Incarnation::random());
    let (mut made, lock) = open(dir.path().join("d").as_path(), None);
    assert_eq!(made.peers.incarnation(peer), None);
    assert_eq!(made.peers.learn(peer, first), Ok(()));
    assert_eq!(made.peers.learn(peer, first), Ok(()));
    assert_eq!(made.peers.learn(peer, second), Err(Amnesia { known: first }));
    made.begin().unwrap();
    drop(lock);
    let (mut again, _lock) = open(dir.path().join("d").as_path(), None);
    assert_eq!(again.peers.incarnation(peer), Some(first));
    assert_eq!(again.peers.learn(peer, second), Err(Amnesia { known: first }));
    assert_eq!(again.peers.learn(MemberId(8), second), Ok(()));
}

#[test]
fn incarnations_are_random_and_readable() {
    let one = Incarnation::random();
    assert_ne!(one, Incarnation::random());
    assert_eq!(Incarnation::from_hex(&one.to_string()), Some(one));
    for text in [
        "",
        "zz",
        "0123456789abcdef0123456789abcdeg",
        "0123456789abcdef0123456789abcdé",
    ] {
        assert_eq!(Incarnation::from_hex(text), None, "{text}");
    }
}

#[test]
fn the_limit_of_open_files_is_raised_and_judged() {
    assert!(check_open_files(1024).is_ok() && check_open_files(1023).is_err());
    assert!(raise_open_files().unwrap() >= 1024);
}
