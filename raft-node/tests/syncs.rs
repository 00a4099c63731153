//! That an acknowledged write is on two disks, seen from outside: strace counts the syncs of each member
//! while one client puts one key after the other. A build that does not sync must fail the same check.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod harness;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use harness::{Cluster, Kind, peers, rpc::Rpc};
use rustix::process::{Pid, Signal, kill_process};

/// Enough that the syncs of MARK, ten a second, cannot stand in for those of the writes.
const PUTS: usize = 400;

#[test]
fn two_members_sync_at_least_once_for_each_acknowledged_put() {
    let Some(strace) = peers::strace() else { return };
    let syncs = syncs_of_members(&strace, Kind::Dipper);
    println!("{PUTS} puts by one client, syncs of the members: {syncs:?}");
    if let Err(why) = check(&syncs) {
        panic!("{why}");
    }
}

#[test]
fn a_build_without_syncs_fails_the_same_check() {
    let Some(strace) = peers::strace() else { return };
    let Some(binary) = std::env::var_os("DIPPER_MUTANTS_BIN").map(PathBuf::from) else {
        println!("skipped: DIPPER_MUTANTS_BIN is not set (make test sets it)");
        return;
    };
    let variables = vec![("DIPPER_MUTANT".to_owned(), "no-sync".to_owned())];
    let syncs = syncs_of_members(&strace, Kind::DipperBuild { binary, variables });
    println!("{PUTS} puts by one client, syncs of members that do not sync: {syncs:?}");
    let why = check(&syncs).expect_err("a build without syncs passed the check");
    println!("as it must: {why}");
}

fn check(syncs: &[usize]) -> Result<(), String> {
    let enough = syncs.iter().filter(|count| **count >= PUTS).count();
    if enough >= 2 {
        return Ok(());
    }
    Err(format!(
        "{enough} of the members synced once for each of {PUTS} acknowledged puts: {syncs:?}"
    ))
}

/// How often each member called fsync or fdatasync while `PUTS` puts were acknowledged.
fn syncs_of_members(strace: &Path, kind: Kind) -> Vec<usize> {
    let cluster = Cluster::start(kind, 3, &[]);
    let leader = cluster.await_leader(std::time::Duration::from_secs(10));
    let rpc = Rpc::connect(cluster.client_url(leader));
    rpc.put(b"before", b"the count begins")
        .expect("a put to a cluster that serves");
    let traces: Vec<Trace> = (0..3)
        .map(|i| {
            Trace::attach(
                strace,
                cluster.pid(i),
                &cluster.directory().join(format!("m{i}.strace")),
            )
        })
        .collect();
    for i in 0..PUTS {
        rpc.put(format!("key-{i}").as_bytes(), b"value")
            .expect("a put to a cluster that serves");
    }
    traces.into_iter().map(Trace::count).collect()
}

/// A strace at work on one member.
struct Trace {
    child: Child,
    report: PathBuf,
}

impl Trace {
    /// Returns when all threads of the member are traced.
    fn attach(strace: &Path, pid: u32, report: &Path) -> Trace {
        let mut child = Command::new(strace)
            .args(["-f", "-c", "-e", "trace=fdatasync,fsync", "-p"])
            .arg(pid.to_string())
            .arg("-o")
            .arg(report)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace starts");
        let mut said = BufReader::new(child.stderr.take().expect("its stderr is a pipe"));
        let mut line = String::new();
        while !line.contains("attached") {
            line.clear();
            let length = said.read_line(&mut line).expect("what strace says");
            assert!(
                length > 0,
                "strace ended without attaching to {pid}: may this process trace another one?"
            );
        }
        // It says a line for each new thread; nobody needs to read them, but it must be able to write.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Trace {
            child,
            report: report.to_owned(),
        }
    }

    /// Detaches, and adds up the table that strace writes.
    fn count(mut self) -> usize {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid is not 0");
        kill_process(pid, Signal::INT).expect("a signal to our own child");
        self.child.wait().expect("strace ends when it is interrupted");
        let report = std::fs::read_to_string(&self.report).expect("the report of strace");
        report.lines().filter_map(calls).sum()
    }
}

/// The calls in a line such as ` 99.12    0.012345          12      1024           fdatasync`.
fn calls(line: &str) -> Option<usize> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = words.last()?;
    if !["fsync", "fdatasync"].contains(name) {
        return None;
    }
    words.get(3)?.parse().ok()
}
