//! How a member starts: everything between the flags and the first turn.

use std::{
    net::TcpListener,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use kv::{LogEntry, RocksEngine, RocksOptions, Store};
use proto::node::{Member, Membership};
use slog::{Logger, info, warn};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, watch},
};

use super::{Node, Running, bind, request_limits};
use crate::{
    config::Config,
    data_dir::{DataDir, DataDirLock, Expected, Incarnation, KnownPeers},
    driver::{Driver, DriverParts, Published, RaftInbox, Reply, Sink},
    error::{Cause, StartError},
    grpc::{Identity, RpcCounters, ServerHandle, serve},
    http, ids,
    inbox::Inbox,
    limits,
    log::{Log as _, LogReader as _, rocks::RocksLog},
    peer::{Incarnations, Known, PeerConfig, PeerNet},
    replica::{Replica, ReplicaConfig, initial_conf_state, start_of},
    state_directory::StateDirectory,
    status::Status,
};

struct Listeners {
    peer: Vec<TcpListener>,
    client: Vec<TcpListener>,
    metrics: Vec<TcpListener>,
}

/// Starts the member that `config` describes.
pub fn start(config: &Config, logger: &Logger) -> Result<Running, StartError> {
    let listeners = Listeners {
        peer: bind("listen-peer-urls", &config.listen_peer_urls)?,
        client: bind("listen-client-urls", &config.listen_client_urls)?,
        metrics: bind("listen-metrics-urls", &config.listen_metrics_urls)?,
    };
    let identity = Identity {
        cluster_id: config.cluster_id().0,
        member_id: config.member_id().0,
    };
    let expected = Expected {
        cluster: config.cluster_id(),
        member: config.member_id(),
        state: config.initial_cluster_state,
    };
    let (data_dir, lock) = DataDir::open(&config.data_dir, config.wal_dir.as_deref(), expected)?;
    let opened = open(config, data_dir, logger)?;
    run(config, identity, listeners, opened, lock, logger)
}

/// What the disk gave back.
struct Opened {
    data_dir: DataDir,
    log: RocksLog,
    store: Store<RocksEngine>,
    state_directory: StateDirectory,
}

fn open(config: &Config, mut data_dir: DataDir, logger: &Logger) -> Result<Opened, StartError> {
    let damaged = |why: String| StartError::new(Cause::DamagedLog, format!("{} {why}", Cause::DamagedLog.phrase()));
    let mut log = RocksLog::open(&data_dir.raft).map_err(damaged)?;
    let arriving = log
        .recovered()
        .install_intent
        .as_ref()
        .map(|intent| intent.directory.clone());
    let state_directory = StateDirectory::open(&data_dir.kv, rocks_options(config), arriving.as_deref())
        .map_err(|why| StartError::new(Cause::Unusable, format!("cannot use {why}")))?;
    if let Some(intent) = log.recovered().install_intent.clone() {
        info!(logger, "finishing the installation of a snapshot"; "index" => intent.index);
        state_directory.finish(&intent.directory).map_err(damaged)?;
        let mut hard_state = log.recovered().hard_state.clone();
        hard_state.commit = hard_state.commit.max(intent.index);
        log.reset(
            crate::log::EntryId {
                index: intent.index,
                term: intent.term,
            },
            &hard_state,
        );
        // What was found at the first open does not hold any more.
        drop(log);
        log = RocksLog::open(&data_dir.raft).map_err(damaged)?;
    }
    let mut store = state_directory.open_store().map_err(damaged)?;
    if store.is_empty() {
        store.bootstrap(membership(config));
    }
    let cut = log.recovered().torn_tail_cut;
    if cut > 0 {
        warn!(logger, "cut a torn tail behind MARK: it was never acknowledged"; "bytes" => cut);
    }
    replay(&log, &mut store, logger).map_err(damaged)?;
    if data_dir.is_new {
        data_dir.begin()?;
    }
    Ok(Opened {
        data_dir,
        log,
        store,
        state_directory,
    })
}

/// Members write the same rows at the same time. With memtables of one size all of them would flush and compact at
/// once, and none would be left to answer quickly.
fn rocks_options(config: &Config) -> RocksOptions {
    let default = RocksOptions::default();
    let own = config.member_id();
    let before = config.initial_cluster.iter().filter(|member| member.id.0 < own.0);
    let smaller = default.memtable_bytes / 8 * (before.count() % limits::MEMTABLE_SIZES);
    RocksOptions {
        memtable_bytes: default.memtable_bytes - smaller,
        ..default
    }
}

/// The cluster as the flags describe it, for a first start.
fn membership(config: &Config) -> Membership {
    let members: Vec<Member> = config
        .initial_cluster
        .iter()
        .map(|member| Member {
            id: member.id.0,
            name: String::new(),
            peer_urls: member.peer_urls.iter().map(|url| url.as_str().to_owned()).collect(),
            client_urls: Vec::new(),
            is_learner: false,
        })
        .collect();
    let voters = members.iter().map(|member| member.id).collect();
    Membership {
        cluster_id: config.cluster_id().0,
        members,
        conf_state: initial_conf_state(voters),
    }
}

/// Applies what the log has committed and the state does not hold yet.
fn replay(log: &RocksLog, store: &mut Store<RocksEngine>, logger: &Logger) -> Result<(), String> {
    let recovered = log.recovered();
    let applied = store.applied().index;
    if applied > recovered.last.index || applied < recovered.truncated.index {
        return Err(format!(
            "the state has applied entry {applied}, the log holds {} to {}",
            recovered.truncated.index + 1,
            recovered.last.index
        ));
    }
    let commit = recovered.hard_state.commit;
    let began = Instant::now();
    let reader = log.reader();
    let mut next = applied + 1;
    while next <= commit {
        let entries = reader.entries(next, commit + 1, limits::COMMITTED_BYTES_PER_TURN_MAX);
        let entries: Vec<LogEntry> = entries
            .into_iter()
            .map(|entry| LogEntry {
                index: entry.index,
                term: entry.term,
                data: entry.data,
                conf_state: None,
            })
            .collect();
        next += entries.len() as u64;
        store.apply(&entries);
    }
    info!(logger, "replayed the log"; "from" => applied, "to" => store.applied().index,
        "took_ms" => began.elapsed().as_millis() as u64);
    Ok(())
}

fn run(
    config: &Config,
    identity: Identity,
    listeners: Listeners,
    opened: Opened,
    lock: DataDirLock,
    logger: &Logger,
) -> Result<Running, StartError> {
    let reader = opened.log.reader();
    let core = Core::start(config, identity, opened, listeners.peer, logger)?;
    let inbox = Arc::clone(&core.inbox);
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(limits::BLOCKING_THREADS)
        .thread_name("background")
        .on_thread_park(move || inbox.announce())
        .enable_all()
        .build()
        .map_err(|error| unusable("threads", &error))?;
    let node = Arc::new(core.node(config, identity, &background, logger));
    let addresses = listeners
        .client
        .iter()
        .filter_map(|listener| listener.local_addr().ok());
    let client_addresses = addresses.collect();
    let server = serve_clients(&node, &background, listeners.client, listeners.metrics)?;
    super::chores::start(&background, &node, config, reader);
    let (driver, peers) = (core.driver, core.peers);
    Ok(Running {
        node,
        server,
        driver,
        peers,
        background,
        client_addresses,
        _lock: lock,
    })
}

/// The threads that make a member, before anybody is served.
struct Core {
    driver: Driver,
    peers: Arc<PeerNet>,
    published: Arc<Published>,
    inbox: Arc<RaftInbox>,
    clock: Instant,
}

impl Core {
    fn start(
        config: &Config,
        identity: Identity,
        opened: Opened,
        listeners: Vec<TcpListener>,
        logger: &Logger,
    ) -> Result<Self, StartError> {
        let clock = Instant::now();
        let Opened {
            data_dir,
            log,
            store,
            state_directory,
        } = opened;
        let first_status = Status {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            torn_tail_cut_bytes: log.recovered().torn_tail_cut,
            ..Status::default()
        };
        let published = Arc::new(Published::new(store.engine().clone(), store.view(), first_status));
        let inbox = Arc::new(Inbox::new(limits::RAFT_INBOX_MAX));
        let replica = replica(config, identity, &log, &store, logger);
        let sink = Sink {
            inbox: Arc::clone(&inbox),
            published: Arc::clone(&published),
            state_directory: state_directory.clone(),
            member: config.member_id(),
        };
        let peer_config = peer_config(config, identity, data_dir, &state_directory, listeners, &published);
        let peers = PeerNet::start(peer_config, logger.clone(), sink).map_err(|why| unusable("peer streams", &why))?;
        let peers = Arc::new(peers);
        let driver = Driver::start(DriverParts {
            replica,
            log,
            store,
            state_directory,
            published: Arc::clone(&published),
            inbox: Arc::clone(&inbox),
            peers: Arc::clone(&peers),
            clock,
            snapshot_count: config.snapshot_count,
            first_checkpoint: random() >> 1,
            logger: logger.clone(),
        })
        .map_err(|error| unusable("threads", &error))?;
        Ok(Self {
            driver,
            peers,
            published,
            inbox,
            clock,
        })
    }

    fn node(&self, config: &Config, identity: Identity, background: &Runtime, logger: &Logger) -> Node {
        Node {
            identity,
            limits: request_limits(config),
            inbox: Arc::clone(&self.inbox),
            clock: self.clock,
            published: Arc::clone(&self.published),
            stopping: watch::Sender::new(false),
            disk_full: watch::Sender::new(false),
            disk_bytes: AtomicU64::new(0),
            // Unique over restarts and members: time in the high bits, member in the middle ones.
            lease_ids: AtomicU64::new((seconds_since_epoch() << 31) ^ ((identity.member_id & 0xffff) << 15)),
            blocking: background.handle().clone(),
            blocking_places: Arc::new(Semaphore::new(limits::BLOCKING_WAITING_MAX)),
            peers: Arc::clone(&self.peers),
            counters: Arc::new(RpcCounters::default()),
            logger: logger.clone(),
        }
    }
}

fn serve_clients(
    node: &Arc<Node>,
    background: &Runtime,
    client: Vec<TcpListener>,
    metrics: Vec<TcpListener>,
) -> Result<ServerHandle, StartError> {
    let traffic = Arc::new(ArcSwapOption::empty());
    let source = super::facts::Source {
        node: Arc::clone(node),
        traffic: Arc::clone(&traffic),
    };
    let router = http::router(source);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = (cores / 2).clamp(1, limits::GRPC_THREADS_MAX);
    let counters = Arc::clone(&node.counters);
    let server = serve(Arc::clone(node), counters, client, router.clone(), threads)
        .map_err(|error| unusable("the client listeners", &error))?;
    traffic.store(Some(Arc::clone(server.traffic())));
    for listener in metrics {
        let mut stopping = node.stopping.subscribe();
        let stop = async move { drop(stopping.wait_for(|stopping| *stopping).await) };
        background.spawn(http::serve_metrics(listener, router.clone(), stop));
    }
    Ok(server)
}

fn unusable(what: &str, why: &dyn std::fmt::Display) -> StartError {
    StartError::new(Cause::Unusable, format!("cannot use {what}: {why}"))
}

fn replica(
    config: &Config,
    identity: Identity,
    log: &RocksLog,
    store: &Store<RocksEngine>,
    logger: &Logger,
) -> Replica<Reply, <RocksLog as crate::log::Log>::Reader> {
    let ticks = |interval: Duration| (interval.as_millis() / limits::TICK.as_millis()).max(1) as usize;
    let leases: Vec<(i64, i64)> = store
        .view()
        .lease_rows()
        .iter()
        .map(|lease| (lease.id, lease.ttl))
        .collect();
    let replica_config = ReplicaConfig {
        id: identity.member_id,
        election_ticks: ticks(config.election_timeout),
        heartbeat_ticks: ticks(config.heartbeat_interval),
        applied: store.applied().index,
        catch_up_entries: (config.snapshot_count / 2).max(1),
        seed: random(),
        logger: logger.clone(),
    };
    let start = start_of(log.recovered(), &store.membership().conf_state);
    Replica::new(&replica_config, start, log.reader(), &leases)
}

/// Remembers incarnations in the data directory.
struct Memory(KnownPeers);

impl Incarnations for Memory {
    fn learn(&mut self, id: u64, incarnation: [u8; 16]) -> Result<(), Known> {
        self.0
            .learn(ids::MemberId(id), Incarnation(incarnation))
            .map_err(|other| Known { known: other.known.0 })
    }
}

fn peer_config(
    config: &Config,
    identity: Identity,
    data_dir: DataDir,
    state_directory: &StateDirectory,
    listeners: Vec<TcpListener>,
    published: &Arc<Published>,
) -> PeerConfig {
    let peers = config
        .initial_cluster
        .iter()
        .filter(|member| member.id.0 != identity.member_id)
        .map(|member| {
            (
                member.id.0,
                member.peer_urls.iter().map(|url| url.as_str().to_owned()).collect(),
            )
        })
        .collect();
    let published = Arc::clone(published);
    PeerConfig {
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        incarnation: data_dir.incarnation.0,
        listeners,
        peers,
        known: Box::new(Memory(data_dir.peers)),
        frame_bytes_max: limits::PEER_FRAME_BYTES_MAX + config.max_request_bytes,
        urgent_bytes_max: limits::PEER_URGENT_BYTES_MAX,
        bulk_bytes_max: limits::PEER_BULK_BYTES_MAX,
        incoming: state_directory.incoming(),
        pages: Arc::new(move |path| super::facts::peer_page(path, &published.view.load())),
    }
}

fn seconds_since_epoch() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has a source of randomness once it runs programs");
    u64::from_le_bytes(bytes)
}
