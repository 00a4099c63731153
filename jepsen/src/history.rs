//! What was asked, when, and what came back: one record a line, as JSON, in the order of their ends.
//!
//! ```text
//!   {"Operation":{"process":3,"member":0,"incarnation":1,"invoked":1200,"returned":5100,
//!                 "request":{"Put":{"key":"a","value":"1","lease":0,...}},
//!                 "outcome":{"Ok":{"Put":{"revision":2,"prev_kv":null}}}}}
//! ```
//! Times are nanoseconds on one monotonic clock, whatever the world. The shapes follow etcd's proto; keys and
//! values are text, because every workload writes text and a history is read by people.
//! Deliberately not here: what is right and wrong (`checkers/`).

use crate::expectations::Expectations;
use serde::{Deserialize, Serialize};

/// The time of an operation whose end nobody saw.
pub const NEVER: u64 = u64::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    Operation(Operation),
    Watch(Watch),
    Fault(Fault),
    Final(Final),
    /// At most one: what whoever made the history knows about it. Without one, `Expectations::default()`.
    Expectations(Expectations),
}

/// One request of a closed-loop client. Whoever gets an unknown outcome goes on under a new process number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub process: u32,
    /// Which member was asked, by its place in the cluster.
    pub member: u32,
    /// How often that member had been started by then.
    pub incarnation: u32,
    pub invoked: u64,
    /// [`NEVER`] when the outcome is unknown.
    pub returned: u64,
    pub request: Request,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Range(Range),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Compact { revision: i64 },
    LeaseGrant { id: i64, ttl_s: i64 },
    LeaseRevoke { id: i64 },
    LeaseKeepAlive { id: i64 },
    LeaseTimeToLive { id: i64 },
    MoveLeader { to: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Ok(Reply),
    /// The server said no: certainly without effect. The text is the server's.
    Failed(String),
    /// It may have happened, once, at any time after `invoked`.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Range(RangeReply),
    Put {
        revision: i64,
        prev_kv: Option<KeyValue>,
    },
    DeleteRange {
        revision: i64,
        deleted: i64,
        prev_kvs: Vec<KeyValue>,
    },
    Txn {
        revision: i64,
        succeeded: bool,
        replies: Vec<Reply>,
    },
    Compact {
        revision: i64,
    },
    LeaseGrant {
        revision: i64,
        id: i64,
        ttl_s: i64,
    },
    LeaseRevoke {
        revision: i64,
    },
    /// `ttl_s` 0: the lease is gone.
    LeaseKeepAlive {
        revision: i64,
        ttl_s: i64,
    },
    LeaseTimeToLive {
        revision: i64,
        ttl_s: i64,
        granted_ttl_s: i64,
        keys: Vec<String>,
    },
    MoveLeader,
}

/// `[key, range_end)`; no `range_end`: that key alone; `"\0"`: everything from `key` on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub key: String,
    pub range_end: String,
    pub limit: i64,
    /// 0: the newest.
    pub revision: i64,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeReply {
    /// The revision in the header.
    pub revision: i64,
    pub kvs: Vec<KeyValue>,
    pub more: bool,
    pub count: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    pub key: String,
    pub value: String,
    pub lease: i64,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRange {
    pub key: String,
    pub range_end: String,
    pub prev_kv: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<Request>,
    pub failure: Vec<Request>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    pub key: String,
    pub range_end: String,
    pub result: CompareResult,
    pub target: CompareTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareResult {
    Equal,
    NotEqual,
    Greater,
    Less,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareTarget {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(String),
    Lease(i64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

/// One step in the life of a watch. A watcher that comes back after a broken stream keeps its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    pub watcher: u32,
    pub member: u32,
    pub incarnation: u32,
    pub at: u64,
    pub step: WatchStep,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchStep {
    Asked(WatchRequest),
    Created {
        revision: i64,
    },
    /// One response; a fragmented one is several of these, all but the last with `fragment`.
    Events {
        revision: i64,
        events: Vec<Event>,
        fragment: bool,
    },
    Progress {
        revision: i64,
    },
    /// By the server. `compact_revision` is not 0 when the start was compacted away.
    Canceled {
        revision: i64,
        compact_revision: i64,
        reason: String,
    },
    /// The stream broke: the next `Asked` of this watcher resumes.
    Lost,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "these are the flags of etcd's message")]
pub struct WatchRequest {
    pub key: String,
    pub range_end: String,
    /// 0: from now on.
    pub start_revision: i64,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub progress_notify: bool,
    pub fragment: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub is_delete: bool,
    pub kv: KeyValue,
    pub prev_kv: Option<KeyValue>,
}

/// What the nemesis did, for the timeline; `until` is [`NEVER`] for what does not end by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub from: u64,
    pub until: u64,
    /// As a person would say it: "kill -9 of the leader (member 1)".
    pub what: String,
}

/// What a member held when everything was quiet again: all must be equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Final {
    pub member: u32,
    pub revision: i64,
    pub compact_revision: i64,
    /// HashKV's answer at `revision`; a member that may legally be gone (a halted one) has no Final.
    pub hash: u32,
}
