//! Calls about a member rather than about keys. Those that ask one certain member take no endpoint: make a
//! client for that endpoint alone.

use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, HashKvRequest, HashKvResponse, MoveLeaderRequest, MoveLeaderResponse, StatusResponse,
    alarm_request::AlarmAction, maintenance_client::MaintenanceClient,
};

use crate::{Client, Error, client::request_under, route::Endpoint, wire::Wire};

fn maintenance(endpoint: &Endpoint) -> MaintenanceClient<Wire> {
    MaintenanceClient::new(endpoint.wire.clone())
}

impl Client {
    /// The state of whichever member answers.
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        self.any_status().await
    }

    /// The hash of all keys and their history up to `revision` (0: now) at whichever member answers.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Error> {
        let request = HashKvRequest { revision };
        self.read(|endpoint, terms| async move { maintenance(&endpoint).hash_kv(request_under(request, terms)).await })
            .await
    }

    /// The alarms that are active.
    pub async fn alarms(&self) -> Result<AlarmResponse, Error> {
        let request = AlarmRequest {
            action: AlarmAction::Get.into(),
            member_id: 0,
            alarm: 0,
        };
        self.read(|endpoint, terms| async move { maintenance(&endpoint).alarm(request_under(request, terms)).await })
            .await
    }

    /// Hands leadership to the member `target`. Only the leader takes this call: others answer `NotLeader`,
    /// and the next endpoint is asked until the deadline.
    pub async fn move_leader(&self, target: u64) -> Result<MoveLeaderResponse, Error> {
        let request = MoveLeaderRequest { target_id: target };
        self.write(
            |endpoint, terms| async move { maintenance(&endpoint).move_leader(request_under(request, terms)).await },
        )
        .await
    }
}
