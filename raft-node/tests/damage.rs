//! Damage to the files of a whole member: every kind of live file, a flipped bit and a cut at several places. The
//! member refuses and names the file, or comes up with everything, or stops at the first read and names the file.
//! It never serves anything else than the others do, and the others go on. (The log alone, with many more places,
//! is `log_damage.rs`.)

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

#[path = "harness/files.rs"]
mod files;
mod harness;

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use files::{Fault, Started, copy_tree, damage, files_below, flip_bit, metric, replace_tree, start};
use harness::{
    Cluster, Kind,
    rpc::{Rpc, block_on, within},
};
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseLeasesRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, request_op::Request,
};
use raft_node::{
    limits,
    log::{InstallIntent, Log as _, rocks::RocksLog, rocks::wal},
    state_directory::{StateDirectory, active_line},
};

const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// A reader of damage ends the process; the rest is the way out.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Behind the scrub's time: how long it may take to read a few megabytes on a loaded machine.
const SCRUB_SLACK: Duration = Duration::from_secs(20);
/// Keys, enough for many blocks of each table.
const KEYS: usize = 6_000;
const KEYS_PER_TXN: usize = 100;

/// Everything that a client can read of a member's state.
#[derive(Debug, PartialEq)]
struct Answers {
    now: (i64, i64, Vec<(Vec<u8>, Vec<u8>, i64)>),
    before: (i64, Vec<(Vec<u8>, Vec<u8>, i64)>),
    hash: u32,
    leases: Vec<i64>,
}

fn range(rpc: &Rpc, revision: i64) -> Result<(i64, i64, Vec<(Vec<u8>, Vec<u8>, i64)>), tonic::Status> {
    let all = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        ..RangeRequest::default()
    };
    let reply = rpc.range(all)?;
    let kvs = reply
        .kvs
        .iter()
        .map(|kv| (kv.key.to_vec(), kv.value.to_vec(), kv.mod_revision))
        .collect();
    Ok((reply.header.map_or(0, |header| header.revision), reply.count, kvs))
}

fn answers(rpc: &Rpc, old: i64) -> Result<Answers, tonic::Status> {
    let now = range(rpc, 0)?;
    let before = range(rpc, old)?;
    let hash = rpc.hash_kv(0)?.hash;
    let mut client = rpc.lease.clone();
    let leases = block_on(within(async move { client.lease_leases(LeaseLeasesRequest {}).await }))?;
    let mut leases: Vec<i64> = leases.leases.iter().map(|lease| lease.id).collect();
    leases.sort_unstable();
    Ok(Answers {
        now,
        before: (before.1, before.2),
        hash,
        leases,
    })
}

fn put_op(i: usize, generation: usize) -> RequestOp {
    // Hard to compress, so that the tables have many blocks.
    let value: String = (0..4)
        .map(|part| {
            format!(
                "{:016x}",
                raft_node::replica::mix((i * 4 + part + generation * 99_991) as u64)
            )
        })
        .collect();
    let put = PutRequest {
        key: format!("key-{i:06}").into(),
        value: value.into(),
        ..PutRequest::default()
    };
    RequestOp {
        request: Some(Request::RequestPut(put)),
    }
}

/// Keys of two generations, deleted ones, leases and a compaction; returns a revision to read again later.
fn fill(rpc: &Rpc) -> i64 {
    let mut old = 0;
    for generation in 0..2 {
        for first in (0..KEYS).step_by(KEYS_PER_TXN) {
            let success = (first..first + KEYS_PER_TXN).map(|i| put_op(i, generation)).collect();
            let txn = TxnRequest {
                success,
                ..TxnRequest::default()
            };
            let mut client = rpc.kv.clone();
            let reply = block_on(within(async move { client.txn(txn).await })).expect("a write");
            if generation == 0 || first == 0 {
                old = reply.header.map_or(0, |header| header.revision);
            }
        }
    }
    let delete = DeleteRangeRequest {
        key: "key-000100".into(),
        range_end: "key-000200".into(),
        ..DeleteRangeRequest::default()
    };
    let compaction = CompactionRequest {
        revision: old / 2,
        physical: false,
    };
    let grant = LeaseGrantRequest { ttl: 1_000_000, id: 77 };
    let (mut kv, mut lease) = (rpc.kv.clone(), rpc.lease.clone());
    block_on(async move {
        within(kv.delete_range(delete)).await.expect("a delete");
        within(kv.compact(compaction)).await.expect("a compaction");
        within(lease.lease_grant(grant)).await.expect("a lease");
    });
    old
}

/// A cluster with data in tables and logs on both of its databases, and one follower cleanly stopped.
fn cluster_with_one_stopped() -> (Cluster, usize, i64) {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    let leader = cluster.await_leader(Duration::from_secs(20));
    let old = fill(&Rpc::connect(cluster.client_url(leader)));
    let stopped = (leader + 1) % 3;
    // A restart writes the replayed log into tables; what comes after it is in the write-ahead log again.
    assert!(cluster.stop(stopped, STOPS_WITHIN).success());
    cluster.restart_ready(stopped);
    let rpc = Rpc::connect(cluster.client_url(stopped));
    for i in 0..50 {
        rpc.put(format!("late-{i}").as_bytes(), b"in the write-ahead log")
            .expect("a write");
    }
    assert!(cluster.stop(stopped, STOPS_WITHIN).success());
    (cluster, stopped, old)
}

/// Bytes of a file in `base` that mean something; WALs that wait to be written over have none.
fn used_bytes(base: &Path, file: &Path) -> u64 {
    let path = base.join(file);
    if path.extension().is_none_or(|extension| extension != "log") {
        return fs::metadata(&path).map_or(0, |meta| meta.len());
    }
    let is_last = wal::last(path.parent().expect("its directory")).is_ok_and(|last| last.as_ref() == Some(&path));
    wal::tail(&path).map_or(0, |tail| if is_last { tail.end } else { 0 })
}

/// What kind of file it is; the same kind is damaged once, in its largest representative.
fn kind_of(file: &Path) -> Option<String> {
    let parts: Vec<_> = file.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let name = parts.last()?;
    let place = if parts.len() == 1 { "" } else { parts[0].as_str() };
    let kind = if name == "LOCK" || name.starts_with("LOG") {
        // Nothing is read from these.
        return None;
    } else if name.starts_with("MANIFEST-") {
        "MANIFEST"
    } else if name.starts_with("OPTIONS-") {
        "OPTIONS"
    } else if name.ends_with(".log") {
        "write-ahead log"
    } else if name.ends_with(".sst") {
        "SST"
    } else {
        name.as_str()
    };
    Some(format!("{place}/{kind}"))
}

fn faults(kind: &str, length: u64) -> Vec<Fault> {
    let mut faults: Vec<Fault> = [0, length / 3, length / 2, length - 1].map(Fault::Flip).to_vec();
    if kind.ends_with("SST") {
        // Its footer, the index before it, and its first data block.
        faults.extend([length - 20, length - 45, length - 200, 40].map(Fault::Flip));
    }
    faults.extend([0, length / 2, length - 1].map(Fault::Truncate));
    faults
}

/// How a member fared with a damaged file.
enum Fate {
    Refused,
    Everything,
    StoppedAtRead,
}

fn fate(cluster: &mut Cluster, i: usize, old: i64, named: &[String], what: &str) -> Fate {
    let from = cluster.member(i).log_text().len();
    let names_file = |said: &str| {
        let named = named.iter().any(|name| said.contains(name.as_str()));
        assert!(named, "{what}: none of {named:?} is named in:\n{said}");
        assert!(
            !said.contains("panicked at") || said.contains("Corruption") || said.contains("corrupt"),
            "{what}: {said}"
        );
    };
    if let Started::Refused(said) = start(cluster.member_mut(i)) {
        names_file(&said);
        return Fate::Refused;
    }
    let leader = cluster.await_leader(Duration::from_secs(20));
    let expected = answers(&Rpc::connect(cluster.client_url(leader)), old).expect("the others serve");
    match answers(&Rpc::connect(cluster.client_url(i)), old) {
        Ok(found) => {
            assert!(found == expected, "{what}: it serves something else than the leader");
            Fate::Everything
        }
        Err(status) => {
            let deadline = Instant::now() + ENDS_WITHIN;
            while cluster.member_mut(i).exited().is_none() {
                assert!(
                    Instant::now() < deadline,
                    "{what}: a read failed with {status:?} and the member goes on"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            names_file(&files::log_from(cluster.member(i), from));
            Fate::StoppedAtRead
        }
    }
}

#[test]
fn every_damaged_file_of_a_member_is_named_or_harmless_and_the_others_go_on() {
    let (mut cluster, victim, old) = cluster_with_one_stopped();
    let root = cluster.member(victim).data_dir.clone();
    let base = cluster.directory().join("base");
    copy_tree(&root, &base);
    let mut largest: BTreeMap<String, (u64, PathBuf)> = BTreeMap::new();
    for file in files_below(&base) {
        let length = used_bytes(&base, &file);
        println!("{} {length}", file.display());
        if let Some(kind) = kind_of(&file).filter(|_| length > 0) {
            let slot = largest.entry(kind).or_default();
            if length >= slot.0 {
                *slot = (length, file);
            }
        }
    }
    let mut table: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for kind in largest.keys().cloned().collect::<Vec<_>>() {
        let length = largest[&kind].0;
        if kind == "raft/write-ahead log" {
            // The starts before have turned it into tables.
            replace_tree(&base, &root);
            assert!(matches!(start(cluster.member_mut(victim)), Started::Serves));
            let rpc = Rpc::connect(cluster.client_url(victim));
            for i in 0..50 {
                rpc.put(format!("log-{i}").as_bytes(), b"in the write-ahead log")
                    .expect("a write");
            }
            assert!(cluster.stop(victim, STOPS_WITHIN).success());
            replace_tree(&root, &base);
        }
        for fault in faults(&kind, length) {
            // A clean stop may have renamed the files: look for the largest of the kind anew.
            let candidates = files_below(&base)
                .into_iter()
                .filter(|file| kind_of(file).as_ref() == Some(&kind));
            let file = candidates.max_by_key(|file| used_bytes(&base, file));
            let file = file.expect("a file of this kind");
            let found = used_bytes(&base, &file);
            let fault = match fault {
                Fault::Flip(at) if at >= found => continue,
                Fault::Truncate(to) if to >= found => continue,
                fault => fault,
            };
            replace_tree(&base, &root);
            damage(&root.join(&file), fault);
            let name = file.file_name().expect("a file").to_string_lossy().into_owned();
            let what = format!("{} {fault:?} of {found}", file.display());
            let counts = table.entry(kind.clone()).or_default();
            let began = Instant::now();
            let fate = fate(&mut cluster, victim, old, &[name], &what);
            let text = match fate {
                Fate::Refused => {
                    counts[0] += 1;
                    "refused"
                }
                Fate::Everything => {
                    // What it has said to the others since then must not be forgotten.
                    assert!(cluster.stop(victim, STOPS_WITHIN).success(), "{what}: no clean stop");
                    replace_tree(&root, &base);
                    counts[1] += 1;
                    "everything"
                }
                Fate::StoppedAtRead => {
                    let Fault::Flip(at) = fault else {
                        panic!("{what}: a cut table was opened")
                    };
                    flip_bit(&root.join(&file), at);
                    assert!(
                        matches!(start(cluster.member_mut(victim)), Started::Serves),
                        "{what}: not even when mended"
                    );
                    assert!(cluster.stop(victim, STOPS_WITHIN).success());
                    replace_tree(&root, &base);
                    counts[2] += 1;
                    "stopped at a read"
                }
            };
            println!("{what}: {text} ({:?})", began.elapsed());
            let other = (victim + 1) % 3;
            Rpc::connect(cluster.client_url(other))
                .get(b"key-000001")
                .expect("the others go on");
        }
    }
    println!(
        "{:<28} refused  came up with everything  stopped at the first read",
        "kind of file"
    );
    for (kind, [refused, everything, read]) in &table {
        println!("{kind:<28} {refused:>7} {everything:>24} {read:>26}");
    }
    for kind in [
        "raft/write-ahead log",
        "raft/MANIFEST",
        "raft/CURRENT",
        "raft/SST",
        "kv/MANIFEST",
        "kv/CURRENT",
        "kv/SST",
        "/FORMAT",
        "/PEERS",
        "raft/MARK",
    ] {
        let [refused, _, read] = table.get(kind).copied().unwrap_or_else(|| panic!("no {kind} was live"));
        assert!(refused + read > 0, "damage to {kind} was never noticed");
    }
    // Unharmed at last, it catches up with what was written without it.
    let leader = cluster.await_leader(Duration::from_secs(20));
    Rpc::connect(cluster.client_url(leader))
        .put(b"without it", b"v")
        .expect("the others go on");
    replace_tree(&base, &root);
    assert!(matches!(start(cluster.member_mut(victim)), Started::Serves));
    let expected = answers(&Rpc::connect(cluster.client_url(leader)), old).expect("the leader serves");
    assert!(answers(&Rpc::connect(cluster.client_url(victim)), old).expect("it serves") == expected);
}

#[test]
fn a_state_that_active_does_not_name_is_refused_and_not_removed() {
    let (mut cluster, victim, old) = cluster_with_one_stopped();
    let kv = cluster.member(victim).data_dir.join("kv");
    // As a snapshot of entry 5 in term 2 would have left it.
    fs::rename(kv.join("state-0"), kv.join("state-5-2")).expect("renaming the state");
    let good = active_line("state-5-2");
    let length = good.len() as u64;
    for fault in [
        Fault::Flip(0),
        Fault::Flip(6),
        Fault::Flip(8),
        Fault::Flip(length - 1),
        Fault::Truncate(0),
        Fault::Truncate(length / 2),
        Fault::Truncate(length - 1),
    ] {
        fs::write(kv.join("ACTIVE"), &good).expect("writing ACTIVE");
        damage(&kv.join("ACTIVE"), fault);
        let Started::Refused(said) = start(cluster.member_mut(victim)) else {
            panic!("{fault:?} of ACTIVE went unnoticed")
        };
        assert!(
            said.contains("ACTIVE") && said.contains("is damaged"),
            "{fault:?}: {said}"
        );
        assert!(
            kv.join("state-5-2").join("CURRENT").exists(),
            "{fault:?} of ACTIVE cost the state"
        );
    }
    fs::remove_file(kv.join("ACTIVE")).expect("removing ACTIVE");
    let Started::Refused(said) = start(cluster.member_mut(victim)) else {
        panic!("a lost ACTIVE went unnoticed")
    };
    assert!(said.contains("ACTIVE"), "{said}");
    fs::write(kv.join("ACTIVE"), &good).expect("writing ACTIVE");
    assert!(matches!(start(cluster.member_mut(victim)), Started::Serves));
    let leader = cluster.await_leader(Duration::from_secs(20));
    let expected = answers(&Rpc::connect(cluster.client_url(leader)), old).expect("the leader serves");
    assert!(answers(&Rpc::connect(cluster.client_url(victim)), old).expect("it serves") == expected);
}

#[test]
fn an_installation_that_a_crash_cut_short_is_finished_at_the_next_start() {
    for was_switched in [false, true] {
        let (mut cluster, victim, old) = cluster_with_one_stopped();
        let root = cluster.member(victim).data_dir.clone();
        // The member's own state, as a snapshot of the last entry would have brought it.
        let mut log = RocksLog::open(&root.join("raft")).expect("the log of a stopped member");
        let last = log.recovered().last;
        let directory = StateDirectory::name_of(last);
        copy_tree(&root.join("kv/state-0"), &root.join("kv").join(&directory));
        log.set_install_intent(Some(InstallIntent {
            index: last.index,
            term: last.term,
            directory: directory.clone(),
        }));
        drop(log);
        if was_switched {
            fs::write(root.join("kv/ACTIVE"), active_line(&directory)).expect("switching");
        }
        let from = cluster.member(victim).log_text().len();
        let started = start(cluster.member_mut(victim));
        assert!(
            matches!(started, Started::Serves),
            "switched {was_switched}: {started:?}"
        );
        let said = files::log_from(cluster.member(victim), from);
        assert!(said.contains("finishing the installation of a snapshot"), "{said}");
        let leader = cluster.await_leader(Duration::from_secs(20));
        let expected = answers(&Rpc::connect(cluster.client_url(leader)), old).expect("the leader serves");
        assert!(answers(&Rpc::connect(cluster.client_url(victim)), old).expect("it serves") == expected);
        Rpc::connect(cluster.client_url(victim))
            .put(b"after", b"v")
            .expect("it goes on");
        assert!(cluster.stop(victim, STOPS_WITHIN).success());
        cluster.restart_ready(victim);
        assert!(!root.join("kv/state-0").exists(), "the state before it is gone");
    }
}

#[test]
fn a_cold_block_is_found_by_the_scrub_within_its_time() {
    let (mut cluster, victim, _) = cluster_with_one_stopped();
    assert!(matches!(start(cluster.member_mut(victim)), Started::Serves));
    let began = Instant::now();
    let from = cluster.member(victim).log_text().len();
    let state = cluster.member(victim).data_dir.join("kv/state-0");
    let tables = files_below(&state)
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "sst"));
    let size = |file: &PathBuf| fs::metadata(state.join(file)).map_or(0, |meta| meta.len());
    let table = tables.max_by_key(size).expect("a table of the state");
    flip_bit(&state.join(&table), size(&table) / 2);
    // Nobody reads it.
    let exit = cluster.member_mut(victim).await_exit(limits::SCRUB_AFTER + SCRUB_SLACK);
    let said = files::log_from(cluster.member(victim), from);
    assert!(
        !exit.success() && said.contains("a file is damaged") && said.contains(&*table.to_string_lossy()),
        "{exit}: {said}"
    );
    println!("{} was found damaged after {:?}", table.display(), began.elapsed());
    for other in (0..3).filter(|i| *i != victim) {
        Rpc::connect(cluster.client_url(other))
            .put(b"after", b"v")
            .expect("the others go on");
    }
}

#[test]
fn a_torn_tail_behind_mark_is_cut_silently_and_counted() {
    let (mut cluster, victim, old) = cluster_with_one_stopped();
    let raft = cluster.member(victim).data_dir.join("raft");
    let newest = wal::last(&raft).expect("its files").expect("a write-ahead log");
    let end = wal::tail(&newest).expect("its records").end;
    // A record of 100 bytes that a power failure left half written: its header arrived, its content did not.
    let number: u32 = newest
        .file_stem()
        .and_then(|stem| stem.to_str()?.parse().ok())
        .expect("its number");
    let mut torn = vec![0xde, 0xad, 0xbe, 0xef, 100, 0, 5];
    torn.extend(number.to_le_bytes());
    torn.extend([7; 100]);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(newest)
        .expect("the write-ahead log");
    file.write_all_at(&torn, end).expect("a torn record");
    drop(file);
    let from = cluster.member(victim).log_text().len();
    assert!(matches!(start(cluster.member_mut(victim)), Started::Serves));
    let (code, page) = cluster.http(victim, "/metrics").expect("its metrics");
    assert_eq!(code, 200);
    let cut = metric(&page, "dipper_torn_tail_cut_bytes");
    assert!(cut.is_some_and(|bytes| bytes > 0.0), "not counted: {cut:?}");
    let said = files::log_from(cluster.member(victim), from);
    assert!(said.contains("cut a torn tail behind MARK"), "{said}");
    let leader = cluster.await_leader(Duration::from_secs(20));
    let expected = answers(&Rpc::connect(cluster.client_url(leader)), old).expect("the leader serves");
    assert!(answers(&Rpc::connect(cluster.client_url(victim)), old).expect("it serves") == expected);
    // Cut once: the next start finds nothing torn.
    assert!(cluster.stop(victim, STOPS_WITHIN).success());
    cluster.restart_ready(victim);
    let (_, page) = cluster.http(victim, "/metrics").expect("its metrics");
    assert_eq!(metric(&page, "dipper_torn_tail_cut_bytes"), Some(0.0));
    let mut log = String::new();
    fs::File::open(&cluster.member(victim).log)
        .and_then(|mut file| file.read_to_string(&mut log))
        .expect("its log");
    assert!(!log.contains("panicked"), "{log}");
}
