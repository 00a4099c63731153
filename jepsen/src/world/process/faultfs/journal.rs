//! How to take back what was never synced: for every write the bytes that it replaced, for every name what it
//! was before.
//!
//! ```text
//!   write(f, 0, "abc")   note [f: offset 0, "", length 0]        fsync(f)     forget the notes of f
//!   create(d/f)          note [created d/f]                      fsync(d)     forget the notes of names in d
//!   rename(d/a, d/b)     note [renamed, and b's old file kept]
//!   lose                 bytes first, then names, newest first
//! ```
//! A sync that failed leaves its writes in doubt for ever: the kernel has marked the pages clean, so a later
//! sync that succeeds does not cover them. Not here: the file system's calls (`serve`).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::rng::Rng;

const SECTOR: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Everything that was not synced is gone.
    All,
    /// Some sectors of it have reached the disk, in any order.
    Torn,
}

/// What a loss took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub writes: usize,
    pub bytes: usize,
    pub names: usize,
    /// Sectors that stayed although nobody had synced them.
    pub kept_sectors: usize,
}

#[derive(Debug)]
pub struct Journal {
    /// By the backing file's inode, which its open file keeps from being used again.
    files: BTreeMap<u64, Unsynced>,
    names: Vec<Change>,
    /// Counts the writes: a sync covers those before it.
    writes: u64,
    /// Where removed files wait until their directory is synced.
    removed: PathBuf,
    removals: u64,
}

#[derive(Debug)]
struct Unsynced {
    file: Arc<File>,
    writes: Vec<Write>,
}

#[derive(Debug)]
struct Write {
    number: u64,
    offset: u64,
    /// The bytes that were there, as far as the file went.
    before: Vec<u8>,
    length: u64,
    file_length_before: u64,
    /// A sync of it has failed.
    is_doomed: bool,
}

#[derive(Debug)]
enum Change {
    Created(PathBuf),
    Removed {
        path: PathBuf,
        kept: PathBuf,
    },
    Renamed {
        from: PathBuf,
        to: PathBuf,
        replaced: Option<PathBuf>,
    },
}

impl Journal {
    pub fn new(removed: PathBuf) -> Self {
        Self {
            files: BTreeMap::new(),
            names: Vec::new(),
            writes: 0,
            removed,
            removals: 0,
        }
    }

    /// Must be called before the bytes are written, or the file is cut or grown to end at `offset`.
    pub fn before_write(&mut self, file: &Arc<File>, offset: u64, length: u64) -> io::Result<()> {
        let metadata = file.metadata()?;
        let end = metadata.len().min(offset + length);
        let mut before = vec![0; end.saturating_sub(offset) as usize];
        file.read_exact_at(&mut before, offset)?;
        self.writes += 1;
        self.files
            .entry(metadata.ino())
            .or_insert_with(|| Unsynced {
                file: Arc::clone(file),
                writes: Vec::new(),
            })
            .writes
            .push(Write {
                number: self.writes,
                offset,
                before,
                length,
                file_length_before: metadata.len(),
                is_doomed: false,
            });
        Ok(())
    }

    /// The number of the newest write: what a sync that begins now will cover.
    pub fn newest(&self) -> u64 {
        self.writes
    }

    /// What was written to the file up to then is durable, unless a sync of it has failed before.
    pub fn synced(&mut self, file: &File, newest: u64) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        if let Some(unsynced) = self.files.get_mut(&inode) {
            unsynced.writes.retain(|write| write.is_doomed || write.number > newest);
            if unsynced.writes.is_empty() {
                self.files.remove(&inode);
            }
        }
        Ok(())
    }

    /// The disk did not take it, and the kernel has forgotten that it should.
    pub fn sync_failed(&mut self, file: &File, newest: u64) -> io::Result<()> {
        if let Some(unsynced) = self.files.get_mut(&file.metadata()?.ino()) {
            for write in unsynced.writes.iter_mut().filter(|write| write.number <= newest) {
                write.is_doomed = true;
            }
        }
        Ok(())
    }

    pub fn created(&mut self, path: &Path) {
        self.names.push(Change::Created(path.to_owned()));
    }

    /// Removes a file in a way that can be taken back.
    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let kept = self.keep(path)?;
        self.names.push(Change::Removed {
            path: path.to_owned(),
            kept,
        });
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let replaced = if to.symlink_metadata().is_ok() {
            Some(self.keep(to)?)
        } else {
            None
        };
        fs::rename(from, to)?;
        self.names.push(Change::Renamed {
            from: from.to_owned(),
            to: to.to_owned(),
            replaced,
        });
        Ok(())
    }

    fn keep(&mut self, path: &Path) -> io::Result<PathBuf> {
        self.removals += 1;
        let kept = self.removed.join(self.removals.to_string());
        fs::rename(path, &kept)?;
        Ok(kept)
    }

    /// The names in `directory` are durable.
    pub fn synced_directory(&mut self, directory: &Path) -> io::Result<()> {
        let (durable, open): (Vec<_>, Vec<_>) = self
            .names
            .drain(..)
            .partition(|change| change.path().parent() == Some(directory));
        self.names = open;
        for change in durable {
            if let Some(kept) = change.kept() {
                discard(kept)?;
            }
        }
        Ok(())
    }

    /// All names are durable, as if every directory had been synced.
    pub fn synced_directories(&mut self) -> io::Result<()> {
        let changes = std::mem::take(&mut self.names);
        changes.iter().filter_map(Change::kept).try_for_each(discard)
    }

    /// Takes everything back, or nearly everything.
    pub fn lose(&mut self, loss: Loss, rng: &mut Rng) -> io::Result<Lost> {
        let mut lost = Lost::default();
        for unsynced in std::mem::take(&mut self.files).into_values() {
            unsynced.take_back(loss, rng, &mut lost)?;
        }
        for change in std::mem::take(&mut self.names).into_iter().rev() {
            lost.names += 1;
            change.take_back()?;
        }
        Ok(lost)
    }
}

impl Unsynced {
    fn take_back(self, loss: Loss, rng: &mut Rng, lost: &mut Lost) -> io::Result<()> {
        let kept = match loss {
            Loss::All => Vec::new(),
            Loss::Torn => self.some_sectors(rng)?,
        };
        for write in self.writes.iter().rev() {
            lost.writes += 1;
            lost.bytes += write.length as usize;
            self.file.write_all_at(&write.before, write.offset)?;
            self.file.set_len(write.file_length_before)?;
        }
        lost.kept_sectors += kept.len();
        for (offset, bytes) in kept {
            self.file.write_all_at(&bytes, offset)?;
        }
        Ok(())
    }

    /// Each sector that was written reaches the disk or not, whatever its neighbours do.
    fn some_sectors(&self, rng: &mut Rng) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let length = self.file.metadata()?.len();
        let mut kept = Vec::new();
        for write in self.writes.iter().filter(|write| !write.is_doomed) {
            let end = length.min(write.offset + write.length);
            let mut at = write.offset;
            while at < end {
                let until = end.min((at / SECTOR as u64 + 1) * SECTOR as u64);
                if rng.below(2) == 0 {
                    let mut bytes = vec![0; (until - at) as usize];
                    self.file.read_exact_at(&mut bytes, at)?;
                    kept.push((at, bytes));
                }
                at = until;
            }
        }
        Ok(kept)
    }
}

impl Change {
    /// The name whose directory must be synced.
    fn path(&self) -> &Path {
        match self {
            Self::Created(path) | Self::Removed { path, .. } | Self::Renamed { to: path, .. } => path,
        }
    }

    fn kept(&self) -> Option<&Path> {
        match self {
            Self::Created(_) => None,
            Self::Removed { kept, .. } => Some(kept),
            Self::Renamed { replaced, .. } => replaced.as_deref(),
        }
    }

    fn take_back(self) -> io::Result<()> {
        match self {
            Self::Created(path) => discard(&path),
            Self::Removed { path, kept } => put_back(&kept, &path),
            Self::Renamed { from, to, replaced } => {
                // Its source's directory may be gone by an older change; then so is the file.
                if let Err(error) = fs::rename(&to, &from)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(error);
                }
                replaced.map_or(Ok(()), |kept| put_back(&kept, &to))
            }
        }
    }
}

/// A directory that was removed durably takes along what was removed in it before.
fn put_back(kept: &Path, path: &Path) -> io::Result<()> {
    match fs::rename(kept, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => discard(kept),
        done => done,
    }
}

/// Whatever it is; that it is gone already is no error.
fn discard(path: &Path) -> io::Result<()> {
    let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_directory {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    struct Place(tempfile::TempDir, Journal);

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("removed")).unwrap();
            let journal = Journal::new(directory.path().join("removed"));
            Self(directory, journal)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn create(&mut self, name: &str, bytes: &[u8]) -> Arc<File> {
            let path = self.path(name);
            let mut options = OpenOptions::new();
            let file = Arc::new(
                options
                    .create(true)
                    .truncate(false)
                    .read(true)
                    .write(true)
                    .open(&path)
                    .unwrap(),
            );
            self.1.created(&path);
            self.1.before_write(&file, 0, bytes.len() as u64).unwrap();
            file.write_all_at(bytes, 0).unwrap();
            file
        }

        fn lose(&mut self, loss: Loss) -> Lost {
            self.1.lose(loss, &mut Rng::new(3)).unwrap()
        }
    }

    #[test]
    fn what_is_not_synced_is_lost_and_what_is_stays() {
        let mut place = Place::new();
        let kept = place.create("kept", b"old");
        let newest = place.1.newest();
        place.1.synced(&kept, newest).unwrap();
        place.1.synced_directory(place.0.path()).unwrap();
        place.1.before_write(&kept, 1, 5).unwrap();
        kept.write_all_at(b"newer", 1).unwrap();
        place.create("lost", b"x");
        let lost = place.lose(Loss::All);
        assert_eq!(fs::read(place.path("kept")).unwrap(), b"old");
        assert!(!place.path("lost").exists());
        assert_eq!((lost.writes, lost.bytes, lost.names), (2, 6, 1));
    }

    #[test]
    fn names_that_are_synced_all_at_once_stay_and_bytes_do_not() {
        let mut place = Place::new();
        let directory = place.path("d");
        fs::create_dir(&directory).unwrap();
        place.1.created(&directory);
        place.create("d/a", b"A");
        place.create("b", b"B");
        place.1.remove_file(&place.path("b")).unwrap();
        place.1.synced_directories().unwrap();
        place.create("d/late", b"x");
        place.lose(Loss::All);
        assert_eq!(fs::read(directory.join("a")).unwrap(), b"");
        assert!(!place.path("b").exists() && !directory.join("late").exists());
        assert_eq!(fs::read_dir(place.path("removed")).unwrap().count(), 0);
    }

    #[test]
    fn a_rename_that_is_not_synced_leaves_both_files_as_they_were() {
        let mut place = Place::new();
        for (name, bytes) in [("a", b"A"), ("b", b"B")] {
            let file = place.create(name, bytes);
            let newest = place.1.newest();
            place.1.synced(&file, newest).unwrap();
        }
        place.1.synced_directory(place.0.path()).unwrap();
        place.1.rename(&place.path("a"), &place.path("b")).unwrap();
        assert_eq!(fs::read(place.path("b")).unwrap(), b"A");
        place.lose(Loss::All);
        assert_eq!(fs::read(place.path("a")).unwrap(), b"A");
        assert_eq!(fs::read(place.path("b")).unwrap(), b"B");
    }

    #[test]
    fn a_directory_that_is_gone_for_good_takes_its_files_along() {
        let mut place = Place::new();
        let directory = place.path("d");
        fs::create_dir(&directory).unwrap();
        place.1.created(&directory);
        place.create("d/f", b"x");
        place.1.synced_directory(&directory).unwrap();
        place.1.remove_file(&directory.join("f")).unwrap();
        place.1.remove_file(&directory).unwrap();
        place.1.synced_directory(place.0.path()).unwrap();
        place.lose(Loss::All);
        assert!(!directory.exists());
        assert_eq!(fs::read_dir(place.path("removed")).unwrap().count(), 0);
    }

    #[test]
    fn a_failed_sync_is_not_mended_by_one_that_succeeds() {
        let mut place = Place::new();
        let file = place.create("f", b"x");
        let newest = place.1.newest();
        place.1.sync_failed(&file, newest).unwrap();
        place.1.synced(&file, newest).unwrap();
        place.1.synced_directory(place.0.path()).unwrap();
        place.lose(Loss::All);
        assert_eq!(fs::read(place.path("f")).unwrap(), b"");
    }

    #[test]
    fn a_torn_write_keeps_whole_sectors() {
        let mut place = Place::new();
        let bytes: Vec<u8> = (0..SECTOR * 64).map(|at| (at / SECTOR) as u8 + 1).collect();
        place.create("f", &bytes);
        place.1.synced_directory(place.0.path()).unwrap();
        let lost = place.lose(Loss::Torn);
        let left = fs::read(place.path("f")).unwrap();
        assert!(lost.kept_sectors > 10 && lost.kept_sectors < 54, "{lost:?}");
        for (sector, bytes) in left.chunks(SECTOR).enumerate() {
            let whole = bytes.iter().all(|byte| usize::from(*byte) == sector + 1);
            let none = bytes.iter().all(|byte| *byte == 0);
            assert!(whole || none, "sector {sector} is half");
        }
    }
}
