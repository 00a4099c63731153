//! What the kernel counted for a process: CPU time from `/proc/PID/stat`, writes from `/proc/PID/io`.
//!
//! CPU time comes in ticks of 10 ms, so short runs are coarse.

use std::{fs, io};

use crate::failure::{Exit, Failure};

/// Linux reports times to user space in hundredths of a second on every architecture.
const TICK_MICROS: u64 = 10_000;

/// Counters of one process, or of several added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_micros: u64,
    /// Bytes that were sent towards the disk. 0 when the kernel does not let us see them.
    pub written_bytes: u64,
    /// Calls of write(2) and its kind; on a server most go to sockets.
    pub write_calls: u64,
}

impl Usage {
    pub fn of_self() -> Result<Self, Failure> {
        Self::of(std::process::id())
    }

    pub fn of_all(pids: &[u32]) -> Result<Self, Failure> {
        let mut sum = Self::default();
        for pid in pids {
            let one = Self::of(*pid)?;
            sum.cpu_micros += one.cpu_micros;
            sum.written_bytes += one.written_bytes;
            sum.write_calls += one.write_calls;
        }
        Ok(sum)
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_micros: self.cpu_micros.saturating_sub(before.cpu_micros),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            write_calls: self.write_calls.saturating_sub(before.write_calls),
        }
    }

    fn of(pid: u32) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Io, format!("process {pid}: {error}"));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(failed)?;
        let cpu_micros = cpu_ticks(&stat).unwrap_or_default() * TICK_MICROS;
        // Another user's io file is closed to us; CPU time is what matters.
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        Ok(Self {
            cpu_micros,
            written_bytes: field(&io, "write_bytes:"),
            write_calls: field(&io, "syscw:"),
        })
    }
}

/// User plus system time. The second field is the program's name in parentheses and may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn field(io: &str, name: &str) -> u64 {
    let value = io.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 23 0 0";
        assert_eq!(cpu_ticks(stat), Some(123));
        assert_eq!(field("rchar: 1\nwrite_bytes: 42\n", "write_bytes:"), 42);
    }
}
