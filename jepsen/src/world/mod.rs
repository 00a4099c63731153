//! Where workloads, faults and checkers meet a cluster: a simulated one (`sim`), or real processes.

pub mod messages;
pub mod process;
pub mod sim;
