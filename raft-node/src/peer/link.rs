//! One peer as the driver and the peer thread see it: a queue of frames for each lane, and counters.
//!
//! A queue is open only while its lane is connected. A frame for a peer that is not there would be stale
//! when it comes back, so it is dropped at once and the sender knows; a queue is bounded in bytes, because a
//! hundred appends of a mebibyte and a hundred heartbeats are not the same.
//!
//! ```text
//!   push ... push, flush    the raft thread, once a turn: encodes and writes what is small, if the socket takes it
//!        \---- the rest ->  the lane's task (`outbound`), which waits for the socket; while it writes, flush leaves
//!                           everything to it, so that no frame is cut in two
//! ```
//! Waking the task for every batch cost more than the write itself. No lock is held across an await.
//!
//! Not here: connecting, and noticing that a connection is dead.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BytesMut};
use prost::Message;
use proto::node::{Lane, PeerFrame};
use tokio::{net::tcp::OwnedWriteHalf, sync::Notify};

use super::frame::{self, HEADER_BYTES};
use crate::limits;

/// Buckets of [`RoundTrips`]: 0.1 ms doubling to 3.3 s (etcd's), and one for what is longer.
pub const RTT_BUCKETS: usize = 17;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// It waits to be written. It may still be lost, and then `PeerSink::unreachable` follows.
    Queued,
    /// It will never be sent: the peer is not connected, its queue is full, or the frame is too long.
    Dropped,
}

/// Round trips of pings, as a histogram.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundTrips {
    pub last: Option<Duration>,
    pub sum: Duration,
    /// Not cumulative; bucket n holds what took at most 0.1 ms * 2^n.
    pub buckets: [u64; RTT_BUCKETS],
}

/// What is counted for one peer.
#[derive(Clone, Debug, Default)]
pub struct PeerCounts {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Dials that failed and streams that ended, towards the peer.
    pub send_failures: u64,
    /// Streams from the peer that ended with an error.
    pub receive_failures: u64,
    /// Frames that were not sent.
    pub drops: u64,
    pub queued_bytes: u64,
    pub round_trips: RoundTrips,
    /// Both lanes to the peer are open.
    pub connected: bool,
    /// Streams that were open and ended.
    pub disconnects: u64,
    pub snapshots_sent: u64,
    pub snapshots_failed: u64,
    pub snapshots_received: u64,
    pub snapshot_receive_failures: u64,
}

/// One peer: its two queues and its counters.
pub(super) struct Link {
    pub id: u64,
    frame_bytes_max: usize,
    urgent: Queue,
    bulk: Queue,
    removed: AtomicBool,
    tallies: Mutex<PeerCounts>,
    // Counted per frame, so outside the lock.
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    drops: AtomicU64,
}

impl Link {
    pub fn new(id: u64, urgent_bytes_max: usize, bulk_bytes_max: usize, frame_bytes_max: usize) -> Link {
        Link {
            id,
            frame_bytes_max,
            urgent: Queue::new(urgent_bytes_max),
            bulk: Queue::new(bulk_bytes_max),
            removed: AtomicBool::new(false),
            tallies: Mutex::default(),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            drops: AtomicU64::new(0),
        }
    }

    /// Queues a frame or drops it; never waits.
    pub fn push(&self, lane: Lane, frame: PeerFrame) -> Sent {
        let bytes = HEADER_BYTES + frame.encoded_len();
        let fits = bytes <= HEADER_BYTES + self.frame_bytes_max;
        if fits && self.queue(lane).is_some_and(|queue| queue.push(frame, bytes)) {
            return Sent::Queued;
        }
        self.drops.fetch_add(1, Ordering::Relaxed);
        Sent::Dropped
    }

    /// Sends what waits, as far as that needs no waiting; the lanes' tasks see to the rest.
    pub fn flush(&self) {
        for queue in [&self.urgent, &self.bulk] {
            let sent = queue.flush();
            if sent > 0 {
                self.count_sent(sent);
            }
        }
    }

    /// The lane's queue; snapshots have none.
    pub fn queue(&self, lane: Lane) -> Option<&Queue> {
        match lane {
            Lane::Urgent => Some(&self.urgent),
            Lane::Bulk => Some(&self.bulk),
            Lane::Snapshot => None,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.urgent.gate() == Gate::Open && self.bulk.gate() == Gate::Open
    }

    /// Refuses frames from now on, lets those that wait leave, then closes.
    pub fn finish(&self) {
        self.urgent.finish();
        self.bulk.finish();
    }

    pub fn is_closed(&self) -> bool {
        self.urgent.gate() == Gate::Closed && self.bulk.gate() == Gate::Closed
    }

    /// The peer is a member no more: its queues close for good and its streams end.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::Release);
        self.close(Lane::Urgent);
        self.close(Lane::Bulk);
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Closes a lane's queue and drops what is in it.
    pub fn close(&self, lane: Lane) {
        let lost = self.queue(lane).map_or(0, Queue::close);
        self.drops.fetch_add(lost, Ordering::Relaxed);
    }

    pub fn count(&self, change: impl FnOnce(&mut PeerCounts)) {
        change(&mut self.tallies.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn count_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn count_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn counts(&self) -> PeerCounts {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PeerCounts {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            drops: self.drops.load(Ordering::Relaxed),
            queued_bytes: (self.urgent.bytes() + self.bulk.bytes()) as u64,
            connected: self.is_connected(),
            ..tallies
        }
    }
}

impl RoundTrips {
    /// Adds one.
    pub fn observe(&mut self, took: Duration) {
        let units = took.as_micros().div_ceil(100).max(1);
        // The smallest n with 2^n >= units.
        let bucket = (u128::BITS - (units - 1).leading_zeros()) as usize;
        self.buckets[bucket.min(RTT_BUCKETS - 1)] += 1;
        self.sum += took;
        self.last = Some(took);
    }
}

/// Frames that wait for one lane of one peer.
pub(super) struct Queue {
    bytes_max: usize,
    waiting: Mutex<Waiting>,
    pushed: Notify,
    /// The peer was heard: a dial is worth trying before its pause is over.
    pub heard: Notify,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Closed,
    Open,
    /// Takes nothing more; closes when all that waits is with the peer.
    Closing,
}

#[derive(Default)]
struct Waiting {
    gate: Gate,
    socket: Option<Arc<OwnedWriteHalf>>,
    frames: VecDeque<PeerFrame>,
    /// The rest of a frame that the socket took in part.
    cut: BytesMut,
    /// Of `frames`, of `cut`, and of what was taken but not written yet.
    bytes: usize,
    /// The lane's task is writing.
    is_taken: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.cut.is_empty()
    }

    fn take(&mut self) -> Taken {
        self.is_taken = true;
        (std::mem::take(&mut self.frames), std::mem::take(&mut self.cut))
    }
}

/// Frames to write, behind the rest of one that was written in part.
pub(super) type Taken = (VecDeque<PeerFrame>, BytesMut);

impl Queue {
    fn new(bytes_max: usize) -> Queue {
        Queue {
            bytes_max,
            waiting: Mutex::default(),
            pushed: Notify::new(),
            heard: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, frame: PeerFrame, bytes: usize) -> bool {
        let mut waiting = self.lock();
        // An empty queue takes any frame, so that no frame is too long for ever.
        let full = waiting.bytes > 0 && waiting.bytes + bytes > self.bytes_max;
        if waiting.gate != Gate::Open || full {
            return false;
        }
        waiting.bytes += bytes;
        waiting.frames.push_back(frame);
        true
    }

    fn flush(&self) -> usize {
        let mut waiting = self.lock();
        if waiting.is_taken || waiting.is_empty() {
            return 0;
        }
        let mut sent = 0;
        if waiting.bytes <= limits::PEER_WRITE_AT_ONCE_BYTES
            && let Some(socket) = waiting.socket.clone()
        {
            while let Some(next) = waiting.frames.pop_front() {
                frame::put(&mut waiting.cut, &next);
            }
            // A broken socket is the task's to find.
            sent = socket.try_write(&waiting.cut).unwrap_or(0);
            waiting.cut.advance(sent);
            waiting.bytes -= sent;
        }
        if !waiting.is_empty() {
            self.pushed.notify_one();
        }
        sent
    }

    // Functions, so that no guard outlives its line and two are never held together.
    fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn gate(&self) -> Gate {
        self.lock().gate
    }

    pub fn open(&self, socket: Arc<OwnedWriteHalf>) {
        let mut waiting = self.lock();
        (waiting.gate, waiting.socket) = (Gate::Open, Some(socket));
    }

    /// Lets go of the socket: everything is written, and nothing more is taken.
    pub fn hang_up(&self) {
        self.lock().socket = None;
    }

    fn finish(&self) {
        let mut waiting = self.lock();
        if waiting.gate == Gate::Open {
            waiting.gate = Gate::Closing;
            self.pushed.notify_one();
        }
    }

    fn close(&self) -> u64 {
        let mut waiting = self.lock();
        let lost = waiting.frames.len() as u64;
        *waiting = Waiting::default();
        lost
    }

    /// Waits for frames and takes all there are; they count as queued until [`Queue::written`], and nobody else
    /// writes until the next call. `None` once the queue has to close and nothing waits in it.
    pub async fn next(&self) -> Option<Taken> {
        loop {
            {
                let mut waiting = self.lock();
                if !waiting.is_empty() {
                    return Some(waiting.take());
                }
                waiting.is_taken = false;
                if waiting.gate == Gate::Closing {
                    return None;
                }
            }
            self.pushed.notified().await;
        }
    }

    /// What [`Self::next`] would take, be it nothing: to write something else.
    pub fn take(&self) -> Taken {
        self.lock().take()
    }

    pub fn written(&self, bytes: usize) {
        let mut waiting = self.lock();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proto::node::peer_frame::Body;

    use super::*;

    fn append(bytes: usize) -> PeerFrame {
        PeerFrame {
            body: Some(Body::Raft(vec![0; bytes].into())),
        }
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_and_only_open_while_connected() {
        let link = Link::new(2, 100, 1000, 2000);
        assert_eq!(link.push(Lane::Bulk, append(10)), Sent::Dropped);
        link.queue(Lane::Bulk).unwrap().lock().gate = Gate::Open;
        link.queue(Lane::Urgent).unwrap().lock().gate = Gate::Open;
        let queued = (0..20)
            .filter(|_| link.push(Lane::Bulk, append(100)) == Sent::Queued)
            .count();
        assert_eq!(queued, 9);
        assert_eq!(link.push(Lane::Urgent, append(10)), Sent::Queued);
        assert_eq!(link.counts().drops, 12);
        link.close(Lane::Bulk);
        assert_eq!(link.counts().drops, 21);
        assert_eq!(link.push(Lane::Bulk, append(10)), Sent::Dropped);
    }

    #[test]
    fn an_empty_queue_takes_a_frame_over_its_bound_but_none_over_the_frame_limit() {
        let link = Link::new(2, 100, 100, 2000);
        link.queue(Lane::Bulk).unwrap().lock().gate = Gate::Open;
        assert_eq!(link.push(Lane::Bulk, append(3000)), Sent::Dropped);
        assert_eq!(link.push(Lane::Bulk, append(1000)), Sent::Queued);
        assert_eq!(link.push(Lane::Bulk, append(1)), Sent::Dropped);
    }

    #[test]
    fn round_trips_fall_into_etcds_buckets() {
        let mut trips = RoundTrips::default();
        for micros in [1, 100, 101, 200, 201, 3_276_800, 3_276_801, 99_000_000] {
            trips.observe(Duration::from_micros(micros));
        }
        assert_eq!(trips.buckets[..3], [2, 2, 1]);
        assert_eq!(trips.buckets[15..], [1, 2]);
    }
}
