//! A member whose memory is taken away: a group of its own (cgroup v1 or v2) whose limit falls to what it uses.
//!
//! Not here: members that are meant to live with little; that is a flag of theirs.

use std::{fs, path::PathBuf};

use super::{
    command::{Error, Result, failed},
    footprint::{Footprint, Trace},
    member::Member,
};

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// Must be called before the member starts.
pub fn arrange(member: &mut Member, footprint: &Footprint) -> Result<()> {
    let root = if PathBuf::from(V1).join("memory.limit_in_bytes").exists() {
        V1
    } else {
        V2
    };
    let group = PathBuf::from(root).join(footprint.name(&format!("m{}", member.index)));
    footprint.note(&Trace::Cgroup(group.clone()))?;
    fs::create_dir(&group).map_err(|error| Error::Skipped(format!("no memory groups here: {error}")))?;
    if !group.join(limit_file(root == V1)).exists() {
        return Err(Error::Skipped("the memory controller is not mounted".to_owned()));
    }
    member.cgroup = Some(group);
    Ok(())
}

fn limit_file(is_v1: bool) -> &'static str {
    if is_v1 { "memory.limit_in_bytes" } else { "memory.max" }
}

fn group(member: &Member) -> Result<(PathBuf, bool)> {
    let Some(group) = member.cgroup.clone() else {
        return failed("this member is in no memory group");
    };
    let is_v1 = group.starts_with(V1);
    Ok((group, is_v1))
}

/// Takes what can be taken and a little of the rest: what it needs next, it does not get.
pub fn squeeze(member: &Member) -> Result<()> {
    let (group, is_v1) = group(member)?;
    let used = fs::read_to_string(group.join(if is_v1 {
        "memory.usage_in_bytes"
    } else {
        "memory.current"
    }))?;
    let mut limit: u64 = used.trim().parse().unwrap_or(u64::MAX >> 1);
    // Until the kernel cannot give up any more pages; it refuses (v1) or kills (v2). Large steps first.
    for step in [10, 50, 400] {
        while limit > 1 << 20 && fs::write(group.join(limit_file(is_v1)), (limit - limit / step).to_string()).is_ok() {
            limit -= limit / step;
        }
    }
    Ok(())
}

pub fn release(member: &Member) -> Result<()> {
    let (group, is_v1) = group(member)?;
    fs::write(group.join(limit_file(is_v1)), if is_v1 { "-1" } else { "max" })?;
    Ok(())
}

/// How often the limit was met.
pub fn refusals(member: &Member) -> Result<u64> {
    let (group, is_v1) = group(member)?;
    if is_v1 {
        return Ok(fs::read_to_string(group.join("memory.failcnt"))?
            .trim()
            .parse()
            .unwrap_or_default());
    }
    let events = fs::read_to_string(group.join("memory.events"))?;
    let max = events.lines().find_map(|line| line.strip_prefix("max "));
    Ok(max.and_then(|count| count.parse().ok()).unwrap_or_default())
}
