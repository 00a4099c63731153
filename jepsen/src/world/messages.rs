//! Between the history's words and etcd's messages, for both worlds. Nothing is decided here.

use crate::history::{
    self, Compare, CompareResult, CompareTarget, Event, KeyValue, RangeReply, Reply, Request, WatchRequest,
};
use bytes::Bytes;
use proto::{
    etcdserverpb::{
        self as etcd, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        compare::TargetUnion, request_op, response_op,
    },
    mvccpb,
};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Every workload writes text; damage that made something else of it must stay visible.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| format!("not text: {bytes:02x?}"))
}

pub fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

pub fn range(range: &history::Range) -> RangeRequest {
    RangeRequest {
        key: bytes(&range.key),
        range_end: bytes(&range.range_end),
        limit: range.limit,
        revision: range.revision,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        ..RangeRequest::default()
    }
}

pub fn put(put: &history::Put) -> etcd::PutRequest {
    etcd::PutRequest {
        key: bytes(&put.key),
        value: bytes(&put.value),
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

pub fn delete(delete: &history::DeleteRange) -> etcd::DeleteRangeRequest {
    etcd::DeleteRangeRequest {
        key: bytes(&delete.key),
        range_end: bytes(&delete.range_end),
        prev_kv: delete.prev_kv,
    }
}

pub fn txn(txn: &history::Txn) -> TxnRequest {
    TxnRequest {
        compare: txn.compares.iter().map(compare).collect(),
        success: txn.success.iter().map(operation).collect(),
        failure: txn.failure.iter().map(operation).collect(),
    }
}

fn operation(request: &Request) -> RequestOp {
    let request = match request {
        Request::Range(request) => request_op::Request::RequestRange(range(request)),
        Request::Put(request) => request_op::Request::RequestPut(put(request)),
        Request::DeleteRange(request) => request_op::Request::RequestDeleteRange(delete(request)),
        Request::Txn(request) => request_op::Request::RequestTxn(txn(request)),
        other => panic!("no workload puts this into a transaction: {other:?}"),
    };
    RequestOp { request: Some(request) }
}

fn compare(of: &Compare) -> etcd::Compare {
    use etcd::compare::{CompareResult as R, CompareTarget as T};
    let result = match of.result {
        CompareResult::Equal => R::Equal,
        CompareResult::NotEqual => R::NotEqual,
        CompareResult::Greater => R::Greater,
        CompareResult::Less => R::Less,
    };
    let (target, union) = match &of.target {
        CompareTarget::Version(number) => (T::Version, TargetUnion::Version(*number)),
        CompareTarget::Create(number) => (T::Create, TargetUnion::CreateRevision(*number)),
        CompareTarget::Mod(number) => (T::Mod, TargetUnion::ModRevision(*number)),
        CompareTarget::Value(value) => (T::Value, TargetUnion::Value(bytes(value))),
        CompareTarget::Lease(id) => (T::Lease, TargetUnion::Lease(*id)),
    };
    etcd::Compare {
        result: result as i32,
        target: target as i32,
        key: bytes(&of.key),
        range_end: bytes(&of.range_end),
        target_union: Some(union),
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

pub fn event(event: &mvccpb::Event) -> Event {
    Event {
        is_delete: event.r#type == mvccpb::event::EventType::Delete as i32,
        kv: event.kv.as_ref().map(key_value).unwrap_or_default(),
        prev_kv: event.prev_kv.as_ref().map(key_value),
    }
}

pub fn range_reply(reply: &RangeResponse) -> RangeReply {
    RangeReply {
        revision: revision(reply.header.as_ref()),
        kvs: reply.kvs.iter().map(key_value).collect(),
        more: reply.more,
        count: reply.count,
    }
}

pub fn put_reply(reply: &etcd::PutResponse) -> Reply {
    Reply::Put {
        revision: revision(reply.header.as_ref()),
        prev_kv: reply.prev_kv.as_ref().map(key_value),
    }
}

pub fn delete_reply(reply: &etcd::DeleteRangeResponse) -> Reply {
    Reply::DeleteRange {
        revision: revision(reply.header.as_ref()),
        deleted: reply.deleted,
        prev_kvs: reply.prev_kvs.iter().map(key_value).collect(),
    }
}

pub fn txn_reply(reply: &TxnResponse) -> Reply {
    Reply::Txn {
        revision: revision(reply.header.as_ref()),
        succeeded: reply.succeeded,
        replies: reply.responses.iter().map(operation_reply).collect(),
    }
}

fn operation_reply(reply: &ResponseOp) -> Reply {
    match &reply.response {
        Some(response_op::Response::ResponseRange(reply)) => Reply::Range(range_reply(reply)),
        Some(response_op::Response::ResponsePut(reply)) => put_reply(reply),
        Some(response_op::Response::ResponseDeleteRange(reply)) => delete_reply(reply),
        Some(response_op::Response::ResponseTxn(reply)) => txn_reply(reply),
        None => panic!("an operation of a transaction has no reply"),
    }
}

/// A watch as a client asks for it.
pub fn watch(request: &WatchRequest) -> etcd::WatchCreateRequest {
    use etcd::watch_create_request::FilterType;
    let mut filters = Vec::new();
    if request.no_put {
        filters.push(FilterType::Noput as i32);
    }
    if request.no_delete {
        filters.push(FilterType::Nodelete as i32);
    }
    etcd::WatchCreateRequest {
        key: bytes(&request.key),
        range_end: bytes(&request.range_end),
        start_revision: request.start_revision,
        progress_notify: request.progress_notify,
        filters,
        prev_kv: request.prev_kv,
        fragment: request.fragment,
        ..etcd::WatchCreateRequest::default()
    }
}
