//! How often each RPC was started, and with which code it ended: what `grpc_server_started_total` and
//! `grpc_server_handled_total` count. Plain atomics; the names and the rendering are the metrics page's.
//!
//! Streams end when their response stream does. A call that the client abandons ends as Canceled.

use crate::metrics::RpcFacts;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tonic::{Code, Status};

/// gRPC's status codes are 0..=16.
const CODES: usize = 17;

macro_rules! rpcs {
    ($($rpc:ident $service:literal $kind:ident;)*) => {
        /// Every RPC that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rpc {
            $(#[doc = $service] $rpc,)*
        }

        impl Rpc {
            /// Every RPC, in the order of the protos.
            pub const ALL: &'static [Rpc] = &[$(Rpc::$rpc),*];

            /// The method's name.
            pub fn method(self) -> &'static str {
                match self {
                    $(Rpc::$rpc => stringify!($rpc),)*
                }
            }

            /// The service's full name.
            pub fn service(self) -> &'static str {
                match self {
                    $(Rpc::$rpc => $service,)*
                }
            }

            /// The label that go-grpc-middleware gives its kind.
            pub fn kind(self) -> &'static str {
                match self {
                    $(Rpc::$rpc => kind::$kind,)*
                }
            }
        }
    };
}

#[allow(non_upper_case_globals)]
mod kind {
    pub const unary: &str = "unary";
    pub const server_stream: &str = "server_stream";
    pub const bidi: &str = "bidi_stream";
}

rpcs! {
    Range "etcdserverpb.KV" unary;
    RangeStream "etcdserverpb.KV" server_stream;
    Put "etcdserverpb.KV" unary;
    DeleteRange "etcdserverpb.KV" unary;
    Txn "etcdserverpb.KV" unary;
    Compact "etcdserverpb.KV" unary;
    Stream "dipper.operations.Operations" bidi;
    Watch "etcdserverpb.Watch" bidi;
    LeaseGrant "etcdserverpb.Lease" unary;
    LeaseRevoke "etcdserverpb.Lease" unary;
    LeaseKeepAlive "etcdserverpb.Lease" bidi;
    LeaseTimeToLive "etcdserverpb.Lease" unary;
    LeaseLeases "etcdserverpb.Lease" unary;
    MemberAdd "etcdserverpb.Cluster" unary;
    MemberRemove "etcdserverpb.Cluster" unary;
    MemberUpdate "etcdserverpb.Cluster" unary;
    MemberList "etcdserverpb.Cluster" unary;
    MemberPromote "etcdserverpb.Cluster" unary;
    Alarm "etcdserverpb.Maintenance" unary;
    Status "etcdserverpb.Maintenance" unary;
    Defragment "etcdserverpb.Maintenance" unary;
    Hash "etcdserverpb.Maintenance" unary;
    HashKV "etcdserverpb.Maintenance" unary;
    Snapshot "etcdserverpb.Maintenance" server_stream;
    MoveLeader "etcdserverpb.Maintenance" unary;
    Downgrade "etcdserverpb.Maintenance" unary;
    AuthEnable "etcdserverpb.Auth" unary;
    AuthDisable "etcdserverpb.Auth" unary;
    AuthStatus "etcdserverpb.Auth" unary;
    Authenticate "etcdserverpb.Auth" unary;
    UserAdd "etcdserverpb.Auth" unary;
    UserGet "etcdserverpb.Auth" unary;
    UserList "etcdserverpb.Auth" unary;
    UserDelete "etcdserverpb.Auth" unary;
    UserChangePassword "etcdserverpb.Auth" unary;
    UserGrantRole "etcdserverpb.Auth" unary;
    UserRevokeRole "etcdserverpb.Auth" unary;
    RoleAdd "etcdserverpb.Auth" unary;
    RoleGet "etcdserverpb.Auth" unary;
    RoleList "etcdserverpb.Auth" unary;
    RoleDelete "etcdserverpb.Auth" unary;
    RoleGrantPermission "etcdserverpb.Auth" unary;
    RoleRevokePermission "etcdserverpb.Auth" unary;
    Lock "v3lockpb.Lock" unary;
    Unlock "v3lockpb.Lock" unary;
    Campaign "v3electionpb.Election" unary;
    Proclaim "v3electionpb.Election" unary;
    Leader "v3electionpb.Election" unary;
    Observe "v3electionpb.Election" server_stream;
    Resign "v3electionpb.Election" unary;
}

/// The counts of all RPCs.
pub struct RpcCounters {
    counts: Box<[Count]>,
}

struct Count {
    started: AtomicU64,
    handled: [AtomicU64; CODES],
}

impl Default for RpcCounters {
    fn default() -> Self {
        let count = |_: &Rpc| Count {
            started: AtomicU64::new(0),
            handled: [const { AtomicU64::new(0) }; CODES],
        };
        Self {
            counts: Rpc::ALL.iter().map(count).collect(),
        }
    }
}

impl RpcCounters {
    /// Counts a call that begins; it ends when the returned value is told so, or dropped.
    pub fn start(self: &Arc<Self>, rpc: Rpc) -> Started {
        self.counts[rpc as usize].started.fetch_add(1, Ordering::Relaxed);
        Started {
            counters: Arc::clone(self),
            rpc,
            ended: false,
        }
    }

    /// How often `rpc` was started.
    pub fn started(&self, rpc: Rpc) -> u64 {
        self.counts[rpc as usize].started.load(Ordering::Relaxed)
    }

    /// How often `rpc` ended with `code`.
    pub fn handled(&self, rpc: Rpc, code: Code) -> u64 {
        self.counts[rpc as usize].handled[code as usize].load(Ordering::Relaxed)
    }
}

impl RpcCounters {
    /// The counts of every RPC that was called, for the metrics page.
    pub fn facts(&self) -> Vec<RpcFacts> {
        Rpc::ALL
            .iter()
            .filter(|rpc| self.started(**rpc) > 0)
            .map(|&rpc| RpcFacts {
                kind: rpc.kind(),
                service: rpc.service(),
                method: rpc.method(),
                started: self.started(rpc),
                handled: CODE_NAMES
                    .iter()
                    .enumerate()
                    .map(|(code, name)| (*name, self.handled(rpc, Code::from_i32(code as i32))))
                    .filter(|(_, count)| *count > 0)
                    .collect(),
            })
            .collect()
    }
}

/// gRPC's codes by number, as Go names them: dashboards and alerts match on these.
const CODE_NAMES: [&str; CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// A call between its start and its end.
pub struct Started {
    counters: Arc<RpcCounters>,
    rpc: Rpc,
    ended: bool,
}

impl Started {
    /// Counts the end; only the first one counts.
    pub fn end(&mut self, code: Code) {
        if !self.ended {
            self.ended = true;
            self.counters.counts[self.rpc as usize].handled[code as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the end of a stream whose next message is an error.
    pub fn end_on_error<T>(&mut self, result: &Result<T, Status>) {
        if let Err(status) = result {
            self.end(status.code());
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_once() {
        let counters = Arc::new(RpcCounters::default());
        counters.start(Rpc::Put).end(Code::Ok);
        drop(counters.start(Rpc::Put));
        assert_eq!(counters.started(Rpc::Put), 2);
        assert_eq!(counters.handled(Rpc::Put, Code::Ok), 1);
        assert_eq!(counters.handled(Rpc::Put, Code::Cancelled), 1);
        assert_eq!(Rpc::ALL.len(), 50);
        assert_eq!(Rpc::ALL[Rpc::Resign as usize], Rpc::Resign);
    }
}
