//! The rules, each a function from the tree to what breaks it: `path:line: what, and why that matters`.
//!
//! Mostly absences (architecture, section 5). Each rule is shown to fail on a small bad tree at the end of
//! this file: a rule that cannot fail guards nothing.

use crate::source::{Source, Word, functions, words};

/// Most lines of a file, tests not counted.
pub const FILE_LINES_MAX: usize = 500;
/// Most lines of a function, tests not counted.
pub const FUNCTION_LINES_MAX: usize = 70;

/// What would make the pure core (the Store and the Replica) something else than a function of its input.
const IMPURE: &[(&str, &[&str])] = &[
    ("a clock", &["Instant", "SystemTime", "UNIX_EPOCH", "chrono"]),
    (
        "randomness",
        &["rand", "getrandom", "fastrand", "thread_rng", "RandomState"],
    ),
    ("an order that changes from run to run", &["HashMap", "HashSet"]),
    ("a thread", &["thread", "spawn", "rayon", "crossbeam"]),
    (
        "a lock",
        &[
            "Mutex",
            "RwLock",
            "Condvar",
            "OnceLock",
            "LazyLock",
            "ArcSwap",
            "parking_lot",
        ],
    ),
    ("async", &["async", "await", "tokio", "futures", "Waker"]),
    ("a logger", &["slog", "tracing"]),
    (
        "a metric",
        &["prometheus", "metrics", "Histogram", "AtomicU64", "AtomicUsize"],
    ),
];

/// Macros that write log lines; as plain words (`info`, `error`) they may mean something else.
const LOG_MACROS: &[&str] = &[
    "println", "eprintln", "print", "eprint", "dbg", "info", "warn", "error", "debug", "trace", "crit",
];

/// Files inside the pure core that may use one kind of the above, and why.
const PURE_EXCEPTIONS: &[(&str, &[&str], &str)] = &[
    (
        "kv/src/engine/rocks",
        &["a lock", "a thread", "a metric", "a clock"],
        "RocksDB is the edge of the state machine",
    ),
    (
        "kv/src/shared",
        &["a lock"],
        "the short lock around ring and fences that Views share with the writer",
    ),
    (
        "kv/src/mutants",
        &["a lock"],
        "reads the name of a seeded break once, in test builds only",
    ),
    (
        "kv/src/engine/memory",
        &["a lock"],
        "one tree behind handles, so that a simulator can crash and reopen it",
    ),
    (
        "raft-node/src/replica/replica.rs",
        &["a logger"],
        "RawNode::new wants one for raft-rs's own lines; it is handed in",
    ),
];

/// Who may name a crate that decides how everything around it looks: the crate, and where its name may stand.
const NAMED_BY: &[(&str, &[&str])] = &[
    // The simulator's disk holds entries, and its judge reads what members promise each other.
    (
        "raft",
        &["raft-node/src/replica", "raft-node/src/log", "jepsen/src/world/sim"],
    ),
    (
        "protobuf",
        &["raft-node/src/replica", "raft-node/src/log", "jepsen/src/world/sim"],
    ),
    ("rocksdb", &["raft-node/src/log/rocks", "kv/src/engine/rocks"]),
    (
        "tonic",
        &[
            "raft-node/src/grpc",
            "raft-node/src/http",
            "raft-node/src/peer",
            "raft-node/src/tls.rs",
            "client/src",
            "proto/src/lib.rs",
            "proto/src/codec.rs",
            "jepsen/src/world/process/watcher.rs",
        ],
    ),
];

/// Who decides what is right, with what that stands on: an error that it shared with the judged, both would make.
const JUDGES: &[&str] = &[
    "jepsen/src/checkers/",
    "jepsen/src/model/",
    "jepsen/src/history.rs",
    "jepsen/src/expectations.rs",
];

/// The crates of the judged, by the names that they have in `use` and in Cargo.toml.
const JUDGED: &[&str] = &[
    "kv",
    "raft_node",
    "proto",
    "client",
    "dipper_kv",
    "dipper_raft_node",
    "dipper_proto",
    "dipper_client",
];

/// A Put's way through a member; whoever debugs one reads these and no more.
const SEVEN_FILES_OF_A_PUT: [&str; 7] = [
    "raft-node/src/grpc/kv",
    "raft-node/src/driver",
    "raft-node/src/replica/replica",
    "raft-node/src/log/rocks",
    "raft-node/src/peer/outbound",
    "kv/src/store",
    "kv/src/engine/rocks",
];

/// Words that say nothing about what a type is for.
const EMPTY_NAMES: &[&str] = &[
    "Manager", "Helper", "Util", "Utils", "Impl", "Data", "Info", "Base", "Common",
];

/// Everything that code of this project must not do, file by file.
pub fn broken_by(source: &Source) -> Vec<String> {
    let rules = [
        is_pure,
        names_only_its_crates,
        judges_alone,
        has_an_essay,
        is_short,
        has_short_functions,
        does_not_unwrap,
        bounds_its_channels,
        has_telling_names,
        is_written_by_hand,
        is_safe,
    ];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn at(source: &Source, word: &Word, message: &str) -> String {
    format!("{}:{}: `{}`: {message}", source.path, word.line, word.text)
}

fn is_pure(source: &Source) -> Vec<String> {
    if !source.path.starts_with("kv/src/") && !source.path.starts_with("raft-node/src/replica/") {
        return Vec::new();
    }
    let excused = |kind: &str| {
        PURE_EXCEPTIONS
            .iter()
            .any(|(path, kinds, _)| source.path.starts_with(path) && kinds.contains(&kind))
    };
    let mut broken = Vec::new();
    for word in words(&source.shipped) {
        let kind = IMPURE
            .iter()
            .find(|(_, forbidden)| forbidden.contains(&word.text))
            .map(|(kind, _)| *kind);
        let logs = LOG_MACROS.contains(&word.text) && word.is_followed_by("!") && !word.is_followed_by("!=");
        if let Some(kind) = kind.or(logs.then_some("a log line"))
            && !excused(kind)
        {
            broken.push(at(
                source,
                &word,
                &format!("{kind} in the pure core; it is an input or belongs to the driver"),
            ));
        }
    }
    broken
}

fn names_only_its_crates(source: &Source) -> Vec<String> {
    if !source.path.contains("/src/") {
        return Vec::new();
    }
    let mut broken = Vec::new();
    for word in words(&source.shipped) {
        // A crate's name stands first in a path: `raft::x`, but neither `driver::raft::x` nor `self.raft`.
        let names_a_crate = word.is_followed_by("::") && !word.is_preceded_by("::");
        let allowed = NAMED_BY.iter().find(|(name, _)| *name == word.text && names_a_crate);
        if let Some((name, paths)) = allowed
            && !paths.iter().any(|path| source.path.starts_with(path))
        {
            broken.push(at(source, &word, &format!("only {} may name {name}", paths.join(", "))));
        }
    }
    broken
}

fn judges_alone(source: &Source) -> Vec<String> {
    if !JUDGES.iter().any(|path| source.path.starts_with(path)) {
        return Vec::new();
    }
    let shared = words(&source.shipped).filter(|word| {
        // `kv` is a field as well: a crate stands first in a path, or alone behind `use`.
        let is_first = !word.is_preceded_by("::") || [" ::", "(::"].iter().any(|root| word.is_preceded_by(root));
        let is_used = ["use", "crate"].iter().any(|keyword| word.is_preceded_by(keyword));
        let is_crate = JUDGED.contains(&word.text) && (is_used || (is_first && word.is_followed_by("::")));
        // The simulator and the clients are made of those crates.
        let is_world = word.text == "world" && (word.is_preceded_by("::") || word.is_followed_by("::"));
        is_crate || is_world
    });
    shared
        .map(|word| at(source, &word, "the judge shares no code with the judged"))
        .collect()
}

fn has_an_essay(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!(
        "{}:1: begins without a `//!` essay: what is the file for, and what is it not?",
        source.path
    )]
}

fn is_short(source: &Source) -> Vec<String> {
    if source.shipped_lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!(
        "{}: {} lines without tests, {FILE_LINES_MAX} is the end",
        source.path, source.shipped_lines
    )]
}

fn has_short_functions(source: &Source) -> Vec<String> {
    let long = functions(&source.shipped)
        .into_iter()
        .filter(|(_, _, lines)| *lines > FUNCTION_LINES_MAX);
    long.map(|(name, line, lines)| {
        format!(
            "{}:{line}: fn {name}: {lines} lines, {FUNCTION_LINES_MAX} is the end",
            source.path
        )
    })
    .collect()
}

fn does_not_unwrap(source: &Source) -> Vec<String> {
    let unwraps = words(&source.shipped).filter(|word| {
        ["unwrap", "unwrap_err"].contains(&word.text) && word.is_preceded_by(".") && word.is_followed_by("(")
    });
    unwraps
        .map(|word| at(source, &word, "say why it cannot happen (`expect`), or handle it"))
        .collect()
}

fn bounds_its_channels(source: &Source) -> Vec<String> {
    let unbounded = words(&source.shipped).filter(|word| match word.text {
        "unbounded_channel" | "unbounded" | "UnboundedSender" | "UnboundedReceiver" => true,
        // Without an argument: std's mpsc. A oneshot holds one.
        "channel" => has_no_argument(word.rest()) && !word.is_preceded_by("oneshot::"),
        _ => false,
    });
    unbounded
        .map(|word| at(source, &word, "every queue has a bound, in limits.rs, with its reason"))
        .collect()
}

/// `()` or `::<T>()`.
fn has_no_argument(rest: &str) -> bool {
    let Some(open) = rest.find('(') else { return false };
    let before = rest[..open].trim();
    let is_call = before.is_empty() || (before.starts_with("::<") && before.ends_with('>'));
    is_call && rest[open + 1..].trim_start().starts_with(')')
}

fn has_telling_names(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    let stem = source
        .path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".rs");
    if ["util", "utils", "helper", "helpers", "common", "misc"].contains(&stem) {
        broken.push(format!("{}: a file is one idea and is called by it", source.path));
    }
    for name in words(&source.shipped) {
        let is_declared = ["struct", "enum", "trait"].iter().any(|kind| {
            let before = name.text.as_ptr() as usize - source.shipped.as_ptr() as usize;
            source.shipped[..before]
                .trim_end()
                .rsplit(|c: char| c.is_whitespace())
                .next()
                == Some(kind)
        });
        let starts_word = |at: usize| name.text[at..].starts_with(|letter: char| letter.is_ascii_uppercase());
        let ends_word = |at: usize| at == name.text.len() || starts_word(at);
        let empty = |part: &&&str| {
            name.text
                .match_indices(**part)
                .any(|(at, _)| ends_word(at + part.len()))
        };
        // The data directory is etcd's word, and a thing.
        let is_etcds = name.text.starts_with("DataDir");
        if is_declared
            && !is_etcds
            && let Some(part) = EMPTY_NAMES.iter().find(empty)
        {
            broken.push(at(
                source,
                &name,
                &format!("\"{part}\" says nothing about what it is for"),
            ));
        }
    }
    broken
}

fn is_written_by_hand(source: &Source) -> Vec<String> {
    // Spelled in two halves, or this file would break its own rule.
    let marks = [concat!("@gene", "rated"), concat!("DO NOT ", "EDIT")];
    let found = marks.iter().find(|mark| source.text.contains(**mark));
    found
        .map(|mark| format!("{}: \"{mark}\": what is generated stays in OUT_DIR", source.path))
        .into_iter()
        .collect()
}

fn is_safe(source: &Source) -> Vec<String> {
    let allowed_in = [
        "raft-node/src/log/rocks",
        "raft-node/src/allocator.rs",
        "kv/src/engine/rocks",
    ];
    if allowed_in.iter().any(|path| source.path.starts_with(path)) {
        return Vec::new();
    }
    let lifted =
        words(&source.code).filter(|word| ["unsafe", "unsafe_code", "await_holding_lock"].contains(&word.text));
    lifted
        .map(|word| at(source, &word, "no unsafe code, and no lock across an await"))
        .collect()
}

/// Messages that are replicated or sent are the same bytes everywhere: maps have no order.
pub fn proto_maps(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let maps = lines.filter(|(_, line)| {
        line.split("//")
            .next()
            .is_some_and(|code| code.replace(' ', "").contains("map<"))
    });
    maps.map(|(line, _)| format!("{path}:{}: a map field has no order", line + 1))
        .collect()
}

/// Which of the seven files are missing; `x.rs` may have become `x/mod.rs`.
pub fn missing_of_seven(paths: &[String]) -> Vec<String> {
    let has = |stem: &str| {
        paths
            .iter()
            .any(|path| *path == format!("{stem}.rs") || *path == format!("{stem}/mod.rs"))
    };
    SEVEN_FILES_OF_A_PUT
        .iter()
        .filter(|stem| !has(stem))
        .map(|stem| format!("{stem}.rs: one of the seven files of a Put"))
        .collect()
}

/// Directories and hosts of one machine have no place in a tree that others clone.
pub fn machine_facts(path: &str, text: &str) -> Vec<String> {
    let directories = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    let mut broken = Vec::new();
    for (line, content) in text.lines().enumerate() {
        let found = directories.iter().find(|directory| content.contains(**directory));
        broken.extend(found.map(|directory| format!("{path}:{}: {directory} exists on one machine", line + 1)));
        if is_build_file(path) {
            // A namespace looks like a URL and is only a name.
            let content = content.replace(concat!("xmlns=\"http", "://"), "");
            let strange = hosts(&content).find(|host| !is_known_host(host));
            broken.extend(strange.map(|host| format!("{path}:{}: {host} may not be reachable elsewhere", line + 1)));
        }
    }
    broken
}

fn is_build_file(path: &str) -> bool {
    path.starts_with(".ci/")
        || path.starts_with(".cargo/")
        || path.ends_with("Makefile")
        || [".toml", ".lock", ".sh"].iter().any(|end| path.ends_with(end))
}

fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.split("://").skip(1).map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.' && letter != '-');
        &rest[..end.unwrap_or(rest.len())]
    })
}

fn is_known_host(host: &str) -> bool {
    // An empty one is a variable of a script.
    [
        "",
        "localhost",
        "127.0.0.1",
        "0.0.0.0",
        "github.com",
        "crates.io",
        "sh.rustup.rs",
        "static.rust-lang.org",
        "etcd.io",
    ]
    .contains(&host)
}

/// Whether the error table's row is named, or spelled out, in what tests say.
pub fn is_provoked(name: &str, text: &str, tests: &str) -> bool {
    let named = format!("Error::{name}");
    let names = tests.match_indices(&named).any(|(at, _)| {
        !tests[at + named.len()..].starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '_')
    });
    // A text may be the beginning of another row's: it must end where it ends.
    let spelled = tests.match_indices(text).any(|(at, _)| {
        !tests[at + text.len()..]
            .starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == ',' || letter == ' ')
    });
    names || spelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn fails(path: &str, text: &str, with: &str) {
        let broken = broken_by(&Source::new(path, &format!("//! Essay.\n{text}")));
        assert!(
            broken.iter().any(|line| line.contains(with)),
            "{text} must break a rule with `{with}`, broke {broken:?}"
        );
    }

    #[track_caller]
    fn holds(path: &str, text: &str) {
        let broken = broken_by(&Source::new(path, &format!("//! Essay.\n{text}")));
        assert!(broken.is_empty(), "{text}: {broken:?}");
    }

    #[test]
    fn impurity_is_found() {
        fails("kv/src/store.rs", "use std::time::Instant;", "a clock");
        fails(
            "raft-node/src/replica/replica.rs",
            "let x = rand::random();",
            "randomness",
        );
        fails("kv/src/range.rs", "use std::collections::HashMap;", "an order");
        fails("kv/src/range.rs", "std::thread::sleep(x);", "a thread");
        fails("kv/src/view.rs", "m: Mutex<u8>", "a lock");
        fails("raft-node/src/replica/pending.rs", "async fn f() {}", "async");
        fails("kv/src/range.rs", "info!(log, \"x\");", "a log line");
        fails("kv/src/range.rs", "println!(\"x\");", "a log line");
        fails("kv/src/range.rs", "metrics::count();", "a metric");
        fails("kv/src/shared.rs", "use std::time::Instant;", "a clock");
        fails("kv/src/store.rs", "use slog::Logger;", "a logger");
        fails(
            "raft-node/src/replica/replica.rs",
            "info!(config.logger, \"x\");",
            "a log line",
        );
        holds("raft-node/src/replica/replica.rs", "use slog::Logger;");
        holds("kv/src/shared.rs", "m: RwLock<u8>");
        holds(
            "kv/src/store.rs",
            "// no Mutex, no thread\nlet x = \"HashMap\";\nuse std::time::Duration;\nif error != x {}",
        );
        holds("kv/src/store.rs", "#[cfg(test)]\nmod tests { use std::thread; }");
        holds("raft-node/src/driver.rs", "use std::time::Instant;");
        holds("kv/tests/properties.rs", "use std::collections::HashMap;");
    }

    #[test]
    fn strangers_to_a_crate_are_found() {
        fails("raft-node/src/driver.rs", "use raft::Ready;", "may name raft");
        fails(
            "raft-node/src/grpc/kv.rs",
            "let x: Vec<raft::eraftpb::Entry>;",
            "may name raft",
        );
        fails("raft-node/src/log/mod.rs", "rocksdb::DB::open()", "may name rocksdb");
        fails("kv/src/store.rs", "tonic::Status", "may name tonic");
        fails("raft-node/src/driver.rs", "use tonic::Status;", "may name tonic");
        holds("raft-node/src/replica/replica.rs", "use raft::RawNode;");
        holds("raft-node/src/log/rocks.rs", "use rocksdb::DB;");
        holds(
            "raft-node/src/driver.rs",
            "self.raft.turn(); crate::driver::raft::run(); raft_node::x();",
        );
    }

    #[test]
    fn a_judge_that_shares_code_with_the_judged_is_found() {
        let judges = [
            "jepsen/src/checkers/canonical.rs",
            "jepsen/src/model/execute.rs",
            "jepsen/src/history.rs",
            "jepsen/src/expectations.rs",
        ];
        for path in judges {
            fails(path, "use kv::Store;", "shares no code");
        }
        let path = judges[0];
        fails(path, "use dipper_kv::Store;", "shares no code");
        fails(path, "let x = ::raft_node::replica::f();", "shares no code");
        fails(path, "use proto::KeyRange;", "shares no code");
        fails(path, "use client as other;", "shares no code");
        fails(path, "extern crate kv;", "shares no code");
        fails(path, "f(raft_node::replica::f());", "shares no code");
        fails(path, "use crate::world::sim::run;", "shares no code");
        fails(path, "use crate::{history, world::sim::run};", "shares no code");
        holds(
            path,
            "// unlike kv::Store\nlet kv = event.kv.key; x::kv(kv); crate::history::client();",
        );
        holds("jepsen/src/world/sim/mod.rs", "use kv::Store;");
    }

    #[test]
    fn shapelessness_is_found() {
        assert!(
            !broken_by(&Source::new("kv/src/x.rs", "use a;\n")).is_empty(),
            "no essay"
        );
        fails(
            "kv/src/x.rs",
            &"let a = 1;\n".repeat(FILE_LINES_MAX),
            "lines without tests",
        );
        holds("kv/tests/x.rs", &"let a = 1;\n".repeat(FILE_LINES_MAX));
        holds(
            "kv/src/x.rs",
            &format!(
                "#[cfg(test)]\nmod tests {{\n{}}}\n",
                "let a = 1;\n".repeat(FILE_LINES_MAX)
            ),
        );
        fails(
            "kv/src/x.rs",
            &format!("fn long() {{\n{}}}\n", "a();\n".repeat(FUNCTION_LINES_MAX - 1)),
            "fn long",
        );
        holds(
            "kv/src/x.rs",
            &format!("fn short() {{\n{}}}\n", "a();\n".repeat(FUNCTION_LINES_MAX - 2)),
        );
        fails("client/src/x.rs", "struct LeaseManager;", "says nothing");
        fails("client/src/x.rs", "pub enum RangeData {}", "says nothing");
        fails("client/src/utils.rs", "", "one idea");
        holds(
            "client/src/x.rs",
            "struct Database; struct Information; fn data() -> PeerInfo {}",
        );
    }

    #[test]
    fn carelessness_is_found() {
        fails("client/src/x.rs", "x.unwrap();", "say why");
        fails("client/src/x.rs", "x\n    .unwrap_err()", "say why");
        holds(
            "client/src/x.rs",
            "x.unwrap_or_default(); // .unwrap()\n#[cfg(test)]\nfn t() { x.unwrap() }",
        );
        holds("client/tests/x.rs", "x.unwrap();");
        fails("client/src/x.rs", "let (a, b) = mpsc::unbounded_channel();", "a bound");
        fails("client/src/x.rs", "let (a, b) = std::sync::mpsc::channel();", "a bound");
        fails("client/src/x.rs", "let (a, b) = channel::<Vec<u8>>( );", "a bound");
        holds(
            "client/src/x.rs",
            "mpsc::channel(8); oneshot::channel(); oneshot::channel::<u8>(); watch::channel(0); self.channel.x()",
        );
        fails("client/src/x.rs", concat!("// @gene", "rated by prost"), "OUT_DIR");
        fails("client/src/x.rs", "#[allow(unsafe_code)]", "no unsafe code");
        fails(
            "client/src/x.rs",
            "#![allow(clippy::await_holding_lock)]",
            "across an await",
        );
        holds("kv/src/engine/rocks.rs", "#[allow(unsafe_code)]");
    }

    #[test]
    fn what_is_not_rust_is_looked_at_too() {
        assert_eq!(
            proto_maps("a.proto", "// map<a, b>\n  map <string, bytes> x = 1;\n").len(),
            1
        );
        let machine = machine_facts("README.md", concat!("see /ro", "ot/x\nand /rooted\n"));
        assert_eq!(machine.len(), 1, "{machine:?}");
        assert_eq!(
            machine_facts("Makefile", "curl https://registry.example.org/x http://localhost:1").len(),
            1
        );
        assert_eq!(machine_facts("README.md", "http://10.0.0.1:2379"), [""; 0]);
        let mut paths: Vec<String> = SEVEN_FILES_OF_A_PUT.iter().map(|stem| format!("{stem}.rs")).collect();
        assert_eq!(missing_of_seven(&paths), [""; 0]);
        paths[1] = "raft-node/src/driver/mod.rs".to_owned();
        assert_eq!(missing_of_seven(&paths), [""; 0]);
        paths.remove(6);
        assert_eq!(missing_of_seven(&paths).len(), 1);
    }

    #[test]
    fn a_row_counts_only_if_it_is_meant() {
        let text = "etcdserver: request timed out";
        assert!(is_provoked("Timeout", text, "== Err(Error::Timeout)"));
        assert!(is_provoked("Timeout", text, "\"etcdserver: request timed out\""));
        assert!(!is_provoked("Timeout", text, "Error::TimeoutDueToLeaderFail"));
        assert!(!is_provoked(
            "Timeout",
            text,
            "\"etcdserver: request timed out, possibly due to\""
        ));
    }
}
