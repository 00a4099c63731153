//! From the peers: accept, find out who it is, read what comes.
//!
//! ```text
//!   accept -> greet (bounded in number and time) -> "GET " -> web, answered and closed
//!                                               -> "DIPP" Hello -> refused and closed
//!                                                               -> URGENT, BULK: a reader, until the stream ends
//!                                                               -> SNAPSHOT: landing
//! ```
//! A member has at most one accepted stream of each lane: a newer one replaces it, since a peer that dials
//! again has given the old one up. Strangers cost a slot among the greetings and nothing else; when those
//! are full the oldest goes, so that idle connections cannot lock members out.
//!
//! Not here: sending, but for pongs.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::BytesMut;
use proto::node::{Hello, Lane, PeerFrame, Refusal, peer_frame::Body};
use slog::{debug, info, warn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use super::{
    Local,
    frame::{self, FrameError},
    handshake, landing,
    link::Link,
    web,
};
use crate::limits;

/// A member at the door: accepted, but nothing read from it yet.
struct Guest {
    link: Arc<Link>,
    lane: Lane,
    stream: TcpStream,
}

/// Owns every accepted connection.
struct Door {
    local: Arc<Local>,
    greetings: JoinSet<Option<Guest>>,
    /// Of `greetings`, oldest first.
    order: VecDeque<AbortHandle>,
    streams: JoinSet<()>,
    /// Of `streams`: the one of each member and lane.
    current: BTreeMap<(u64, i32), AbortHandle>,
}

/// Accepts on all listeners, until it is dropped.
pub(super) async fn serve(local: Arc<Local>, listeners: Vec<TcpListener>) {
    let mut listening = JoinSet::new();
    let (arrived, mut arrivals) = mpsc::channel(16);
    for listener in listeners {
        listening.spawn(accept(local.clone(), listener, arrived.clone()));
    }
    let mut door = Door {
        local,
        greetings: JoinSet::new(),
        order: VecDeque::new(),
        streams: JoinSet::new(),
        current: BTreeMap::new(),
    };
    loop {
        tokio::select! {
            Some(stream) = arrivals.recv() => door.greet(stream),
            Some(greeted) = door.greetings.join_next() => {
                if let Ok(Some(guest)) = greeted {
                    door.admit(guest);
                }
            }
            Some(_ended) = door.streams.join_next() => door.current.retain(|_, stream| !stream.is_finished()),
            // Cannot be: `arrived` is held above.
            else => return,
        }
    }
}

async fn accept(local: Arc<Local>, listener: TcpListener, arrived: mpsc::Sender<TcpStream>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if arrived.send(stream).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // No file descriptor, most likely: give others time to free one.
                warn!(local.logger, "cannot accept a peer"; "error" => %error);
                sleep(limits::PEER_REDIAL_MIN).await;
            }
        }
    }
}

impl Door {
    fn greet(&mut self, stream: TcpStream) {
        self.order.retain(|greeting| !greeting.is_finished());
        if self.order.len() >= limits::PEER_GREETINGS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
            self.local.garbage.fetch_add(1, Ordering::Relaxed);
        }
        self.order
            .push_back(self.greetings.spawn(greet(self.local.clone(), stream)));
    }

    fn admit(&mut self, guest: Guest) {
        let Guest { link, lane, stream } = guest;
        let (local, id) = (self.local.clone(), link.id);
        info!(local.logger, "peer stream is accepted"; "peer" => format!("{id:x}"), "lane" => lane.as_str_name());
        if let Some(queue) = link.queue(lane) {
            queue.heard.notify_one();
        }
        let stream = match lane {
            Lane::Snapshot => self.streams.spawn(landing::receive(local, link, stream)),
            Lane::Urgent | Lane::Bulk => self.streams.spawn(read(local, link, stream)),
        };
        // A snapshot's connections settle among themselves which of them goes on.
        if lane != Lane::Snapshot
            && let Some(older) = self.current.insert((id, lane.into()), stream)
            && !older.is_finished()
        {
            older.abort();
            self.local.sink.unreachable(id);
        }
    }
}

/// Finds out who has connected; `None` when the connection is done with.
async fn greet(local: Arc<Local>, stream: TcpStream) -> Option<Guest> {
    let why = match timeout(limits::PEER_HANDSHAKE, identify(&local, stream)).await {
        Ok(Ok(guest)) => return guest,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "nothing complete came in time".into(),
    };
    local.garbage.fetch_add(1, Ordering::Relaxed);
    debug!(local.logger, "closed a connection to the peer port"; "error" => why);
    None
}

async fn identify(local: &Local, mut stream: TcpStream) -> Result<Option<Guest>, FrameError> {
    let mut first = [0; handshake::MAGIC.len()];
    match stream.read_exact(&mut first).await {
        Ok(_) if first == *b"GET " => return web::answer(&local.pages, stream).await.map(|()| None),
        Ok(_) if first == handshake::MAGIC => {}
        Ok(_) => return Err(FrameError::Magic),
        // A port scan, or a check that the port is open.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && first == [0; 4] => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let hello: Hello = frame::read_one(&mut stream, limits::PEER_HANDSHAKE_BYTES_MAX).await?;
    let judged = handshake::judge(local, &hello);
    let (refusal, reason) = match &judged {
        Ok(_) => (Refusal::Accepted, ""),
        Err((refusal, reason)) => (*refusal, reason.as_str()),
    };
    let mut answer = BytesMut::new();
    frame::put(&mut answer, &handshake::welcome(local, refusal, reason));
    stream.write_all(&answer).await?;
    match judged {
        Ok((link, lane)) => {
            handshake::prepare(&stream, lane)?;
            Ok(Some(Guest { link, lane, stream }))
        }
        Err((refusal, reason)) => {
            local.refused.fetch_add(1, Ordering::Relaxed);
            let from = format!("{:x}", hello.from);
            warn!(local.logger, "refused a peer"; "peer" => from, "refusal" => refusal.as_str_name(), "error" => reason);
            Ok(None)
        }
    }
}

/// Hands a peer's frames to the sink until the stream ends.
async fn read(local: Arc<Local>, link: Arc<Link>, mut stream: TcpStream) {
    let Err(error) = pump(&local, &link, &mut stream).await else {
        return;
    };
    if error.is_garbage() {
        local.garbage.fetch_add(1, Ordering::Relaxed);
    }
    link.count(|counts| counts.receive_failures += 1);
    info!(local.logger, "peer stream has ended"; "peer" => format!("{:x}", link.id), "error" => %error);
    local.sink.unreachable(link.id);
}

/// Ends well only when the peer is a member no more.
async fn pump(local: &Local, link: &Link, stream: &mut TcpStream) -> Result<(), FrameError> {
    let silent = || FrameError::Io(io::Error::new(io::ErrorKind::TimedOut, "no ping"));
    let mut buffer = BytesMut::new();
    // A timer for each frame would cost more than the frame.
    let mut heard = Instant::now();
    let mut silence = pin!(sleep(limits::PEER_SILENCE));
    loop {
        let bytes = tokio::select! {
            biased;
            bytes = frame::fill(stream, &mut buffer) => bytes?,
            () = silence.as_mut() => {
                if heard.elapsed() >= limits::PEER_SILENCE {
                    return Err(silent());
                }
                silence.as_mut().reset(heard + limits::PEER_SILENCE);
                continue;
            }
        };
        heard = Instant::now();
        link.count_received(bytes);
        if link.is_removed() {
            return Ok(());
        }
        while let Some(PeerFrame { body }) = frame::take(&mut buffer, local.frame_bytes_max)? {
            match body {
                Some(Body::Ping(micros)) => pong(stream, micros).await?,
                // A body of a later version, or an answer to nothing.
                None | Some(Body::Pong(_)) => {}
                body => local.sink.frame(link.id, PeerFrame { body }),
            }
        }
    }
}

async fn pong(stream: &mut TcpStream, micros: u64) -> Result<(), FrameError> {
    let mut answer = BytesMut::new();
    frame::put(
        &mut answer,
        &PeerFrame {
            body: Some(Body::Pong(micros)),
        },
    );
    let refused = || io::Error::new(io::ErrorKind::TimedOut, "the peer does not read pongs");
    timeout(limits::PEER_STALL_URGENT, stream.write_all(&answer))
        .await
        .map_err(|_| refused())??;
    Ok(())
}
