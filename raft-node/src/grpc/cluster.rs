//! The Cluster service: who is in the cluster. Headers have revision 0 here, as etcd's do. Changing the
//! membership is not served yet.

use super::{call::Context, counters::Rpc, header::header, member::Member};
use proto::{
    Error,
    etcdserverpb::{
        self, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
        MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
        cluster_server,
    },
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};

const NOT_SERVED: Error = Error::Unimplemented("dipper does not serve membership changes yet");

/// The service.
pub struct Cluster<M>(pub Context<M>);

#[async_trait]
impl<M: Member> cluster_server::Cluster for Cluster<M> {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        let call = self.0.begin(Rpc::MemberList, request.metadata())?;
        let result = member_list(&*self.0.member, request.get_ref().linearizable, call.deadline).await;
        call.end(result)
    }

    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        self.0.begin(Rpc::MemberAdd, request.metadata())?.end(Err(NOT_SERVED))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.0
            .begin(Rpc::MemberRemove, request.metadata())?
            .end(Err(NOT_SERVED))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.0
            .begin(Rpc::MemberUpdate, request.metadata())?
            .end(Err(NOT_SERVED))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.0
            .begin(Rpc::MemberPromote, request.metadata())?
            .end(Err(NOT_SERVED))
    }
}

async fn member_list<M: Member>(
    member: &M,
    linearizable: bool,
    deadline: Instant,
) -> Result<MemberListResponse, Error> {
    let view = if linearizable {
        member.read_index(deadline).await?
    } else {
        member.view()
    };
    let mut members: Vec<_> = view.membership().members.iter().map(to_etcd).collect();
    members.sort_by_key(|member| member.id);
    Ok(MemberListResponse {
        header: Some(header(member, 0)),
        members,
    })
}

/// A member that has not published itself yet has no name and no client URLs.
fn to_etcd(member: &proto::node::Member) -> etcdserverpb::Member {
    etcdserverpb::Member {
        id: member.id,
        name: if member.client_urls.is_empty() {
            String::new()
        } else {
            member.name.clone()
        },
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}
