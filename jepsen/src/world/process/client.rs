//! One request of a history as a call of the client library, and its answer as an outcome.
//!
//! A client is pinned to one member, so that a history says whom it asked, and it asks with the product's own
//! library: what that repeats or gives up is judged too. What is unknown stays unknown.
//! Not here: the loop around it (`load`), and watches, whose resuming would hide what a server sent (`watcher`).

use std::time::Duration;

use dipper_client::{Client, ConnectOptions, Delete, Error, Get, ServerError, Writes, etcdserverpb as pb, mvccpb};
use pb::{compare, request_op, response_op};

use super::{
    command::{Error as WorldError, Result},
    network::{CLIENT_PORT, client_address},
};
use crate::history::{
    Compare, CompareResult, CompareTarget, DeleteRange, KeyValue, Outcome, Put, Range, RangeReply, Reply, Request, Txn,
};

/// A client of one member; must be made inside a runtime.
pub fn pinned(member: usize, is_etcd: bool, call_deadline: Duration) -> Result<Client> {
    connect(&[member], Writes::ToEndpoints, is_etcd, call_deadline)
}

/// A client that may ask any of `members`, as applications do.
pub fn connect(members: &[usize], writes: Writes, is_etcd: bool, call_deadline: Duration) -> Result<Client> {
    let mut options = ConnectOptions {
        call_deadline,
        writes,
        ..ConnectOptions::default()
    };
    if !is_etcd {
        options = options.for_dipper_only();
    }
    let endpoints = members
        .iter()
        .map(|member| format!("{}:{CLIENT_PORT}", client_address(*member)));
    Client::lazy(endpoints, options).map_err(|error| WorldError::Failed(error.to_string()))
}

/// Asks, and waits for whatever comes back. `ids` are the members' ids, by their place.
pub async fn perform(client: &Client, request: &Request, ids: &[u64]) -> (Outcome, Service) {
    match ask(client, request, ids).await {
        Ok(reply) => (Outcome::Ok(reply), Service::Served),
        Err(error) if error.is_unknown_outcome() => (Outcome::Unknown(error.to_string()), Service::Down),
        Err(error) => {
            let is_decided = match (&error, error.row()) {
                (Error::Server { .. } | Error::Compacted { .. }, Some(row)) => !is_about_service(row),
                (Error::Server { .. }, None) => true,
                _ => false,
            };
            let service = if is_decided { Service::Served } else { Service::Down };
            (Outcome::Failed(error.to_string()), service)
        }
    }
}

/// Whether a request was answered on its merits: a compare-and-set of a revision that is compacted fails on a
/// healthy cluster too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Served,
    Down,
}

fn is_about_service(row: &ServerError) -> bool {
    use dipper_client::ServerError::{
        LeaderChanged, NoLeader, NoSpace, NotLeader, RequestTooManyRequests, Stopped, Timeout,
        TimeoutDueToConnectionLost, TimeoutDueToLeaderFail, TimeoutWaitAppliedIndex,
    };
    matches!(
        row,
        LeaderChanged
            | NoLeader
            | NoSpace
            | NotLeader
            | Stopped
            | Timeout
            | TimeoutDueToConnectionLost
            | TimeoutDueToLeaderFail
            | TimeoutWaitAppliedIndex
            | RequestTooManyRequests
    )
}

async fn ask(client: &Client, request: &Request, ids: &[u64]) -> std::result::Result<Reply, Error> {
    Ok(match request {
        Request::Range(range) => Reply::Range(range_reply(&get(client, range).send().await?)),
        Request::Put(put) => put_reply(&described_put(client, put).send().await?),
        Request::DeleteRange(delete) => delete_reply(&described_delete(client, delete).send().await?),
        Request::Txn(txn) => txn_reply(client.txn_with(txn_message(client, txn)).await?),
        Request::Compact { revision } => Reply::Compact {
            revision: revision_of(client.compact(*revision).await?.header),
        },
        Request::LeaseGrant { id, ttl_s } => {
            let asked = pb::LeaseGrantRequest { ttl: *ttl_s, id: *id };
            let answer = client.lease_grant_with(asked).await?;
            Reply::LeaseGrant {
                revision: revision_of(answer.header),
                id: answer.id,
                ttl_s: answer.ttl,
            }
        }
        Request::LeaseRevoke { id } => Reply::LeaseRevoke {
            revision: revision_of(client.lease_revoke(*id).await?.header),
        },
        Request::LeaseKeepAlive { id } => {
            let answer = client.lease_keep_alive_once(*id).await?;
            Reply::LeaseKeepAlive {
                revision: revision_of(answer.header),
                ttl_s: answer.ttl,
            }
        }
        Request::LeaseTimeToLive { id } => {
            let asked = pb::LeaseTimeToLiveRequest { id: *id, keys: true };
            let answer = client.lease_time_to_live(asked).await?;
            Reply::LeaseTimeToLive {
                revision: revision_of(answer.header),
                ttl_s: answer.ttl,
                granted_ttl_s: answer.granted_ttl,
                keys: answer.keys.iter().map(|key| text(key)).collect(),
            }
        }
        Request::MoveLeader { to } => {
            let id = ids.get(*to as usize).copied().unwrap_or_default();
            client.move_leader(id).await?;
            Reply::MoveLeader
        }
    })
}

fn get<'a>(client: &'a Client, range: &Range) -> Get<'a> {
    let mut get = client
        .get(range.key.clone())
        .limit(range.limit)
        .revision(range.revision);
    if !range.range_end.is_empty() {
        get = get.range_end(range.range_end.clone());
    }
    if range.serializable {
        get = get.serializable();
    }
    if range.keys_only {
        get = get.keys_only();
    }
    if range.count_only {
        get = get.count_only();
    }
    get
}

fn described_put<'a>(client: &'a Client, wanted: &Put) -> dipper_client::Put<'a> {
    let mut put = client.put(wanted.key.clone(), wanted.value.clone()).lease(wanted.lease);
    if wanted.prev_kv {
        put = put.prev_kv();
    }
    if wanted.ignore_value {
        put = put.ignore_value();
    }
    if wanted.ignore_lease {
        put = put.ignore_lease();
    }
    put
}

fn described_delete<'a>(client: &'a Client, wanted: &DeleteRange) -> Delete<'a> {
    let mut delete = client.delete(wanted.key.clone());
    if !wanted.range_end.is_empty() {
        delete = delete.range_end(wanted.range_end.clone());
    }
    if wanted.prev_kv {
        delete = delete.prev_kv();
    }
    delete
}

fn txn_message(client: &Client, txn: &Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compares.iter().map(compare_message).collect(),
        success: txn.success.iter().map(|each| operation(client, each)).collect(),
        failure: txn.failure.iter().map(|each| operation(client, each)).collect(),
    }
}

fn operation(client: &Client, request: &Request) -> pb::RequestOp {
    use request_op::Request as Operation;
    let operation = match request {
        Request::Range(range) => Operation::RequestRange(get(client, range).into_request()),
        Request::Put(put) => Operation::RequestPut(described_put(client, put).into_request()),
        Request::DeleteRange(delete) => Operation::RequestDeleteRange(described_delete(client, delete).into_request()),
        Request::Txn(txn) => Operation::RequestTxn(txn_message(client, txn)),
        other => panic!("no transaction can hold {other:?}"),
    };
    pb::RequestOp {
        request: Some(operation),
    }
}

fn compare_message(compare: &Compare) -> pb::Compare {
    let result = match compare.result {
        CompareResult::Equal => compare::CompareResult::Equal,
        CompareResult::NotEqual => compare::CompareResult::NotEqual,
        CompareResult::Greater => compare::CompareResult::Greater,
        CompareResult::Less => compare::CompareResult::Less,
    };
    let (target, union) = match &compare.target {
        CompareTarget::Version(n) => (compare::CompareTarget::Version, compare::TargetUnion::Version(*n)),
        CompareTarget::Create(n) => (compare::CompareTarget::Create, compare::TargetUnion::CreateRevision(*n)),
        CompareTarget::Mod(n) => (compare::CompareTarget::Mod, compare::TargetUnion::ModRevision(*n)),
        CompareTarget::Value(value) => (
            compare::CompareTarget::Value,
            compare::TargetUnion::Value(value.clone().into()),
        ),
        CompareTarget::Lease(id) => (compare::CompareTarget::Lease, compare::TargetUnion::Lease(*id)),
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: compare.key.clone().into(),
        range_end: compare.range_end.clone().into(),
        target_union: Some(union),
    }
}

fn range_reply(answer: &pb::RangeResponse) -> RangeReply {
    RangeReply {
        revision: revision_of(answer.header),
        kvs: answer.kvs.iter().map(key_value).collect(),
        more: answer.more,
        count: answer.count,
    }
}

fn put_reply(answer: &pb::PutResponse) -> Reply {
    Reply::Put {
        revision: revision_of(answer.header),
        prev_kv: answer.prev_kv.as_ref().map(key_value),
    }
}

fn delete_reply(answer: &pb::DeleteRangeResponse) -> Reply {
    Reply::DeleteRange {
        revision: revision_of(answer.header),
        deleted: answer.deleted,
        prev_kvs: answer.prev_kvs.iter().map(key_value).collect(),
    }
}

/// What is inside a transaction has no header of its own on the wire; etcd fills some in, others not.
fn txn_reply(answer: pb::TxnResponse) -> Reply {
    let replies = answer.responses.into_iter().filter_map(|response| response.response);
    Reply::Txn {
        revision: revision_of(answer.header),
        succeeded: answer.succeeded,
        replies: replies
            .map(|response| match response {
                response_op::Response::ResponseRange(range) => Reply::Range(range_reply(&range)),
                response_op::Response::ResponsePut(put) => put_reply(&put),
                response_op::Response::ResponseDeleteRange(delete) => delete_reply(&delete),
                response_op::Response::ResponseTxn(txn) => txn_reply(txn),
            })
            .collect(),
    }
}

pub fn key_value(kv: &mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: text(&kv.key),
        value: text(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn revision_of(header: Option<pb::ResponseHeader>) -> i64 {
    header.unwrap_or_default().revision
}

/// Workloads write text; damage that made something else of it must stay visible.
fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| format!("not text: {bytes:02x?}"))
}
