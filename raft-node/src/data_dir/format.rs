//! FORMAT: what a data directory is and whose.
//!
//! ```text
//! dipper data directory
//! format: 1
//! cluster: cdf818194e3a8c32
//! member: 8e9e05c52164694d
//! incarnation: 5f0c2a...            16 random bytes, new for every directory
//! log: data-dir                     or wal-dir
//! begun: yes                        no: made, but nothing was promised from here yet
//! crc: 1b2c3d4e
//! ```
//!
//! The first two lines never change their form, so that any version can tell that it is too old.

use std::fmt;
use std::path::Path;

use super::small_file;
use crate::error::{Cause, StartError};
use crate::ids::{ClusterId, MemberId};

/// The newest format that this build reads, and the one that it writes.
pub const FORMAT_VERSION: u64 = 1;

const FIRST_LINE: &str = "dipper data directory";

/// A data directory's own identity: random, so that an emptied directory is not taken for the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

impl Incarnation {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system has a source of randomness once it runs programs");
        Self(bytes)
    }

    /// Reads what `Display` writes.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a member keeps its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPlace {
    DataDir,
    WalDir,
}

/// The content of FORMAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub log: LogPlace,
    pub begun: bool,
}

impl Format {
    /// Writes it durably.
    pub fn write(&self, path: &Path) -> Result<(), StartError> {
        let log = match self.log {
            LogPlace::DataDir => "data-dir",
            LogPlace::WalDir => "wal-dir",
        };
        let body = format!(
            "{FIRST_LINE}\nformat: {FORMAT_VERSION}\ncluster: {}\nmember: {}\nincarnation: {}\nlog: {log}\nbegun: {}\n",
            self.cluster,
            self.member,
            self.incarnation,
            if self.begun { "yes" } else { "no" },
        );
        small_file::replace(path, &body).map_err(|error| StartError::unusable(path, "writing it", &error))
    }

    /// Reads it; None if there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>, StartError> {
        let Some(text) = small_file::read(path)? else {
            return Ok(None);
        };
        // Before the checksum: a newer version may compute that in its own way.
        check_version(path, &text)?;
        let body = small_file::verified(path, &text)?;
        Self::from_body(body)
            .map(Some)
            .ok_or_else(|| small_file::damaged(path, "a line is missing or unreadable"))
    }

    fn from_body(body: &str) -> Option<Self> {
        let field = |name: &str| {
            body.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        Some(Self {
            cluster: ClusterId(u64::from_str_radix(field("cluster")?, 16).ok()?),
            member: MemberId(u64::from_str_radix(field("member")?, 16).ok()?),
            incarnation: Incarnation::from_hex(field("incarnation")?)?,
            log: match field("log")? {
                "data-dir" => LogPlace::DataDir,
                "wal-dir" => LogPlace::WalDir,
                _ => return None,
            },
            begun: match field("begun")? {
                "yes" => true,
                "no" => false,
                _ => return None,
            },
        })
    }
}

fn check_version(path: &Path, text: &str) -> Result<(), StartError> {
    let mut lines = text.lines();
    let version = match (
        lines.next(),
        lines.next().and_then(|line| line.strip_prefix("format: ")),
    ) {
        (Some(FIRST_LINE), Some(version)) => version.parse::<u64>().ok(),
        _ => None,
    };
    match version {
        None | Some(0) => Err(small_file::damaged(
            path,
            "its first two lines are not those of a FORMAT",
        )),
        Some(version) if version > FORMAT_VERSION => {
            let path = path.display();
            let text = format!(
                "{path}: written by a newer dipper (format {version}); this build reads up to {FORMAT_VERSION}. Start \
                 the newer version again"
            );
            Err(StartError::new(Cause::Newer, text))
        }
        Some(_) => Ok(()),
    }
}
