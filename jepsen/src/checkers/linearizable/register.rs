//! A register with reads, writes and compare-and-set: the machine of the classic Jepsen histories.
//!
//! Not here: keys; a register is one.

use super::Model;

/// One operation with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterOperation {
    /// And what was read.
    Read(Option<u32>),
    Write(u32),
    /// From, to, and whether it succeeded; None: not known, so it does what it can.
    CompareAndSet(u32, u32, Option<bool>),
}

/// Without a value at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

impl Model for Register {
    type Operation = RegisterOperation;
    type State = Option<u32>;

    fn initial(&self) -> Option<u32> {
        None
    }

    fn step(&self, state: &Option<u32>, operation: &RegisterOperation) -> Option<Option<u32>> {
        match *operation {
            RegisterOperation::Read(value) => (value == *state).then_some(*state),
            RegisterOperation::Write(value) => Some(Some(value)),
            RegisterOperation::CompareAndSet(from, to, succeeded) => {
                let holds = *state == Some(from);
                let is_possible = succeeded.is_none_or(|succeeded| succeeded == holds);
                is_possible.then_some(if holds { Some(to) } else { *state })
            }
        }
    }
}
