//! A member as a process: how it is started, stopped, killed, paused, and what the kernel says of it.
//!
//! Dipper and etcd take the same flags, so a system is little more than a binary and its timings. Not here:
//! the choice of whom to harm (`fault`), and what a member answers (`cluster`).

use std::{
    fs::{self, File, OpenOptions},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    command::{Error, Result, failed},
    footprint::{Footprint, Trace, state},
    network::{CLIENT_PORT, PEER_PORT, client_address, peer_address},
};

/// What runs on every member.
#[derive(Clone, Debug)]
pub struct System {
    pub binary: PathBuf,
    pub is_etcd: bool,
    /// Beside those that every member needs; later ones win.
    pub flags: Vec<String>,
}

impl System {
    /// Small bounds, so that snapshots and flushes happen within a short run.
    pub fn dipper(binary: PathBuf) -> Self {
        let flags = [
            "--snapshot-count=500",
            "--log-level=info",
            "--watch-progress-notify-interval=1s",
        ];
        Self {
            binary,
            is_etcd: false,
            flags: flags.map(str::to_owned).to_vec(),
        }
    }

    /// etcd's own timings, but for a snapshot now and then.
    pub fn etcd(binary: PathBuf) -> Self {
        let flags = ["--snapshot-count=500", "--logger=zap", "--log-outputs=stderr"];
        Self {
            binary,
            is_etcd: true,
            flags: flags.map(str::to_owned).to_vec(),
        }
    }

    /// How long a cluster may take to have a leader again.
    pub fn election_time_max(&self) -> Duration {
        if self.is_etcd {
            Duration::from_secs(10)
        } else {
            Duration::from_secs(5)
        }
    }
}

/// A process, or a place where one was.
#[derive(Debug)]
pub struct Member {
    pub index: usize,
    pub namespace: String,
    /// Where its data is; a fault file system or a small disk may be mounted there.
    pub data: PathBuf,
    /// Variables of its environment, as `NAME=value`.
    pub environment: Vec<String>,
    /// Groups that it joins before it runs.
    pub cgroup: Option<PathBuf>,
    log: PathBuf,
    child: Option<Child>,
    starts: Arc<AtomicU32>,
}

impl Member {
    pub fn new(index: usize, namespace: &str, directory: &Path) -> Result<Self> {
        let data = directory.join(format!("m{index}"));
        fs::create_dir(&data)?;
        Ok(Self {
            index,
            namespace: namespace.to_owned(),
            data,
            environment: Vec::new(),
            cgroup: None,
            log: directory.join(format!("m{index}.log")),
            child: None,
            starts: Arc::default(),
        })
    }

    /// How often it was started: what clients write beside an operation.
    pub fn starts(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.starts)
    }

    pub fn start(&mut self, system: &System, members: usize, footprint: &Footprint) -> Result<()> {
        assert!(self.child.is_none(), "member {} runs already", self.index);
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = self.command(system, members, log)?.spawn()?;
        footprint.note(&Trace::Process(child.id()))?;
        self.child = Some(child);
        self.starts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// `sh` joins the group and replaces itself, so the member has the child's pid and was never outside.
    fn command(&self, system: &System, members: usize, log: File) -> Result<Command> {
        let cluster: Vec<String> = (0..members)
            .map(|i| format!("m{i}=http://{}:{PEER_PORT}", peer_address(i)))
            .collect();
        let (peer, client) = (peer_address(self.index), client_address(self.index));
        let join = self
            .cgroup
            .as_ref()
            .map_or(PathBuf::from("/dev/null"), |group| group.join("cgroup.procs"));
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ > "$1"; shift; exec "$@""#, "sh"])
            .arg(join)
            .args(["ip", "netns", "exec", &self.namespace, "env"])
            .args(&self.environment)
            .arg(&system.binary)
            .args([
                format!("--name=m{}", self.index),
                format!("--initial-cluster={}", cluster.join(",")),
            ])
            .arg(format!("--data-dir={}", self.data.join("data").display()))
            .arg(format!("--listen-peer-urls=http://{peer}:{PEER_PORT}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peer}:{PEER_PORT}"))
            .arg(format!("--listen-client-urls=http://{client}:{CLIENT_PORT}"))
            .arg(format!("--advertise-client-urls=http://{client}:{CLIENT_PORT}"))
            .args(&system.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C is for the run; it ends its members itself.
            .process_group(0);
        Ok(command)
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it ended, if it did so by itself since it was last asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// `kill -9`, proven by how it ended.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let mut child = self.child.take().expect("it was just signalled");
        let status = child.wait()?;
        if status.signal() == Some(Signal::SIGKILL as i32) {
            return Ok(());
        }
        failed(format!("member {} was killed and ended with {status}", self.index))
    }

    /// SIGTERM; waits until it has ended by itself.
    pub fn stop(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let began = Instant::now();
        while began.elapsed() < within {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
        failed(format!(
            "member {} does not end within {within:?} of SIGTERM",
            self.index
        ))
    }

    /// SIGSTOP, proven by the process's state.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        self.await_state(|state| state == 'T')
    }

    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)?;
        self.await_state(|state| state != 'T')
    }

    fn await_state(&self, wanted: impl Fn(char) -> bool) -> Result<()> {
        let pid = self.pid().expect("it was just signalled");
        for _ in 0..500 {
            if state(pid).is_some_and(&wanted) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(2));
        }
        failed(format!(
            "member {} is in state {:?} after a signal",
            self.index,
            state(pid)
        ))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.pid() else {
            return failed(format!("member {} does not run, so it gets no {signal}", self.index));
        };
        kill(Pid::from_raw(pid.cast_signed()), signal)
            .map_err(|errno| Error::Failed(format!("{signal} to member {}: {errno}", self.index)))
    }

    /// The end of its log, for messages.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(3).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n    ")
    }

    pub fn log(&self) -> &Path {
        &self.log
    }
}
