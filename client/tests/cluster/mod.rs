//! A real etcd of one or three members on loopback, for the tests of this folder. Ports come from the
//! kernel; each member lives in a temporary directory and is ended by its own handle.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use dipper_client::{Client, ConnectOptions};
use tempfile::TempDir;

/// A cluster that is ended when dropped.
pub struct Cluster {
    pub members: Vec<Member>,
}

pub struct Member {
    name: String,
    pub client_port: u16,
    peer_port: u16,
    initial_cluster: String,
    directory: TempDir,
    child: Option<Child>,
}

/// Ports that were free a moment ago; all are held until all are known.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}

/// Whether `program` can be started; says so if not.
pub fn installed(program: &str) -> bool {
    let found = Command::new(program)
        .env("ETCDCTL_API", "3")
        .arg("--help")
        .output()
        .is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

impl Cluster {
    /// Starts etcd and waits until it answers; `None` when it is not installed.
    pub async fn start(size: usize) -> Option<Self> {
        if !installed("etcd") {
            return None;
        }
        let ports = free_ports(size * 2);
        let (clients, peers) = ports.split_at(size);
        let initial: Vec<_> = peers
            .iter()
            .enumerate()
            .map(|(at, port)| format!("m{at}=http://127.0.0.1:{port}"))
            .collect();
        let mut members: Vec<_> = (0..size)
            .map(|at| Member {
                name: format!("m{at}"),
                client_port: clients[at],
                peer_port: peers[at],
                initial_cluster: initial.join(","),
                directory: TempDir::new().unwrap(),
                child: None,
            })
            .collect();
        members.iter_mut().for_each(Member::start);
        let cluster = Self { members };
        cluster.wait_until_ready().await;
        Some(cluster)
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.endpoints(), ConnectOptions::default())
            .await
            .unwrap()
    }

    /// The index of the member that leads.
    pub async fn leader(&self) -> usize {
        for (at, member) in self.members.iter().enumerate() {
            let client = Client::connect([member.endpoint()], ConnectOptions::default()).await;
            let Ok(client) = client else { continue };
            let status = client.status().await.unwrap();
            if status.header.unwrap().member_id == status.leader {
                return at;
            }
        }
        panic!("no member says that it leads");
    }

    pub async fn wait_until_ready(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        for member in &self.members {
            let options = ConnectOptions {
                call_deadline: Duration::from_secs(2),
                ..Default::default()
            };
            let client = Client::lazy([member.endpoint()], options).unwrap();
            while let Err(error) = client.get("ready").send().await {
                assert!(Instant::now() < until, "{} is not ready: {error}", member.name);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Member {
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    pub fn start(&mut self) {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new("etcd")
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.directory.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.initial_cluster, "--unsafe-no-fsync"])
            .args(["--max-request-bytes", "3000000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end with `input` on standard input.
pub fn run(program: &str, endpoint: &str, args: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut child = Command::new(program)
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_ENDPOINTS", endpoint)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input closes the pipe; that is its right.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}
