//! Files of a few lines that must be there whole or not at all: FORMAT and PEERS.
//!
//! The last line is a CRC of the rest. Written to a temporary name, synced, renamed, and the directory synced. Not for
//! the log's MARK, which is written far too often for a rename.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Cause, StartError};
use crate::limits::SMALL_FILE_BYTES_MAX;

/// Replaces the file durably: after this returns, a crash leaves the new text; before, the old one.
pub fn replace(path: &Path, body: &str) -> io::Result<()> {
    let temporary = temporary(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    write!(file, "{body}{}", crc_line(body))?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The name that the file has while it is written; left behind by a crash.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Makes creations and renames in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The file's text, CRC line and all, or None if there is no such file.
pub fn read(path: &Path) -> Result<Option<String>, StartError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StartError::unusable(path, "opening it", &error)),
    };
    let mut bytes = Vec::new();
    file.take(SMALL_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| StartError::unusable(path, "reading it", &error))?;
    if bytes.len() as u64 > SMALL_FILE_BYTES_MAX {
        return Err(damaged(path, "it is far too large"));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| damaged(path, "it is not text"))
}

/// The text without its CRC line, if that is right.
pub fn verified<'a>(path: &Path, text: &'a str) -> Result<&'a str, StartError> {
    let body = text.rfind("crc: ").map_or("", |at| &text[..at]);
    if text.len() > body.len() && text[body.len()..] == crc_line(body) {
        return Ok(body);
    }
    Err(damaged(path, "its checksum is wrong"))
}

/// The refusal of a file that is not as it was written.
pub fn damaged(path: &Path, what: &str) -> StartError {
    let path = path.display();
    let text = format!(
        "{path} is damaged: {what}. This member cannot tell who it is; bring the file back from a copy, or replace the \
         member"
    );
    StartError::new(Cause::DamagedFile, text)
}

fn crc_line(body: &str) -> String {
    format!("crc: {:08x}\n", crc32fast::hash(body.as_bytes()))
}
