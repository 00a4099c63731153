//! What people read: a counter-example made small (`shrink`) and drawn (`timeline`).
//!
//! ```text
//!   history, anomaly  ->  shrink  ->  the few operations that show it  ->  timeline  ->  one HTML page, one text
//! ```
//! Not here: what is an anomaly (`checkers/`).

pub mod shrink;
pub mod timeline;
