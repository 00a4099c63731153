//! The calls of the file system: each is done on the backing directory, after the journal has noted how to
//! take it back.
//!
//! Syncs are answered from threads of their own: one that is told to take two seconds must not hold up the
//! others. Entries and attributes are never cached by the kernel (a loss changes them behind its back).
//! Not here: links that are symbolic, devices, extended attributes. A database has none.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::{Disk, lock, tree::Tree};

const UNCACHED: Duration = Duration::ZERO;
/// `fallocate` that reserves without growing the file: nothing to do here.
const KEEP_SIZE: i32 = 1;

pub struct Server {
    disk: Arc<Mutex<Disk>>,
    tree: Mutex<Tree>,
    open: Mutex<BTreeMap<u64, Arc<File>>>,
    handles: AtomicU64,
}

impl Server {
    pub fn new(backing: PathBuf, disk: Arc<Mutex<Disk>>) -> Self {
        Self {
            disk,
            tree: Mutex::new(Tree::new(backing)),
            open: Mutex::default(),
            handles: AtomicU64::new(1),
        }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().expect("no code that holds this lock panics")
    }

    fn path(&self, number: INodeNo) -> io::Result<PathBuf> {
        self.tree()
            .path(number.0)
            .map(Into::into)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    /// Always writable: the journal reads what a write replaces, and a cut needs no handle.
    fn open_file(&self, path: &PathBuf, mode: Option<u32>) -> io::Result<u64> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if let Some(mode) = mode {
            options.create(true).mode(mode);
        }
        let handle = self.handles.fetch_add(1, Ordering::Relaxed);
        let file = Arc::new(options.open(path)?);
        self.files().insert(handle, file);
        Ok(handle)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<File>>> {
        self.open.lock().expect("no code that holds this lock panics")
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        self.files()
            .get(&handle.0)
            .cloned()
            .ok_or_else(|| io::Error::from_raw_os_error(9))
    }

    fn attributes(&self, path: &PathBuf) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(attributes_of(&metadata, self.tree().number(path)))
    }

    fn cut(&self, path: &PathBuf, handle: Option<FileHandle>, length: u64) -> io::Result<()> {
        let file = match handle {
            Some(handle) => self.file(handle)?,
            None => Arc::new(OpenOptions::new().read(true).write(true).open(path)?),
        };
        let old = file.metadata()?.len();
        lock(&self.disk)
            .journal
            .before_write(&file, length.min(old), old.abs_diff(length))?;
        file.set_len(length)
    }

    /// Waits as long as it is told to, then makes it durable or fails.
    fn sync(&self, file: Arc<File>, reply: ReplyEmpty) {
        let disk = Arc::clone(&self.disk);
        thread::spawn(move || {
            let began = Instant::now();
            let (slow, newest) = {
                let disk = lock(&disk);
                (disk.sync_time, disk.journal.newest())
            };
            thread::sleep(slow);
            let mut disk = lock(&disk);
            disk.seen.syncs += 1;
            disk.seen.slow_syncs += u64::from(!slow.is_zero());
            disk.seen.longest_sync = disk.seen.longest_sync.max(began.elapsed());
            if disk.failing_syncs > 0 {
                disk.failing_syncs -= 1;
                disk.seen.failed_syncs += 1;
                let noted = disk.journal.sync_failed(&file, newest);
                drop(disk);
                return reply.error(noted.err().map_or(Errno::EIO, Errno::from));
            }
            let done = disk.journal.synced(&file, newest);
            drop(disk);
            answer(done, reply);
        });
    }
}

fn answer(done: io::Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

fn attributes_of(metadata: &Metadata, number: u64) -> FileAttr {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    FileAttr {
        ino: INodeNo(number),
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile),
        perm: (metadata.permissions().mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.child(parent, name).and_then(|path| self.attributes(&path)) {
            Ok(attributes) => reply.entry(&UNCACHED, &attributes, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        // A file that was removed while it is open has no path any more.
        let of_handle = handle.and_then(|handle| self.file(handle).ok()?.metadata().ok());
        let attributes = match of_handle {
            Some(metadata) => Ok(attributes_of(&metadata, number.0)),
            None => self.path(number).and_then(|path| self.attributes(&path)),
        };
        match attributes {
            Ok(attributes) => reply.attr(&UNCACHED, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = self.path(number).and_then(|path| {
            if let Some(mode) = mode {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
            size.map_or(Ok(()), |size| self.cut(&path, handle, size))?;
            self.attributes(&path)
        });
        match done {
            Ok(attributes) => reply.attr(&UNCACHED, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let done = self.child(parent, name).and_then(|path| {
            fs::create_dir(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & !umask))?;
            lock(&self.disk).journal.created(&path);
            self.tree().forget(&path);
            self.attributes(&path)
        });
        match done {
            Ok(attributes) => reply.entry(&UNCACHED, &attributes, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.child(parent, name).and_then(|path| {
            lock(&self.disk).journal.remove_file(&path)?;
            self.tree().forget(&path);
            Ok(())
        });
        answer(done, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.child(parent, name).and_then(|path| {
            if fs::read_dir(&path)?.next().is_some() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            lock(&self.disk).journal.remove_file(&path)?;
            self.tree().forget(&path);
            Ok(())
        });
        answer(done, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let done = self.child(parent, name).and_then(|from| {
            let to = self.child(newparent, newname)?;
            lock(&self.disk).journal.rename(&from, &to)?;
            self.tree().rename(&from, &to);
            Ok(())
        });
        answer(done, reply);
    }

    fn link(&self, _: &Request, number: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let done = self.path(number).and_then(|path| {
            let link = self.child(newparent, newname)?;
            fs::hard_link(path, &link)?;
            lock(&self.disk).journal.created(&link);
            self.attributes(&link)
        });
        match done {
            Ok(attributes) => reply.entry(&UNCACHED, &attributes, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.path(number).and_then(|path| self.open_file(&path, None)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let done = self.child(parent, name).and_then(|path| {
            let is_new = path.symlink_metadata().is_err();
            let handle = self.open_file(&path, Some(mode & !umask))?;
            if is_new {
                lock(&self.disk).journal.created(&path);
                self.tree().forget(&path);
            }
            Ok((self.attributes(&path)?, handle))
        });
        match done {
            Ok((attributes, handle)) => {
                reply.created(
                    &UNCACHED,
                    &attributes,
                    Generation(0),
                    FileHandle(handle),
                    FopenFlags::empty(),
                );
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        match self.file(handle).and_then(|file| file.read_at(&mut bytes, offset)) {
            Ok(length) => reply.data(&bytes[..length]),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let done = self.file(handle).and_then(|file| {
            // One lock over both: a sync between them would forget a write that it does not cover.
            let mut disk = lock(&self.disk);
            disk.journal.before_write(&file, offset, data.len() as u64)?;
            file.write_all_at(data, offset)
        });
        match done {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.files().remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.file(handle) {
            Ok(file) => self.sync(file, reply),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let done = self
            .path(number)
            .and_then(|path| lock(&self.disk).journal.synced_directory(&path));
        answer(done, reply);
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.path(number).and_then(|path| {
            let mut names = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
                names.push((self.tree().number(&entry.path()), kind, entry.file_name()));
            }
            Ok(names)
        });
        match listed {
            Ok(names) => {
                for (at, (number, kind, name)) in names.into_iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error.into()),
        }
    }

    /// Roomy: members refuse writes when a disk is nearly full, and this one never is.
    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 24;
        reply.statfs(blocks, blocks / 2, blocks / 2, 1 << 20, 1 << 19, 4096, 255, 4096);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode == KEEP_SIZE {
            return reply.ok();
        }
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let done = self.path(number).and_then(|path| {
            let is_longer = fs::metadata(&path)?.len() < offset + length;
            if is_longer {
                self.cut(&path, Some(handle), offset + length)
            } else {
                Ok(())
            }
        });
        answer(done, reply);
    }
}
