//! One request of a history as a call of the client library, and its answer as an outcome.
//!
//! A client is pinned to one member, so that a history says whom it asked, and it asks with the product's own
//! library: what that repeats or gives up is judged too. What is unknown stays unknown.
//! Not here: the loop around it (`load`), and watches, whose resuming would hide what a server sent (`watcher`).

use std::time::Duration;

use dipper_client::{Client, ConnectOptions, Delete, Error, Get, ServerError, Writes, etcdserverpb as pb};

use super::{
    command::{Error as WorldError, Result},
    network::{CLIENT_PORT, client_address},
};
use crate::{
    history::{DeleteRange, Outcome, Put, Range, Reply, Request},
    world::messages::{self, revision, text},
};

/// A client of one member; must be made inside a runtime.
pub fn pinned(member: usize, is_etcd: bool, call_deadline: Duration) -> Result<Client> {
    connect(&[member], Writes::ToEndpoints, Way::Calls, is_etcd, call_deadline)
}

/// How a client's operations travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Calls,
    /// Over one stream for each member; etcd has none.
    Streams,
}

/// A client that may ask any of `members`, as applications do.
pub fn connect(members: &[usize], writes: Writes, way: Way, is_etcd: bool, call_deadline: Duration) -> Result<Client> {
    let mut options = ConnectOptions {
        call_deadline,
        writes,
        streams: way == Way::Streams,
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
        Request::Range(range) => Reply::Range(messages::range_reply(&get(client, range).send().await?)),
        Request::Put(put) => messages::put_reply(&described_put(client, put).send().await?),
        Request::DeleteRange(delete) => messages::delete_reply(&described_delete(client, delete).send().await?),
        Request::Txn(txn) => messages::txn_reply(&client.txn_with(messages::txn(txn)).await?),
        Request::Compact { revision: at } => Reply::Compact {
            revision: revision(client.compact(*at).await?.header.as_ref()),
        },
        Request::LeaseGrant { id, ttl_s } => {
            let asked = pb::LeaseGrantRequest { ttl: *ttl_s, id: *id };
            let answer = client.lease_grant_with(asked).await?;
            Reply::LeaseGrant {
                revision: revision(answer.header.as_ref()),
                id: answer.id,
                ttl_s: answer.ttl,
            }
        }
        Request::LeaseRevoke { id } => Reply::LeaseRevoke {
            revision: revision(client.lease_revoke(*id).await?.header.as_ref()),
        },
        Request::LeaseKeepAlive { id } => {
            let answer = client.lease_keep_alive_once(*id).await?;
            Reply::LeaseKeepAlive {
                revision: revision(answer.header.as_ref()),
                ttl_s: answer.ttl,
            }
        }
        Request::LeaseTimeToLive { id } => {
            let asked = pb::LeaseTimeToLiveRequest { id: *id, keys: true };
            let answer = client.lease_time_to_live(asked).await?;
            Reply::LeaseTimeToLive {
                revision: revision(answer.header.as_ref()),
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
