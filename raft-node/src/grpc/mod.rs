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
mod operations;
mod pulled;
mod replies;
pub mod reply;
mod server;
mod services;
mod unary;
mod unimplemented;
mod watch;

pub use connection::Traffic;
pub use counters::RpcCounters;
pub use member::{Identity, Limits, Member, Standing};
pub use server::{ServerHandle, serve};
