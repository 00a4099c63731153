//! What one step of the differential test asks, and what a cluster answered, as plain values.
//!
//! Not here: how answers are compared (compare.rs) and how they are obtained (side.rs).

use proto::etcdserverpb::{
    AlarmResponse, CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, HashKvResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest, request_op::Request as Op,
};

/// One step.
#[derive(Clone, Debug)]
pub enum Request {
    Range(RangeRequest),
    /// The same question as a stream, where the server has it; its merged chunks must equal the unary answer.
    RangeStream(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    /// A grant whose lease would expire soon, or whose id the server picks: revoked in the same step.
    GrantThenRevoke(LeaseGrantRequest),
    Revoke(i64),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases,
    KeepAlive(i64),
    HashKv(i64),
    Alarms,
    Watch {
        stream: usize,
        request: WatchCreateRequest,
    },
    CancelWatch {
        stream: usize,
        id: i64,
    },
    Progress {
        stream: usize,
    },
    CloseStream {
        stream: usize,
    },
}

/// What came back. `Refused` is a gRPC status.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    TimeToLive(LeaseTimeToLiveResponse),
    Leases(LeaseLeasesResponse),
    KeepAlive(LeaseKeepAliveResponse),
    HashKv(HashKvResponse),
    Alarms(AlarmResponse),
    Refused {
        code: i32,
        text: String,
    },
    /// A property that an answer must have by itself was missing.
    Wrong(String),
}

impl Answer {
    /// The top-level header, if the answer has one.
    pub fn header(&mut self) -> Option<&mut ResponseHeader> {
        match self {
            Self::Range(answer) => answer.header.as_mut(),
            Self::Put(answer) => answer.header.as_mut(),
            Self::DeleteRange(answer) => answer.header.as_mut(),
            Self::Txn(answer) => answer.header.as_mut(),
            Self::Compact(answer) => answer.header.as_mut(),
            Self::Grant(answer) => answer.header.as_mut(),
            Self::Revoke(answer) => answer.header.as_mut(),
            Self::TimeToLive(answer) => answer.header.as_mut(),
            Self::Leases(answer) => answer.header.as_mut(),
            Self::KeepAlive(answer) => answer.header.as_mut(),
            Self::HashKv(answer) => answer.header.as_mut(),
            Self::Alarms(answer) => answer.header.as_mut(),
            Self::Refused { .. } | Self::Wrong(_) => None,
        }
    }

    /// The store revision that the answer tells, 0 when it tells none.
    pub fn revision(&self) -> i64 {
        self.clone().header().map_or(0, |header| header.revision)
    }
}

impl Request {
    /// May a member answer this from its own state alone? Then it must first have caught up with what the
    /// other members acknowledged, or the comparison would see its lag, which is allowed.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Range(range) | Self::RangeStream(range) => range.serializable,
            // A txn of serializable ranges, or of none, is answered locally; asking too often is harmless.
            Self::Txn(txn) => !txn.success.iter().chain(&txn.failure).any(writes),
            Self::Leases
            | Self::KeepAlive(_)
            | Self::TimeToLive(_)
            | Self::HashKv(_)
            | Self::Alarms
            | Self::Watch { .. }
            | Self::Progress { .. } => true,
            _ => false,
        }
    }
}

fn writes(op: &RequestOp) -> bool {
    match &op.request {
        Some(Op::RequestPut(_) | Op::RequestDeleteRange(_)) => true,
        Some(Op::RequestTxn(txn)) => txn.success.iter().chain(&txn.failure).any(writes),
        Some(Op::RequestRange(_)) | None => false,
    }
}
