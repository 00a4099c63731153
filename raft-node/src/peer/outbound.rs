//! Towards a peer: dial each lane, keep it open, and write what is queued.
//!
//! What the raft thread could not write by itself (see `link`), the lane's task takes, encodes into one buffer and
//! writes with one system call. A stream that makes no progress, or whose
//! pings come back no more, is given up and dialled again; what was queued on it is dropped, since raft
//! repeats what matters and the rest is stale.
//!
//! Not here: a retry of a frame, an order between lanes.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::{Buf, BytesMut};
use proto::node::{Lane, PeerFrame, Refusal, peer_frame::Body};
use slog::{debug, info, warn};
use tokio::{
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Duration, Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Local, PeerNet, Sent, frame,
    handshake::{self, DialError},
    link::{Link, Queue},
};
use crate::limits;

impl PeerNet {
    /// Queues a frame for a peer's lane (urgent or bulk) or drops it; never waits. It leaves with [`Self::flush`].
    pub fn send(&self, to: u64, lane: Lane, frame: PeerFrame) -> Sent {
        match self.local.links.load().get(&to) {
            Some(link) => link.push(lane, frame),
            None => Sent::Dropped,
        }
    }

    /// Sends what was queued; never waits.
    pub fn flush(&self) {
        for link in self.local.links.load().values() {
            link.flush();
        }
    }
}

/// Dials one lane of one peer for as long as it is a member.
pub(super) async fn keep_open(local: Arc<Local>, link: Arc<Link>, lane: Lane, urls: Vec<String>) {
    let queue = link.queue(lane).expect("only lanes with a queue are kept open");
    let mut pause = limits::PEER_REDIAL_MIN;
    let mut last_failure = String::new();
    loop {
        let began = Instant::now();
        let failure = match handshake::dial(&local, link.id, &urls, lane).await {
            Ok(stream) => {
                info!(local.logger, "peer stream is open"; "peer" => format!("{:x}", link.id), "lane" => lane.as_str_name());
                last_failure.clear();
                carry(&local, &link, lane, stream).await
            }
            Err(error) => {
                if let DialError::Refused(Refusal::Amnesia, reason) = &error {
                    local.sink.amnesia(amnesia(&local, reason));
                }
                if !matches!(error, DialError::Unreachable(_)) {
                    pause = limits::PEER_REFUSED;
                }
                error.to_string()
            }
        };
        link.count(|counts| counts.send_failures += 1);
        local.sink.unreachable(link.id);
        let (peer, name) = (format!("{:x}", link.id), lane.as_str_name());
        if failure == last_failure {
            debug!(local.logger, "peer is still unreachable"; "peer" => peer, "lane" => name, "error" => &failure);
        } else {
            warn!(local.logger, "peer is unreachable"; "peer" => peer, "lane" => name, "error" => &failure);
            last_failure = failure;
        }
        if began.elapsed() > limits::PEER_REFUSED {
            pause = limits::PEER_REDIAL_MIN;
        }
        wait(queue, pause).await;
        pause = (pause * 2).min(limits::PEER_REDIAL_MAX);
    }
}

/// Pauses between two dials, less long when the peer is heard meanwhile, but never so short as to spin.
async fn wait(queue: &Queue, pause: Duration) {
    sleep(limits::PEER_REDIAL_MIN).await;
    let rest = pause.saturating_sub(limits::PEER_REDIAL_MIN);
    let _heard_or_over = timeout(rest, queue.heard.notified()).await;
}

fn amnesia(local: &Local, reason: &str) -> String {
    format!(
        "this member's data directory does not belong to the member {:x} that the cluster knows: {reason}. Its \
         directory was lost or replaced, and it could vote twice. Remove the member from the cluster and add it \
         again, or bring its own directory back",
        local.member_id
    )
}

/// Uses an open stream until it ends, and says why it did.
async fn carry(local: &Local, link: &Link, lane: Lane, stream: TcpStream) -> String {
    let queue = link.queue(lane).expect("only lanes with a queue are kept open");
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(writer);
    let open = Open { link, lane };
    queue.open(writer.clone());
    if link.is_connected() {
        local.sink.connected(link.id);
    }
    let epoch = Instant::now();
    let why = tokio::select! {
        result = write_frames(link, lane, queue, &writer, epoch) => match result {
            Ok(()) => None,
            Err(error) => Some(error.to_string()),
        },
        why = read_pongs(link, lane, &mut reader, epoch) => Some(why),
    };
    let why = if let Some(why) = why {
        why
    } else {
        // The last of the writing half: dropping it says so to the peer. Closing with a pong unread would reset
        // the connection, and throw away what the peer has not read yet.
        queue.hang_up();
        drop(writer);
        read_pongs(link, lane, &mut reader, epoch).await
    };
    drop(open);
    link.count(|counts| counts.disconnects += 1);
    why
}

/// A lane that is connected; its queue closes with it, also when its task is aborted.
struct Open<'a> {
    link: &'a Link,
    lane: Lane,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.link.close(self.lane);
    }
}

/// Ends well only when the queue has to close and all of it is written.
async fn write_frames(
    link: &Link,
    lane: Lane,
    queue: &Queue,
    stream: &OwnedWriteHalf,
    epoch: Instant,
) -> io::Result<()> {
    let mut pings = interval(limits::PEER_PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pinged = epoch;
    loop {
        let (mut batch, mut buffer) = tokio::select! {
            taken = queue.next() => match taken {
                Some(taken) => taken,
                None => return Ok(()),
            },
            _ = pings.tick() => queue.take(),
        };
        loop {
            encode(&mut batch, &mut buffer);
            let bytes = buffer.len();
            // Also between the writes of a long batch: its end may be further off than the peer's patience.
            if bytes == 0 || pinged.elapsed() >= limits::PEER_PING {
                pinged = Instant::now();
                let micros = (pinged - epoch).as_micros() as u64;
                frame::put(
                    &mut buffer,
                    &PeerFrame {
                        body: Some(Body::Ping(micros)),
                    },
                );
            }
            link.count_sent(buffer.len());
            write_all(stream, &mut buffer, handshake::stall(lane)).await?;
            queue.written(bytes);
            if batch.is_empty() {
                break;
            }
        }
    }
}

/// Moves frames into `buffer` until it is worth a write.
fn encode(batch: &mut VecDeque<PeerFrame>, buffer: &mut BytesMut) {
    while buffer.len() < limits::PEER_WRITE_BYTES
        && let Some(next) = batch.pop_front()
    {
        frame::put(buffer, &next);
    }
}

/// Writes all; fails when not one byte left for `stall`.
async fn write_all(stream: &OwnedWriteHalf, buffer: &mut BytesMut, stall: Duration) -> io::Result<()> {
    while buffer.has_remaining() {
        match stream.try_write(buffer) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => buffer.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => timeout(stall, stream.writable())
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer does not read"))??,
            Err(error) => return Err(error),
        }
    }
    buffer.clear();
    Ok(())
}

/// Reads the only thing that comes back, and notices that nothing does.
async fn read_pongs(link: &Link, lane: Lane, stream: &mut OwnedReadHalf, epoch: Instant) -> String {
    let silence = if lane == Lane::Urgent {
        limits::PEER_SILENCE_URGENT
    } else {
        limits::PEER_SILENCE
    };
    let mut buffer = BytesMut::new();
    loop {
        let read = frame::read::<PeerFrame>(stream, &mut buffer, limits::PEER_HANDSHAKE_BYTES_MAX);
        match timeout(silence, read).await {
            Ok(Ok(PeerFrame {
                body: Some(Body::Pong(micros)),
            })) => {
                let now = epoch.elapsed();
                // A peer that makes up pongs only spoils its own histogram.
                let took = now.saturating_sub(Duration::from_micros(micros));
                link.count(|counts| counts.round_trips.observe(took));
            }
            Ok(Ok(_)) => return "something else than a pong came back".into(),
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("no answer to a ping for {silence:?}"),
        }
    }
}
