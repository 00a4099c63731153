//! Clusters of real processes for tests: start, find, signal, restart, and clean up after a panic too.
//! Serves Dipper and etcd alike, so that a test can ask both the same thing.
//!
//! Not here: what the members ought to answer. That is each test's own business.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.
#![allow(clippy::needless_pass_by_value)] // `Cluster::start(Kind::Dipper, 3, &[])` reads better than with a reference.

pub mod load;
pub mod member;
pub mod peers;
pub mod rpc;

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use member::Member;
use rpc::Rpc;

/// A loaded CI machine starts three members in some seconds; more than this is a failure.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// Another process may take a port between our reading it and the member's binding it.
const START_ATTEMPTS: usize = 3;

/// Which program the members run.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The `dipper` of this build.
    Dipper,
    /// Another build of `dipper`, with extra environment variables.
    DipperBuild {
        binary: PathBuf,
        variables: Vec<(String, String)>,
    },
    /// A real etcd.
    Etcd { binary: PathBuf },
}

impl Kind {
    fn binary(&self) -> PathBuf {
        match self {
            Self::Dipper => PathBuf::from(env!("CARGO_BIN_EXE_dipper")),
            Self::DipperBuild { binary, .. } | Self::Etcd { binary } => binary.clone(),
        }
    }

    fn variables(&self) -> &[(String, String)] {
        match self {
            Self::DipperBuild { variables, .. } => variables,
            Self::Dipper | Self::Etcd { .. } => &[],
        }
    }

    /// Flags that only this program needs: etcd is told to keep its log quiet.
    fn flags(&self) -> &'static [&'static str] {
        match self {
            Self::Etcd { .. } => &["--logger=zap", "--log-level=warn"],
            Self::Dipper | Self::DipperBuild { .. } => &[],
        }
    }
}

/// Members of one cluster on loopback. Dropping it kills its own processes and removes its directory.
pub struct Cluster {
    members: Vec<Member>,
    // Last, so that it is removed after the processes are gone.
    directory: tempfile::TempDir,
}

impl Cluster {
    /// Starts `members` members with `flags` added to each command line and waits until all of them serve.
    /// Panics with the tails of their logs when they do not.
    pub fn start(kind: Kind, members: usize, flags: &[&str]) -> Cluster {
        Self::start_in(&std::env::temp_dir(), kind, members, flags)
    }

    /// As [`Cluster::start`], with the data directories below `parent`.
    pub fn start_in(parent: &Path, kind: Kind, members: usize, flags: &[&str]) -> Cluster {
        for attempt in 1..=START_ATTEMPTS {
            let mut cluster = Self::prepare(parent, &kind, members, flags);
            for member in &mut cluster.members {
                member.spawn();
            }
            match cluster.await_ready(READY_WITHIN) {
                Ok(()) => return cluster,
                Err(why) if why.contains("address already in use") && attempt < START_ATTEMPTS => {
                    println!("attempt {attempt} to start {kind:?}: a port was taken meanwhile; starting again");
                }
                Err(why) => panic!("{kind:?} with {members} members did not start (attempt {attempt}): {why}"),
            }
        }
        unreachable!("the last attempt returns or panics")
    }

    /// Lays out directories, ports and command lines without starting anything.
    pub fn prepare(parent: &Path, kind: &Kind, members: usize, flags: &[&str]) -> Cluster {
        let directory = tempfile::Builder::new()
            .prefix("dipper-test-")
            .tempdir_in(parent)
            .expect("a temporary directory");
        let ports = free_ports(members * 2);
        let initial_cluster: Vec<String> = (0..members)
            .map(|i| format!("m{i}=http://127.0.0.1:{}", ports[members + i]))
            .collect();
        let initial_cluster = initial_cluster.join(",");
        let members = (0..members)
            .map(|i| {
                let client_url = format!("http://127.0.0.1:{}", ports[i]);
                let peer_url = format!("http://127.0.0.1:{}", ports[members + i]);
                let data_dir = directory.path().join(format!("m{i}"));
                let mut arguments = vec![
                    format!("--name=m{i}"),
                    format!("--data-dir={}", data_dir.display()),
                    format!("--listen-client-urls={client_url}"),
                    format!("--advertise-client-urls={client_url}"),
                    format!("--listen-peer-urls={peer_url}"),
                    format!("--initial-advertise-peer-urls={peer_url}"),
                    format!("--initial-cluster={initial_cluster}"),
                    "--initial-cluster-token=dipper-test".to_owned(),
                    "--initial-cluster-state=new".to_owned(),
                ];
                arguments.extend(kind.flags().iter().chain(flags).map(|&flag| flag.to_owned()));
                Member {
                    binary: kind.binary(),
                    arguments,
                    variables: kind.variables().to_vec(),
                    data_dir,
                    log: directory.path().join(format!("m{i}.log")),
                    client_url,
                    peer_url,
                    child: None,
                }
            })
            .collect();
        Cluster { members, directory }
    }

    /// Waits until every running member knows a leader and answers a linearizable read.
    pub fn await_ready(&mut self, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        for i in 0..self.members.len() {
            if self.members[i].child.is_some() {
                self.await_member(i, deadline)?;
            }
        }
        Ok(())
    }

    /// Waits until member `i` serves; the error holds the tail of its log.
    pub fn await_member(&mut self, i: usize, deadline: Instant) -> Result<(), String> {
        loop {
            if let Some(exit) = self.members[i].exited() {
                return Err(format!("member {i} ended with {exit}:\n{}", self.members[i].log_tail()));
            }
            let rpc = Rpc::connect(self.client_url(i));
            if rpc.serves() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("member {i} does not serve:\n{}", self.members[i].log_tail()));
            }
            // A process that starts has no event that we could wait for.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many members the cluster was laid out with.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Member `i`: its directories, log and process.
    pub fn member(&self, i: usize) -> &Member {
        &self.members[i]
    }

    /// Member `i`, to change its command line between two starts.
    pub fn member_mut(&mut self, i: usize) -> &mut Member {
        &mut self.members[i]
    }

    /// Member `i`'s client URL.
    pub fn client_url(&self, i: usize) -> &str {
        &self.members[i].client_url
    }

    /// All client addresses, comma separated, as `etcdctl --endpoints` wants them.
    pub fn endpoints(&self) -> String {
        let urls: Vec<&str> = self.members.iter().map(|member| member.client_url.as_str()).collect();
        urls.join(",")
    }

    /// The process id of member `i`, which must be running.
    pub fn pid(&self, i: usize) -> u32 {
        self.members[i].pid()
    }

    /// SIGKILL, and reaps the process.
    pub fn kill(&mut self, i: usize) {
        self.members[i].kill();
    }

    /// SIGTERM, and waits for the end; a member that needs longer than `within` fails the test.
    pub fn stop(&mut self, i: usize, within: Duration) -> std::process::ExitStatus {
        self.members[i].stop(within)
    }

    /// SIGSTOP.
    pub fn pause(&self, i: usize) {
        self.members[i].signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self, i: usize) {
        self.members[i].signal(rustix::process::Signal::CONT);
    }

    /// Starts member `i` again on its directory, after `kill` or `stop`, without waiting for it.
    pub fn restart(&mut self, i: usize) {
        self.members[i].spawn();
    }

    /// Starts member `i` again and waits until it serves.
    pub fn restart_ready(&mut self, i: usize) {
        self.restart(i);
        if let Err(why) = self.await_member(i, Instant::now() + READY_WITHIN) {
            panic!("after a restart: {why}");
        }
    }

    /// The index of the member that leads, by what a majority of the running members' Status say.
    pub fn leader(&self) -> Option<usize> {
        let statuses: Vec<_> = (0..self.len())
            .map(|i| {
                self.members[i]
                    .child
                    .as_ref()
                    .and_then(|_| Rpc::connect(self.client_url(i)).status().ok())
            })
            .collect();
        let leads = |i: usize| {
            let id = statuses[i]
                .as_ref()
                .and_then(|status| status.header.as_ref())
                .map_or(0, |h| h.member_id);
            let votes = statuses
                .iter()
                .flatten()
                .filter(|status| id != 0 && status.leader == id)
                .count();
            votes * 2 > self.len()
        };
        (0..self.len()).find(|&i| leads(i))
    }

    /// Waits until a majority agrees on a leader.
    pub fn await_leader(&self, within: Duration) -> usize {
        let deadline = Instant::now() + within;
        loop {
            if let Some(leader) = self.leader() {
                return leader;
            }
            assert!(Instant::now() < deadline, "no leader within {within:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// GET over HTTP/1.1 on member `i`'s client port: status code and body.
    pub fn http(&self, i: usize, path: &str) -> std::io::Result<(u16, String)> {
        http_get(self.client_url(i).trim_start_matches("http://"), path)
    }

    /// Where the data directories and logs are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (i, member) in self.members.iter_mut().enumerate() {
            if std::thread::panicking() && member.child.is_some() {
                println!("--- log of member {i} (tail):\n{}", member.log_tail());
            }
            member.kill();
        }
    }
}

/// Ports that the kernel gave us a moment ago, all different.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port on loopback"))
        .collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().expect("a bound address").port())
        .collect()
}

/// One GET on a connection of its own.
pub fn http_get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let bad = || std::io::Error::other(format!("not HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let code = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(bad)?;
    Ok((code, body.to_owned()))
}
