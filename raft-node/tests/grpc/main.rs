//! The client-facing services, spoken to over a socket, in front of a member that applies at once (`fake`).

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod fake;
mod kv_service;
mod lease_service;
mod operations_service;
mod serving;
mod watch_service;
