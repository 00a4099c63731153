//! The Maintenance service: what an operator asks one member. Defragmenting is an immediate success, because
//! there is nothing that would need it; the exact hash of a bbolt file and its snapshot are not served.

use super::{
    call::Context,
    counters::Rpc,
    header::{filled, header},
    kv::write,
    member::Member,
    unimplemented::NoStream,
};
use ::kv::Response as Applied;
use proto::{
    Error,
    etcdserverpb::{
        AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
        DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
        MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
        alarm_request::AlarmAction, maintenance_server,
    },
    node::command::Op,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};

/// The service.
pub struct Maintenance<M>(pub Context<M>);

#[async_trait]
impl<M: Member> maintenance_server::Maintenance for Maintenance<M> {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let call = self.0.begin(Rpc::Alarm, request.metadata())?;
        let result = alarm(&*self.0.member, request.into_inner(), call.deadline).await;
        call.end(result)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let call = self.0.begin(Rpc::Status, request.metadata())?;
        call.end(Ok(status(&*self.0.member)))
    }

    async fn defragment(&self, request: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        self.0
            .begin(Rpc::Defragment, request.metadata())?
            .end(Ok(DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let sentence = "dipper has no bbolt file to hash; use HashKV";
        self.0
            .begin(Rpc::Hash, request.metadata())?
            .end(Err(Error::Unimplemented(sentence)))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let call = self.0.begin(Rpc::HashKV, request.metadata())?;
        let result = hash_kv(&*self.0.member, request.get_ref().revision).await;
        call.end(result)
    }

    type SnapshotStream = NoStream<SnapshotResponse>;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let sentence = "dipper does not serve snapshots to clients yet";
        self.0
            .begin(Rpc::Snapshot, request.metadata())?
            .end(Err(Error::Unimplemented(sentence)))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        let call = self.0.begin(Rpc::MoveLeader, request.metadata())?;
        let result = move_leader(&*self.0.member, request.get_ref().target_id, call.deadline).await;
        call.end(result)
    }

    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        let sentence = "dipper has no older version to downgrade to";
        self.0
            .begin(Rpc::Downgrade, request.metadata())?
            .end(Err(Error::Unimplemented(sentence)))
    }
}

/// Activating an alarm of no kind changes nothing, so it is not proposed.
async fn alarm<M: Member>(member: &M, request: AlarmRequest, deadline: Instant) -> Result<AlarmResponse, Error> {
    let none = request.alarm == AlarmType::None as i32;
    if request.action == AlarmAction::Get as i32 {
        let view = member.view();
        let asked = |alarm: &AlarmMember| {
            (request.member_id == 0 || request.member_id == alarm.member_id) && (none || request.alarm == alarm.alarm)
        };
        let alarms = view.alarms().iter().filter(|alarm| asked(alarm)).copied().collect();
        return Ok(AlarmResponse {
            header: Some(header(member, view.revision())),
            alarms,
        });
    }
    if request.action == AlarmAction::Activate as i32 && none {
        return Ok(AlarmResponse {
            header: Some(header(member, member.view().revision())),
            alarms: Vec::new(),
        });
    }
    match write(member, Op::Alarm(request), deadline).await? {
        Applied::Alarm(reply) => Ok(AlarmResponse {
            header: Some(filled(member, reply.header)),
            ..reply
        }),
        other => panic!("an alarm was applied as {other:?}"),
    }
}

fn status<M: Member>(member: &M) -> StatusResponse {
    let (view, standing) = (member.view(), member.standing());
    let mut errors = Vec::new();
    if standing.leader == 0 {
        errors.push(Error::NoLeader.text().to_owned());
    }
    errors.extend(view.alarms().iter().map(alarm_text));
    let own = |other: &&proto::node::Member| other.id == member.identity().member_id;
    let live_bytes = view.live_bytes();
    StatusResponse {
        header: Some(header(member, view.revision())),
        version: proto::ETCD_VERSION.to_owned(),
        // etcdctl divides by it, so it is never 0; and a state that was never flushed takes no disk yet.
        db_size: standing.disk_bytes.max(live_bytes).max(1) as i64,
        leader: standing.leader,
        raft_index: standing.raft_index,
        raft_term: standing.term,
        raft_applied_index: standing.applied_index,
        errors,
        db_size_in_use: live_bytes as i64,
        is_learner: view
            .membership()
            .members
            .iter()
            .find(own)
            .is_some_and(|own| own.is_learner),
        storage_version: proto::ETCD_CLUSTER_VERSION.to_owned(),
        db_size_quota: member.limits().quota_bytes.map_or(0, |bytes| bytes as i64),
        downgrade_info: Some(DowngradeInfo::default()),
    }
}

/// As Go prints the message: zero fields are left out, and one space ends each field.
fn alarm_text(alarm: &AlarmMember) -> String {
    let member = if alarm.member_id == 0 {
        String::new()
    } else {
        format!("memberID:{} ", alarm.member_id)
    };
    match alarm.alarm() {
        AlarmType::None => member,
        kind => format!("{member}alarm:{} ", kind.as_str_name()),
    }
}

async fn hash_kv<M: Member>(member: &M, revision: i64) -> Result<HashKvResponse, Error> {
    let view = member.view();
    let current = view.revision();
    let found = member.blocking(move || view.hash_kv(revision)).await??;
    Ok(HashKvResponse {
        header: Some(header(member, current)),
        hash: found.hash,
        compact_revision: found.compact_revision,
        hash_revision: found.hash_revision,
    })
}

async fn move_leader<M: Member>(member: &M, target: u64, deadline: Instant) -> Result<MoveLeaderResponse, Error> {
    let own = member.identity().member_id;
    if member.standing().leader != own {
        return Err(Error::NotLeader);
    }
    let view = member.view();
    if !view
        .membership()
        .members
        .iter()
        .any(|other| other.id == target && !other.is_learner)
    {
        return Err(Error::BadLeaderTransferee);
    }
    if target != own {
        member.move_leader(target, deadline).await?;
    }
    Ok(MoveLeaderResponse { header: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_printed_as_by_go() {
        let alarm = AlarmMember {
            member_id: 7,
            alarm: AlarmType::Nospace as i32,
        };
        assert_eq!(alarm_text(&alarm), "memberID:7 alarm:NOSPACE ");
    }
}
