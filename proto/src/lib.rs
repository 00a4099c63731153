//! Everything that crosses a wire or enters the log, and the two rules that every crate must read the
//! same way: what a (key, range_end) pair means, and which error a client sees.
//!
//! Not here: behaviour. Messages are data; the state machine is `kv`.

#[cfg(any(feature = "server", feature = "client"))]
pub mod codec;
pub mod error;
pub mod range;

pub use error::{Code, Error};
pub use range::KeyRange;

/// Generated from `proto/etcd`, `proto/node` and `proto/dipper`; exists only in OUT_DIR.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod generated {
    pub mod mvccpb {
        include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
    }
    pub mod authpb {
        include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
    }
    pub mod etcdserverpb {
        include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
    }
    pub mod v3lockpb {
        include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
    }
    pub mod v3electionpb {
        include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
    }
    pub mod dipper {
        pub mod node {
            include!(concat!(env!("OUT_DIR"), "/dipper.node.rs"));
        }
        pub mod operations {
            include!(concat!(env!("OUT_DIR"), "/dipper.operations.rs"));
        }
    }
}

pub use generated::{authpb, dipper::node, dipper::operations, etcdserverpb, mvccpb, v3electionpb, v3lockpb};

/// The version of [`node::CommandBatch`] that this build writes, and the newest that it can apply.
pub const COMMAND_VERSION: u32 = 1;

/// The version that Status and `/version` report: the etcd API level that is served. Clients parse it
/// (Kubernetes wants at least 3.5.13 to ask for watch progress).
pub const ETCD_VERSION: &str = "3.7.1";

/// The cluster and storage version that belongs to [`ETCD_VERSION`].
pub const ETCD_CLUSTER_VERSION: &str = "3.7.0";
