//! A disk that can be full: a file, a loop device and ext4, with the room that a member needs and a ballast
//! that takes it away.
//!
//! Not here: slow and failing disks (`faultfs`).

use std::{fs, io::Write, path::PathBuf};

use nix::sys::statvfs::statvfs;

use super::{
    command::{Error, Result, failed, need, run},
    footprint::{Footprint, Trace},
    member::Member,
};

/// Members refuse writes below 256 MiB of free room; the file is sparse, so this costs what is written.
const SIZE: &str = "768M";

/// Must be called before the member starts.
pub fn arrange(member: &Member, footprint: &Footprint) -> Result<()> {
    need(&["mkfs.ext4", "losetup", "mount", "truncate"])?;
    let (image, data) = (member.data.with_extension("img"), member.data.display());
    run(&format!("truncate -s {SIZE} {}", image.display()))?;
    run(&format!("mkfs.ext4 -q -m 0 {}", image.display()))?;
    let device = run(&format!("losetup -f --show {}", image.display()))
        .map_err(|error| Error::Skipped(format!("no loop devices here: {error}")))?;
    let device = device.trim();
    footprint.note(&Trace::Loop(PathBuf::from(device)))?;
    footprint.note(&Trace::Mount(member.data.clone()))?;
    run(&format!("mount {device} {data}"))?;
    Ok(())
}

fn ballast(member: &Member) -> PathBuf {
    member.data.join("ballast")
}

/// Takes all the room there is.
pub fn fill(member: &Member) -> Result<()> {
    let free = free_bytes(member)?;
    run(&format!(
        "fallocate -l {} {}",
        free.saturating_sub(1 << 20),
        ballast(member).display()
    ))?;
    let mut file = fs::OpenOptions::new().append(true).open(ballast(member))?;
    // The rest, block by block, until the disk says no.
    while file.write_all(&[0; 4096]).is_ok() {}
    Ok(())
}

pub fn empty(member: &Member) -> Result<()> {
    fs::remove_file(ballast(member))?;
    Ok(())
}

pub fn prove(member: &Member) -> Result<()> {
    let free = free_bytes(member)?;
    // The member gives back a little when it removes files.
    if free > 64 << 20 {
        return failed(format!(
            "no effect: the full disk of member {} has {free} bytes free",
            member.index
        ));
    }
    Ok(())
}

fn free_bytes(member: &Member) -> Result<u64> {
    let stat = statvfs(&member.data).map_err(|errno| Error::Failed(format!("{}: {errno}", member.data.display())))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}
