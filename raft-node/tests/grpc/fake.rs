//! A member of one, without Raft: a proposal is applied at once to a Store in memory. Time does not pass for its
//! leases. Served on a real listener, so that the tests speak to it as any client does.

use kv::{LogEntry, MemoryEngine, Response, Store, StoreOptions, View, engine::Engine};
use prost::Message;
use proto::{
    Error,
    etcdserverpb::{PutRequest, RangeRequest},
    node::{Command, CommandBatch, Member as NodeMember, Membership},
};
use raft_node::{
    grpc::{Identity, Limits, Member, RpcCounters, ServerHandle, Standing, serve},
    mailbox::{Mailbox, Written},
    watchers::Watchers,
};
use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tonic::transport::{Channel, Endpoint};

pub const CLUSTER: u64 = 0xc1;
pub const OWN: u64 = 0xa1;
pub const OTHER: u64 = 0xb2;
pub const TERM: u64 = 5;

/// The member. Its fields are the tests' levers.
pub struct Fake {
    state: Mutex<State>,
    pub limits: Limits,
    watchers: Watchers,
    pub leader: watch::Sender<u64>,
    pub serving: watch::Sender<bool>,
    pub stopping: watch::Sender<bool>,
    lease_ids: AtomicI64,
    /// While on, new Views are published but nobody is told, nor of outcomes that were submitted.
    pub silent: AtomicBool,
    /// Reads that the pool refuses before it takes one.
    pub refused_reads: AtomicU64,
    pub pool_reads: AtomicU64,
    pub moved_to: AtomicU64,
    pub submitted: AtomicU64,
    held: Mutex<Vec<(Arc<Mailbox>, Written)>>,
}

struct State {
    store: Store<MemoryEngine>,
    index: u64,
    leases: BTreeMap<i64, i64>,
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    }
}

pub fn get(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..RangeRequest::default()
    }
}

pub fn limits() -> Limits {
    Limits {
        max_txn_ops: 128,
        max_request_bytes: 1_572_864,
        quota_bytes: Some(2 << 30),
        progress_interval: Duration::from_mins(10),
        request_timeout: Duration::from_secs(7),
        require_leader_after: Duration::from_millis(100),
    }
}

impl Fake {
    pub fn new(limits: Limits, ring_bytes: usize) -> Self {
        let mut store = Store::open(
            MemoryEngine::new(),
            StoreOptions {
                ring_bytes,
                ..StoreOptions::default()
            },
        );
        let member = |id: u64, name: &str, urls: &[&str]| NodeMember {
            id,
            name: name.to_owned(),
            peer_urls: vec![format!("http://peer-{id:x}")],
            client_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            is_learner: false,
        };
        let members = vec![
            member(OTHER, "b", &["http://leader:1"]),
            member(OWN, "a", &["http://own:1"]),
        ];
        store.bootstrap(Membership {
            cluster_id: CLUSTER,
            members,
            ..Membership::default()
        });
        let revision = store.view().revision();
        Self {
            state: Mutex::new(State {
                store,
                index: 0,
                leases: BTreeMap::new(),
            }),
            limits,
            watchers: Watchers::new(revision),
            leader: watch::Sender::new(OWN),
            serving: watch::Sender::new(true),
            stopping: watch::Sender::new(false),
            lease_ids: AtomicI64::new(100),
            silent: AtomicBool::new(false),
            refused_reads: AtomicU64::new(0),
            pool_reads: AtomicU64::new(0),
            moved_to: AtomicU64::new(0),
            submitted: AtomicU64::new(0),
            held: Mutex::default(),
        }
    }

    /// Applies a command as one entry.
    pub fn apply(&self, command: Command) -> Result<Response, Error> {
        let mut state = self.state.lock().unwrap();
        state.index += 1;
        let batch = CommandBatch {
            version: proto::COMMAND_VERSION,
            commands: vec![command],
        };
        let entry = LogEntry {
            index: state.index,
            term: TERM,
            data: batch.encode_to_vec().into(),
            conf_state: None,
        };
        let mut outcomes = state.store.apply(&[entry]);
        for change in &outcomes[0].lease_changes {
            match *change {
                kv::LeaseChange::Granted { id, ttl } => state.leases.insert(id, ttl),
                kv::LeaseChange::Revoked { id } => state.leases.remove(&id),
            };
        }
        if !self.silent.load(Ordering::SeqCst) {
            self.watchers.published(&state.store.view());
        }
        outcomes.remove(0).results.remove(0)
    }

    /// Ends a silence for streams of operations.
    pub fn release(&self) {
        self.silent.store(false, Ordering::SeqCst);
        for (mailbox, written) in self.held.lock().unwrap().drain(..) {
            mailbox.put(written);
            mailbox.announce();
        }
    }

    /// Ends a silence.
    pub fn tell(&self) {
        self.silent.store(false, Ordering::SeqCst);
        self.watchers.published(&self.state.lock().unwrap().store.view());
    }
}

impl Member for Fake {
    fn resting(&self) {}

    type Engine = MemoryEngine;

    fn identity(&self) -> Identity {
        Identity {
            cluster_id: CLUSTER,
            member_id: OWN,
        }
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn propose(&self, command: Command, _: Instant) -> Result<Response, Error> {
        if *self.leader.borrow() == 0 {
            Err(Error::Timeout)
        } else {
            self.apply(command)
        }
    }

    fn submit(&self, commands: Vec<(u64, Command, Instant)>, to: &Arc<Mailbox>) -> Vec<u64> {
        self.submitted.fetch_add(commands.len() as u64, Ordering::SeqCst);
        for (id, command, _) in commands {
            let written = (id, self.apply(command));
            if self.silent.load(Ordering::SeqCst) {
                self.held.lock().unwrap().push((Arc::clone(to), written));
            } else {
                to.put(written);
            }
        }
        to.announce();
        Vec::new()
    }

    async fn read_index(&self, _: Instant) -> Result<Arc<View<MemoryEngine>>, Error> {
        if *self.leader.borrow() == 0 {
            Err(Error::Timeout)
        } else {
            Ok(self.view())
        }
    }

    fn view(&self) -> Arc<View<MemoryEngine>> {
        self.state.lock().unwrap().store.view()
    }

    async fn blocking<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let refuse = |left: u64| left.checked_sub(1);
        if self
            .refused_reads
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse)
            .is_ok()
        {
            return Err(Error::RequestTooManyRequests);
        }
        self.pool_reads.fetch_add(1, Ordering::SeqCst);
        Ok(tokio::task::spawn_blocking(read).await.unwrap())
    }

    fn standing(&self) -> Standing {
        let state = self.state.lock().unwrap();
        Standing {
            leader: *self.leader.borrow(),
            term: TERM,
            raft_index: state.index,
            applied_index: state.index,
            disk_bytes: state.store.engine().disk_bytes(),
            disk_full: false,
            serving: true,
        }
    }

    fn leader(&self) -> watch::Receiver<u64> {
        self.leader.subscribe()
    }

    fn serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    fn next_lease_id(&self) -> i64 {
        self.lease_ids.fetch_add(1, Ordering::SeqCst)
    }

    async fn lease_renew(&self, id: i64, _: Instant) -> Result<i64, Error> {
        Ok(self.state.lock().unwrap().leases.get(&id).copied().unwrap_or(0))
    }

    async fn lease_remaining(&self, id: i64, _: Instant) -> Result<i64, Error> {
        Ok(self.state.lock().unwrap().leases.get(&id).copied().unwrap_or(-1))
    }

    async fn move_leader(&self, target: u64, _: Instant) -> Result<(), Error> {
        self.moved_to.store(target, Ordering::SeqCst);
        Ok(())
    }
}

/// A served fake and how to reach it.
pub struct Served {
    pub fake: Arc<Fake>,
    pub counters: Arc<RpcCounters>,
    pub channel: Channel,
    pub address: std::net::SocketAddr,
    pub handle: Option<ServerHandle>,
}

impl Served {
    pub fn start() -> Self {
        Self::with(limits(), 64 << 20)
    }

    pub fn with(limits: Limits, ring_bytes: usize) -> Self {
        let fake = Arc::new(Fake::new(limits, ring_bytes));
        let counters = Arc::new(RpcCounters::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let http = axum::Router::new().route("/health", axum::routing::get(|| async { "{\"health\":\"true\"}" }));
        let handle = serve(Arc::clone(&fake), Arc::clone(&counters), vec![listener], http, 2).unwrap();
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        Self {
            fake,
            counters,
            channel,
            address,
            handle: Some(handle),
        }
    }

    pub fn another_channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect_lazy()
    }

    /// The same server; whoever holds the handle stops it.
    pub fn share(&self) -> Self {
        Self {
            fake: Arc::clone(&self.fake),
            counters: Arc::clone(&self.counters),
            channel: self.channel.clone(),
            address: self.address,
            handle: None,
        }
    }

    pub fn stop(&mut self, within: Duration) {
        let handle = self.handle.take().unwrap();
        tokio::task::block_in_place(|| handle.stop(std::time::Instant::now() + within));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            let stop = move || handle.stop(std::time::Instant::now());
            std::thread::spawn(stop).join().unwrap();
        }
    }
}

/// The code and the text of a refusal.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> (tonic::Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

/// What the error table says of `error`.
pub fn row(error: &Error) -> (tonic::Code, String) {
    (tonic::Code::from_i32(error.code() as i32), error.text().to_owned())
}
