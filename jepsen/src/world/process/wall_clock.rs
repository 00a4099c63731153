//! Wall clocks that jump: a library between a member and its clock (libfaketime), told by a file.
//!
//! Monotonic time stays true, as it does when an operator or NTP sets a clock. It works for what asks libc;
//! Go asks the kernel, so etcd's clocks cannot be moved this way. Not here: clocks that run fast.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    command::{Error, Result, failed, run},
    member::Member,
};

/// Where distributions put it; `$LIB` is a directory per architecture.
const PLACES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// A second more than a clock and a process's start may differ by.
const TOLERANCE_S: i64 = 2;

fn file_of(member: &Member) -> PathBuf {
    member.data.with_extension("clock")
}

/// Must be called before the member starts.
pub fn arrange(member: &mut Member) -> Result<()> {
    let Some(library) = PLACES.iter().find(|place| Path::new(place).exists()) else {
        return Err(Error::Skipped("libfaketime is not installed".to_owned()));
    };
    let file = file_of(member);
    fs::write(&file, "+0\n")?;
    member.environment.extend([
        format!("LD_PRELOAD={library}"),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "FAKETIME_NO_CACHE=1".to_owned(),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
    ]);
    Ok(())
}

/// From now on it is this much off.
pub fn jump(member: &Member, seconds: i64) -> Result<()> {
    // Renamed into place: a clock is asked all the time, and half a number is one as well.
    let file = file_of(member);
    let new = file.with_extension("new");
    fs::write(&new, format!("{seconds:+}\n"))?;
    fs::rename(new, file)?;
    Ok(())
}

/// The library is in the member, and whoever asks through it sees the jump.
pub fn prove(member: &Member, seconds: i64) -> Result<()> {
    let pid = member.pid().unwrap_or_default();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    if !maps.contains("libfaketime") {
        return failed(format!(
            "no effect: member {} does not have libfaketime in it",
            member.index
        ));
    }
    let seen: i64 = run(&format!("env {} date +%s", member.environment.join(" ")))?
        .trim()
        .parse()
        .unwrap_or_default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs() as i64);
    if (seen - now - seconds).abs() > TOLERANCE_S {
        return failed(format!(
            "no effect: a clock that is to be {seconds:+} s off is {:+} s off",
            seen - now
        ));
    }
    Ok(())
}
