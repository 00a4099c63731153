//! What the operating system says about this process, read at the moment of a scrape.
//!
//! A fact that cannot be read is absent, never zero. Not here: the machine's memory, disks or load; a node
//! exporter reports those.

use super::exposition::Page;
use std::fs;
use std::path::Path;

/// Facts about a process; each is `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Memory in use.
    pub resident_bytes: Option<u64>,
    /// Address space in use.
    pub virtual_bytes: Option<u64>,
    /// Processor time used, of all threads, user and system.
    pub cpu_seconds: Option<f64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// How many may be open.
    pub open_files_max: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// When it started, in seconds since 1970.
    pub start_seconds: Option<f64>,
}

impl Process {
    /// The process that asks.
    pub fn this() -> Process {
        let status = read("/proc/self/status");
        let stat = read("/proc/self/stat");
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Process {
            resident_bytes: number_after(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: number_after(&status, "VmSize:").map(|kib| kib * 1024),
            threads: number_after(&status, "Threads:"),
            cpu_seconds: cpu_ticks(&stat).map(|used| used as f64 / ticks),
            // The listing itself holds one open.
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| (files.count() as u64).saturating_sub(1)),
            open_files_max: number_after(&read("/proc/self/limits"), "Max open files"),
            start_seconds: start_seconds(&stat, &read("/proc/stat"), ticks),
        }
    }
}

/// The names that every Prometheus client gives these facts, and etcd's two.
pub(super) fn render(page: &mut Page, process: &Process) {
    let gauges = [
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            process.resident_bytes,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            process.virtual_bytes,
        ),
        (
            "process_open_fds",
            "Number of open file descriptors.",
            process.open_files,
        ),
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            process.open_files_max,
        ),
        ("process_threads", "Number of threads.", process.threads),
        ("os_fd_used", "The number of used file descriptors.", process.open_files),
        ("os_fd_limit", "The file descriptor limit.", process.open_files_max),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            page.gauge(name, help, value);
        }
    }
    if let Some(seconds) = process.cpu_seconds {
        page.counter(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            seconds,
        );
    }
    if let Some(seconds) = process.start_seconds {
        page.gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            seconds,
        );
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The first number behind a line's name.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Field `number` of /proc/self/stat as proc(5) counts them. The second is the program's name in brackets
/// and may hold spaces and brackets, so it is counted from behind it.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    Some(stat_field(stat, 14)? + stat_field(stat, 15)?)
}

fn start_seconds(stat: &str, system: &str, ticks: f64) -> Option<f64> {
    let boot = number_after(system, "btime")? as f64;
    Some(boot + stat_field(stat, 22)? as f64 / ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a (b) c) S 1 7 7 0 -1 4194560 2170 0 0 0 150 50 0 0 20 0 9 0 1000 9 9 9";

    #[test]
    fn a_name_with_brackets_moves_no_field() {
        assert_eq!(cpu_ticks(STAT), Some(200));
        assert_eq!(start_seconds(STAT, "cpu 1 2\nbtime 500\n", 100.0), Some(510.0));
        assert_eq!(cpu_ticks("nonsense"), None);
    }

    #[test]
    fn this_process_is_alive() {
        let process = Process::this();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(process.open_files.is_some_and(|files| files >= 3));
        assert!(process.open_files_max >= process.open_files);
        assert!(process.cpu_seconds.is_some() && process.threads.is_some_and(|threads| threads > 0));
        assert!(process.start_seconds.is_some_and(|at| at > 1.6e9));
    }
}
