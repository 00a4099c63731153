//! Eight scenarios with real processes, as anybody would run them.
//!
//! Not here: the forty (`jepsen process run --set full`) and how long failovers take (`jepsen process failover`).

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

use std::{path::PathBuf, process::Command};

fn jepsen() -> PathBuf {
    env!("CARGO_BIN_EXE_jepsen").into()
}

#[test]
fn the_short_set_finds_nothing() {
    let dipper = jepsen().with_file_name("dipper");
    if !dipper.exists() {
        println!(
            "skipped: there is no {}; it is built with the workspace",
            dipper.display()
        );
        return;
    }
    let status = Command::new(jepsen())
        .args(["process", "run", "--set", "short"])
        .status()
        .unwrap();
    assert!(status.success(), "see above");
}
