//! The real world: binaries of Dipper or etcd as processes in network namespaces of their own, real disks or
//! our fault file system under them, and clients that write down what they see.
//!
//! ```text
//!   scenario   what is asked, what breaks, how long        fault      a fault: done, proven, undone
//!   cluster    the members and who leads                   load       clients and watchers -> history
//!   member     one process                                 network    namespaces, cuts, loss
//!   footprint  all that must be gone afterwards            faultfs/   a disk that breaks
//!   finale     the end, and what everybody holds then
//! ```
//! Needs root and Linux; where something is missing, a scenario says `skipped: why`. Not here: right and wrong
//! (`checkers`), and what is asked (`workload`).

pub mod client;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod delay;
pub mod entry;
pub mod evidence;
pub mod failover;
pub mod fault;
pub mod faultfs;
pub mod finale;
pub mod footprint;
pub mod load;
pub mod member;
pub mod memory;
pub mod network;
pub mod rot;
pub mod scenario;
pub mod sets;
pub mod small_disk;
pub mod steady;
pub mod wall_clock;
pub mod watcher;
pub mod writers;
