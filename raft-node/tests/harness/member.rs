//! One member as an operating system process: its command line, its log file, its signals.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How much of a log is shown when something failed.
const TAIL_BYTES: u64 = 4096;

/// A command line that can be started, signalled and started again on the same directory.
pub struct Member {
    pub binary: PathBuf,
    pub arguments: Vec<String>,
    pub variables: Vec<(String, String)>,
    pub data_dir: PathBuf,
    /// What it wrote to stdout and stderr, over all its starts.
    pub log: PathBuf,
    pub client_url: String,
    pub peer_url: String,
    pub child: Option<Child>,
}

impl Member {
    /// Starts the process; it must not be running.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.data_dir.display());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the member's log file");
        let mut command = Command::new(&self.binary);
        // Flags of the machine's own etcd must not leak in: both programs read ETCD_*.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        let child = command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.binary.display()));
        self.child = Some(child);
    }

    /// The exit status, when it ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("the status of our own child");
        if status.is_some() {
            self.child = None;
        }
        status
    }

    /// The process id; the member must be running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the member runs").id()
    }

    /// Sends a signal to exactly this process.
    pub fn signal(&self, signal: Signal) {
        // The child is not reaped while `child` is Some, so the pid cannot belong to anyone else.
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a pid is not 0");
        kill_process(pid, signal).expect("a signal to our own child");
    }

    /// SIGKILL, and reaps it. Nothing to do when it does not run.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only when it ended already; wait reaps it in either case.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits.
    pub fn stop(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.await_exit(within)
    }

    /// Waits for the process to end by itself.
    pub fn await_exit(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "still running after {within:?}:\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The whole log so far.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        let tail = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        tail().map_or_else(
            |error| error.to_string(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}
