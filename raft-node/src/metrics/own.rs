//! The part of the page that etcd does not have: queues, the log, and where time goes between acceptance and
//! answer. Every name begins with `dipper_`.
//!
//! Not here: anything that etcd's dashboards already show under a name of theirs.

use super::exposition::Page;
use crate::status::{Queue, Status};

/// All of it.
pub(super) fn render(page: &mut Page, status: &Status) {
    page.gauge(
        "dipper_ready",
        "Whether a current leader's commit index has been applied since the start.",
        u8::from(status.ready),
    );
    page.gauge(
        "dipper_stopping",
        "Whether new work is refused because the member stops.",
        u8::from(status.stopping),
    );
    page.counter(
        "dipper_snapshots_installed_total",
        "Snapshots that replaced the state of this member since it started.",
        status.snapshots_installed,
    );
    page.gauge(
        "dipper_reads_pending",
        "Linearizable reads that wait for a read index.",
        status.reads.pending,
    );
    page.histogram(
        "dipper_apply_duration_seconds",
        "One batch of entries, from the first to the published view.",
        &status.timings.apply,
    );
    page.histogram(
        "dipper_queue_wait_seconds",
        "From the driver's inbox until the driver takes it.",
        &status.timings.queue_wait,
    );
    page.histogram(
        "dipper_proposal_duration_seconds",
        "A proposal, from acceptance to its answer.",
        &status.timings.proposal,
    );
    own_log(page, status);
    if status.queues.is_empty() {
        return;
    }
    queues(
        page,
        status,
        "dipper_queue_depth",
        "gauge",
        "How many wait in a bounded queue.",
        |queue| queue.depth,
    );
    queues(
        page,
        status,
        "dipper_queue_capacity",
        "gauge",
        "How many may wait in a bounded queue.",
        |queue| queue.capacity,
    );
    queues(
        page,
        status,
        "dipper_queue_dropped_total",
        "counter",
        "How many were refused or dropped by a full queue.",
        |queue| queue.dropped,
    );
}

fn queues(page: &mut Page, status: &Status, name: &str, kind: &str, help: &str, number: impl Fn(&Queue) -> u64) {
    let mut family = page.family(name, kind, help);
    for queue in &status.queues {
        family.series(&[("queue", queue.name)], number(queue));
    }
}

fn own_log(page: &mut Page, status: &Status) {
    page.gauge("dipper_raft_term", "The current term.", status.term);
    page.gauge("dipper_raft_voters", "Members with a vote.", status.voters.len());
    page.gauge(
        "dipper_log_first_index",
        "The first entry that is still in the log.",
        status.first_index,
    );
    page.gauge(
        "dipper_log_last_index",
        "The newest entry in the log.",
        status.last_index,
    );
    page.gauge("dipper_log_bytes", "The log on disk in bytes.", status.log_bytes);
    page.gauge(
        "dipper_flushed_index",
        "The newest entry that the state machine holds on disk.",
        status.flushed_index,
    );
    page.gauge(
        "dipper_torn_tail_cut_bytes",
        "Unsynced bytes of the log that were cut when this member started.",
        status.torn_tail_cut_bytes,
    );
}
