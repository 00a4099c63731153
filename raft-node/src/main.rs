//! The binary `dipper`: one member.
fn main() {}
