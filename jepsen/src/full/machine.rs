//! When, of what and on what a run began: nothing that names the machine or where things lie on it.

use crate::{
    results::{Began, Part},
    world::process::command,
};

pub fn begin(commit: Option<String>, parts: &[Part]) -> Began {
    Began {
        date: said("date -u +%Y-%m-%dT%H:%MZ"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: commit.unwrap_or_else(commit_here),
        cores: std::thread::available_parallelism().map_or(0, usize::from) as u64,
        memory_mib: memory_mib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        parts: parts.to_vec(),
    }
}

/// What is checked out, and whether files differ from it. The reports do not count: a run that is gone on with has
/// written one.
fn commit_here() -> String {
    let commit = said("git rev-parse --short=12 HEAD");
    let changed = command::run("git status --porcelain --untracked-files=no -- :/ :(top,exclude)jepsen/reports");
    if changed.is_ok_and(|changed| !changed.is_empty()) {
        return format!("{commit}, with changes");
    }
    commit
}

fn said(line: &str) -> String {
    command::run(line).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn memory_mib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_kernels_total() {
        assert_eq!(memory_mib("MemTotal:       24576000 kB\nMemFree: 1 kB\n"), 24_000);
        assert_eq!(memory_mib(""), 0);
    }
}
