//! Flags and variables as etcd reads them: defaults, both spellings, precedence, notes.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use raft_node::config::{ClusterState, Config, LogNote, LogOutput, Parsed, Url};

fn parse(args: &[&str], env: &[(&str, &str)]) -> (Config, Vec<LogNote>) {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    match Config::parse(args.iter().map(Into::into), env).unwrap() {
        Parsed::Run { config, notes } => (*config, notes),
        other => panic!("not a run: {other:?}"),
    }
}

fn texts(urls: &[Url]) -> Vec<&str> {
    urls.iter().map(Url::as_str).collect()
}

#[test]
fn no_flags_start_one_member() {
    let (config, notes) = parse(&[], &[]);
    assert_eq!(
        (config.name.as_str(), config.data_dir, config.wal_dir),
        ("default", PathBuf::from("default.dipper"), None)
    );
    assert_eq!(config.listen_client_urls[0].addr.to_string(), "127.0.0.1:2379");
    assert_eq!(config.listen_peer_urls[0].addr.to_string(), "127.0.0.1:2380");
    assert!(config.listen_metrics_urls.is_empty() && notes.is_empty());
    assert_eq!(texts(&config.advertise_client_urls), ["http://localhost:2379"]);
    assert_eq!(texts(&config.initial_cluster[0].peer_urls), ["http://localhost:2380"]);
    assert_eq!(
        (config.initial_cluster_state, config.initial_cluster_token.as_str()),
        (ClusterState::New, "etcd-cluster")
    );
    assert_eq!(
        (
            config.heartbeat_interval.as_millis(),
            config.election_timeout.as_millis()
        ),
        (30, 150)
    );
    assert_eq!(
        (config.snapshot_count, config.max_txn_ops, config.max_request_bytes),
        (10_000, 128, 1_572_864)
    );
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!(config.auto_compaction_retention, Some(Duration::from_hours(1)));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_mins(10));
    assert_eq!(
        (config.log_level, config.log_output),
        (slog::Level::Info, LogOutput::Stderr)
    );
}

#[test]
fn ids_are_those_that_etcd_computes_from_the_same_flags() {
    let (config, _) = parse(&[], &[]);
    assert_eq!(config.member_id().to_string(), "8e9e05c52164694d");
    assert_eq!(config.cluster_id().to_string(), "cdf818194e3a8c32");
    let (config, _) = parse(
        &[
            "--name=m1",
            "--initial-advertise-peer-urls=http://127.0.0.1:42380",
            "--initial-cluster=m1=http://127.0.0.1:42380,m2=http://127.0.0.1:42390,m3=http://127.0.0.1:42400",
            "--initial-cluster-token=tok-1",
        ],
        &[],
    );
    assert_eq!(config.member_id().to_string(), "832985029aad8ffd");
    assert_eq!(config.cluster_id().to_string(), "5aaa61337a89a12e");
    let names: Vec<&str> = config
        .initial_cluster
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    assert_eq!(names, ["m1", "m3", "m2"], "sorted by id");
}

#[test]
fn one_dash_or_two_and_a_value_after_a_space_or_an_equals_sign() {
    for args in [
        &["-name", "a"][..],
        &["--name", "a"],
        &["-name=a"],
        &["--name=a"],
        &["--name=b", "-name", "a"],
    ] {
        assert_eq!(parse(args, &[]).0.name, "a", "{args:?}");
    }
    // A value keeps its dashes.
    assert_eq!(parse(&["--name", "-data-dir"], &[]).0.name, "-data-dir");
    let (config, _) = parse(&["-quota-backend-bytes", "-1", "--wal-dir="], &[]);
    assert_eq!((config.quota_backend_bytes, config.wal_dir), (None, None));
}

#[test]
fn variables_set_flags_and_are_noted() {
    let (config, notes) = parse(
        &["--name=a"],
        &[
            ("HOME", "/"),
            ("ETCD_DATA_DIR", "/d"),
            ("ETCD_UNHEARD_OF", "1"),
            ("ETCD_WAL_DIR", ""),
        ],
    );
    assert_eq!(config.data_dir, PathBuf::from("/d"));
    let used = LogNote::UsedVariable {
        name: "ETCD_DATA_DIR".to_owned(),
        value: "/d".to_owned(),
    };
    let unknown = LogNote::UnknownVariable {
        name: "ETCD_UNHEARD_OF".to_owned(),
        value: "1".to_owned(),
    };
    assert_eq!(notes, [used, unknown]);
}

#[test]
fn listening_on_port_zero_is_for_tests() {
    let (config, _) = parse(
        &[
            "--listen-client-urls",
            "http://127.0.0.1:0",
            "--advertise-client-urls",
            "http://127.0.0.1:9",
        ],
        &[],
    );
    assert_eq!(config.listen_client_urls[0].addr.port(), 0);
}

#[test]
fn localhost_and_its_address_are_one_place() {
    let (config, _) = parse(&["--initial-cluster=default=http://127.0.0.1:2380"], &[]);
    // The ids come from the cluster's own spelling, as in etcd.
    assert_eq!(texts(&config.initial_cluster[0].peer_urls), ["http://127.0.0.1:2380"]);
}

#[test]
fn a_member_may_have_several_urls() {
    let (config, _) = parse(
        &[
            "--name=a",
            "--initial-advertise-peer-urls=http://127.0.0.1:42381,http://127.0.0.1:42380",
            "--initial-cluster=a=http://127.0.0.1:42381,a=http://127.0.0.1:42380",
            "--initial-cluster-token=",
        ],
        &[],
    );
    assert_eq!(config.member_id().to_string(), "d30757d1187e17d");
    assert_eq!(config.cluster_id().to_string(), "cf5f8aee5ce457f8");
}

#[test]
fn help_and_version_are_for_main_to_print() {
    let ask = |arg: &str| Config::parse(std::iter::once(arg.into()), std::iter::empty()).unwrap();
    for arg in ["-h", "--help", "-help"] {
        let Parsed::Help(text) = ask(arg) else { panic!("{arg}") };
        assert!(
            text.contains("--initial-cluster-token <VALUE>") && text.contains("ETCD_DATA_DIR"),
            "{text}"
        );
    }
    for arg in ["--version", "-version"] {
        let Parsed::Version(text) = ask(arg) else {
            panic!("{arg}")
        };
        assert_eq!(
            text,
            format!("dipper Version: {}\netcd API: 3.7.1\n", env!("CARGO_PKG_VERSION"))
        );
    }
}
