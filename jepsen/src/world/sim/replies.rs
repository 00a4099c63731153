//! What a client is told: a member's answers in the history's words, and which errors leave a doubt.

use super::{clients::Asked, engine::SimEngine, judge::revision_of};
use crate::{
    history::{Outcome, Reply},
    world::messages,
};
use kv::{Response, View};
use proto::{
    Error,
    etcdserverpb::{TxnRequest, request_op},
};

/// A read that failed had no effect; a write that timed out may have one.
pub fn failed(asked: &Asked, error: &Error) -> Outcome {
    let text = error.text().to_owned();
    let is_certain = matches!(
        error,
        Error::NoLeader | Error::LeaderChanged | Error::RequestTooManyRequests | Error::NotLeader
    );
    match asked {
        Asked::Write(_) | Asked::Move if !is_certain => Outcome::Unknown(text),
        _ => Outcome::Failed(text),
    }
}

/// Whether a transaction only reads, and then whether any state will do; as grpc/check.rs has it.
pub fn read_only(txn: &TxnRequest) -> Option<bool> {
    let mut any_state = true;
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(request_op::Request::RequestRange(range)) => any_state &= range.serializable,
            _ => return None,
        }
    }
    Some(any_state)
}

pub fn time_to_live(id: i64, view: &View<SimEngine>, seconds: i64) -> Reply {
    let revision = view.revision();
    match view.lease(id) {
        Some(lease) if seconds >= 0 => Reply::LeaseTimeToLive {
            revision,
            ttl_s: seconds,
            granted_ttl_s: lease.ttl,
            keys: view
                .lease_keys(id)
                .iter()
                .map(|key| String::from_utf8_lossy(key).into_owned())
                .collect(),
        },
        _ => Reply::LeaseTimeToLive {
            revision,
            ttl_s: -1,
            granted_ttl_s: 0,
            keys: Vec::new(),
        },
    }
}

pub fn reply_of(response: &Response) -> Reply {
    let revision = revision_of(response);
    match response {
        Response::Put(reply) => messages::put_reply(reply),
        Response::DeleteRange(reply) => messages::delete_reply(reply),
        Response::Txn(reply) => messages::txn_reply(reply),
        Response::Compact(_) => Reply::Compact { revision },
        Response::LeaseGrant(reply) => Reply::LeaseGrant {
            revision,
            id: reply.id,
            ttl_s: reply.ttl,
        },
        Response::LeaseRevoke(_) => Reply::LeaseRevoke { revision },
        other => panic!("no client asked for this: {other:?}"),
    }
}
