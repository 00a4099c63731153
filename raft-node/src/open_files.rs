//! The limit of open files: raised as far as the system lets us, and a refusal to start below what a member needs.
//!
//! A member that runs out of descriptors while it serves would fail a write of its log and have to stop; better to
//! say so at start, where someone is watching.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Cause, StartError};
use crate::limits::OPEN_FILES_MIN;

/// Raises the soft limit to the hard one and returns what is allowed now.
pub fn raise_open_files() -> Result<u64, StartError> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Not being allowed to raise it is no error by itself: what counts is the limit in force afterwards.
    let in_force = if setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    check_open_files(in_force.unwrap_or(u64::MAX))
}

/// Refuses a limit that a member would run into.
pub fn check_open_files(limit: u64) -> Result<u64, StartError> {
    if limit >= OPEN_FILES_MIN {
        return Ok(limit);
    }
    Err(StartError::new(
        Cause::OpenFiles,
        format!(
            "too few file descriptors: the limit is {limit}, a member needs {OPEN_FILES_MIN}. Raise it (ulimit -n \
             {OPEN_FILES_MIN}, or LimitNOFILE= of the service)"
        ),
    ))
}
