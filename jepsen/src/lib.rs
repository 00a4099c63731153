//! The judge: the same workloads, faults and checkers in two worlds, a simulated one and a real one.
//!
//! ```text
//!   workload/ asks   ->  world/{sim, process}  ->  history  ->  checkers/  ->  report
//!   nemesis/ breaks  ->  world/{sim, process}
//! ```
//! The checkers share no code with what they judge: they know etcd's rules from `model/`, which is written
//! against the specification, and nothing of `kv` or `raft-node`.

pub mod campaign;
pub mod checkers;
pub mod commands;
pub mod expectations;
pub mod full;
pub mod history;
pub mod judge_file;
pub mod model;
pub mod report;
pub mod results;
pub mod rng;
pub mod scenarios;
pub mod seeded;
pub mod tally;
pub mod workload;
pub mod world;
