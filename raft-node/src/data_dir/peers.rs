//! PEERS: the incarnation of every other member that this one has ever counted on.
//!
//! A vote or an acknowledgement counts only if it comes from the data directory that made the earlier ones. So an
//! incarnation is stored here, durably, before the first answer of a peer counts; a peer that turns up with another
//! one has lost its promises (amnesia) and is not listened to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::format::Incarnation;
use super::small_file;
use crate::error::{Cause, StartError};
use crate::ids::MemberId;
use crate::limits::KNOWN_PEERS_MAX;

const FIRST_LINE: &str = "dipper known peers";

/// A peer came with another data directory than the one that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amnesia {
    /// The incarnation that the peer had before.
    pub known: Incarnation,
}

/// The incarnations known, and the file that keeps them.
#[derive(Debug)]
pub struct KnownPeers {
    path: PathBuf,
    by_member: BTreeMap<MemberId, Incarnation>,
}

impl KnownPeers {
    /// Makes an empty file.
    pub fn create(path: &Path) -> Result<Self, StartError> {
        let known = Self {
            path: path.to_owned(),
            by_member: BTreeMap::new(),
        };
        small_file::replace(path, &known.body()).map_err(|error| StartError::unusable(path, "writing it", &error))?;
        Ok(known)
    }

    /// Reads the file.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let Some(text) = small_file::read(path)? else {
            let dir = path.parent().unwrap_or(path).display();
            let text = format!("data directory {dir} has lost PEERS; bring it back from a copy, or replace the member");
            return Err(StartError::new(Cause::MissingPart, text));
        };
        let body = small_file::verified(path, &text)?;
        let by_member = parse(body).ok_or_else(|| small_file::damaged(path, "a line is unreadable"))?;
        Ok(Self {
            path: path.to_owned(),
            by_member,
        })
    }

    /// The incarnation known of a peer.
    pub fn incarnation(&self, member: MemberId) -> Option<Incarnation> {
        self.by_member.get(&member).copied()
    }

    /// Takes note of a peer's incarnation: stored durably before this returns, or refused if another one is known.
    ///
    /// A failed write stops the process: what is not stored must not be counted on.
    pub fn learn(&mut self, member: MemberId, incarnation: Incarnation) -> Result<(), Amnesia> {
        match self.incarnation(member) {
            Some(known) if known == incarnation => Ok(()),
            Some(known) => Err(Amnesia { known }),
            None => {
                assert!(
                    self.by_member.len() < KNOWN_PEERS_MAX,
                    "only members are learnt, and there are few"
                );
                self.by_member.insert(member, incarnation);
                if let Err(error) = small_file::replace(&self.path, &self.body()) {
                    panic!(
                        "cannot store the incarnation of {member} in {}: {error}",
                        self.path.display()
                    );
                }
                Ok(())
            }
        }
    }

    fn body(&self) -> String {
        let lines = self
            .by_member
            .iter()
            .map(|(member, incarnation)| format!("{member}: {incarnation}\n"));
        format!("{FIRST_LINE}\n{}", lines.collect::<String>())
    }
}

fn parse(body: &str) -> Option<BTreeMap<MemberId, Incarnation>> {
    let mut lines = body.lines();
    if lines.next() != Some(FIRST_LINE) {
        return None;
    }
    lines
        .map(|line| {
            let (member, incarnation) = line.split_once(": ")?;
            Some((
                MemberId(u64::from_str_radix(member, 16).ok()?),
                Incarnation::from_hex(incarnation)?,
            ))
        })
        .collect()
}
