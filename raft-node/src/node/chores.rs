//! What a member does by itself, so that nobody has to: it publishes its name and URLs, compacts history,
//! watches its free space, and reads its files again before a reader meets a flipped bit.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kv::engine::Engine as _;
use proto::{
    etcdserverpb::{AlarmRequest, AlarmType, CompactionRequest, alarm_request::AlarmAction},
    node::{Command, PublishMember, command::Op},
};
use slog::{error, info, warn};
use tokio::{
    runtime::Runtime,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::Node;
use crate::{config::Config, limits, log::rocks::RocksReader};

/// Starts all chores; they end with the runtime.
pub fn start(runtime: &Runtime, node: &Arc<Node>, config: &Config, log: RocksReader) {
    let publish = PublishMember {
        id: node.identity.member_id,
        name: config.name.clone(),
        client_urls: config
            .advertise_client_urls
            .iter()
            .map(|url| url.as_str().to_owned())
            .collect(),
    };
    runtime.spawn(publish_member(Arc::clone(node), publish));
    if let Some(retention) = config.auto_compaction_retention {
        runtime.spawn(compact(Arc::clone(node), retention));
    }
    runtime.spawn(watch_space(Arc::clone(node), config.data_dir.clone()));
    runtime.spawn(measure(Arc::clone(node)));
    runtime.spawn(make_spare_wal(Arc::clone(node), log.clone()));
    let published = Arc::clone(&node.published);
    let scrub = move || {
        log.verify_checksums()
            .and_then(|()| published.engine.load().verify_checksums())
    };
    runtime.spawn(scrub_files(Arc::clone(node), scrub));
}

/// Waits until clients are served; false when that will not be.
async fn serves(node: &Node) -> bool {
    let mut serving = node.published.serving.subscribe();
    serving.wait_for(|serving| *serving).await.is_ok()
}

async fn publish_member(node: Arc<Node>, publish: PublishMember) {
    if !serves(&node).await {
        return;
    }
    info!(node.logger, "ready to serve client requests"; "name" => &publish.name,
        "client_urls" => publish.client_urls.join(","));
    loop {
        let view = node.latest();
        let known = view
            .membership()
            .members
            .iter()
            .find(|member| member.id == publish.id)
            .cloned();
        if known.is_some_and(|known| known.name == publish.name && known.client_urls == publish.client_urls) {
            return;
        }
        let command = Command {
            op: Some(Op::PublishMember(publish.clone())),
        };
        if let Err(error) = node.propose_own(command).await {
            warn!(node.logger, "cannot publish this member's name and URLs yet"; "error" => %error);
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Keeps `retention` of history: the leader compacts to the revision of that long ago.
async fn compact(node: Arc<Node>, retention: Duration) {
    // As etcd: ten samples a period, and a compaction every period but at least every hour.
    let sample_every = (retention / 10).clamp(Duration::from_millis(10), Duration::from_mins(6));
    let mut samples: VecDeque<(Instant, i64)> = VecDeque::new();
    let mut ticks = interval(sample_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        samples.push_back((Instant::now(), node.latest().revision()));
        let mut due = None;
        while samples.front().is_some_and(|(at, _)| at.elapsed() >= retention) {
            due = samples.pop_front().map(|(_, revision)| revision);
        }
        let Some(revision) = due else { continue };
        if !node.published.status.load().is_leader() || revision <= node.latest().compact_revision().max(1) {
            continue;
        }
        let request = CompactionRequest {
            revision,
            physical: false,
        };
        match node
            .propose_own(Command {
                op: Some(Op::Compact(request)),
            })
            .await
        {
            Ok(_) => {
                info!(node.logger, "compacted history"; "revision" => revision, "retention" => format!("{retention:?}"));
            }
            Err(error) => warn!(node.logger, "cannot compact history now"; "revision" => revision, "error" => %error),
        }
    }
}

/// Raises the NOSPACE alarm at the quota or when the disk is nearly full, and clears it by itself.
async fn watch_space(node: Arc<Node>, directory: PathBuf) {
    let mut ticks = interval(Duration::from_millis(500));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_full = false;
    loop {
        ticks.tick().await;
        let view = node.latest();
        let free = free_bytes(&directory);
        // Hysteresis: a cluster that hovers at the bound would flip the alarm with every write.
        let free_min = if is_full {
            limits::FREE_DISK_BYTES_MIN / 4 * 5
        } else {
            limits::FREE_DISK_BYTES_MIN
        };
        let disk_full = free.is_some_and(|free| free < free_min);
        node.disk_full.send_replace(disk_full);
        let quota_max = node
            .limits
            .quota_bytes
            .map(|quota| if is_full { quota / 100 * 95 } else { quota });
        is_full = disk_full || quota_max.is_some_and(|quota| view.live_bytes() >= quota);
        let member_id = node.identity.member_id;
        let is_raised = view
            .alarms()
            .iter()
            .any(|row| row.member_id == member_id && row.alarm == AlarmType::Nospace as i32);
        if is_full != is_raised && *node.published.serving.borrow() {
            let action = if is_full {
                AlarmAction::Activate
            } else {
                AlarmAction::Deactivate
            } as i32;
            let request = AlarmRequest {
                action,
                member_id,
                alarm: AlarmType::Nospace as i32,
            };
            let news = if is_full {
                "out of space: growing writes are refused"
            } else {
                "space is back"
            };
            warn!(node.logger, "{news}"; "live_bytes" => view.live_bytes(), "free_disk_bytes" => free);
            if let Err(error) = node
                .propose_own(Command {
                    op: Some(Op::Alarm(request)),
                })
                .await
            {
                warn!(node.logger, "cannot change the NOSPACE alarm now"; "error" => %error);
            }
        }
    }
}

/// Gives the log a file to write over, a little at a time; a disk that is slow or nearly full is spared.
async fn make_spare_wal(node: Arc<Node>, log: RocksReader) {
    if !serves(&node).await {
        return;
    }
    if free_bytes(log.directory()).is_none_or(|free| free < limits::SPARE_WAL_FREE_DISK_BYTES_MIN) {
        return;
    }
    for step in 0..limits::SPARE_WAL_STEPS + 2 {
        let log = log.clone();
        let began = Instant::now();
        let done = tokio::task::spawn_blocking(move || {
            if step < limits::SPARE_WAL_STEPS {
                log.lengthen_wal(limits::SPARE_WAL_STEP_BYTES);
            } else {
                // Away from it, and back.
                log.change_wal();
            }
        });
        match done.await {
            Ok(()) if began.elapsed() <= limits::SPARE_WAL_STEP_MAX => {}
            _ => return,
        }
        sleep(limits::SPARE_WAL_PAUSE).await;
    }
}

/// Reads every file's checksums, soon after the start and then once in a while.
async fn scrub_files(node: Arc<Node>, scrub: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
    let scrub = Arc::new(scrub);
    sleep(limits::SCRUB_AFTER).await;
    loop {
        let scrub = Arc::clone(&scrub);
        if let Ok(Err(damage)) = tokio::task::spawn_blocking(move || scrub()).await {
            error!(node.logger, "a file is damaged: this member stops"; "damage" => &damage);
            node.published.fatal.send_replace(Some(format!(
                "a file is damaged: {damage}. Keep a copy of the directory and replace the member; the others are not affected"
            )));
            return;
        }
        sleep(limits::SCRUB_EVERY).await;
    }
}

/// Keeps the size of the state's files at hand for Status and metrics.
async fn measure(node: Arc<Node>) {
    let mut ticks = interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        node.disk_bytes
            .store(node.published.engine.load().disk_bytes(), Ordering::Relaxed);
    }
}

/// Free bytes for this process on the file system of `path`.
fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}
