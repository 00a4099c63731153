//! etcd as a value: what the specification says a request does, without a wire, a disk or a clock.
//!
//! ```text
//!   Timeline   every version of every key, by revision     timeline.at(7) is the state at revision 7
//!   execute    (state, request) -> (reply, events)         a pure function
//!   Etcd       Timeline + leases + compaction              the machine that a sequential client would see
//! ```
//! Written against etcd's specification alone: it shares no line with `kv`, or both would be wrong together.
//! Deliberately not here: which order of requests is right (`checkers/`), and anything nobody's history records
//! (users, alarms, sorting).

mod etcd;
mod execute;
mod timeline;

pub use etcd::Etcd;
pub use execute::{Effect, Refusal, execute, revision_of, validate};
pub use timeline::{FIRST_REVISION, Snapshot, Timeline, contains};
