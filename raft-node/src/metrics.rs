//! The page at `/metrics`: etcd's names, types and buckets wherever the fact exists here, so that its
//! dashboards and alert rules work unchanged.
//!
//! Nothing is counted here. `render` writes what others counted ([`Facts`]); a fact that a member does not
//! have is a missing line, never a zero that looks like one: no `go_*`, no bbolt page counts, no per-operation
//! apply times. What only Dipper has is called `dipper_*`. HTTP's own counts (health checks) are added by
//! `http/metrics_page.rs`.

pub mod exposition;
mod network;
mod own;
pub mod process;

use crate::status::Status;
use exposition::Page;
pub use network::{ClientBytes, PeerFacts, RoundTrips, RpcFacts};
use process::Process;
use std::sync::Arc;

/// Everything that one scrape shows, taken at about the same moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// As the driver published it last.
    pub status: Arc<Status>,
    /// As the last View tells.
    pub store: StoreFacts,
    /// Every other member.
    pub peers: Vec<PeerFacts>,
    /// Every method that was called since the start.
    pub rpcs: Vec<RpcFacts>,
    /// What clients sent and got, where it is counted.
    pub client_bytes: Option<ClientBytes>,
    /// Open watches, where they are counted.
    pub watches: Option<WatchFacts>,
    /// Growing writes are refused beyond it; none without a quota.
    pub quota_bytes: Option<u64>,
}

/// What the state machine holds.
#[derive(Clone, Debug, Default)]
pub struct StoreFacts {
    /// The newest revision.
    pub revision: i64,
    /// Below it history is gone; negative before the first compaction.
    pub compact_revision: i64,
    /// Live keys.
    pub keys: u64,
    /// Live keys and values: what the quota counts.
    pub live_bytes: u64,
    /// The files of the state machine.
    pub disk_bytes: u64,
    /// Leases that have not ended.
    pub leases: u64,
    /// Active alarms: member and etcd's name of the alarm.
    pub alarms: Vec<(u64, &'static str)>,
}

/// Open watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchFacts {
    /// gRPC streams.
    pub streams: u64,
    /// Watches on them.
    pub watchers: u64,
    /// Watches that have not caught up with the newest revision.
    pub behind: u64,
}

/// The page for these facts, without the counts of the HTTP server.
pub fn render(page: &mut Page, facts: &Facts, process: &Process) {
    server(page, &facts.status, facts.quota_bytes);
    outcomes(page, &facts.status);
    disk(page, &facts.status);
    store(page, &facts.store, facts.status.member_id);
    if let Some(watches) = &facts.watches {
        watch(page, watches);
    }
    network::peers(page, &facts.status, &facts.peers);
    network::rpcs(page, &facts.rpcs, facts.client_bytes.as_ref());
    own::render(page, &facts.status);
    process::render(page, process);
}

/// Ids as etcd prints them in labels.
fn hex(id: u64) -> String {
    format!("{id:x}")
}

fn server(page: &mut Page, status: &Status, quota_bytes: Option<u64>) {
    let id = hex(status.member_id);
    page.family(
        "etcd_server_id",
        "gauge",
        "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
    )
    .series(&[("server_id", &id)], 1);
    page.family(
        "etcd_server_version",
        "gauge",
        "Which version is running. 1 for 'server_version' label with current version.",
    )
    .series(&[("server_version", proto::ETCD_VERSION)], 1);
    if status.ready {
        page.family(
            "etcd_cluster_version",
            "gauge",
            "Which version is running. 1 for 'cluster_version' label with current cluster version.",
        )
        .series(&[("cluster_version", proto::ETCD_CLUSTER_VERSION)], 1);
    }
    page.gauge(
        "etcd_server_has_leader",
        "Whether or not a leader exists. 1 is existence, 0 is not.",
        u8::from(status.has_leader()),
    );
    page.gauge(
        "etcd_server_is_leader",
        "Whether or not this member is a leader. 1 if is, 0 otherwise.",
        u8::from(status.is_leader()),
    );
    page.gauge(
        "etcd_server_is_learner",
        "Whether or not this member is a learner. 1 if is, 0 otherwise.",
        u8::from(status.is_learner),
    );
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "The number of leader changes seen.",
        status.leader_changes_seen,
    );
    if let Some(bytes) = quota_bytes {
        page.gauge(
            "etcd_server_quota_backend_bytes",
            "Current backend storage quota size in bytes.",
            bytes,
        );
    }
}

fn outcomes(page: &mut Page, status: &Status) {
    // Two of these are gauges in etcd, in spite of their names.
    page.gauge(
        "etcd_server_proposals_committed_total",
        "The total number of consensus proposals committed.",
        status.committed_index,
    );
    page.gauge(
        "etcd_server_proposals_applied_total",
        "The total number of consensus proposals applied.",
        status.applied_index,
    );
    page.gauge(
        "etcd_server_proposals_pending",
        "The current number of pending proposals to commit.",
        status.proposals.pending,
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.",
        status.proposals.failed,
    );
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "The total number of failed read indexes seen.",
        status.reads.failed,
    );
    page.counter(
        "etcd_server_slow_read_indexes_total",
        "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
        status.reads.slow,
    );
    page.counter(
        "etcd_server_slow_apply_total",
        "The total number of slow apply requests (likely overloaded from slow disk).",
        status.slow_applies,
    );
    page.counter(
        "etcd_server_heartbeat_send_failures_total",
        "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
        status.heartbeat_send_failures,
    );
    page.gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "1 if the server is applying the incoming snapshot. 0 if none.",
        u8::from(status.snapshot_installing),
    );
}

fn disk(page: &mut Page, status: &Status) {
    let timings = &status.timings;
    page.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "The latency distributions of the synced writes of the Raft log, the only write-ahead log.",
        &timings.log_sync,
    );
    page.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "The latency distributions of the state machine's write batches.",
        &timings.backend_commit,
    );
}

fn store(page: &mut Page, store: &StoreFacts, member_id: u64) {
    // The quota counts live bytes and files are compressed: whichever is larger, so that the alert that
    // divides this by the quota fires before writes are refused.
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Size of the database in bytes: its files or its live keys and values, whichever is larger.",
        store.disk_bytes.max(store.live_bytes),
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Live keys and values in bytes.",
        store.live_bytes,
    );
    page.gauge("etcd_debugging_mvcc_keys_total", "Total number of keys.", store.keys);
    page.gauge(
        "etcd_debugging_mvcc_current_revision",
        "The current revision of store.",
        store.revision,
    );
    page.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The revision of the last compaction in store, -1 before the first.",
        store.compact_revision,
    );
    if !store.alarms.is_empty() {
        let mut family = page.family("etcd_debugging_server_alarms", "gauge", "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm");
        for (member, alarm) in &store.alarms {
            let id = hex(if *member == 0 { member_id } else { *member });
            family.series(&[("server_id", &id), ("alarm_type", alarm)], 1);
        }
    }
    page.gauge(
        "dipper_store_disk_bytes",
        "Files of the state machine in bytes.",
        store.disk_bytes,
    );
    page.gauge("dipper_leases", "Leases that have not ended.", store.leases);
}

fn watch(page: &mut Page, watches: &WatchFacts) {
    page.gauge(
        "etcd_debugging_mvcc_watch_stream_total",
        "Total number of watch streams.",
        watches.streams,
    );
    page.gauge(
        "etcd_debugging_mvcc_watcher_total",
        "Total number of watchers.",
        watches.watchers,
    );
    page.gauge(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Total number of unsynced slow watchers.",
        watches.behind,
    );
}

#[cfg(test)]
mod tests;
