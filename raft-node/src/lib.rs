//! A member of a Dipper cluster: the library behind the binary `dipper`.
//!
//! ```text
//!   grpc/ http/   wait and translate           peer/   member to member
//!   driver/       the threads                  replica/   a member as a value: raft, and who waits for what
//!   log/          the durable Raft log         kv (crate)  the state machine
//! ```
//! `node/` puts them together. A Put crosses grpc/kv, driver, replica/replica, log/rocks, peer/outbound and
//! then kv/store and kv/engine/rocks.

pub mod allocator;
pub mod config;
pub mod data_dir;
pub mod driver;
pub mod error;
pub mod grpc;
pub mod histogram;
pub mod http;
pub mod ids;
pub mod inbox;
pub mod limits;
pub mod log;
pub mod log_output;
pub mod mailbox;
pub mod metrics;
pub mod node;
pub mod open_files;
pub mod peer;
pub mod priority;
pub mod replica;
pub mod state_directory;
pub mod status;
pub mod watchers;
