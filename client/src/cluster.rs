//! Who the members are. Changing the membership comes with the server's.

use proto::etcdserverpb::{MemberListRequest, MemberListResponse, cluster_client::ClusterClient};

use crate::{Client, Error, client::request_under};

impl Client {
    /// The members as the cluster agrees on them now (a linearizable read).
    pub async fn member_list(&self) -> Result<MemberListResponse, Error> {
        self.member_list_with(MemberListRequest { linearizable: true }).await
    }

    /// As [`Client::member_list`]; without `linearizable` as the asked member has them.
    pub async fn member_list_with(&self, request: MemberListRequest) -> Result<MemberListResponse, Error> {
        self.read(|endpoint, terms| async move {
            ClusterClient::new(endpoint.wire.clone())
                .member_list(request_under(request, terms))
                .await
        })
        .await
    }
}
