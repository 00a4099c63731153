//! What members say to each other, over TCP of our own framing: one thread with one runtime for all of it.
//!
//! ```text
//!   driver --send(to, lane, frame)--> queue (bounded in bytes) --> writer task ==URGENT/BULK==> reader task --sink.frame-->
//!   driver --send_snapshot(to, ..)--------------------------> file thread ==SNAPSHOT==> file thread --sink.snapshot_received-->
//! ```
//! Each member dials each other member and only sends on what it dialled, so two members share two streams
//! of each lane, and no stream needs to be agreed upon. Who may talk is decided in `handshake`; raft's
//! messages are opaque here: this folder never names raft. Nothing here waits for the driver and the driver never waits for
//! anything here: a queue that is full or not connected drops, and raft asks again.
//!
//! Not here: which lane a message takes, what is done with a reply, when a snapshot is sent.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use proto::node::PeerFrame;
use slog::Logger;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::limits;

pub mod frame;
mod handshake;
mod inbound;
mod landing;
mod link;
mod outbound;
mod snapshot;
mod web;

pub use handshake::{Incarnations, Known, PROTOCOL_VERSION};
pub use link::{PeerCounts, RTT_BUCKETS, RoundTrips, Sent};
pub use proto::node::Lane;
pub use snapshot::{ReceivedSnapshot, SnapshotSource};

use landing::Landing;
use link::Link;

/// A member's id and its peer URLs (`http://host:port`).
pub type PeerUrls = (u64, Vec<String>);

/// What a `GET` of this path answers (a JSON body), or `None` for 404.
pub type Pages = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Everything a [`PeerNet`] is told before it starts.
pub struct PeerConfig {
    pub cluster_id: u64,
    pub member_id: u64,
    /// Of this member's data directory.
    pub incarnation: [u8; 16],
    /// Already bound, so that a port in use is a refusal to start.
    pub listeners: Vec<TcpListener>,
    /// The other members.
    pub peers: Vec<PeerUrls>,
    pub known: Box<dyn Incarnations>,
    /// No longer frame is sent or read; at most one in flight exceeds a queue's bound.
    pub frame_bytes_max: usize,
    /// Bytes that wait for one peer's urgent lane.
    pub urgent_bytes_max: usize,
    /// Bytes that wait for one peer's bulk lane.
    pub bulk_bytes_max: usize,
    /// Where snapshots arrive. Must exist, be on the file system of the state, and hold nothing else.
    pub incoming: PathBuf,
    pub pages: Pages,
}

/// What the peer thread reports. Every call must return at once: heartbeats wait behind it.
pub trait PeerSink: Send + Sync + 'static {
    /// A frame of a known member; those of one lane come in the order they were sent.
    fn frame(&self, from: u64, frame: PeerFrame);
    /// All that came is handed over for now.
    fn resting(&self);
    /// Both lanes to `peer` are open.
    fn connected(&self, peer: u64);
    /// A dial failed, or a stream of either direction ended: what was queued or on its way may be lost.
    fn unreachable(&self, peer: u64);
    /// The cluster knows this member with another data directory: the process has to stop with this text.
    fn amnesia(&self, reason: String);
    /// All files are here, verified and synced; the directory belongs to the sink from now on.
    fn snapshot_received(&self, from: u64, snapshot: ReceivedSnapshot);
    /// The outcome of `send_snapshot`; the source directory may be removed.
    fn snapshot_sent(&self, to: u64, ok: bool);
}

/// What is counted, since the start.
#[derive(Clone, Debug, Default)]
pub struct PeerStats {
    pub peers: BTreeMap<u64, PeerCounts>,
    /// Connections that were closed because of what they sent before or instead of a valid frame.
    pub garbage: u64,
    /// Hellos that were refused: wrong cluster, member, protocol or incarnation.
    pub refused: u64,
}

/// The member's streams to and from all other members.
pub struct PeerNet {
    pub(in crate::peer) local: Arc<Local>,
    peers: watch::Sender<Vec<PeerUrls>>,
    orders: mpsc::Sender<(u64, SnapshotSource)>,
    thread: thread::JoinHandle<()>,
}

/// What all tasks of this member's peer thread share.
struct Local {
    cluster_id: u64,
    member_id: u64,
    incarnation: [u8; 16],
    known: Mutex<Box<dyn Incarnations>>,
    frame_bytes_max: usize,
    urgent_bytes_max: usize,
    bulk_bytes_max: usize,
    pages: Pages,
    sink: Arc<dyn PeerSink>,
    logger: Logger,
    /// Written by the peer thread, read by the driver without a lock.
    links: ArcSwap<BTreeMap<u64, Arc<Link>>>,
    landing: Landing,
    garbage: AtomicU64,
    refused: AtomicU64,
}

impl Local {
    fn link(&self, peer: u64) -> Option<Arc<Link>> {
        self.links.load().get(&peer).cloned()
    }

    /// Durably remembers `incarnation` as that of `peer`, or names the one that is known.
    fn learn(&self, peer: u64, incarnation: &[u8]) -> Result<(), String> {
        let incarnation: [u8; 16] = incarnation
            .try_into()
            .map_err(|_| format!("an incarnation of {} bytes, expected 16", incarnation.len()))?;
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .learn(peer, incarnation)
            .map_err(|known| {
                format!(
                    "member {peer:x} is known with incarnation {}, not {}",
                    handshake::hex(&known.known),
                    handshake::hex(&incarnation)
                )
            })
    }
}

impl PeerNet {
    /// Starts the peer thread, which dials and accepts from now on.
    ///
    /// Boot must have finished or undone every install of a received snapshot: what is left in `incoming` is
    /// taken for an interrupted transfer.
    pub fn start(config: PeerConfig, logger: Logger, sink: impl PeerSink) -> Result<PeerNet, String> {
        let landing = Landing::open(config.incoming)?;
        let local = Arc::new(Local {
            cluster_id: config.cluster_id,
            member_id: config.member_id,
            incarnation: config.incarnation,
            known: Mutex::new(config.known),
            frame_bytes_max: config.frame_bytes_max,
            urgent_bytes_max: config.urgent_bytes_max,
            bulk_bytes_max: config.bulk_bytes_max,
            pages: config.pages,
            sink: Arc::new(sink),
            logger,
            links: ArcSwap::default(),
            landing,
            garbage: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let (peers, peers_changed) = watch::channel(config.peers);
        let (orders, orders_taken) = mpsc::channel(limits::PEER_ORDERS_MAX);
        let resting = local.sink.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || resting.resting())
            .build()
            .map_err(|error| format!("cannot start the peer runtime: {error}"))?;
        let listeners = {
            let _inside = runtime.enter();
            config
                .listeners
                .into_iter()
                .map(into_tokio)
                .collect::<Result<Vec<_>, _>>()?
        };
        let shared = local.clone();
        let thread = thread::Builder::new()
            .name("peer".into())
            .spawn(move || {
                crate::priority::go_first();
                runtime.block_on(serve(shared, listeners, peers_changed, orders_taken));
                runtime.shutdown_timeout(limits::PEER_STOP);
            })
            .map_err(|error| format!("cannot start the peer thread: {error}"))?;
        Ok(PeerNet {
            local,
            peers,
            orders,
            thread,
        })
    }

    /// Replaces the other members: streams of those that are gone end, those that are new are dialled.
    pub fn set_peers(&self, peers: Vec<PeerUrls>) {
        self.peers.send_replace(peers);
    }

    /// Sends a checkpoint's files to a member; replaces a transfer to it that is under way, of which nothing
    /// more is heard. Ends in `PeerSink::snapshot_sent`.
    pub fn send_snapshot(&self, to: u64, source: SnapshotSource) {
        if self.orders.try_send((to, source)).is_err() {
            self.local.sink.snapshot_sent(to, false);
        }
    }

    /// Counters for metrics.
    pub fn stats(&self) -> PeerStats {
        PeerStats {
            peers: self
                .local
                .links
                .load()
                .values()
                .map(|link| (link.id, link.counts()))
                .collect(),
            garbage: self.local.garbage.load(Ordering::Relaxed),
            refused: self.local.refused.load(Ordering::Relaxed),
        }
    }

    /// Lets queued frames leave, closes all streams and ends the thread; bounded by `PEER_FLUSH + PEER_STOP`.
    pub fn stop(self) {
        let PeerNet {
            local: _,
            peers,
            orders,
            thread,
        } = self;
        // The thread ends when nobody can order anything any more; so it does when a PeerNet is dropped.
        drop((peers, orders));
        thread.join().expect("the peer thread does not panic");
    }
}

fn into_tokio(listener: TcpListener) -> Result<tokio::net::TcpListener, String> {
    listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(listener))
        .map_err(|error| format!("cannot listen for peers: {error}"))
}

/// The peer thread: owns every task, until the PeerNet is gone.
async fn serve(
    local: Arc<Local>,
    listeners: Vec<tokio::net::TcpListener>,
    mut peers: watch::Receiver<Vec<PeerUrls>>,
    mut orders: mpsc::Receiver<(u64, SnapshotSource)>,
) {
    let mut door = JoinSet::new();
    door.spawn(inbound::serve(local.clone(), listeners));
    let mut lanes = BTreeMap::new();
    let mut snapshots = BTreeMap::new();
    let wanted = peers.borrow_and_update().clone();
    reconcile(&local, &mut lanes, &mut snapshots, wanted);
    loop {
        tokio::select! {
            changed = peers.changed() => {
                if changed.is_err() {
                    break;
                }
                let wanted = peers.borrow_and_update().clone();
                reconcile(&local, &mut lanes, &mut snapshots, wanted);
            }
            Some((to, source)) = orders.recv() => match lanes.get(&to) {
                // A JoinSet aborts its task when another one takes its place in the map.
                Some(lanes) => {
                    let mut transfer = JoinSet::new();
                    transfer.spawn(snapshot::send(local.clone(), lanes.link.clone(), lanes.urls.clone(), source));
                    snapshots.insert(to, transfer);
                }
                None => local.sink.snapshot_sent(to, false),
            },
        }
    }
    flush(&lanes).await;
}

/// The tasks that keep the lanes to one peer open.
struct Lanes {
    urls: Vec<String>,
    link: Arc<Link>,
    _tasks: JoinSet<()>,
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.link.remove();
    }
}

/// Makes `lanes` those of the `wanted` peers, and publishes their links.
fn reconcile(
    local: &Arc<Local>,
    lanes: &mut BTreeMap<u64, Lanes>,
    snapshots: &mut BTreeMap<u64, JoinSet<()>>,
    wanted: Vec<PeerUrls>,
) {
    let wanted: BTreeMap<u64, Vec<String>> = wanted.into_iter().filter(|(id, _)| *id != local.member_id).collect();
    lanes.retain(|id, lanes| wanted.get(id) == Some(&lanes.urls));
    snapshots.retain(|id, transfer| {
        let keep = lanes.contains_key(id);
        if !keep && transfer.try_join_next().is_none() {
            local.sink.snapshot_sent(*id, false);
        }
        keep
    });
    for (id, urls) in wanted {
        lanes.entry(id).or_insert_with(|| {
            let link = Arc::new(Link::new(
                id,
                local.urgent_bytes_max,
                local.bulk_bytes_max,
                local.frame_bytes_max,
            ));
            let mut tasks = JoinSet::new();
            for lane in [Lane::Urgent, Lane::Bulk] {
                tasks.spawn(outbound::keep_open(local.clone(), link.clone(), lane, urls.clone()));
            }
            Lanes {
                urls,
                link,
                _tasks: tasks,
            }
        });
    }
    local.links.store(Arc::new(
        lanes.iter().map(|(id, lanes)| (*id, lanes.link.clone())).collect(),
    ));
}

/// Waits, bounded, until the peers have what was queued before the stop.
async fn flush(lanes: &BTreeMap<u64, Lanes>) {
    for lanes in lanes.values() {
        lanes.link.finish();
    }
    let until = Instant::now() + limits::PEER_FLUSH;
    while Instant::now() < until && lanes.values().any(|lanes| !lanes.link.is_closed()) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
