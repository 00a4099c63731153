//! The one monotonic clock of a run, and the records that are written by it.
//!
//! Deliberately not here: any other clock. Clients, watchers and faults are compared by these times.

use std::time::Instant;

/// Nanoseconds since the run began; copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}
