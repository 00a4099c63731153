//! Where the state machine's files are, and which of them count.
//!
//! ```text
//!   kv/ACTIVE              one line: the directory of the state that counts, and a checksum; replaced by rename
//!   kv/state-0             the first state
//!   kv/state-<index>-<term>  a state that came as a snapshot
//!   kv/incoming/           files of a snapshot that is on its way here
//!   kv/outgoing-<n>/       a checkpoint that is on its way to others
//! ```
//! Switching states is one rename, so a crash leaves either the old or the new one. Everything that neither
//! ACTIVE nor an install intent names is removed at the next start, and nothing before that is certain: an ACTIVE
//! that is damaged, or names what is not there, is a refusal to start.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use kv::{RocksEngine, RocksOptions, Store, StoreOptions, engine::Engine as _};

use crate::log::EntryId;

const ACTIVE: &str = "ACTIVE";
const FIRST: &str = "state-0";
const INCOMING: &str = "incoming";

/// The directory `kv` of a member.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    root: PathBuf,
    options: RocksOptions,
}

impl StateDirectory {
    /// Prepares `root`; removes what a crash or an earlier snapshot left behind, except a state that is `arriving`:
    /// its installation was begun and is to be finished.
    pub fn open(root: &Path, options: RocksOptions, arriving: Option<&str>) -> Result<Self, String> {
        let directory = Self {
            root: root.to_owned(),
            options,
        };
        directory
            .prepare(arriving)
            .map_err(|error| format!("{}: {error}", root.display()))?;
        Ok(directory)
    }

    fn prepare(&self, arriving: Option<&str>) -> io::Result<()> {
        create_durably(&self.root)?;
        let active = self.active()?;
        create_durably(&self.root.join(&active))?;
        // What has arrived of a snapshot is gone on with; the landing removes what is of no use.
        self.remove_all_but(&[&active, arriving.unwrap_or(&active), INCOMING])?;
        fs::create_dir_all(self.incoming())
    }

    /// Opens the state that counts. The text names the file and what RocksDB said.
    pub fn open_store(&self) -> Result<Store<RocksEngine>, String> {
        let path = self.root.join(
            self.active()
                .map_err(|error| format!("{}: {error}", self.root.display()))?,
        );
        let engine = RocksEngine::open(&path, &self.options)?;
        Ok(Store::open(engine, StoreOptions::default()))
    }

    /// Where snapshots arrive.
    pub fn incoming(&self) -> PathBuf {
        self.root.join(INCOMING)
    }

    /// Where checkpoint number `number` goes.
    pub fn outgoing(&self, number: u64) -> PathBuf {
        self.root.join(format!("outgoing-{number}"))
    }

    /// The directory of the state that ends at `at`.
    pub fn name_of(at: EntryId) -> String {
        format!("state-{}-{}", at.index, at.term)
    }

    /// Moves verified files to the place of a state; it does not count yet.
    pub fn take_in(&self, files: &Path, at: EntryId) -> Result<(), String> {
        let place = self.root.join(Self::name_of(at));
        let moved = (|| {
            if self.active()? == Self::name_of(at) {
                // A leader that did not hear of our installation sends the same again: it is in use.
                return remove(files);
            }
            remove(&place)?;
            fs::rename(files, &place)?;
            sync_directory(&self.root)
        })();
        moved.map_err(|error: io::Error| {
            format!("cannot keep the snapshot that arrived as {}: {error}", place.display())
        })
    }

    /// From now on the state that ends at `at` counts; also the name of the one before, whose files stay until
    /// [`Self::forget`].
    pub fn switch_to(&self, at: EntryId) -> (Store<RocksEngine>, String) {
        let switched = self
            .active()
            .and_then(|before| self.activate(&Self::name_of(at)).map(|()| before));
        let before = switched.unwrap_or_else(|error| panic!("{}: {error}", self.root.join(ACTIVE).display()));
        let store = self
            .open_store()
            .unwrap_or_else(|why| panic!("the installed snapshot cannot be opened: {why}"));
        (store, before)
    }

    /// Finishes an installation that a crash interrupted.
    pub fn finish(&self, name: &str) -> Result<(), String> {
        let place = self.root.join(name);
        if !place.is_dir() {
            return Err(format!(
                "{} is missing, though its installation had begun",
                place.display()
            ));
        }
        self.activate(name)
            .map_err(|error| format!("{}: {error}", self.root.join(ACTIVE).display()))
    }

    /// Removes a state that does not count any more, or never did; nothing may read it.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        if self.active()? == name {
            return Ok(());
        }
        remove(&self.root.join(name))
    }

    /// A consistent copy of the state's files, mostly hard links.
    pub fn checkpoint(engine: &RocksEngine, directory: &Path) {
        remove(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        engine
            .checkpoint(directory)
            .unwrap_or_else(|why| panic!("cannot make a checkpoint in {}: {why}", directory.display()));
    }

    fn active(&self) -> io::Result<String> {
        let damaged = |why: String| io::Error::other(format!("its file {ACTIVE} is damaged: {why}"));
        let content = match fs::read(self.root.join(ACTIVE)) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.first(),
            Err(error) => return Err(error),
        };
        let line = String::from_utf8(content).map_err(|_| damaged("it is not text".to_owned()))?;
        let name = line.split(' ').next().unwrap_or_default();
        if line != active_line(name) {
            return Err(damaged(format!("its checksum does not match {line:?}")));
        }
        if !self.root.join(name).is_dir() {
            return Err(damaged(format!("it names {name}, which is not there")));
        }
        Ok(name.to_owned())
    }

    /// Without ACTIVE there was never a snapshot, and only the first state can be there.
    fn first(&self) -> io::Result<String> {
        if self.root.join(FIRST).is_dir() {
            return Ok(FIRST.to_owned());
        }
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            if name.to_string_lossy().starts_with("state-") {
                let why = format!("its file {ACTIVE} is missing, but {} is there", name.display());
                return Err(io::Error::other(why));
            }
        }
        Ok(FIRST.to_owned())
    }

    fn activate(&self, name: &str) -> io::Result<()> {
        let written = self.root.join("ACTIVE.new");
        let mut file = File::create(&written)?;
        file.write_all(active_line(name).as_bytes())?;
        file.sync_all()?;
        fs::rename(written, self.root.join(ACTIVE))?;
        sync_directory(&self.root)
    }

    fn remove_all_but(&self, kept: &[&str]) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let is_kept = kept.iter().any(|name| entry.file_name() == **name);
            if entry.file_type()?.is_dir() && !is_kept {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// The content of ACTIVE that names a state. Without the checksum one flipped bit could name an older state.
pub fn active_line(name: &str) -> String {
    format!("{name} {:08x}\n", crc32fast::hash(name.as_bytes()))
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A directory whose name survives a power loss. RocksDB syncs what is in its directory but not the name of it, and
/// once the log is truncated a state that is not there cannot be made again.
fn create_durably(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    directory.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
