//! Checks that need no log: they refuse a request before it is proposed. The state machine makes those that
//! depend on the state again when it applies, because the state may have moved.
//!
//! The order is etcd's, where it can be seen: quota before validity, validity before size.

use super::member::{Limits, Member};
use prost::Message;
use proto::{
    Error,
    etcdserverpb::{RangeRequest, TxnRequest, request_op},
    node::{Command, command::Op},
};

/// Refuses a command that would grow the state above the quota, or on a full disk.
pub fn quota<M: Member>(member: &M, command: &Command) -> Result<(), Error> {
    let cost = kv::quota_cost(command);
    if cost == 0 {
        return Ok(());
    }
    let over = |quota: u64| member.view().live_bytes().saturating_add(cost) >= quota;
    if member.standing().disk_full || member.limits().quota_bytes.is_some_and(over) {
        return Err(Error::NoSpace);
    }
    Ok(())
}

/// Refuses a malformed command; only operations that a client can get wrong are looked at.
pub fn validity(limits: &Limits, command: &Command) -> Result<(), Error> {
    match &command.op {
        Some(Op::Put(request)) => kv::check_put(request),
        Some(Op::DeleteRange(request)) => kv::check_delete(request),
        Some(Op::Txn(request)) => kv::check_txn(request, limits.max_txn_ops),
        _ => Ok(()),
    }
}

/// Refuses a command that is too large to replicate.
pub fn size(limits: &Limits, command: &Command) -> Result<(), Error> {
    if command.encoded_len() > limits.max_request_bytes {
        Err(Error::RequestTooLarge)
    } else {
        Ok(())
    }
}

/// How a transaction that writes nothing is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnRead {
    /// It writes, or might: it goes through the log.
    No,
    /// It must see every acknowledged write.
    Linearizable,
    /// This member's state will do.
    Serializable,
}

/// Classifies a transaction as etcd does: a nested one always goes through the log, and one without any
/// operation is serializable.
pub fn txn_read(request: &TxnRequest) -> TxnRead {
    let mut serializable = true;
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(request_op::Request::RequestRange(range)) => serializable &= range.serializable,
            _ => return TxnRead::No,
        }
    }
    if serializable {
        TxnRead::Serializable
    } else {
        TxnRead::Linearizable
    }
}

/// Refuses what RangeStream does not do; clients fall back to Range on exactly this code.
pub fn range_stream(request: &RangeRequest) -> Result<(), Error> {
    use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
    if request.sort_target != SortTarget::Key as i32 || request.sort_order != SortOrder::None as i32 {
        return Err(Error::Unimplemented("RangeStream does not support custom sort orders"));
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters != [0; 4] {
        return Err(Error::Unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::etcdserverpb::{PutRequest, RequestOp};

    fn range(serializable: bool) -> RequestOp {
        let range = RangeRequest {
            key: "a".into(),
            serializable,
            ..RangeRequest::default()
        };
        RequestOp {
            request: Some(request_op::Request::RequestRange(range)),
        }
    }

    #[test]
    fn transactions_are_classified_as_by_etcd() {
        let txn = |success: Vec<RequestOp>, failure| TxnRequest {
            compare: vec![],
            success,
            failure,
        };
        let put = RequestOp {
            request: Some(request_op::Request::RequestPut(PutRequest::default())),
        };
        let nested = RequestOp {
            request: Some(request_op::Request::RequestTxn(TxnRequest::default())),
        };
        assert_eq!(txn_read(&txn(vec![], vec![])), TxnRead::Serializable);
        assert_eq!(
            txn_read(&txn(vec![range(true)], vec![range(true)])),
            TxnRead::Serializable
        );
        assert_eq!(
            txn_read(&txn(vec![range(true)], vec![range(false)])),
            TxnRead::Linearizable
        );
        assert_eq!(txn_read(&txn(vec![range(true)], vec![put])), TxnRead::No);
        assert_eq!(txn_read(&txn(vec![nested], vec![])), TxnRead::No);
        assert_eq!(txn_read(&txn(vec![RequestOp::default()], vec![])), TxnRead::No);
    }

    #[test]
    fn range_stream_refuses_with_the_texts_that_clients_fall_back_on() {
        let sorted = RangeRequest {
            sort_order: 2,
            ..RangeRequest::default()
        };
        let filtered = RangeRequest {
            max_mod_revision: 7,
            ..RangeRequest::default()
        };
        let text = |request| range_stream(request).map_err(|error| error.text().to_owned());
        assert_eq!(
            text(&sorted),
            Err("RangeStream does not support custom sort orders".into())
        );
        assert_eq!(
            text(&filtered),
            Err("RangeStream does not support revision filters".into())
        );
        assert_eq!(
            text(&RangeRequest {
                limit: 1,
                ..RangeRequest::default()
            }),
            Ok(())
        );
    }
}
