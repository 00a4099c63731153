//! One of the two systems: a cluster, the connections to its members, and how a step is asked of it.

use proto::etcdserverpb::{
    AlarmRequest, HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    RangeRequest, RangeResponse, ResponseHeader,
};
use tonic::Status;

use super::{
    generate::STREAMS,
    request::{Answer, Request},
    watching::WatchStream,
};
use crate::harness::{
    Cluster,
    rpc::{Rpc, within},
};

/// A running system. Steps are rotated over its members.
pub struct Side {
    /// Held so that it runs as long as the side is asked.
    _cluster: Cluster,
    /// The etcd version whose contract it follows.
    pub version: (u32, u32),
    pub has_range_stream: bool,
    pub rpcs: Vec<Rpc>,
    pub streams: [Option<WatchStream>; STREAMS],
    turn: usize,
}

impl Side {
    pub fn new(cluster: Cluster, version: (u32, u32)) -> Side {
        let rpcs = (0..cluster.len())
            .map(|i| Rpc::connect(cluster.client_url(i)))
            .collect();
        let has_range_stream = version >= (3, 7);
        Side {
            _cluster: cluster,
            version,
            has_range_stream,
            rpcs,
            streams: [const { None }; STREAMS],
            turn: 0,
        }
    }

    /// Asks one step. Steps on watches are not asked here.
    pub async fn answer(&mut self, request: &Request) -> Answer {
        self.turn = (self.turn + 1) % self.rpcs.len();
        let rpc = self.rpcs[self.turn].clone();
        if request.is_local() {
            self.catch_up(self.turn).await;
        }
        self.ask(rpc, request).await.unwrap_or_else(refused)
    }

    /// Asks one member, without rotation.
    pub async fn ask(&self, mut rpc: Rpc, request: &Request) -> Result<Answer, Status> {
        Ok(match request.clone() {
            Request::RangeStream(range) if self.has_range_stream => Answer::Range(range_stream(rpc, range).await?),
            Request::Range(range) | Request::RangeStream(range) => Answer::Range(within(rpc.kv.range(range)).await?),
            Request::Put(put) => Answer::Put(within(rpc.kv.put(put)).await?),
            Request::DeleteRange(delete) => Answer::DeleteRange(within(rpc.kv.delete_range(delete)).await?),
            Request::Txn(txn) => Answer::Txn(within(rpc.kv.txn(txn)).await?),
            Request::Compact(compact) => Answer::Compact(within(rpc.kv.compact(compact)).await?),
            Request::Grant(grant) => Answer::Grant(within(rpc.lease.lease_grant(grant)).await?),
            Request::GrantThenRevoke(grant) => grant_then_revoke(rpc, grant).await?,
            Request::Revoke(id) => Answer::Revoke(within(rpc.lease.lease_revoke(LeaseRevokeRequest { id })).await?),
            Request::TimeToLive(request) => Answer::TimeToLive(within(rpc.lease.lease_time_to_live(request)).await?),
            Request::Leases => Answer::Leases(within(rpc.lease.lease_leases(LeaseLeasesRequest {})).await?),
            Request::KeepAlive(id) => keep_alive(rpc, id).await?,
            Request::HashKv(revision) => {
                Answer::HashKv(within(rpc.maintenance.hash_kv(HashKvRequest { revision })).await?)
            }
            Request::Alarms => Answer::Alarms(within(rpc.maintenance.alarm(AlarmRequest::default())).await?),
            Request::Watch { .. }
            | Request::CancelWatch { .. }
            | Request::Progress { .. }
            | Request::CloseStream { .. } => unreachable!("asked of a stream"),
        })
    }

    /// The stream in a slot, opened on the next member when there is none.
    pub async fn stream(&mut self, slot: usize) -> &mut WatchStream {
        self.turn = (self.turn + 1) % self.rpcs.len();
        let member = self.streams[slot].as_ref().map_or(self.turn, |stream| stream.member);
        self.catch_up(member).await;
        self.streams[slot].get_or_insert_with(|| WatchStream::open(&self.rpcs[member], member))
    }

    /// A linearizable read: afterwards the member knows all that any member has acknowledged.
    pub async fn catch_up(&self, member: usize) {
        if self.rpcs.len() > 1 {
            let mut kv = self.rpcs[member].kv.clone();
            let request = RangeRequest {
                key: b"\0".to_vec().into(),
                ..RangeRequest::default()
            };
            // An error would show in the step itself.
            let _ = within(kv.range(request)).await;
        }
    }
}

// By value, as `unwrap_or_else` gives it.
#[allow(clippy::needless_pass_by_value)]
pub fn refused(status: Status) -> Answer {
    Answer::Refused {
        code: status.code() as i32,
        text: status.message().to_owned(),
    }
}

/// Merges the chunks as a client does, and judges what only a stream can get wrong.
async fn range_stream(mut rpc: Rpc, range: RangeRequest) -> Result<RangeResponse, Status> {
    let mut stream = rpc.kv.range_stream(range).await?.into_inner();
    let mut merged = RangeResponse::default();
    let mut final_seen = false;
    while let Some(chunk) = within(async { stream.message().await.map(tonic::Response::new) }).await? {
        if final_seen {
            return Err(Status::internal("a chunk after the one with the header"));
        }
        let Some(chunk) = chunk.range_response else { continue };
        final_seen = chunk.header.is_some();
        if !final_seen && (chunk.more || chunk.count != 0) {
            return Err(Status::internal("more or count before the last chunk"));
        }
        merged.kvs.extend(chunk.kvs);
        merged.header = chunk.header;
        (merged.more, merged.count) = (chunk.more, chunk.count);
    }
    Ok(merged)
}

async fn keep_alive(mut rpc: Rpc, id: i64) -> Result<Answer, Status> {
    let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
    let mut stream = within(rpc.lease.lease_keep_alive(requests)).await?;
    let answer = within(async { stream.message().await.map(tonic::Response::new) }).await?;
    Ok(answer.map_or_else(
        || Answer::Wrong("no answer to a keep-alive".to_owned()),
        Answer::KeepAlive,
    ))
}

/// The answer to the grant, after the lease is gone again. A picked id is judged, then masked.
async fn grant_then_revoke(mut rpc: Rpc, grant: LeaseGrantRequest) -> Result<Answer, Status> {
    let picked = grant.id == 0;
    let mut granted = within(rpc.lease.lease_grant(grant)).await?;
    let id = granted.id;
    let revoked = within(rpc.lease.lease_revoke(LeaseRevokeRequest { id })).await?;
    let revision = |header: &Option<ResponseHeader>| header.as_ref().map_or(0, |header| header.revision);
    if revision(&granted.header) != revision(&revoked.header) {
        return Ok(Answer::Wrong("revoking an empty lease changed the revision".to_owned()));
    }
    if picked {
        if id <= 0 {
            return Ok(Answer::Wrong(format!("the server picked lease id {id}")));
        }
        granted.id = 0;
    }
    Ok(Answer::Grant(granted))
}
