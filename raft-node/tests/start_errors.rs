//! Every refusal to start: its exact text, and that the README's runbook has a line for it.
//!
//! A new cause without a case here, or without a line there, fails the last test.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use raft_node::config::{ClusterState, Config, Parsed};
use raft_node::data_dir::{DataDir, Expected};
use raft_node::error::{Cause, StartError};
use raft_node::ids::{ClusterId, MemberId};
use raft_node::open_files::check_open_files;

/// Command line (and `ETCD_*` variables, first), then what is printed.
const COMMAND_LINES: &[(&str, &str)] = &[
    ("--bogus", "unexpected argument '--bogus' See 'dipper --help'."),
    (
        "-nam=x",
        "unexpected argument '--nam', did you mean '--name'? See 'dipper --help'.",
    ),
    ("member", "unexpected argument 'member' See 'dipper --help'."),
    (
        "--name=a --data-dir",
        "flag needs an argument: --data-dir. See 'dipper --help'.",
    ),
    (
        "--heartbeat-interval=zz",
        r#"invalid value "zz" for --heartbeat-interval: a whole number is needed"#,
    ),
    (
        "ETCD_HEARTBEAT_INTERVAL=zz",
        r#"invalid value "zz" for ETCD_HEARTBEAT_INTERVAL: a whole number is needed"#,
    ),
    (
        "--max-txn-ops=99999999999999999999",
        r#"invalid value "99999999999999999999" for --max-txn-ops: value out of range"#,
    ),
    (
        "--quota-backend-bytes=2G",
        r#"invalid value "2G" for --quota-backend-bytes: a whole number is needed, negative or not"#,
    ),
    (
        "--initial-cluster-state=old",
        r#"invalid value "old" for --initial-cluster-state: 'new' or 'existing' is needed"#,
    ),
    (
        "--log-level=loud",
        r#"invalid value "loud" for --log-level: debug, info, warn, error, panic or fatal is needed"#,
    ),
    (
        "--logger=capnslog",
        r#"invalid value "capnslog" for --logger: only 'zap' is served"#,
    ),
    (
        "--log-outputs=/var/log/x",
        r#"invalid value "/var/log/x" for --log-outputs: default, stderr or stdout is needed"#,
    ),
    (
        "--listen-peer-urls=",
        r#"invalid value "" for --listen-peer-urls: at least one URL is needed"#,
    ),
    (
        "--initial-cluster=default",
        r#"invalid value "default" for --initial-cluster: "default" is not of the form name=url"#,
    ),
    (
        "--auto-compaction-retention=soon",
        r#"invalid value "soon" for --auto-compaction-retention: a duration such as 10m, 1h30m or 500ms is needed"#,
    ),
    (
        "ETCD_NAME=a --name=a",
        "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding command-line flag (either unset \
         environment variable or disable flag): ETCD_NAME and --name are both given",
    ),
    (
        "--listen-peer-urls=127.0.0.1:1",
        r#"invalid URL in --listen-peer-urls: "127.0.0.1:1": http://host:port is needed"#,
    ),
    (
        "--listen-peer-urls=ftp://h:1",
        r#"invalid URL in --listen-peer-urls: "ftp://h:1": URL scheme must be http"#,
    ),
    (
        "ETCD_LISTEN_PEER_URLS=http://127.0.0.1",
        r#"invalid URL in ETCD_LISTEN_PEER_URLS: "http://127.0.0.1": URL address does not have the form "host:port""#,
    ),
    (
        "--listen-peer-urls=http://127.0.0.1:1/x",
        r#"invalid URL in --listen-peer-urls: "http://127.0.0.1:1/x": URL must not contain a path"#,
    ),
    (
        "--listen-peer-urls=http://u@127.0.0.1:1",
        r#"invalid URL in --listen-peer-urls: "http://u@127.0.0.1:1": only host and port are allowed"#,
    ),
    (
        "--listen-peer-urls=http://127.0.0.1:x",
        r#"invalid URL in --listen-peer-urls: "http://127.0.0.1:x": the port is not a number"#,
    ),
    (
        "--listen-peer-urls=http://127.0.0.1:65536",
        r#"invalid URL in --listen-peer-urls: "http://127.0.0.1:65536": the port is above 65535"#,
    ),
    (
        "--listen-peer-urls=http://::1:7",
        r#"invalid URL in --listen-peer-urls: "http://::1:7": an IPv6 address needs brackets, as in http://[::1]:2379"#,
    ),
    (
        "--advertise-client-urls=http://:7",
        r#"invalid URL in --advertise-client-urls: "http://:7": unexpected empty host"#,
    ),
    (
        "--listen-peer-urls=https://127.0.0.1:1",
        "TLS is not served yet: use http:// for https://127.0.0.1:1 in --listen-peer-urls",
    ),
    (
        "--listen-peer-urls=unix://a:1",
        "unix sockets are not served yet: use http:// for unix://a:1 in --listen-peer-urls",
    ),
    (
        "--listen-peer-urls=http://foo.bar:1",
        "expected IP in URL for binding (http://foo.bar:1) in --listen-peer-urls",
    ),
    (
        "--advertise-client-urls=http://a:0",
        "port 0 cannot be advertised: http://a:0 in --advertise-client-urls; others need the real port",
    ),
    (
        "--listen-client-urls=http://127.0.0.1:1",
        "--advertise-client-urls is required when --listen-client-urls is set explicitly: clients are told these URLs, \
         and dipper cannot guess which of its addresses they can reach",
    ),
    (
        "--name=a=b",
        r#""a=b" cannot be a member's name (--name): it must not be empty nor have ',' or '=' in it"#,
    ),
    (
        "--name=zz --initial-cluster=a=http://localhost:2380,b=http://localhost:2381",
        "couldn't find local name \"zz\" in the initial cluster configuration (--name, --initial-cluster has: a, b)",
    ),
    (
        "--initial-advertise-peer-urls=http://127.0.0.1:7 --initial-cluster=default=http://localhost:2380",
        "--initial-cluster has default=http://localhost:2380 but missing from \
         --initial-advertise-peer-urls=http://127.0.0.1:7",
    ),
    (
        "--initial-cluster=default=http://localhost:2380,b=http://localhost:2380",
        "--initial-cluster has duplicate url http://localhost:2380: each member needs its own",
    ),
    (
        "--election-timeout=149",
        "--election-timeout[149ms] should be at least as 5 times as --heartbeat-interval[30ms]",
    ),
    (
        "--election-timeout=50001",
        "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
    ),
    (
        "--heartbeat-interval=0",
        "--heartbeat-interval[0ms] is shorter than one tick (10ms)",
    ),
    (
        "--snapshot-count=0",
        "--snapshot-count[0] is out of bounds: from 1 to 100000000 is allowed",
    ),
    (
        "--max-txn-ops=0",
        "--max-txn-ops[0] is out of bounds: from 1 to 1048576 is allowed",
    ),
    (
        "--max-request-bytes=536870913",
        "--max-request-bytes[536870913] is out of bounds: from 1 to 536870912 is allowed",
    ),
    (
        "--watch-progress-notify-interval=99ms",
        "--watch-progress-notify-interval[99ms] is out of bounds: 100ms is the least",
    ),
    (
        "--auto-compaction-mode=revision",
        "--auto-compaction-mode: only periodic exists yet, not 'revision'",
    ),
    (
        "--data-dir=/d --wal-dir=/d/wal",
        "--wal-dir /d/wal must be a directory apart from --data-dir /d, not within or around it",
    ),
];

fn parse(line: &str) -> Result<Parsed, StartError> {
    let (env, args): (Vec<&str>, Vec<&str>) = line.split(' ').partition(|word| word.starts_with("ETCD_"));
    let env = env.into_iter().map(|pair| {
        let (name, value) = pair.split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    });
    Config::parse(args.into_iter().map(Into::into), env)
}

fn expected() -> Expected {
    Expected {
        cluster: ClusterId(0xc1),
        member: MemberId(0xa1),
        state: ClusterState::New,
    }
}

fn open(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(), StartError> {
    DataDir::open(data_dir, wal_dir, expected()).map(drop)
}

// A directory of a member that has begun.
fn made(data_dir: &Path, wal_dir: Option<&Path>) {
    let (mut dir, _lock) = DataDir::open(data_dir, wal_dir, expected()).unwrap();
    dir.begin().unwrap();
}

type DirectoryCase = (&'static str, fn(&Path) -> StartError, &'static str);

/// What is done in an empty directory `D`, then what is printed.
const DIRECTORIES: &[DirectoryCase] = &[
    (
        "joining",
        |d| {
            let expected = Expected {
                state: ClusterState::Existing,
                ..expected()
            };
            DataDir::open(&d.join("a"), None, expected).unwrap_err()
        },
        "joining a running cluster is not served yet: --initial-cluster-state is 'existing' and D/a holds no member. A \
         member that was here before needs its old directory (--data-dir)",
    ),
    (
        "mode",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            fs::set_permissions(d.join("a"), fs::Permissions::from_mode(0o775)).unwrap();
            open(&d.join("a"), None).unwrap_err()
        },
        "data directory D/a can be written by others: its mode is 0775. Run: chmod 700 D/a",
    ),
    (
        "in use",
        |d| {
            let _first = DataDir::open(&d.join("a"), None, expected()).unwrap();
            open(&d.join("a"), None).unwrap_err()
        },
        "data directory D/a is in use by another process: its LOCK is held",
    ),
    (
        "foreign",
        |d| {
            fs::create_dir_all(d.join("a/member")).unwrap();
            fs::set_permissions(d.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
            open(&d.join("a"), None).unwrap_err()
        },
        "D/a is not a data directory of dipper: it has no FORMAT, but \"member\" in it. Give an empty or a new directory \
         (--data-dir, --wal-dir)",
    ),
    (
        "FORMAT gone",
        |d| {
            made(&d.join("a"), None);
            fs::write(d.join("a/raft/MARK"), "x").unwrap();
            fs::remove_file(d.join("a/FORMAT")).unwrap();
            open(&d.join("a"), None).unwrap_err()
        },
        "D/a is not a data directory of dipper: it has no FORMAT, but \"raft\" in it. Give an empty or a new directory \
         (--data-dir, --wal-dir)",
    ),
    (
        "newer",
        |d| {
            made(&d.join("a"), None);
            fs::write(d.join("a/FORMAT"), "dipper data directory\nformat: 2\nwho: knows\n").unwrap();
            open(&d.join("a"), None).unwrap_err()
        },
        "D/a/FORMAT: written by a newer dipper (format 2); this build reads up to 1. Start the newer version again",
    ),
    (
        "other member",
        |d| {
            made(&d.join("a"), None);
            let other = Expected {
                member: MemberId(0xa2),
                ..expected()
            };
            DataDir::open(&d.join("a"), None, other).unwrap_err()
        },
        "data directory D/a belongs to another member: it was made for member a1 of cluster c1, the flags say member a2 \
         of cluster c1. Look at --data-dir, --name, --initial-cluster and --initial-cluster-token",
    ),
    (
        "log moved away",
        |d| {
            made(&d.join("a"), Some(&d.join("w")));
            open(&d.join("a"), None).unwrap_err()
        },
        "data directory D/a keeps its log elsewhere: it was made with --wal-dir, which is not given now",
    ),
    (
        "log moved in",
        |d| {
            made(&d.join("a"), None);
            open(&d.join("a"), Some(&d.join("w"))).unwrap_err()
        },
        "data directory D/a keeps its log elsewhere: it was made without --wal-dir, which is given now",
    ),
    (
        "orphaned log",
        |d| {
            made(&d.join("a"), Some(&d.join("w")));
            fs::write(d.join("w/raft/MARK"), "x").unwrap();
            open(&d.join("b"), Some(&d.join("w"))).unwrap_err()
        },
        "--wal-dir D/w holds the log of a member whose data directory is gone: --data-dir D/b is new. Give its old data \
         directory, or another --wal-dir",
    ),
    (
        "links that overlap",
        |d| {
            fs::create_dir(d.join("a")).unwrap();
            fs::set_permissions(d.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::symlink(d.join("a"), d.join("w")).unwrap();
            open(&d.join("a"), Some(&d.join("w"))).unwrap_err()
        },
        "--wal-dir D/a must be a directory apart from --data-dir D/a, not within or around it",
    ),
    (
        "damaged FORMAT",
        |d| {
            made(&d.join("a"), None);
            let text = fs::read_to_string(d.join("a/FORMAT"))
                .unwrap()
                .replace("member: a1", "member: a3");
            fs::write(d.join("a/FORMAT"), text).unwrap();
            open(&d.join("a"), None).unwrap_err()
        },
        "D/a/FORMAT is damaged: its checksum is wrong. This member cannot tell who it is; bring the file back from a \
         copy, or replace the member",
    ),
    (
        "empty FORMAT",
        |d| {
            made(&d.join("a"), None);
            fs::write(d.join("a/FORMAT"), "").unwrap();
            open(&d.join("a"), None).unwrap_err()
        },
        "D/a/FORMAT is damaged: its first two lines are not those of a FORMAT. This member cannot tell who it is; bring \
         the file back from a copy, or replace the member",
    ),
    (
        "PEERS gone",
        |d| {
            made(&d.join("a"), None);
            fs::remove_file(d.join("a/PEERS")).unwrap();
            open(&d.join("a"), None).unwrap_err()
        },
        "data directory D/a has lost PEERS; bring it back from a copy, or replace the member",
    ),
    (
        "log gone",
        |d| {
            made(&d.join("a"), None);
            fs::remove_dir_all(d.join("a/raft")).unwrap();
            open(&d.join("a"), None).unwrap_err()
        },
        "data directory D/a has lost D/a/raft: what this member acknowledged was there. Bring it back, or replace the \
         member",
    ),
    (
        "a file in the way",
        |d| {
            fs::write(d.join("f"), "").unwrap();
            open(&d.join("f/a"), None).unwrap_err()
        },
        "cannot use D/f/a: looking at it: Not a directory (os error 20)",
    ),
];

/// Refusals that are found on the way to serving, by their constructors.
fn others() -> Vec<(StartError, &'static str)> {
    let in_use = io::Error::from_raw_os_error(98);
    vec![
        (
            check_open_files(256).unwrap_err(),
            "too few file descriptors: the limit is 256, a member needs 1024. Raise it (ulimit -n 1024, or LimitNOFILE= \
             of the service)",
        ),
        (
            StartError::damaged_log(Path::new("D/raft/MARK"), "entry 7 is not there"),
            "the log is damaged: D/raft/MARK: entry 7 is not there. This member cannot vouch for what it acknowledged; \
             keep a copy of the directory, then replace the member",
        ),
        (
            StartError::amnesia(MemberId(0xa1), "http://127.0.0.1:2380"),
            "member a1 was in this cluster before with another data directory (says http://127.0.0.1:2380); it may have \
             voted and acknowledged writes that it no longer has. Bring the old directory back (--data-dir, --wal-dir), \
             or replace the member under a new identity",
        ),
        (
            StartError::cannot_listen("listen-client-urls", "http://127.0.0.1:2379", &in_use),
            "cannot listen on http://127.0.0.1:2379 (--listen-client-urls): Address already in use (os error 98)",
        ),
    ]
}

// Every case: a name, the refusal, and the text that it should have.
fn all_cases() -> Vec<(String, StartError, String)> {
    let mut cases = Vec::new();
    for (line, text) in COMMAND_LINES {
        let refusal = parse(line).err().unwrap_or_else(|| panic!("not refused: {line}"));
        cases.push(((*line).to_owned(), refusal, (*text).to_owned()));
    }
    for (name, refused, text) in DIRECTORIES {
        let dir = tempfile::tempdir().unwrap();
        let refusal = refused(dir.path());
        let text = text.replace("D/", &format!("{}/", dir.path().display()));
        cases.push(((*name).to_owned(), refusal, text));
    }
    cases.extend(
        others()
            .into_iter()
            .map(|(refusal, text)| (text.to_owned(), refusal, text.to_owned())),
    );
    cases
}

#[test]
fn every_refusal_has_its_text() {
    let mut wrong = Vec::new();
    for (name, refusal, text) in all_cases() {
        if refusal.to_string() != text {
            wrong.push(format!("{name}\n  prints: {refusal}\n  not:    {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_an_unreadable_command_line_ends_with_2() {
    for (name, refusal, _) in all_cases() {
        let unreadable = matches!(refusal.cause(), Cause::UnknownArgument | Cause::MissingValue);
        assert_eq!(refusal.exit_code(), if unreadable { 2 } else { 1 }, "{name}");
    }
}

#[test]
fn every_cause_has_a_case_and_a_line_in_the_runbook() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let cases = all_cases();
    for cause in Cause::ALL {
        let case = cases.iter().find(|(_, refusal, _)| refusal.cause() == *cause);
        let (_, refusal, _) = case.unwrap_or_else(|| panic!("no case provokes {cause:?}"));
        assert!(refusal.to_string().contains(cause.phrase()), "{cause:?}: {refusal}");
        assert!(
            readme.contains(cause.phrase()),
            "the README has no line for {cause:?}: {}",
            cause.phrase()
        );
    }
}
