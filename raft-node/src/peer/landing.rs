//! Where a snapshot arrives. The conversation is drawn in `snapshot.rs`.
//!
//! One snapshot is received at a time: the first keeps the place while its connection makes progress, and
//! others are refused. What a crash, or a break of the connection, leaves behind:
//!
//! ```text
//!   broken while                   on disk                      goes on with
//!   a file is received             part-<id>/<name>.part        its length; all of it is verified at its end
//!   a file was verified            part-<id>/<name>             the next file; this one is not sent again
//!   renamed, the sink not told     snap-<id>/                   start renames it back; all files are there
//!   the sink told, not installed   snap-<id>/                   as above, unless boot has installed it before
//!   another snapshot begins        part-<other id>/             removed before a byte of the new one is written
//! ```
//! A `.part` whose bytes were lost with the page cache fails its checksum and is sent again from its start.
//!
//! Not here: what is done with `snap-<id>`, which belongs to the sink once it was told.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::TcpStream as StdTcpStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto::node::{
    FileHave, SnapshotFile, SnapshotHave, SnapshotOffer, SnapshotPart, SnapshotVerdict, Verdict, snapshot_frame::Body,
};
use slog::{info, warn};
use tokio::{net::TcpStream, task::spawn_blocking};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Local, ReceivedSnapshot, handshake,
    link::Link,
    snapshot::{Cut, CutOnDrop, hash_prefix, read_frame, write_frame},
};
use crate::limits;

const PARTIAL: &str = "part-";
const COMPLETE: &str = "snap-";
const UNVERIFIED: &str = ".part";

/// The directory for snapshots that arrive, and which one does.
pub(super) struct Landing {
    incoming: PathBuf,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// With a handle of its connection.
    receiving: Option<(u64, Cut)>,
    /// The last one that the sink was told of: its verdict may have been lost on the way back.
    received: Option<u64>,
}

impl Landing {
    /// Keeps the newest interrupted transfer, to go on with it, and removes all others.
    pub fn open(incoming: PathBuf) -> Result<Landing, String> {
        let named = |error: io::Error| format!("snapshots cannot arrive in {}: {error}", incoming.display());
        let mut partial = Vec::new();
        for entry in fs::read_dir(&incoming).map_err(named)? {
            let path = entry.map_err(named)?.path();
            if let Some(path) = as_partial(&incoming, path).map_err(named)? {
                partial.push((
                    fs::metadata(&path).and_then(|facts| facts.modified()).map_err(named)?,
                    path,
                ));
            }
        }
        partial.sort();
        partial.pop();
        for (_, path) in partial {
            fs::remove_dir_all(path).map_err(named)?;
        }
        Ok(Landing {
            incoming,
            place: Mutex::default(),
        })
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the only place, or says what the sender is to be told.
    fn take_place(&self, id: u64, stream: &StdTcpStream) -> Result<Taken<'_>, (Verdict, String)> {
        let mut place = self.place();
        if place.received == Some(id) {
            return Err((Verdict::Received, String::new()));
        }
        match &place.receiving {
            Some((other, _)) if *other != id => Err((Verdict::Refused, "another snapshot is being received".into())),
            Some((_, older)) => {
                // Its sender has given it up, or it would not dial again; it may not have noticed.
                older.cut();
                Err((Verdict::Again, "an older connection is not over yet".into()))
            }
            None => {
                let cut = Cut::new(stream).map_err(|error| (Verdict::Again, error.to_string()))?;
                place.receiving = Some((id, cut));
                Ok(Taken(self))
            }
        }
    }

    fn partial(&self, id: u64) -> PathBuf {
        self.incoming.join(format!("{PARTIAL}{id:016x}"))
    }

    fn complete(&self, id: u64) -> PathBuf {
        self.incoming.join(format!("{COMPLETE}{id:016x}"))
    }

    /// Removes what other snapshots left.
    fn clear_others(&self, id: u64) -> io::Result<()> {
        let own = self.partial(id);
        for entry in fs::read_dir(&self.incoming)? {
            let path = entry?.path();
            if path != own && has_prefix(&path, PARTIAL) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }
}

/// The place, until the connection is over.
struct Taken<'a>(&'a Landing);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.place().receiving = None;
    }
}

fn has_prefix(path: &Path, prefix: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// A leftover as an interrupted transfer: one that was complete but never installed becomes one again.
fn as_partial(incoming: &Path, path: PathBuf) -> io::Result<Option<PathBuf>> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    if name.starts_with(PARTIAL) {
        return Ok(Some(path));
    }
    let Some(id) = name.strip_prefix(COMPLETE) else {
        return Ok(None);
    };
    let partial = incoming.join(format!("{PARTIAL}{id}"));
    if partial.exists() {
        fs::remove_dir_all(&path)?;
        return Ok(None);
    }
    fs::rename(&path, &partial)?;
    Ok(Some(partial))
}

/// One accepted connection of the snapshot lane.
pub(super) async fn receive(local: Arc<Local>, link: Arc<Link>, stream: TcpStream) {
    let (shared, from) = (local.clone(), link.clone());
    let result = match handshake::into_blocking(stream).and_then(|stream| Ok((CutOnDrop(Cut::new(&stream)?), stream))) {
        Ok((_cut, stream)) => spawn_blocking(move || land(&shared, &from, stream))
            .await
            .unwrap_or(Ok(())),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = result {
        link.count(|counts| counts.snapshot_receive_failures += 1);
        warn!(local.logger, "a snapshot has not arrived"; "peer" => format!("{:x}", link.id), "error" => error);
    }
}

/// The thread of one connection.
fn land(local: &Local, link: &Link, mut stream: StdTcpStream) -> Result<(), String> {
    let offer = match read_frame(&mut stream) {
        Ok(Body::Offer(offer)) => offer,
        Ok(_) => return Err("no offer came first".into()),
        Err(error) => return Err(error.to_string()),
    };
    let taken = check(&offer)
        .map_err(|reason| (Verdict::Refused, reason))
        .and_then(|()| local.landing.take_place(offer.snapshot_id, &stream));
    let (verdict, reason) = match taken {
        Ok(_taken) => match receive_files(&local.landing, link, &mut stream, &offer) {
            Ok(directory) => {
                // Before the verdict: a sender that was told of it may remove its checkpoint.
                hand_over(local, link, offer, directory);
                (Verdict::Received, String::new())
            }
            Err(reason) => (Verdict::Again, reason),
        },
        Err(answer) => answer,
    };
    let answer = SnapshotVerdict {
        verdict: verdict.into(),
        reason: reason.clone(),
    };
    let answered = write_frame(link, &mut stream, Body::Verdict(answer));
    match verdict {
        Verdict::Received => answered.map_err(|error| error.to_string()),
        Verdict::Again | Verdict::Refused => Err(reason),
    }
}

fn hand_over(local: &Local, link: &Link, offer: SnapshotOffer, directory: PathBuf) {
    local.landing.place().received = Some(offer.snapshot_id);
    link.count(|counts| counts.snapshots_received += 1);
    info!(local.logger, "received a snapshot"; "peer" => format!("{:x}", link.id), "index" => offer.index);
    let SnapshotOffer {
        index, term, install, ..
    } = offer;
    local.sink.snapshot_received(
        link.id,
        ReceivedSnapshot {
            index,
            term,
            directory,
            install,
        },
    );
}

/// Only plain names, each once: nothing is ever written outside the snapshot's directory.
fn check(offer: &SnapshotOffer) -> Result<(), String> {
    if offer.files.is_empty() || offer.files.len() > limits::SNAPSHOT_FILES_MAX {
        return Err(format!("a snapshot of {} files", offer.files.len()));
    }
    let mut names = BTreeSet::new();
    for SnapshotFile { name, .. } in &offer.files {
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let odd = name.is_empty() || name.starts_with('.') || name.len() > 200 || name.ends_with(UNVERIFIED);
        if !plain || odd || !names.insert(name) {
            return Err(format!("a file with the name {name:?} is not accepted"));
        }
    }
    Ok(())
}

/// Receives what is missing and returns the complete directory.
fn receive_files(
    landing: &Landing,
    link: &Link,
    stream: &mut StdTcpStream,
    offer: &SnapshotOffer,
) -> Result<PathBuf, String> {
    let partial = landing.partial(offer.snapshot_id);
    let failed = |error: io::Error| format!("{}: {error}", partial.display());
    landing.clear_others(offer.snapshot_id).map_err(failed)?;
    fs::create_dir_all(&partial).map_err(failed)?;
    let have = look(&partial, &offer.files).map_err(failed)?;
    write_frame(link, stream, Body::Have(SnapshotHave { files: have.clone() })).map_err(|error| error.to_string())?;
    for (position, (file, have)) in offer.files.iter().zip(have).enumerate() {
        if !have.verified {
            let arriving = Arriving::open(&partial, file, have.bytes).map_err(failed)?;
            receive_file(link, stream, position as u32, arriving)?;
        }
    }
    let complete = landing.complete(offer.snapshot_id);
    sync_directory(&partial)
        .and_then(|()| fs::rename(&partial, &complete))
        .and_then(|()| sync_directory(&landing.incoming))
        .map_err(failed)?;
    Ok(complete)
}

/// What is there of each file; whatever is not of this offer goes.
fn look(partial: &Path, files: &[SnapshotFile]) -> io::Result<Vec<FileHave>> {
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    for entry in fs::read_dir(partial)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !names.contains(name.strip_suffix(UNVERIFIED).unwrap_or(&name)) {
            fs::remove_file(entry.path())?;
        }
    }
    let length = |name: &str| fs::metadata(partial.join(name)).map(|facts| facts.len()).ok();
    let have = |file: &SnapshotFile| match length(&file.name) {
        Some(bytes) if bytes == file.bytes => FileHave { bytes, verified: true },
        _ => {
            let bytes = length(&format!("{}{UNVERIFIED}", file.name)).unwrap_or(0);
            // Longer than offered: not what was offered.
            FileHave {
                bytes: if bytes > file.bytes { 0 } else { bytes },
                verified: false,
            }
        }
    };
    Ok(files.iter().map(have).collect())
}

/// A file that is being written.
struct Arriving<'a> {
    offered: &'a SnapshotFile,
    unverified: PathBuf,
    verified: PathBuf,
    file: File,
    hash: Xxh3,
    offset: u64,
    unsynced: usize,
}

impl Arriving<'_> {
    fn open<'a>(partial: &Path, offered: &'a SnapshotFile, have: u64) -> io::Result<Arriving<'a>> {
        let verified = partial.join(&offered.name);
        let unverified = partial.join(format!("{}{UNVERIFIED}", offered.name));
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&unverified)?;
        file.set_len(have)?;
        let mut hash = Xxh3::new();
        hash_prefix(&mut file, have, &mut hash)?;
        Ok(Arriving {
            offered,
            unverified,
            verified,
            file,
            hash,
            offset: have,
            unsynced: 0,
        })
    }

    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)?;
        self.hash.update(data);
        self.offset += data.len() as u64;
        self.unsynced += data.len();
        if self.unsynced >= limits::SNAPSHOT_SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn finish(&self, checksum: u64) -> io::Result<()> {
        if self.offset != self.offered.bytes || self.hash.digest() != checksum {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its checksum does not match",
            ));
        }
        self.file.sync_all()?;
        fs::rename(&self.unverified, &self.verified)
    }
}

fn receive_file(link: &Link, stream: &mut StdTcpStream, position: u32, mut arriving: Arriving) -> Result<(), String> {
    loop {
        let part = match read_frame(stream) {
            Ok(Body::Part(part)) => part,
            Ok(_) => return Err("something else than a part came".into()),
            Err(error) => return Err(error.to_string()),
        };
        let SnapshotPart {
            file,
            offset,
            data,
            last,
            checksum,
        } = part;
        link.count_received(data.len());
        let fits = data.len() as u64 <= arriving.offered.bytes - arriving.offset;
        if file != position || offset != arriving.offset || !fits {
            return Err(format!("a part out of order: file {file}, offset {offset}"));
        }
        let written = arriving
            .append(&data)
            .and_then(|()| if last { arriving.finish(checksum) } else { Ok(()) });
        if let Err(error) = written {
            // What a failed sync leaves in the page cache is not what is on disk: never build on it.
            let _removed = fs::remove_file(&arriving.unverified);
            return Err(format!("{}: {error}", arriving.unverified.display()));
        }
        if last {
            return Ok(());
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
