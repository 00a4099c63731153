//! The services that this build does not serve: every RPC of theirs is counted and answered with Unimplemented
//! and a sentence. A client that gets no sentence cannot tell "not yet" from a typing error in an address.

use super::counters::{Rpc, RpcCounters};
#[allow(clippy::wildcard_imports)] // the 34 messages of Auth, each named once below
use proto::{
    Error,
    etcdserverpb::{auth_server, *},
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
        ResignRequest, ResignResponse, election_server,
    },
    v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server},
};
use std::sync::Arc;
use tokio_stream::Empty;
use tonic::{Code, Request, Response, Status, async_trait};

const AUTH: Error = Error::Unimplemented("dipper does not serve authentication yet");
const LOCK: Error = Error::Unimplemented("dipper does not serve the lock service yet; use a lease and a transaction");
const ELECTION: Error =
    Error::Unimplemented("dipper does not serve the election service yet; use a lease and a transaction");

/// The response stream of a server stream that is not served.
pub type NoStream<T> = Empty<Result<T, Status>>;

/// etcdserverpb.Auth.
pub struct Auth(pub Arc<RpcCounters>);
/// v3lockpb.Lock.
pub struct Lock(pub Arc<RpcCounters>);
/// v3electionpb.Election.
pub struct Election(pub Arc<RpcCounters>);

fn refuse<R>(counters: &Arc<RpcCounters>, rpc: Rpc, error: &Error) -> Result<Response<R>, Status> {
    counters.start(rpc).end(Code::Unimplemented);
    Err(Status::unimplemented(error.text()))
}

macro_rules! refuse_each {
    ($service:ty: $trait:path, $sentence:ident { $($rpc:ident $name:ident($request:ty) -> $reply:ty;)* } $($rest:tt)*) => {
        #[async_trait]
        impl $trait for $service {
            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$reply>, Status> {
                refuse(&self.0, Rpc::$rpc, &$sentence)
            })*
            $($rest)*
        }
    };
}

refuse_each! {
    Auth: auth_server::Auth, AUTH {
        AuthEnable auth_enable(AuthEnableRequest) -> AuthEnableResponse;
        AuthDisable auth_disable(AuthDisableRequest) -> AuthDisableResponse;
        AuthStatus auth_status(AuthStatusRequest) -> AuthStatusResponse;
        Authenticate authenticate(AuthenticateRequest) -> AuthenticateResponse;
        UserAdd user_add(AuthUserAddRequest) -> AuthUserAddResponse;
        UserGet user_get(AuthUserGetRequest) -> AuthUserGetResponse;
        UserList user_list(AuthUserListRequest) -> AuthUserListResponse;
        UserDelete user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse;
        UserChangePassword user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse;
        UserGrantRole user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse;
        UserRevokeRole user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse;
        RoleAdd role_add(AuthRoleAddRequest) -> AuthRoleAddResponse;
        RoleGet role_get(AuthRoleGetRequest) -> AuthRoleGetResponse;
        RoleList role_list(AuthRoleListRequest) -> AuthRoleListResponse;
        RoleDelete role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse;
        RoleGrantPermission role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse;
        RoleRevokePermission role_revoke_permission(AuthRoleRevokePermissionRequest)
            -> AuthRoleRevokePermissionResponse;
    }
}

refuse_each! {
    Lock: lock_server::Lock, LOCK {
        Lock lock(LockRequest) -> LockResponse;
        Unlock unlock(UnlockRequest) -> UnlockResponse;
    }
}

refuse_each! {
    Election: election_server::Election, ELECTION {
        Campaign campaign(CampaignRequest) -> CampaignResponse;
        Proclaim proclaim(ProclaimRequest) -> ProclaimResponse;
        Leader leader(LeaderRequest) -> LeaderResponse;
        Resign resign(ResignRequest) -> ResignResponse;
    }

    type ObserveStream = NoStream<LeaderResponse>;

    async fn observe(&self, _: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        refuse(&self.0, Rpc::Observe, &ELECTION)
    }
}
