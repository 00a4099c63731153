//! The data directory: whose it is, that only one process uses it, and that nothing of it has gone.
//!
//! ```text
//! <data-dir>/ LOCK    held (flock) by the process that uses the directory
//!             FORMAT  version, cluster, member, incarnation; its presence says that the directory is made
//!             PEERS   the incarnations of the others
//!             kv/     the state
//!             raft/   the log; with --wal-dir it is <wal-dir>/raft, and <wal-dir> has a LOCK and a FORMAT too
//! ```
//!
//! A first start, and what the next start finds if it is cut off after a step:
//!
//! ```text
//! step                                found                        done
//! 1 directories, LOCK                 no FORMAT, ours and empty    start over
//! 2 raft/, kv/ made anew, PEERS       the same                     start over
//! 3 <wal-dir>/FORMAT, begun: no       the same                     start over
//! 4 FORMAT, begun: no                 FORMAT, not begun            start over, with what the log made so far
//! 5 (the log makes MARK and syncs)    the same                     start over
//! 6 FORMAT, begun: yes (`begin`)      a member                     from here raft/ must be there
//! ```
//!
//! Nothing may leave the member before `begin` has returned. Not here: what is in `raft/` and `kv/`.

mod format;
mod peers;
mod small_file;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

pub use self::format::{FORMAT_VERSION, Incarnation};
use self::format::{Format, LogPlace};
pub use self::peers::{Amnesia, KnownPeers};
use crate::config::{ClusterState, overlapping};
use crate::error::{Cause, StartError};
use crate::ids::{ClusterId, MemberId};

/// Who the flags say this member is.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub state: ClusterState,
}

/// An opened data directory.
#[derive(Debug)]
pub struct DataDir {
    /// The data directory itself.
    pub root: PathBuf,
    /// The log's directory.
    pub raft: PathBuf,
    /// The state's directory.
    pub kv: PathBuf,
    /// Random identity of this directory.
    pub incarnation: Incarnation,
    /// Nothing was promised from here yet: the log is to be made, then `begin` called.
    pub is_new: bool,
    /// The incarnations of the others.
    pub peers: KnownPeers,
    format: Format,
}

/// Keeps other processes out until dropped.
#[derive(Debug)]
pub struct DataDirLock {
    _files: Vec<File>,
}

struct Places<'a> {
    data_dir: &'a Path,
    wal_dir: Option<&'a Path>,
    raft: PathBuf,
    kv: PathBuf,
}

impl DataDir {
    /// Opens the directory of this member, or makes it.
    pub fn open(
        data_dir: &Path,
        wal_dir: Option<&Path>,
        expected: Expected,
    ) -> Result<(DataDir, DataDirLock), StartError> {
        let mut files = vec![lock_directory(data_dir)?];
        if let Some(wal_dir) = wal_dir {
            make_directory(wal_dir)?;
            check_apart(data_dir, wal_dir)?;
            files.push(lock_directory(wal_dir)?);
        }
        let raft = wal_dir.unwrap_or(data_dir).join("raft");
        let places = Places {
            data_dir,
            wal_dir,
            raft,
            kv: data_dir.join("kv"),
        };
        let opened = match Format::read(&data_dir.join("FORMAT"))? {
            Some(found) if found.begun => places.reopen(found, expected)?,
            found => places.make(found, expected)?,
        };
        Ok((opened, DataDirLock { _files: files }))
    }

    /// Says durably that promises are made from here on. The log must be made and synced before.
    pub fn begin(&mut self) -> Result<(), StartError> {
        let begun = Format {
            begun: true,
            ..self.format
        };
        begun.write(&self.root.join("FORMAT"))?;
        self.format = begun;
        self.is_new = false;
        Ok(())
    }
}

impl Places<'_> {
    fn reopen(self, found: Format, expected: Expected) -> Result<DataDir, StartError> {
        check_identity(self.data_dir, &found, expected)?;
        self.check_log_place(&found)?;
        if let Some(wal_dir) = self.wal_dir {
            self.check_wal_dir(wal_dir, &found, expected)?;
        }
        if !self.raft.is_dir() {
            let text = format!(
                "data directory {} has lost {}: what this member acknowledged was there. Bring it back, or replace the \
                 member",
                self.data_dir.display(),
                self.raft.display()
            );
            return Err(StartError::new(Cause::MissingPart, text));
        }
        let peers = KnownPeers::open(&self.data_dir.join("PEERS"))?;
        Ok(self.into_data_dir(found, peers))
    }

    fn make(self, found: Option<Format>, expected: Expected) -> Result<DataDir, StartError> {
        match found {
            Some(found) => check_identity(self.data_dir, &found, expected)?,
            None => self.check_ours_and_empty()?,
        }
        if expected.state == ClusterState::Existing {
            let text = format!(
                "joining a running cluster is not served yet: --initial-cluster-state is 'existing' and {} holds no \
                 member. A member that was here before needs its old directory (--data-dir)",
                self.data_dir.display()
            );
            return Err(StartError::new(Cause::Joining, text));
        }
        self.check_wal_dir_is_free(found.as_ref())?;
        let log = if self.wal_dir.is_some() {
            LogPlace::WalDir
        } else {
            LogPlace::DataDir
        };
        let (cluster, member) = (expected.cluster, expected.member);
        let format = Format {
            cluster,
            member,
            incarnation: Incarnation::random(),
            log,
            begun: false,
        };
        remake(&self.raft)?;
        remake(&self.kv)?;
        let peers = KnownPeers::create(&self.data_dir.join("PEERS"))?;
        if let Some(wal_dir) = self.wal_dir {
            format.write(&wal_dir.join("FORMAT"))?;
        }
        format.write(&self.data_dir.join("FORMAT"))?;
        Ok(self.into_data_dir(format, peers))
    }

    fn into_data_dir(self, format: Format, peers: KnownPeers) -> DataDir {
        DataDir {
            root: self.data_dir.to_owned(),
            raft: self.raft,
            kv: self.kv,
            incarnation: format.incarnation,
            is_new: !format.begun,
            peers,
            format,
        }
    }

    fn check_log_place(&self, found: &Format) -> Result<(), StartError> {
        let why = match (found.log, self.wal_dir) {
            (LogPlace::WalDir, None) => "it was made with --wal-dir, which is not given now",
            (LogPlace::DataDir, Some(_)) => "it was made without --wal-dir, which is given now",
            _ => return Ok(()),
        };
        let text = format!(
            "data directory {} keeps its log elsewhere: {why}",
            self.data_dir.display()
        );
        Err(StartError::new(Cause::WalDirMoved, text))
    }

    fn check_wal_dir(&self, wal_dir: &Path, data: &Format, expected: Expected) -> Result<(), StartError> {
        let Some(wal) = Format::read(&wal_dir.join("FORMAT"))? else {
            let text = format!(
                "data directory {} has lost its log: --wal-dir {} holds none",
                self.data_dir.display(),
                wal_dir.display()
            );
            return Err(StartError::new(Cause::MissingPart, text));
        };
        check_identity(wal_dir, &wal, expected)?;
        if wal.incarnation != data.incarnation {
            let text = format!(
                "--wal-dir {} belongs to another member: its incarnation is {}, that of --data-dir {} is {}",
                wal_dir.display(),
                wal.incarnation,
                self.data_dir.display(),
                data.incarnation
            );
            return Err(StartError::new(Cause::OtherMember, text));
        }
        Ok(())
    }

    // A log that is not of this very attempt must not be wiped: it may be all that is left of a member.
    fn check_wal_dir_is_free(&self, found: Option<&Format>) -> Result<(), StartError> {
        let Some(wal_dir) = self.wal_dir else { return Ok(()) };
        let wal = Format::read(&wal_dir.join("FORMAT"))?;
        let of_this_attempt = match (&wal, found) {
            (Some(wal), Some(found)) => wal.incarnation == found.incarnation,
            _ => false,
        };
        if of_this_attempt || is_empty(&self.raft)? {
            return if wal.is_some() {
                Ok(())
            } else {
                check_only_ours(wal_dir, &["raft"])
            };
        }
        let (wal_dir, data_dir) = (wal_dir.display(), self.data_dir.display());
        let text = format!(
            "--wal-dir {wal_dir} holds the log of a member whose data directory is gone: --data-dir {data_dir} is new. \
             Give its old data directory, or another --wal-dir"
        );
        Err(StartError::new(Cause::WalDirOrphan, text))
    }

    fn check_ours_and_empty(&self) -> Result<(), StartError> {
        check_only_ours(self.data_dir, &["raft", "kv"])
    }
}

// Without a FORMAT only what a first start leaves behind may be here: our own files, and our directories while empty.
fn check_only_ours(dir: &Path, our_dirs: &[&str]) -> Result<(), StartError> {
    // A file system's root has lost+found.
    let ours = ["LOCK", "PEERS", "PEERS.tmp", "FORMAT.tmp", "lost+found"];
    let entries = fs::read_dir(dir).map_err(|error| StartError::unusable(dir, "listing it", &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| StartError::unusable(dir, "listing it", &error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if ours.contains(&&*name) || (our_dirs.contains(&&*name) && is_empty(&entry.path())?) {
            continue;
        }
        let text = format!(
            "{} is not a data directory of dipper: it has no FORMAT, but {name:?} in it. Give an empty or a new \
             directory (--data-dir, --wal-dir)",
            dir.display()
        );
        return Err(StartError::new(Cause::Foreign, text));
    }
    Ok(())
}

fn check_identity(dir: &Path, found: &Format, expected: Expected) -> Result<(), StartError> {
    if (found.cluster, found.member) == (expected.cluster, expected.member) {
        return Ok(());
    }
    let text = format!(
        "data directory {} belongs to another member: it was made for member {} of cluster {}, the flags say member {} \
         of cluster {}. Look at --data-dir, --name, --initial-cluster and --initial-cluster-token",
        dir.display(),
        found.member,
        found.cluster,
        expected.member,
        expected.cluster
    );
    Err(StartError::new(Cause::OtherMember, text))
}

fn check_apart(data_dir: &Path, wal_dir: &Path) -> Result<(), StartError> {
    let real = |dir: &Path| {
        dir.canonicalize()
            .map_err(|error| StartError::unusable(dir, "resolving it", &error))
    };
    let (data, wal) = (real(data_dir)?, real(wal_dir)?);
    if wal.starts_with(&data) || data.starts_with(&wal) {
        Err(overlapping(&data, &wal))
    } else {
        Ok(())
    }
}

fn lock_directory(dir: &Path) -> Result<File, StartError> {
    make_directory(dir)?;
    let path = dir.join("LOCK");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| StartError::unusable(&path, "opening it", &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
            let text = format!(
                "data directory {} is in use by another process: its LOCK is held",
                dir.display()
            );
            Err(StartError::new(Cause::InUse, text))
        }
        Err(error) => Err(StartError::unusable(&path, "locking it", &error.into())),
    }
}

// A new directory is for its owner alone (0700); an old one at least for no other to write.
fn make_directory(dir: &Path) -> Result<(), StartError> {
    match fs::metadata(dir) {
        Ok(found) => check_mode(dir, found.permissions().mode() & 0o7777),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            let parent = dir
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            made.and_then(|()| small_file::sync_dir(parent))
                .map_err(|error| StartError::unusable(dir, "making it", &error))
        }
        Err(error) => Err(StartError::unusable(dir, "looking at it", &error)),
    }
}

fn check_mode(dir: &Path, mode: u32) -> Result<(), StartError> {
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let dir = dir.display();
    let text = format!("data directory {dir} can be written by others: its mode is {mode:04o}. Run: chmod 700 {dir}");
    Err(StartError::new(Cause::OpenToOthers, text))
}

fn remake(dir: &Path) -> Result<(), StartError> {
    let removed = match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    let parent = dir.parent().expect("it was joined from a directory and a name");
    removed
        .and_then(|()| DirBuilder::new().mode(0o700).create(dir))
        .and_then(|()| small_file::sync_dir(parent))
        .map_err(|error| StartError::unusable(dir, "making it anew", &error))
}

fn is_empty(dir: &Path) -> Result<bool, StartError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(StartError::unusable(dir, "listing it", &error)),
    }
}
