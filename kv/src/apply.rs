//! What each command does: a pure function of the state and the entry that carries it. Everything that a
//! clock or a die decides was decided before the command was proposed.
//!
//! A command ends in a response or in the error that the client gets; either way it is applied, on every
//! member alike. Not here: batches and their publication (`store`), the rows (`writer`).

use crate::{
    check,
    engine::{Engine, Family, Rows},
    history, layout, mutants,
    record::row_hash,
    state::header,
    txn,
    writer::Writer,
};
use bytes::Bytes;
use prost::Message;
use proto::{
    Error,
    etcdserverpb::{
        AlarmMember, AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse,
        DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse,
        PutRequest, PutResponse, RequestOp, TxnRequest, TxnResponse, alarm_request::AlarmAction, request_op::Request,
    },
    node::{Command, LeaseExpire, PublishMember, command::Op},
};
use std::sync::Arc;

/// Keys of a lease that are looked at before they are deleted.
const REVOKE_PAGE_KEYS: usize = 4096;

/// What a command answers. Headers have only the revision: the rest is the member's to fill in.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
    /// To a compaction.
    Compact(CompactionResponse),
    /// To a grant.
    LeaseGrant(LeaseGrantResponse),
    /// To a revoke.
    LeaseRevoke(LeaseRevokeResponse),
    /// To an expiry: the leases that ended by it.
    LeaseExpire(Vec<i64>),
    /// To an alarm.
    Alarm(AlarmResponse),
    /// To a member that said its name.
    PublishMember,
}

/// What whoever watches over the time of leases has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// It exists from now on.
    Granted {
        /// The lease.
        id: i64,
        /// Its seconds.
        ttl: i64,
    },
    /// It does not exist any more.
    Revoked {
        /// The lease.
        id: i64,
    },
}

/// Applies one command of an entry of the given term.
pub(crate) fn command<E: Engine>(
    writer: &mut Writer<'_, E>,
    term: u64,
    command: &Command,
    changes: &mut Vec<LeaseChange>,
) -> Result<Response, Error> {
    refuse_if_alarmed(writer, command)?;
    let op = command.op.as_ref().unwrap_or_else(|| {
        panic!(
            "a command was written by a newer dipper: this build does not know its kind, and cannot go on without it"
        )
    });
    let response = match op {
        Op::Put(request) => put(writer, request).map(Response::Put),
        Op::DeleteRange(request) => {
            check::check_delete(request).map(|()| Response::DeleteRange(txn::run_delete(writer, request)))
        }
        Op::Txn(request) => {
            check::check_txn(request, usize::MAX)?;
            txn::apply(writer, request).map(Response::Txn)
        }
        Op::Compact(request) => compact(writer, request).map(Response::Compact),
        Op::LeaseGrant(request) => lease_grant(writer, request, changes).map(Response::LeaseGrant),
        Op::LeaseRevoke(request) => lease_revoke(writer, *request, changes).map(Response::LeaseRevoke),
        Op::LeaseExpire(request) => Ok(Response::LeaseExpire(lease_expire(writer, term, request, changes))),
        Op::Alarm(request) => Ok(Response::Alarm(alarm(writer, request))),
        Op::PublishMember(request) => {
            publish_member(writer, request);
            Ok(Response::PublishMember)
        }
    };
    writer.end_request();
    response
}

/// The keys whose rows a command reads for sure.
pub(crate) fn keys_of(command: &Command, keys: &mut Vec<Bytes>) {
    match &command.op {
        Some(Op::Put(put)) => keys.push(put.key.clone()),
        Some(Op::DeleteRange(delete)) if delete.range_end.is_empty() => keys.push(delete.key.clone()),
        Some(Op::Txn(txn)) => keys_of_txn(txn, keys),
        _ => {}
    }
}

fn keys_of_txn(txn: &TxnRequest, keys: &mut Vec<Bytes>) {
    let compared = txn.compare.iter().filter(|compare| compare.range_end.is_empty());
    keys.extend(compared.map(|compare| compare.key.clone()));
    let key_of = |op: &RequestOp| match &op.request {
        Some(Request::RequestPut(put)) => Some(put.key.clone()),
        Some(Request::RequestDeleteRange(delete)) if delete.range_end.is_empty() => Some(delete.key.clone()),
        _ => None,
    };
    keys.extend(txn.success.iter().chain(&txn.failure).filter_map(key_of));
}

/// A full store still serves what makes room; a store that may be wrong serves nothing.
fn refuse_if_alarmed<E: Engine>(writer: &Writer<'_, E>, command: &Command) -> Result<(), Error> {
    let (is_full, is_corrupt) = (
        writer.registry.has_alarm(AlarmType::Nospace),
        writer.registry.has_alarm(AlarmType::Corrupt),
    );
    let is_about_members = matches!(command.op, None | Some(Op::Alarm(_) | Op::PublishMember(_)));
    if is_corrupt && !is_about_members {
        Err(Error::Corrupt)
    } else if is_full && check::quota_cost(command) > 0 {
        Err(Error::NoSpace)
    } else {
        Ok(())
    }
}

fn put<E: Engine>(writer: &mut Writer<'_, E>, request: &PutRequest) -> Result<PutResponse, Error> {
    check::check_put(request)?;
    if request.lease != 0 && !writer.registry.leases.contains_key(&request.lease) {
        return Err(Error::LeaseNotFound);
    }
    if (request.ignore_value || request.ignore_lease) && history::latest(&*writer, &request.key).is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(txn::run_put(writer, request))
}

/// From here on the history below the revision is forgotten. Its events go with one range delete; the rows
/// of deleted keys mean nothing any more and are swept later, some with every batch.
fn compact<E: Engine>(writer: &mut Writer<'_, E>, request: &CompactionRequest) -> Result<CompactionResponse, Error> {
    let compacted = writer.state.compact_revision;
    if request.revision <= compacted {
        return Err(Error::Compacted);
    }
    if request.revision > writer.state.revision {
        return Err(Error::FutureRev);
    }
    writer.state.compact_revision = request.revision;
    writer.registry.compact(compacted, request.revision);
    Ok(CompactionResponse {
        header: header(writer.state.revision),
    })
}

fn lease_grant<E: Engine>(
    writer: &mut Writer<'_, E>,
    request: &LeaseGrantRequest,
    changes: &mut Vec<LeaseChange>,
) -> Result<LeaseGrantResponse, Error> {
    let (id, ttl) = (request.id, request.ttl);
    if writer.registry.leases.contains_key(&id) {
        return Err(Error::LeaseExist);
    }
    writer.registry.leases.insert(id, ttl);
    set_hashed(writer, layout::lease(id), Bytes::copy_from_slice(&ttl.to_be_bytes()));
    changes.push(LeaseChange::Granted { id, ttl });
    Ok(LeaseGrantResponse {
        header: header(writer.revision()),
        id,
        ttl,
        error: String::new(),
    })
}

fn lease_revoke<E: Engine>(
    writer: &mut Writer<'_, E>,
    request: LeaseRevokeRequest,
    changes: &mut Vec<LeaseChange>,
) -> Result<LeaseRevokeResponse, Error> {
    if !end_lease(writer, request.id, changes) {
        return Err(Error::LeaseNotFound);
    }
    Ok(LeaseRevokeResponse {
        header: header(writer.revision()),
    })
}

/// Ends leases whose time is over, each in a revision of its own, if the leader that says so was leading
/// when it was agreed upon: a deposed one does not know what its successor renewed.
fn lease_expire<E: Engine>(
    writer: &mut Writer<'_, E>,
    term: u64,
    request: &LeaseExpire,
    changes: &mut Vec<LeaseChange>,
) -> Vec<i64> {
    let mut ended = Vec::new();
    if request.term != term && !mutants::is("stale-leader-revokes") {
        return ended;
    }
    for id in &request.ids {
        if end_lease(writer, *id, changes) {
            ended.push(*id);
        }
        writer.end_request();
    }
    ended
}

/// Deletes the keys of a lease, in order, and the lease.
fn end_lease<E: Engine>(writer: &mut Writer<'_, E>, id: i64, changes: &mut Vec<LeaseChange>) -> bool {
    let Some(ttl) = writer.registry.leases.remove(&id) else {
        return false;
    };
    let prefix = layout::lease_keys(id);
    let end = layout::prefix_end(&prefix);
    loop {
        // A deleted key loses its row, so that every page is the first.
        let rows = writer.scan(Family::Meta, &prefix, Some(&end)).take(REVOKE_PAGE_KEYS);
        let keys: Vec<_> = rows
            .map(|(row, _)| row.slice(layout::LEASE_KEY_PREFIX_BYTES..))
            .collect();
        let order = if mutants::is("unordered-apply") {
            mutants::draw() % keys.len().max(1)
        } else {
            0
        };
        for key in keys[order..].iter().chain(&keys[..order]) {
            let record = history::latest(&*writer, key)
                .unwrap_or_else(|| panic!("the key {key:?} is attached to lease {id}, but does not exist"));
            writer.delete(key.clone(), record);
        }
        if keys.len() < REVOKE_PAGE_KEYS {
            break;
        }
    }
    remove_hashed(writer, layout::lease(id), &ttl.to_be_bytes());
    changes.push(LeaseChange::Revoked { id });
    true
}

fn alarm<E: Engine>(writer: &mut Writer<'_, E>, request: &AlarmRequest) -> AlarmResponse {
    let alarm = (request.alarm, request.member_id);
    let row = layout::alarm(request.alarm, request.member_id);
    let answered = match request.action() {
        AlarmAction::Activate if request.alarm != AlarmType::None as i32 => {
            if writer.registry.alarms.insert(alarm) {
                set_hashed(writer, row, Bytes::new());
            }
            true
        }
        AlarmAction::Deactivate if writer.registry.alarms.remove(&alarm) => {
            remove_hashed(writer, row, &[]);
            true
        }
        _ => false,
    };
    let member = AlarmMember {
        member_id: request.member_id,
        alarm: request.alarm,
    };
    AlarmResponse {
        header: header(writer.revision()),
        alarms: answered.then_some(member).into_iter().collect(),
    }
}

fn publish_member<E: Engine>(writer: &mut Writer<'_, E>, request: &PublishMember) {
    let mut membership = (**writer.registry.membership()).clone();
    for member in membership.members.iter_mut().filter(|member| member.id == request.id) {
        member.name.clone_from(&request.name);
        member.client_urls.clone_from(&request.client_urls);
    }
    writer.set_rest(
        Bytes::from_static(layout::MEMBERSHIP),
        Some(membership.encode_to_vec().into()),
    );
    writer.registry.membership = Some(Arc::new(membership));
}

/// Keeps raft's configuration as of an applied change of it.
pub(crate) fn conf_state<E: Engine>(writer: &mut Writer<'_, E>, conf_state: Bytes) {
    let mut membership = (**writer.registry.membership()).clone();
    membership.conf_state = conf_state;
    writer.set_rest(
        Bytes::from_static(layout::MEMBERSHIP),
        Some(membership.encode_to_vec().into()),
    );
    writer.registry.membership = Some(Arc::new(membership));
}

fn set_hashed<E: Engine>(writer: &mut Writer<'_, E>, key: Bytes, row: Bytes) {
    writer.state.other_hash = writer.state.other_hash.wrapping_add(row_hash(&key, &row));
    writer.set_rest(key, Some(row));
}

fn remove_hashed<E: Engine>(writer: &mut Writer<'_, E>, key: Bytes, row: &[u8]) {
    writer.state.other_hash = writer.state.other_hash.wrapping_sub(row_hash(&key, row));
    writer.set_rest(key, None);
}
