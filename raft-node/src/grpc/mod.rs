//! The client-facing gRPC services: etcd's v3 API, unchanged on the wire. They wait and translate, and decide
//! nothing: what a command does is `kv`'s, when it is done is the driver's.
//!
//! ```text
//!   a request:   exact (texts) -> call (metadata, deadline, counters) -> check (before proposing)
//!                -> Member::propose / read_index -> header -> reply
//!   a stream:    a Source that the connection pulls from, when the client has room for a message (pulled)
//! ```
//!
//! One file per service. What this build does not serve yet is in `unimplemented` and says so in a sentence.
//! Not here: HTTP/1.1 pages (they are merged in as an axum Router), TLS, who leads.

mod authority;
mod call;
mod check;
mod cluster;
mod connection;
pub mod counters;
pub mod cursor;
mod ending;
mod exact;
mod header;
mod kv;
mod lease;
mod maintenance;
pub mod member;
mod pulled;
mod server;
mod unimplemented;
mod watch;

pub use connection::Traffic;
pub use counters::RpcCounters;
pub use member::{Identity, Limits, Member, Standing};
pub use server::{ServerHandle, serve};

use crate::limits::GRPC_OVERHEAD_BYTES;
use call::Context;
use exact::Exact;
use proto::{
    etcdserverpb::{
        auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
        maintenance_server::MaintenanceServer, watch_server::WatchServer,
    },
    v3electionpb::election_server::ElectionServer,
    v3lockpb::lock_server::LockServer,
};
use std::sync::Arc;
use tonic::service::Routes;
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

/// Every service on one table of routes, with `http` beside them on the same port. `http` has no fallback.
fn routes<M: Member>(context: &Context<M>, health: HealthService, http: axum::Router) -> axum::Router {
    let limit = context.member.limits().max_request_bytes + GRPC_OVERHEAD_BYTES;
    // A macro, because tonic generates the two setters on each server and on no trait.
    macro_rules! sized {
        ($server:ident, $service:expr) => {
            Exact::new(
                $server::new($service)
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(u32::MAX as usize),
            )
        };
    }
    Routes::default()
        .add_service(sized!(KvServer, kv::Kv(context.clone())))
        .add_service(sized!(WatchServer, watch::Watch(context.clone())))
        .add_service(sized!(LeaseServer, lease::Lease(context.clone())))
        .add_service(sized!(ClusterServer, cluster::Cluster(context.clone())))
        .add_service(sized!(MaintenanceServer, maintenance::Maintenance(context.clone())))
        .add_service(sized!(AuthServer, unimplemented::Auth(Arc::clone(&context.counters))))
        .add_service(sized!(LockServer, unimplemented::Lock(Arc::clone(&context.counters))))
        .add_service(sized!(
            ElectionServer,
            unimplemented::Election(Arc::clone(&context.counters))
        ))
        .add_service(HealthServer::new(health))
        .into_axum_router()
        .fallback(exact::unknown_path)
        .merge(http)
}
