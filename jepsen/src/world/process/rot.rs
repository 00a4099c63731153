//! Bits that flip in files while nobody uses them.
//!
//! Not here: which member is hit. It must be a minority: what is damaged everywhere is lost.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::command::{Result, failed};
use crate::rng::Rng;

/// Where a flip matters: the rest is text for people, locks, and what is written anew at a start.
fn is_of_interest(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ends = [".sst", ".log", ".wal", ".snap", "MARK"];
    (ends.iter().any(|end| name.ends_with(end)) || name == "db") && fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else if is_of_interest(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Flips one bit in one file below `directory`; says where.
pub fn flip(directory: &Path, rng: &mut Rng) -> Result<String> {
    let files = files_below(directory)?;
    if files.is_empty() {
        return failed(format!("{} has no file to damage", directory.display()));
    }
    let path = &files[rng.below(files.len() as u64) as usize];
    let mut bytes = fs::read(path)?;
    let before = bytes.clone();
    let at = rng.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << rng.below(8);
    fs::write(path, &bytes)?;
    if fs::read(path)? == before {
        return failed("no effect: a flipped bit is not there");
    }
    let name = path.strip_prefix(directory).unwrap_or(path).display();
    Ok(format!("byte {at} of {} in {name}", bytes.len()))
}
