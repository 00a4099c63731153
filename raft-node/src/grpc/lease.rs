//! The Lease service. Grants and revokes go through the log; the time that is left is the leader's to know, and
//! the member asks it. Everything non-deterministic (the id, the effective TTL) is chosen here, before proposing.

use super::{
    call::{self, Context},
    counters::{Rpc, Started},
    ending::Ending,
    exact::exact_status,
    header::{filled, header},
    kv::write,
    member::Member,
    pulled::{Pulled, Source},
};
use crate::limits::{LEASE_TTL_MAX, LEASE_TTL_MIN};
use ::kv::Response as Applied;
use proto::{
    Error,
    etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
        LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
        LeaseTimeToLiveResponse, lease_server,
    },
    node::command::Op,
};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

/// The service.
pub struct Lease<M>(pub Context<M>);

#[async_trait]
impl<M: Member> lease_server::Lease for Lease<M> {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let call = self.0.begin(Rpc::LeaseGrant, request.metadata())?;
        let result = grant(&*self.0.member, request.into_inner(), call.deadline).await;
        call.end(result)
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let call = self.0.begin(Rpc::LeaseRevoke, request.metadata())?;
        let result = revoke(&*self.0.member, request.into_inner(), call.deadline).await;
        call.end(result)
    }

    type LeaseKeepAliveStream = Pulled<KeepAlives<M>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let call = self.0.begin(Rpc::LeaseKeepAlive, request.metadata())?;
        let ending = Ending::new(&*self.0.member, call::requires_leader(request.metadata()));
        let (context, started, requests) = (self.0.clone(), call.into_stream(), request.into_inner());
        Ok(Response::new(Pulled::new(KeepAlives {
            context,
            started,
            requests,
            ending,
        })))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let call = self.0.begin(Rpc::LeaseTimeToLive, request.metadata())?;
        let result = time_to_live(&*self.0.member, request.into_inner(), call.deadline).await;
        call.end(result)
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let call = self.0.begin(Rpc::LeaseLeases, request.metadata())?;
        let view = self.0.member.view();
        let leases = view.leases().into_iter().map(|id| LeaseStatus { id }).collect();
        call.end(Ok(LeaseLeasesResponse {
            header: Some(header(&*self.0.member, view.revision())),
            leases,
        }))
    }
}

async fn grant<M: Member>(
    member: &M,
    mut request: LeaseGrantRequest,
    deadline: Instant,
) -> Result<LeaseGrantResponse, Error> {
    if request.ttl > LEASE_TTL_MAX {
        return Err(Error::LeaseTTLTooLarge);
    }
    request.ttl = request.ttl.max(LEASE_TTL_MIN);
    let chosen_here = request.id == 0;
    loop {
        if chosen_here {
            request.id = member.next_lease_id();
        }
        match write(member, Op::LeaseGrant(request), deadline).await {
            Ok(Applied::LeaseGrant(reply)) => {
                return Ok(LeaseGrantResponse {
                    header: Some(filled(member, reply.header)),
                    ..reply
                });
            }
            Ok(other) => panic!("a grant was applied as {other:?}"),
            // A client had given itself the id that we drew: draw again. It never saw ours.
            Err(Error::LeaseExist) if chosen_here && Instant::now() < deadline => {}
            Err(error) => return Err(error),
        }
    }
}

async fn revoke<M: Member>(
    member: &M,
    request: LeaseRevokeRequest,
    deadline: Instant,
) -> Result<LeaseRevokeResponse, Error> {
    match write(member, Op::LeaseRevoke(request), deadline).await? {
        Applied::LeaseRevoke(reply) => Ok(LeaseRevokeResponse {
            header: Some(filled(member, reply.header)),
        }),
        other => panic!("a revoke was applied as {other:?}"),
    }
}

async fn time_to_live<M: Member>(
    member: &M,
    request: LeaseTimeToLiveRequest,
    deadline: Instant,
) -> Result<LeaseTimeToLiveResponse, Error> {
    let view = member.read_index(deadline).await?;
    let ttl = member.lease_remaining(request.id, deadline).await?;
    let id = request.id;
    let found = member
        .blocking(move || {
            let lease = view.lease(id)?;
            let keys = if request.keys { view.lease_keys(id) } else { Vec::new() };
            Some((lease.ttl, keys))
        })
        .await?;
    let header = Some(header(member, member.view().revision()));
    Ok(match found {
        Some((granted_ttl, keys)) if ttl >= 0 => LeaseTimeToLiveResponse {
            header,
            id,
            ttl,
            granted_ttl,
            keys,
        },
        _ => LeaseTimeToLiveResponse {
            header,
            id,
            ttl: -1,
            granted_ttl: 0,
            keys: Vec::new(),
        },
    })
}

/// A keep-alive stream: one answer for each request, in their order.
pub struct KeepAlives<M: Member> {
    context: Context<M>,
    started: Started,
    requests: Streaming<LeaseKeepAliveRequest>,
    ending: Ending,
}

impl<M: Member> Source for KeepAlives<M> {
    type Item = LeaseKeepAliveResponse;

    async fn next(&mut self) -> Option<Result<LeaseKeepAliveResponse, Status>> {
        let result = tokio::select! {
            biased;
            error = self.ending.ended() => Err(self.context.status(&error)),
            request = self.requests.message() => match request {
                Ok(Some(request)) => {
                    renew(&*self.context.member, &request).await.map_err(|error| self.context.status(&error))
                }
                Ok(None) => {
                    self.started.end(Code::Ok);
                    return None;
                }
                Err(status) => Err(exact_status(status)),
            },
        };
        self.started.end_on_error(&result);
        Some(result)
    }
}

async fn renew<M: Member>(member: &M, request: &LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Error> {
    // Before the renewal, as in etcd: the revision may be a little old, never too new.
    let header = Some(header(member, member.view().revision()));
    let deadline = Instant::now() + member.limits().request_timeout;
    let ttl = match member.lease_renew(request.id, deadline).await {
        Err(Error::LeaseNotFound) => 0,
        renewed => renewed?,
    };
    Ok(LeaseKeepAliveResponse {
        header,
        id: request.id,
        ttl,
    })
}
