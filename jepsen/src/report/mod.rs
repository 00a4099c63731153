//! What people read: a counter-example made small (`shrink`) and drawn (`timeline`), and the report on a whole run.
//!
//! ```text
//!   history, anomaly  ->  shrink  ->  the few operations that show it  ->  timeline  ->  one HTML page, one text
//!   results.jsonl  ->  targets, content, worlds, plot  ->  page, markdown  ->  report.html, report.md, failover.svg
//! ```
//! Not here: what is an anomaly (`checkers/`).

mod content;
pub mod entry;
mod markdown;
mod page;
mod plot;
pub mod shrink;
pub mod targets;
pub mod timeline;
mod worlds;
