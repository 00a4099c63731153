//! The shape of the tree, as an ordinary test: the invariants of the architecture's section 5, the size
//! budgets, and that every error a client can see is provoked by some test.
//!
//! Here the tree is read and the findings are printed; `rules` decides, `source` reads Rust. Not here: format
//! and lints (rustfmt, clippy), licences and advisories (`licences.rs`).

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod rules;
mod source;

use serde_json::Value;
use source::{Source, is_test};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rows of the error table that no test provokes yet, with the capability that they wait for. A row that a test
/// does provoke must leave the list.
const PENDING: &[(&str, &str)] = &[
    ("MemberExist", "membership change"),
    ("PeerURLExist", "membership change"),
    ("MemberNotEnoughStarted", "membership change"),
    ("MemberBadURLs", "membership change"),
    ("MemberNotFound", "membership change"),
    ("MemberNotLearner", "membership change: learners"),
    ("LearnerNotReady", "membership change: learners"),
    ("TooManyLearners", "membership change: learners"),
    ("NotSupportedForLearner", "membership change: learners"),
    ("Unhealthy", "membership change: strict reconfiguration check"),
    (
        "ClusterIDMismatch",
        "etcd's peer protocol, which peers of ours do not speak",
    ),
    ("RootUserNotExist", "auth"),
    ("RootRoleNotExist", "auth"),
    ("UserAlreadyExist", "auth"),
    ("UserEmpty", "auth"),
    ("UserNotFound", "auth"),
    ("RoleAlreadyExist", "auth"),
    ("RoleNotFound", "auth"),
    ("RoleEmpty", "auth"),
    ("AuthFailed", "auth"),
    ("PermissionNotGiven", "auth"),
    ("PermissionDenied", "auth"),
    ("RoleNotGranted", "auth"),
    ("PermissionNotGranted", "auth"),
    ("AuthNotEnabled", "auth"),
    ("InvalidAuthToken", "auth"),
    ("InvalidAuthMgmt", "auth"),
    ("AuthOldRevision", "auth"),
    ("NotCapable", "downgrade: cluster versions that differ"),
    ("WrongDowngradeVersionFormat", "downgrade"),
    ("InvalidDowngradeTargetVersion", "downgrade"),
    ("ClusterVersionUnavailable", "downgrade"),
    ("DowngradeInProcess", "downgrade"),
    ("NoInflightDowngrade", "downgrade"),
    (
        "WatchCanceled",
        "none: only etcd's Go client makes it, when its own context ends",
    ),
    ("Canceled", "none: a client that has canceled hears nothing any more"),
    (
        "DeadlineExceeded",
        "none: gRPC itself ends a call at its client's deadline, on both sides",
    ),
];

/// Which crates of the tree a crate may depend on, tests aside.
const ARROWS: &[(&str, &[&str])] = &[
    ("dipper-proto", &[]),
    ("dipper-kv", &["dipper-proto"]),
    ("dipper-raft-node", &["dipper-proto", "dipper-kv"]),
    ("dipper-client", &["dipper-proto"]),
    (
        "dipper-jepsen",
        &["dipper-proto", "dipper-kv", "dipper-raft-node", "dipper-client"],
    ),
];

fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    PathBuf::from(here)
        .parent()
        .expect("the workspace is one up")
        .to_owned()
}

/// Every text file that is tracked or would be, by its path in the tree.
fn tree() -> BTreeMap<String, String> {
    let root = root();
    let git = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard", "-z"])
        .current_dir(&root)
        .output();
    let paths = match git {
        Ok(output) if output.status.success() => {
            let listed = String::from_utf8(output.stdout).expect("paths of this tree are UTF-8");
            listed.split_terminator('\0').map(str::to_owned).collect()
        }
        // An unpacked archive.
        _ => walk(&root, &root),
    };
    let text = |path: String| Some((path.clone(), std::fs::read_to_string(root.join(&path)).ok()?));
    let tree: BTreeMap<_, _> = paths.into_iter().filter_map(text).collect();
    assert!(
        tree.contains_key("Cargo.toml") && tree.len() > 20,
        "{} is not the tree",
        root.display()
    );
    tree
}

fn walk(root: &Path, directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory)
        .expect("the tree can be read")
        .filter_map(Result::ok);
    let mut paths = Vec::new();
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && name != ".git" {
            paths.extend(walk(root, &path));
        } else if path.is_file() {
            let relative = path.strip_prefix(root).expect("it was found under it");
            paths.push(relative.to_string_lossy().into_owned());
        }
    }
    paths
}

fn ends_in(path: &str, wanted: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == wanted)
}

fn rust_files() -> Vec<Source> {
    let is_rust = |path: &str| Path::new(path).extension().is_some_and(|extension| extension == "rs");
    tree()
        .iter()
        .filter(|(path, _)| is_rust(path))
        .map(|(path, text)| Source::new(path, text))
        .collect()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(root())
        .output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

#[track_caller]
fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "{} to tidy up:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_rust_file_keeps_the_rules() {
    let broken: Vec<_> = rust_files().iter().flat_map(rules::broken_by).collect();
    assert_none(&broken);
}

#[test]
fn every_other_file_keeps_the_rules() {
    let mut broken = Vec::new();
    for (path, text) in tree() {
        broken.extend(rules::machine_facts(&path, &text));
        if ends_in(&path, "proto") {
            broken.extend(rules::proto_maps(&path, &text));
        }
    }
    assert_none(&broken);
}

#[test]
fn a_put_crosses_seven_files() {
    let paths: Vec<_> = tree().into_keys().collect();
    assert_none(&rules::missing_of_seven(&paths));
}

#[test]
fn crates_depend_in_one_direction_and_share_the_lints() {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).expect("JSON");
    let mut broken = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let arrows = ARROWS.iter().find(|(from, _)| *from == name);
        let (_, allowed) = arrows.unwrap_or_else(|| panic!("{name} is no crate of the architecture"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            let is_normal = dependency["kind"].is_null();
            if is_normal && to.starts_with("dipper-") && !allowed.contains(&to) {
                broken.push(format!("{name} -> {to} is no arrow of the architecture"));
            }
        }
        let manifest = package["manifest_path"].as_str().expect("a path");
        let manifest = std::fs::read_to_string(manifest).expect("cargo has just read it");
        if !manifest.contains("[lints]\nworkspace = true") {
            broken.push(format!("{name}: Cargo.toml does not take the workspace's lints"));
        }
    }
    assert_none(&broken);
}

#[test]
fn the_state_machine_never_sees_tonic_or_tokio() {
    let listed = cargo(&["tree", "-p", "dipper-kv", "-e", "normal", "--prefix", "none"]);
    assert!(listed.contains("dipper-proto") && listed.contains("prost"), "{listed}");
    for name in ["tonic", "tonic-prost", "tokio", "hyper", "slog", "rand"] {
        let seen = listed.lines().any(|line| line.split(' ').next() == Some(name));
        assert!(!seen, "kv depends on {name}:\n{listed}");
    }
}

#[test]
fn every_error_is_provoked_or_waits_for_something() {
    let tests: String = tree()
        .iter()
        // The table of pending rows would provoke them all, the table of errors itself is no test, and the
        // fake member of http's tests can claim any error.
        .filter(|(path, _)| {
            !path.starts_with("raft-node/tests/tidy/")
                && *path != "proto/src/error.rs"
                && !path.starts_with("raft-node/src/http/")
        })
        .map(|(path, text)| {
            if ends_in(path, "rs") && !is_test(path) {
                Source::new(path, text).test_text()
            } else {
                test_script(path, text)
            }
        })
        .collect();
    let mut broken = Vec::new();
    for error in proto::Error::TABLE {
        let name = error.name();
        let waits_for = PENDING
            .iter()
            .find(|(pending, _)| *pending == name)
            .map(|(_, capability)| *capability);
        match (rules::is_provoked(name, error.text(), &tests), waits_for) {
            (false, None) => broken.push(format!("{name}: no test provokes \"{}\"", error.text())),
            (true, Some(capability)) => broken.push(format!(
                "{name} is provoked; it does not wait for {capability} any more"
            )),
            _ => {}
        }
    }
    for (name, _) in PENDING {
        if !proto::Error::TABLE.iter().any(|error| error.name() == *name) {
            broken.push(format!("{name} is no row of the table"));
        }
    }
    assert_none(&broken);
}

/// Tests, scripts and transcripts of theirs; nothing of what is only read by people.
fn test_script(path: &str, text: &str) -> String {
    if is_test(path) {
        format!("{text}\n")
    } else {
        String::new()
    }
}
