//! Everything that a world has put into the machine, written down before it is made, and the one way to
//! remove it: after success, failure, panic or signal, and by the next run when this one was killed.
//!
//! ```text
//!   $TMPDIR/jepsen-4711-0/footprint
//!     owner 4711 88123            pid and start time of the run: a dead owner's footprint is swept
//!     namespace jepsen-4711-0-m0
//!     process 4720 88140
//!     mount /tmp/jepsen-4711-0/m0
//! ```
//! A pid counts only with its start time, so a number that was given to somebody else is never touched.
//! Not here: making any of it.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::command::{Result, run};

const PREFIX: &str = "jepsen-";
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// One thing in the machine that outlives its maker.
#[derive(Clone, Debug)]
pub enum Trace {
    Namespace(String),
    Process(u32),
    Mount(PathBuf),
    Loop(PathBuf),
    Cgroup(PathBuf),
}

/// The directory of a world; dropping it removes the world.
#[derive(Debug)]
pub struct Footprint {
    directory: PathBuf,
    file: File,
}

impl Footprint {
    /// Sweeps what dead runs have left, then begins a directory of its own.
    pub fn begin() -> Result<Self> {
        sweep();
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("{PREFIX}{}-{number}", process::id()));
        fs::create_dir(&directory)?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("footprint"))?;
        let owner = process::id();
        writeln!(&file, "owner {owner} {}", start_time(owner).unwrap_or_default())?;
        Ok(Self { directory, file })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A name that nobody else on this machine has.
    pub fn name(&self, role: &str) -> String {
        let own = self.directory.file_name().expect("it was joined").to_string_lossy();
        format!("{own}-{role}")
    }

    /// Must be called before the thing is made, a process aside: it has no number before.
    pub fn note(&self, trace: &Trace) -> Result<()> {
        match trace {
            Trace::Namespace(name) => writeln!(&self.file, "namespace {name}"),
            Trace::Process(pid) => writeln!(&self.file, "process {pid} {}", start_time(*pid).unwrap_or_default()),
            Trace::Mount(path) => writeln!(&self.file, "mount {}", path.display()),
            Trace::Loop(path) => writeln!(&self.file, "loop {}", path.display()),
            Trace::Cgroup(path) => writeln!(&self.file, "cgroup {}", path.display()),
        }?;
        Ok(())
    }
}

impl Drop for Footprint {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Removes what runs that no longer live have left.
pub fn sweep() {
    for directory in worlds() {
        let text = fs::read_to_string(directory.join("footprint")).unwrap_or_default();
        let owner = text.lines().next().and_then(|line| line.strip_prefix("owner "));
        if owner.is_some_and(|owner| !is_same_process(owner)) {
            remove(&directory);
        }
    }
}

/// Removes the worlds of this process: what a signal handler does before it ends the run.
pub fn remove_own() {
    let own = format!("{PREFIX}{}-", process::id());
    for directory in worlds() {
        if directory
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&own))
        {
            remove(&directory);
        }
    }
}

fn worlds() -> Vec<PathBuf> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.join("footprint").is_file()).collect()
}

/// In the order that works: processes hold mounts and namespaces, mounts hold loop devices. Whatever is
/// already gone is no error.
fn remove(directory: &Path) {
    let text = fs::read_to_string(directory.join("footprint")).unwrap_or_default();
    let of = |kind: &str| -> Vec<String> {
        let lines = text.lines().rev();
        lines
            .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ').map(str::to_owned))
            .collect()
    };
    for process in of("process") {
        end(&process);
    }
    for mount in of("mount") {
        let _ = umount2(mount.as_str(), MntFlags::MNT_DETACH);
    }
    for device in of("loop") {
        let _ = run(&format!("losetup -d {device}"));
    }
    for namespace in of("namespace") {
        let _ = run(&format!("ip netns delete {namespace}"));
    }
    for cgroup in of("cgroup") {
        let _ = fs::remove_dir(cgroup);
    }
    let _ = fs::remove_dir_all(directory);
}

/// Kills a process that is still the one that was written down, and waits until it has let go.
fn end(line: &str) {
    let Some(pid) = line.split(' ').next().and_then(|pid| pid.parse::<i32>().ok()) else {
        return;
    };
    if !is_same_process(line) {
        return;
    }
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    for _ in 0..200 {
        if !is_same_process(line) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// `pid start-time`: whether that very process lives; a zombie holds nothing any more.
fn is_same_process(line: &str) -> bool {
    let Some((pid, started)) = line.split_once(' ') else {
        return false;
    };
    let Ok(pid) = pid.parse() else { return false };
    start_time(pid).is_some_and(|now| now.to_string() == started) && state(pid) != Some('Z')
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    after_name(pid)?.split(' ').nth(19)?.parse().ok()
}

/// The one letter that `ps` shows: R, S, D, T, Z, ...
pub fn state(pid: u32) -> Option<char> {
    after_name(pid)?.chars().next()
}

/// The name stands in parentheses and may hold anything; what follows it does not.
fn after_name(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_dead_owners_process_is_ended_and_a_strangers_is_not() {
        let mut left = Command::new("sleep").arg("60").spawn().unwrap();
        let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
        let directory = std::env::temp_dir().join(format!("{PREFIX}test-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let text = format!(
            "owner {} 1\nprocess {} {}\nprocess {} 1\n",
            process::id(),
            left.id(),
            start_time(left.id()).unwrap(),
            stranger.id()
        );
        fs::write(directory.join("footprint"), text).unwrap();
        sweep();
        assert!(!directory.exists());
        assert!(left.wait().unwrap().code().is_none(), "it was not killed");
        assert_eq!(
            stranger.try_wait().unwrap(),
            None,
            "another process's number was taken for ours"
        );
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_live_owners_world_stays_until_it_is_dropped() {
        let world = Footprint::begin().unwrap();
        let directory = world.directory().to_owned();
        sweep();
        assert!(directory.exists());
        drop(world);
        assert!(!directory.exists());
    }
}
