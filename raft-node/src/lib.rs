//! A member of a Dipper cluster.
