//! The proof of the checkers: right histories pass, broken ones are found and called by their name.
//!
//! Not here: whether the product is right; nothing of it runs.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod brute;
mod corpus;
mod cycles;
mod drawing;
mod generate;
mod linearizable;
mod mutate;
mod mutations;
mod outcomes;
mod random;
mod revision;
mod workloads;
