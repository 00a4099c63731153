//! What a disk can do to a stopped member's files, and how a member fares that is started on them.
//!
//! Not here: which outcome is right. That is the tests' business.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::harness::{member::Member, rpc::Rpc};

/// A start that has decided nothing after this long is a failure.
const DECIDES_WITHIN: Duration = Duration::from_mins(1);

/// Copies a directory with everything in it; the copy is its owner's alone, as a member demands.
pub fn copy_tree(from: &Path, to: &Path) {
    DirBuilder::new().mode(0o700).create(to).expect("the copy's directory");
    for entry in fs::read_dir(from).expect("a directory to copy") {
        let entry = entry.expect("an entry of it");
        let place = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy_tree(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).expect("a copy of a file");
        }
    }
}

/// Puts `from` in the place of `to`.
pub fn replace_tree(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("removing a test's own directory");
    }
    copy_tree(from, to);
}

/// All files below `root`, as paths relative to it, in a fixed order.
pub fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of a member") {
            let path = entry.expect("an entry of it").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(root).expect("it is below it").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// What can happen to one file.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// One bit of the byte there is the other way round.
    Flip(u64),
    /// Only this many bytes are left.
    Truncate(u64),
}

/// Does it.
pub fn damage(file: &Path, fault: Fault) {
    match fault {
        Fault::Flip(at) => flip_bit(file, at),
        Fault::Truncate(length) => {
            let file = fs::OpenOptions::new().write(true).open(file).expect("a file to cut");
            file.set_len(length).expect("a cut");
        }
    }
}

/// Flips the lowest bit of a byte; twice is not at all.
pub fn flip_bit(file: &Path, at: u64) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .expect("a file to damage");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte to damage");
    byte[0] ^= 1;
    file.write_all_at(&byte, at).expect("a damaged byte");
}

/// How a start ended.
#[derive(Debug)]
pub enum Started {
    /// The process ended by itself before it served; this is what it wrote.
    Refused(String),
    /// It serves.
    Serves,
}

/// Starts a member and waits until it serves or has ended.
pub fn start(member: &mut Member) -> Started {
    let from = member.log_text().len();
    member.spawn();
    let rpc = Rpc::connect(&member.client_url);
    let deadline = Instant::now() + DECIDES_WITHIN;
    loop {
        if member.exited().is_some() {
            return Started::Refused(log_from(member, from));
        }
        if rpc.serves() {
            return Started::Serves;
        }
        assert!(
            Instant::now() < deadline,
            "neither serves nor ends:\n{}",
            member.log_tail()
        );
        // A process that starts has no event that we could wait for.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a member wrote behind the first `from` bytes of its log.
pub fn log_from(member: &Member, from: usize) -> String {
    member.log_text().get(from..).unwrap_or_default().to_owned()
}

/// The value of a metric without labels, from a page of Prometheus text.
pub fn metric(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("VmRSS in kB") << 10
}
