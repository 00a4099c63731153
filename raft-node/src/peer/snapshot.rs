//! A snapshot on its way: the files of a checkpoint directory, on a connection of their own.
//!
//! ```text
//!   sender                                          receiver (landing.rs)
//!   Offer{id, index, term, names and sizes, install} -> busy with another one? then REFUSED
//!                                                       part-<id>/ is made, or what it holds is looked at
//!      per file: from which byte on                  <- Have
//!   Part{file, offset, 256 KiB} ...                  -> <name>.part, synced every 16 MiB
//!   Part{.., last, XXH3 of the whole file}           -> verified, synced, renamed to <name>
//!                                                       all files: directories synced, part-<id> -> snap-<id>
//!      done                                          <- Verdict{RECEIVED}; the sink has snap-<id>
//! ```
//! TCP is the window, and another connection than the appends' keeps the two apart. A connection that breaks is
//! dialled again and goes on from Have; the transfer fails when several dials in a row bring nothing new.
//! Files are read and written by threads of their own, never by the peer thread: heartbeats do not wait for
//! a disk. A transfer's task owns a handle of its socket and shuts it down when it is aborted, which ends the
//! thread at its next read or write.
//!
//! Not here: making the checkpoint, and installing what was received.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{Shutdown, TcpStream as StdTcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use proto::node::{
    FileHave, Lane, SnapshotFile, SnapshotFrame, SnapshotOffer, SnapshotPart, SnapshotVerdict, Verdict,
    snapshot_frame::Body,
};
use slog::{info, warn};
use tokio::{task::spawn_blocking, time::sleep};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Local,
    frame::{self, FrameError},
    handshake::{self, DialError},
    link::Link,
};
use crate::limits;

/// A checkpoint to send. Nothing in its directory may change until `PeerSink::snapshot_sent`.
#[derive(Clone, Debug)]
pub struct SnapshotSource {
    /// Never used for two checkpoints: a receiver resumes by it.
    pub id: u64,
    pub index: u64,
    pub term: u64,
    /// Holds files only, no directories.
    pub directory: PathBuf,
    /// The message that installs the snapshot, opaque here.
    pub install: Bytes,
}

/// A checkpoint that has arrived: every file verified and synced.
#[derive(Clone, Debug)]
pub struct ReceivedSnapshot {
    pub index: u64,
    pub term: u64,
    pub directory: PathBuf,
    pub install: Bytes,
}

/// How one connection of a transfer ended.
enum Outcome {
    Received,
    /// The receiver will not have it.
    Refused(String),
    /// The connection ended; the receiver had this many bytes when it began.
    Broken {
        had: u64,
        why: String,
    },
}

/// A second handle of a transfer's socket, for who has to end the transfer from outside its thread.
pub(super) struct Cut(StdTcpStream);

impl Cut {
    pub fn new(stream: &StdTcpStream) -> io::Result<Cut> {
        stream.try_clone().map(Cut)
    }

    /// Ends the transfer: its thread's reads and writes fail from now on.
    pub fn cut(&self) {
        // Fails only if the other side was first.
        let _closed = self.0.shutdown(Shutdown::Both);
    }
}

/// Cuts when the task that owns the transfer is aborted.
pub(super) struct CutOnDrop(pub Cut);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// Sends a snapshot, over as many connections as it takes, and reports how it ended.
pub(super) async fn send(local: Arc<Local>, link: Arc<Link>, urls: Vec<String>, source: SnapshotSource) {
    let peer = format!("{:x}", link.id);
    info!(local.logger, "sending a snapshot"; "peer" => &peer, "index" => source.index, "term" => source.term);
    let result = send_until_received(&local, &link, &urls, &source).await;
    match &result {
        Ok(()) => info!(local.logger, "sent a snapshot"; "peer" => &peer, "index" => source.index),
        Err(why) => warn!(local.logger, "could not send a snapshot"; "peer" => &peer, "error" => why),
    }
    link.count(|counts| match result {
        Ok(()) => counts.snapshots_sent += 1,
        Err(_) => counts.snapshots_failed += 1,
    });
    local.sink.snapshot_sent(link.id, result.is_ok());
}

async fn send_until_received(
    local: &Arc<Local>,
    link: &Arc<Link>,
    urls: &[String],
    source: &SnapshotSource,
) -> Result<(), String> {
    let (mut had_most, mut attempts) = (0, 0);
    let mut pause = limits::PEER_REDIAL_MIN;
    loop {
        let why = match send_once(local, link, urls, source).await {
            Outcome::Received => return Ok(()),
            Outcome::Refused(why) => return Err(why),
            Outcome::Broken { had, why } => {
                if had > had_most {
                    (had_most, attempts, pause) = (had, 0, limits::PEER_REDIAL_MIN);
                }
                why
            }
        };
        attempts += 1;
        if attempts == limits::SNAPSHOT_ATTEMPTS_MAX {
            return Err(why);
        }
        sleep(pause).await;
        pause = (pause * 2).min(limits::PEER_REDIAL_MAX);
    }
}

/// One connection.
async fn send_once(local: &Arc<Local>, link: &Arc<Link>, urls: &[String], source: &SnapshotSource) -> Outcome {
    let broken = |why: String| Outcome::Broken { had: 0, why };
    let stream = match handshake::dial(local, link.id, urls, Lane::Snapshot).await {
        Ok(stream) => stream,
        Err(DialError::Unreachable(why)) => return broken(why),
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    let blocking = handshake::into_blocking(stream).and_then(|stream| Ok((CutOnDrop(Cut::new(&stream)?), stream)));
    let (_cut, stream) = match blocking {
        Ok(both) => both,
        Err(error) => return broken(error.to_string()),
    };
    let (link, source) = (link.clone(), source.clone());
    spawn_blocking(move || transfer(&link, stream, &source))
        .await
        .unwrap_or_else(|error| broken(error.to_string()))
}

/// The thread of one connection.
fn transfer(link: &Link, mut stream: StdTcpStream, source: &SnapshotSource) -> Outcome {
    let files = match list(&source.directory) {
        Ok(files) => files,
        Err(error) => return Outcome::Refused(format!("{}: {error}", source.directory.display())),
    };
    let mut had = 0;
    let why = match offer_and_send(link, &mut stream, source, &files, &mut had) {
        Ok(SnapshotVerdict { verdict, reason }) => match Verdict::try_from(verdict) {
            Ok(Verdict::Received) => return Outcome::Received,
            Ok(Verdict::Refused) => return Outcome::Refused(reason),
            Ok(Verdict::Again) | Err(_) => reason,
        },
        Err(error) => error.to_string(),
    };
    Outcome::Broken { had, why }
}

fn offer_and_send(
    link: &Link,
    stream: &mut StdTcpStream,
    source: &SnapshotSource,
    files: &[SnapshotFile],
    had: &mut u64,
) -> Result<SnapshotVerdict, FrameError> {
    let offer = SnapshotOffer {
        snapshot_id: source.id,
        index: source.index,
        term: source.term,
        files: files.to_vec(),
        install: source.install.clone(),
    };
    write_frame(link, stream, Body::Offer(offer))?;
    let have = match read_frame(stream)? {
        Body::Have(have) if have.files.len() == files.len() => have.files,
        Body::Verdict(verdict) => return Ok(verdict),
        _ => return Err(unexpected("neither what it has nor a verdict came back")),
    };
    *had = have.iter().fold(0, |sum, have| sum.saturating_add(have.bytes));
    for (position, (file, have)) in files.iter().zip(have).enumerate() {
        if !have.verified {
            send_file(link, stream, source, position as u32, file, have)?;
        }
    }
    match read_frame(stream)? {
        Body::Verdict(verdict) => Ok(verdict),
        _ => Err(unexpected("no verdict came back")),
    }
}

/// Sends a file from where the receiver has it, with the checksum of all of it.
fn send_file(
    link: &Link,
    stream: &mut StdTcpStream,
    source: &SnapshotSource,
    position: u32,
    file: &SnapshotFile,
    have: FileHave,
) -> Result<(), FrameError> {
    let mut reader = File::open(source.directory.join(&file.name))?;
    let mut hash = Xxh3::new();
    hash_prefix(&mut reader, have.bytes, &mut hash)?;
    let mut offset = have.bytes;
    loop {
        let size = file
            .bytes
            .saturating_sub(offset)
            .min(limits::SNAPSHOT_PART_BYTES as u64);
        let mut data = vec![0; size as usize];
        reader.read_exact(&mut data)?;
        hash.update(&data);
        let last = offset + size >= file.bytes;
        let checksum = if last { hash.digest() } else { 0 };
        write_frame(
            link,
            stream,
            Body::Part(SnapshotPart {
                file: position,
                offset,
                data: data.into(),
                last,
                checksum,
            }),
        )?;
        offset += size;
        if last {
            return Ok(());
        }
    }
}

/// Feeds the first `bytes` of a file to `hash` and leaves the reader behind them.
pub(super) fn hash_prefix(reader: &mut impl Read, bytes: u64, hash: &mut Xxh3) -> io::Result<()> {
    let mut left = bytes;
    let mut buffer = vec![0; limits::SNAPSHOT_PART_BYTES];
    while left > 0 {
        let part = &mut buffer[..left.min(limits::SNAPSHOT_PART_BYTES as u64) as usize];
        reader.read_exact(part)?;
        hash.update(part);
        left -= part.len() as u64;
    }
    Ok(())
}

/// A directory's files by name, so that every connection offers them in one order.
fn list(directory: &Path) -> io::Result<Vec<SnapshotFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        let name = entry.file_name().into_string().ok().filter(|_| facts.is_file());
        let name = name.ok_or_else(|| io::Error::other(format!("{} cannot be sent", entry.path().display())))?;
        files.push(SnapshotFile {
            name,
            bytes: facts.len(),
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

pub(super) fn read_frame(stream: &mut StdTcpStream) -> Result<Body, FrameError> {
    let frame: SnapshotFrame = frame::read_blocking(stream, limits::SNAPSHOT_FRAME_BYTES_MAX)?;
    frame.body.ok_or_else(|| unexpected("an empty frame"))
}

pub(super) fn write_frame(link: &Link, stream: &mut StdTcpStream, body: Body) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    frame::put(&mut buffer, &SnapshotFrame { body: Some(body) });
    stream.write_all(&buffer)?;
    link.count_sent(buffer.len());
    Ok(())
}

pub(super) fn unexpected(what: &str) -> FrameError {
    FrameError::Io(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}
