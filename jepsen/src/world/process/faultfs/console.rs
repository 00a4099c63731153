//! The fault file system by hand: mounted over a directory, told what to do by lines on standard input.
//!
//! ```text
//!   $ jepsen process disk --at /tmp/m0           then: dipper --data-dir /tmp/m0/data ...
//!   slow 2000        every sync takes 2000 ms; `slow 0` ends it
//!   fail 1           the next sync fails
//!   lose             what is not synced is gone (kill the member first)
//!   torn             or some sectors of it
//!   seen             what happened so far
//! ```
//! The end of the input unmounts. Not here: what each of these does.

use std::{
    io::{self, BufRead},
    path::Path,
    time::Duration,
};

use super::{FaultFs, journal::Loss};
use crate::{
    rng::Rng,
    world::process::{
        command::{Result, failed},
        footprint::Footprint,
    },
};

pub fn run(at: &Path) -> Result<()> {
    let footprint = Footprint::begin()?;
    std::fs::create_dir_all(at)?;
    let disk = FaultFs::mount(&footprint, at)?;
    println!(
        "{} is a fault file system over {}",
        at.display(),
        disk.backing().display()
    );
    let mut rng = Rng::new(1);
    for line in io::stdin().lock().lines() {
        match obey(&disk, line?.trim(), &mut rng) {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}

fn obey(disk: &FaultFs, line: &str, rng: &mut Rng) -> Result<String> {
    let (word, number) = line.split_once(' ').unwrap_or((line, ""));
    let number = number.parse::<u32>();
    match (word, number) {
        ("slow", Ok(ms)) => disk.slow_syncs(Duration::from_millis(ms.into())),
        ("fail", Ok(count)) => disk.fail_syncs(count),
        ("lose", _) => return Ok(format!("{:?}", disk.lose_unsynced(Loss::All, rng)?)),
        ("torn", _) => return Ok(format!("{:?}", disk.lose_unsynced(Loss::Torn, rng)?)),
        ("seen", _) => return Ok(format!("{:?}", disk.seen())),
        _ => return failed(format!("{line:?}: slow MS, fail COUNT, lose, torn, or seen")),
    }
    Ok(line.to_owned())
}
