//! One connection to one member: the raw generated clients, and a blocking door to the few calls that
//! every test needs. It retries nothing and hides nothing, unlike our client library.

use std::{future::Future, sync::OnceLock, time::Duration};

use proto::etcdserverpb::{
    DeleteRangeRequest, HashKvRequest, HashKvResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    StatusRequest, StatusResponse, cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use tokio::runtime::Runtime;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// No call of a test waits longer; longer than every server's own timeout.
pub const CALL_WITHIN: Duration = Duration::from_secs(20);

/// The runtime under all connections of the test process.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a tokio runtime")
    })
}

/// Runs a future to its end from a test's thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

/// Raw clients on one channel; cloning shares the connection.
#[derive(Clone)]
pub struct Rpc {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
}

impl Rpc {
    /// A connection that is made at the first call.
    pub fn connect(url: &str) -> Rpc {
        let _inside = runtime().enter();
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a client URL");
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .connect_lazy();
        Rpc {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel),
        }
    }

    /// Does it know a leader and answer a linearizable read?
    pub fn serves(&self) -> bool {
        self.status().is_ok_and(|status| status.leader != 0) && self.get(b"\0").is_ok()
    }

    /// Maintenance.Status.
    pub fn status(&self) -> Result<StatusResponse, Status> {
        let mut client = self.maintenance.clone();
        block_on(within(async move { client.status(StatusRequest {}).await }))
    }

    /// A linearizable read of one key.
    pub fn get(&self, key: &[u8]) -> Result<RangeResponse, Status> {
        self.range(RangeRequest {
            key: key.to_vec().into(),
            ..RangeRequest::default()
        })
    }

    /// KV.Range.
    pub fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let mut client = self.kv.clone();
        block_on(within(async move { client.range(request).await }))
    }

    /// KV.Put of a key and a value.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<PutResponse, Status> {
        let request = PutRequest {
            key: key.to_vec().into(),
            value: value.to_vec().into(),
            ..PutRequest::default()
        };
        let mut client = self.kv.clone();
        block_on(within(async move { client.put(request).await }))
    }

    /// KV.DeleteRange of one key: how many were deleted.
    pub fn delete(&self, key: &[u8]) -> Result<i64, Status> {
        let request = DeleteRangeRequest {
            key: key.to_vec().into(),
            ..DeleteRangeRequest::default()
        };
        let mut client = self.kv.clone();
        block_on(within(async move { client.delete_range(request).await })).map(|response| response.deleted)
    }

    /// Maintenance.HashKV at a revision (0 = now).
    pub fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Status> {
        let mut client = self.maintenance.clone();
        block_on(within(async move { client.hash_kv(HashKvRequest { revision }).await }))
    }
}

/// Bounds a call, so that a member that never answers is a failure and not a hang.
pub async fn within<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_WITHIN, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {CALL_WITHIN:?}, says the test"
        ))),
    }
}
