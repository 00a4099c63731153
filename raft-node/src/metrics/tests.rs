//! The page is read back as Prometheus reads it.

use super::*;
use crate::status::{Queue, State};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the alert rules of etcd's mixin and its dashboard ask for.
const ASKED_BY_ALERTS_AND_DASHBOARD: &[&str] = &[
    "etcd_network_peer_sent_failures_total",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "grpc_server_handled_total",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_server_proposals_failed_total",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_server_quota_backend_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_sent_bytes_total",
    "etcd_server_proposals_pending",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_applied_total",
];

fn busy_member() -> Facts {
    let mut status = Status {
        member_id: 0xabc,
        leader: 0xabc,
        state: State::Leader,
        ready: true,
        voters: vec![1, 2, 0xabc],
        queues: vec![
            Queue {
                name: "raft",
                depth: 3,
                capacity: 10,
                dropped: 1,
            },
            Queue {
                name: "apply",
                depth: 0,
                capacity: 5,
                dropped: 0,
            },
        ],
        snapshots_installed: 4,
        ..Status::default()
    };
    for us in [0, 90, 100, 1_500, 70_000_000] {
        let duration = Duration::from_micros(us);
        status.timings.log_sync.observe(duration);
        status.timings.apply.observe(duration);
    }
    let mut round_trips = RoundTrips::new();
    round_trips.observe(Duration::from_micros(300));
    let peer = |id| PeerFacts {
        id,
        connected: true,
        round_trips: Some(round_trips.clone()),
        snapshots_sent: id - 1,
        ..PeerFacts::default()
    };
    Facts {
        status: Arc::new(status),
        store: StoreFacts {
            live_bytes: 10,
            disk_bytes: 4,
            alarms: vec![(0, "NOSPACE")],
            ..StoreFacts::default()
        },
        peers: vec![peer(1), peer(2)],
        rpcs: vec![RpcFacts {
            kind: "unary",
            service: "etcdserverpb.KV",
            method: "Put",
            started: 7,
            handled: vec![("OK", 5), ("Unavailable", 1)],
        }],
        client_bytes: Some(ClientBytes::default()),
        watches: Some(WatchFacts::default()),
        quota_bytes: Some(2 << 30),
    }
}

fn page(facts: &Facts) -> String {
    let mut page = Page::default();
    render(&mut page, facts, &Process::this());
    page.into_text()
}

/// Kind of each family and value of each series; panics where the format is broken.
#[derive(Default)]
struct Parsed {
    kinds: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let (mut helped, mut current) = (BTreeSet::new(), String::new());
    assert!(text.ends_with('\n'), "the last line ends like the others");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(
                !help.is_empty() && helped.insert(name.to_owned()),
                "one help for {name}"
            );
            name.clone_into(&mut current);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, current, "the type follows its help");
            assert!(
                parsed.kinds.insert(name.to_owned(), kind.to_owned()).is_none(),
                "one type for {name}"
            );
        } else {
            sample(&mut parsed, &current, line);
        }
    }
    parsed
}

fn sample(parsed: &mut Parsed, family: &str, line: &str) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let name = series.split('{').next().expect("a name");
    assert!(
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
        "{name}"
    );
    let suffix = name
        .strip_prefix(family)
        .unwrap_or_else(|| panic!("{name} under the head of {family}"));
    let allowed: &[&str] = if parsed.kinds[family] == "histogram" {
        &["_bucket", "_sum", "_count"]
    } else {
        &[""]
    };
    assert!(allowed.contains(&suffix), "{name} in a {}", parsed.kinds[family]);
    assert_eq!(series.contains('{'), series.ends_with('}'), "{series}");
    let value: f64 = value.parse().expect("a number");
    assert!(value.is_finite());
    assert!(
        parsed.series.insert(series.to_owned(), value).is_none(),
        "{series} twice"
    );
}

#[test]
fn prometheus_can_read_every_line() {
    for facts in [Facts::default(), busy_member()] {
        let text = page(&facts);
        let parsed = parse(&text);
        for (name, kind) in &parsed.kinds {
            assert!(
                ["gauge", "counter", "histogram"].contains(&kind.as_str()),
                "{name} is a {kind}"
            );
            let named = |series: &String| series.starts_with(name.as_str());
            assert!(parsed.series.keys().any(named), "{name} has a head and no series");
        }
    }
}

#[test]
fn histogram_buckets_only_grow_and_end_with_the_count() {
    let text = page(&busy_member());
    let mut previous: Option<(String, f64)> = None;
    let mut ends = 0;
    for line in text.lines().filter(|line| line.contains("_bucket{")) {
        let (series, count) = line.rsplit_once(' ').expect("a value");
        let count: f64 = count.parse().expect("a number");
        let (labels, bound) = series.split_once("le=\"").expect("a bound");
        if let Some((before, smaller)) = &previous
            && before == labels
        {
            assert!(*smaller <= count, "{line}");
        }
        previous = Some((labels.to_owned(), count));
        if bound.starts_with("+Inf") {
            let total = labels
                .replace("_bucket{", "_count{")
                .replace(",{", "")
                .replace("{,", "{");
            let total = total.trim_end_matches([',', '{']).to_owned();
            let total = if total.contains('{') {
                format!("{total}}}")
            } else {
                total
            };
            assert!(
                text.lines().any(|line| line == format!("{total} {count}")),
                "{total} is {count}"
            );
            previous = None;
            ends += 1;
        }
    }
    assert_eq!(ends, 5 + 2, "five of the member's own, one for each of two peers");
}

#[test]
fn the_names_that_alerts_and_dashboards_ask_for_exist() {
    let parsed = parse(&page(&busy_member()));
    for name in ASKED_BY_ALERTS_AND_DASHBOARD {
        assert!(parsed.kinds.contains_key(*name), "{name} is missing");
    }
    // Types that differ from what the name suggests.
    assert_eq!(parsed.kinds["etcd_server_proposals_committed_total"], "gauge");
    assert_eq!(parsed.kinds["etcd_network_snapshot_send_success"], "counter");
}

#[test]
fn values_and_labels_are_what_the_facts_say() {
    let series = parse(&page(&busy_member())).series;
    let expected = [
        ("etcd_server_is_leader", 1.0),
        ("etcd_server_id{server_id=\"abc\"}", 1.0),
        ("dipper_snapshots_installed_total", 4.0),
        ("etcd_network_snapshot_send_success{To=\"2\"}", 1.0),
        ("dipper_queue_dropped_total{queue=\"raft\"}", 1.0),
        ("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"}", 3.0),
        ("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"}", 4.0),
        ("dipper_apply_duration_seconds_bucket{le=\"0.0001\"}", 3.0),
        ("etcd_network_active_peers{Local=\"abc\",Remote=\"1\"}", 1.0),
        ("etcd_mvcc_db_total_size_in_bytes", 10.0),
        (
            "etcd_debugging_server_alarms{server_id=\"abc\",alarm_type=\"NOSPACE\"}",
            1.0,
        ),
    ];
    for (name, value) in expected {
        assert_eq!(series.get(name), Some(&value), "{name}");
    }
    let put = "grpc_server_handled_total{grpc_type=\"unary\",grpc_service=\"etcdserverpb.KV\",grpc_method=\"Put\",grpc_code=\"OK\"}";
    assert_eq!(series.get(put), Some(&5.0));
}

#[test]
fn what_a_member_does_not_know_is_not_there() {
    let kinds = parse(&page(&Facts::default())).kinds;
    for name in [
        "etcd_cluster_version",
        "etcd_server_quota_backend_bytes",
        "etcd_network_peer_sent_bytes_total",
        "go_goroutines",
    ] {
        assert!(!kinds.contains_key(name), "{name}");
    }
}
