//! Whether the fault file system can be believed: a small log, right and with three well-known bugs, is run on
//! it and loses its power. The right one must keep all that it acknowledged; each bug must be seen.
//!
//! | the log                        | what it forgets                                    |
//! |--------------------------------|----------------------------------------------------|
//! | right                          | nothing                                            |
//! | no sync                        | to sync the file                                   |
//! | no sync of the directory       | that a new file's name is not in its file          |
//! | tries a failed sync again      | that a failed sync has dropped the pages           |
//!
//! Not here: our own log. It is judged by scenarios.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{FaultFs, journal::Loss};
use crate::rng::Rng;
use crate::world::process::{
    command::{Result, failed},
    footprint::Footprint,
};

const RECORDS: u64 = 200;
/// Records per file, so that names matter.
const FILE_RECORDS: u64 = 50;
const RECORD_BYTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    NoSync,
    NoDirectorySync,
    SyncAgain,
}

/// Runs all four; an error says which verdict was wrong.
pub fn prove(footprint: &Footprint) -> Result<()> {
    for loss in [Loss::All, Loss::Torn] {
        for (bug, is_to_be_seen) in [
            (Bug::None, false),
            (Bug::NoSync, true),
            (Bug::NoDirectorySync, true),
            (Bug::SyncAgain, true),
        ] {
            let lost = records_lost(footprint, bug, loss)?;
            if (lost > 0) != is_to_be_seen {
                return failed(format!(
                    "the fault file system: a log with bug {bug:?} lost {lost} records by {loss:?}"
                ));
            }
        }
    }
    Ok(())
}

/// How many acknowledged records are gone after the power was.
pub fn records_lost(footprint: &Footprint, bug: Bug, loss: Loss) -> Result<u64> {
    let directory = footprint.directory().join(format!("proof-{bug:?}-{loss:?}"));
    std::fs::create_dir(&directory)?;
    let disk = FaultFs::mount(footprint, &directory)?;
    let acknowledged = write(&disk, &directory, bug)?;
    disk.lose_unsynced(loss, &mut Rng::new(7))?;
    Ok(acknowledged - read(&directory)?.min(acknowledged))
}

/// The number of records that were acknowledged, in order from 0.
fn write(disk: &FaultFs, directory: &Path, bug: Bug) -> Result<u64> {
    let mut file: Option<File> = None;
    for number in 0..RECORDS {
        if number % FILE_RECORDS == 0 {
            file = Some(
                OpenOptions::new()
                    .create_new(true)
                    .append(true)
                    .open(file_of(directory, number))?,
            );
            if bug != Bug::NoDirectorySync {
                File::open(directory)?.sync_all()?;
            }
        }
        let open = file.as_mut().expect("the first record opens one");
        // Not in the last file, where the end of the log would be anybody's guess.
        if number == RECORDS / 2 {
            disk.fail_syncs(u32::from(bug == Bug::SyncAgain));
        }
        open.write_all(&number.to_le_bytes())?;
        if bug == Bug::NoSync {
            continue;
        }
        match (open.sync_data(), bug) {
            (Ok(()), _) => {}
            (Err(_), Bug::SyncAgain) => open.sync_data()?,
            (Err(error), _) => return failed(format!("a sync failed unasked: {error}")),
        }
    }
    Ok(RECORDS)
}

/// How many records there are from the beginning on, without a hole.
fn read(directory: &Path) -> io::Result<u64> {
    for number in 0..RECORDS {
        let place = (number % FILE_RECORDS) as usize * RECORD_BYTES;
        let bytes = match std::fs::read(file_of(directory, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(number),
            bytes => bytes?,
        };
        let record = bytes.get(place..place + RECORD_BYTES);
        if record != Some(number.to_le_bytes().as_slice()) {
            return Ok(number);
        }
    }
    Ok(RECORDS)
}

fn file_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("log-{}", number / FILE_RECORDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::process::command::Error;

    #[test]
    fn small_logs_with_known_bugs_are_caught() {
        let footprint = Footprint::begin().unwrap();
        match prove(&footprint) {
            Ok(()) => {}
            Err(Error::Skipped(why)) => println!("skipped: {why}"),
            Err(error) => panic!("{error}"),
        }
    }
}
