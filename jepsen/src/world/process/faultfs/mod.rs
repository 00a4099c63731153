//! A disk that breaks on command: our own file system (FUSE) over a plain directory.
//!
//! ```text
//!   member -> kernel -> serve -> backing directory      what the member sees: everything it wrote
//!                         |
//!                       journal                         how to take back what it has not synced
//! ```
//! The backing directory always holds what a running process sees. The journal knows, for each file and each
//! name, how it was at the last sync of it; losing power takes all of that back, in whole, or in a torn way: some
//! sectors stay and others do not. A name (create, rename, remove) is durable once its directory is synced.
//! Nothing is really flushed: no power is cut, and whether this file system keeps its own promises is shown
//! by small logs with known bugs (`proof`).
//! Not here: disks that are full (a loop device does that better) and bits that flip at rest (`rot`: files
//! are files).

pub mod console;
pub mod journal;
pub mod proof;
mod serve;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use fuser::{BackgroundSession, Config, MountOption, Session};

use super::{
    command::{Error, Result},
    footprint::{Footprint, Trace},
};
use crate::rng::Rng;
use journal::{Journal, Loss};
use serve::Server;

/// Enough that a sync which hangs does not hold up what does not wait for it.
const THREADS: usize = 4;

/// What the file system does wrong at present, and what came of it.
#[derive(Debug)]
pub struct Disk {
    journal: Journal,
    /// How long every sync takes.
    sync_time: Duration,
    /// So many syncs fail with EIO; what they should have made durable never will be.
    failing_syncs: u32,
    pub seen: Seen,
}

/// What really happened: the proof that a fault took effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub syncs: u64,
    pub slow_syncs: u64,
    pub failed_syncs: u64,
    pub longest_sync: Duration,
}

/// A mounted fault file system; dropping it unmounts.
pub struct FaultFs {
    disk: Arc<Mutex<Disk>>,
    backing: PathBuf,
    // After the disk: what serves it ends when this is dropped.
    _session: BackgroundSession,
}

impl FaultFs {
    /// Mounts over `at`, an empty directory; the backing directory is beside it.
    pub fn mount(footprint: &Footprint, at: &Path) -> Result<Self> {
        if !Path::new("/dev/fuse").exists() {
            return Err(Error::Skipped("there is no /dev/fuse".to_owned()));
        }
        let beside = |end: &str| at.with_extension(end);
        let (backing, removed) = (beside("backing"), beside("removed"));
        fs::create_dir(&backing)?;
        fs::create_dir(&removed)?;
        let disk = Arc::new(Mutex::new(Disk {
            journal: Journal::new(removed),
            sync_time: Duration::ZERO,
            failing_syncs: 0,
            seen: Seen::default(),
        }));
        footprint.note(&Trace::Mount(at.to_owned()))?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("jepsen-faultfs".to_owned())];
        config.n_threads = Some(THREADS);
        let server = Server::new(backing.clone(), Arc::clone(&disk));
        let session = Session::new(server, at, &config)
            .and_then(Session::spawn)
            .map_err(|error| Error::Skipped(format!("FUSE cannot be mounted here: {error}")))?;
        Ok(Self {
            disk,
            backing,
            _session: session,
        })
    }

    /// Where the bytes are, for damage at rest.
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    pub fn slow_syncs(&self, time: Duration) {
        lock(&self.disk).sync_time = time;
    }

    pub fn fail_syncs(&self, count: u32) {
        lock(&self.disk).failing_syncs = count;
    }

    pub fn seen(&self) -> Seen {
        lock(&self.disk).seen
    }

    /// Makes the names of all files durable, but not what is in them: what common file systems do with a file's own
    /// sync, and POSIX does not promise.
    pub fn sync_names(&self) -> Result<()> {
        Ok(lock(&self.disk).journal.synced_directories()?)
    }

    /// The power goes: whoever had files open here must be dead already.
    pub fn lose_unsynced(&self, loss: Loss, rng: &mut Rng) -> Result<journal::Lost> {
        Ok(lock(&self.disk).journal.lose(loss, rng)?)
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().expect("no code that holds this lock panics")
}
