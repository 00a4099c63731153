//! Writing the log: everything that queued while the last sync ran is one write and one sync. Truncation, the
//! installation of a snapshot and MARK come between two writes.
//!
//! ```text
//!   installing a snapshot            crash here is finished at boot by
//!   1 files verified, in place       removing them: nothing points there yet
//!   2 intent synced in raft/         doing 3 and 4 again
//!   3 kv/ACTIVE switched             doing 4 again
//!   4 log reset, intent cleared      nothing: it is done; the old state is removed
//! ```
//!
//! Not here: which thread writes, see `desk.rs`.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use super::{ApplyTask, Published, RaftInbox, desk::Writer};
use crate::{
    inbox::Inbox,
    limits,
    log::{EntryId, InstallIntent, Log, LogWrite},
    replica::{Input, Install, Write},
    state_directory::StateDirectory,
};

/// MARK follows the synced log by no more than this under load.
const MARK_EVERY: Duration = Duration::from_millis(100);

/// An order to whoever writes the log. Few wait at once: the replica bounds what is not yet persisted.
pub enum LogTask {
    Write(Write),
    Truncate(EntryId),
    Install(Install),
    Stop,
}

/// The log, and what a write of it is followed by.
pub struct LogWriter<L: Log> {
    pub log: L,
    pub raft: Arc<RaftInbox>,
    pub apply: Arc<Inbox<ApplyTask>>,
    pub published: Arc<Published>,
    pub marked_at: Instant,
    pub is_marked: bool,
    pub written_at: Instant,
    /// Since the log settled.
    pub written_bytes: usize,
}

impl<L: Log> Writer for LogWriter<L> {
    fn carry_out(&mut self, tasks: Vec<LogTask>) -> bool {
        let mut groups: Vec<LogWrite> = Vec::new();
        let mut number = 0;
        for task in tasks {
            if let LogTask::Write(write) = task {
                number = write.number;
                groups.push(write.group);
                continue;
            }
            self.write(&mut groups, number);
            match task {
                LogTask::Truncate(to) => self.log.truncate(to),
                LogTask::Install(install) => self.install(install),
                LogTask::Stop => {
                    self.log.mark();
                    return false;
                }
                LogTask::Write(_) => {}
            }
        }
        self.write(&mut groups, number);
        true
    }

    fn mark_if_due(&mut self) -> bool {
        if !self.is_marked && self.marked_at.elapsed() >= MARK_EVERY {
            self.log.mark();
            self.published.log_bytes.store(self.log.bytes(), Ordering::Relaxed);
            self.marked_at = Instant::now();
            self.is_marked = true;
        }
        if self.written_bytes >= limits::SETTLE_BYTES && self.written_at.elapsed() >= limits::SETTLE_LOG_AFTER {
            self.written_bytes = 0;
            self.log.settle();
        }
        self.is_marked
    }
}

impl<L: Log> LogWriter<L> {
    /// One sync for all groups.
    fn write(&mut self, groups: &mut Vec<LogWrite>, number: u64) {
        if groups.is_empty() {
            return;
        }
        let is_empty = groups
            .iter()
            .all(|group| group.entries.is_empty() && group.hard_state.is_none());
        if !is_empty {
            let began = Instant::now();
            self.log.write(groups);
            self.published.time(|timings| timings.log_sync.observe(began.elapsed()));
            self.is_marked = false;
            self.written_at = Instant::now();
            let bytes = |group: &LogWrite| group.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
            self.written_bytes += groups.iter().map(bytes).sum::<usize>();
        }
        groups.clear();
        self.raft.push_completion(Input::Persisted { number });
    }

    fn install(&mut self, install: Install) {
        let intent = InstallIntent {
            index: install.at.index,
            term: install.at.term,
            directory: StateDirectory::name_of(install.at),
        };
        self.log.set_install_intent(Some(intent));
        let (done, switched) = mpsc::sync_channel(1);
        self.apply.push_completion(ApplyTask::Install(install.at, done));
        let leases = switched
            .recv()
            .expect("the apply thread outlives the log thread, and answers");
        let hard_state = install.group.hard_state.unwrap_or_default();
        // The commit index may be that of entries behind the snapshot, which are not in the log yet.
        let mut at_reset = hard_state.clone();
        at_reset.commit = at_reset.commit.min(install.at.index);
        self.log.reset(install.at, &at_reset);
        if !install.group.entries.is_empty() {
            self.log.write(&[LogWrite {
                entries: install.group.entries,
                hard_state: Some(hard_state),
            }]);
        }
        self.raft.push_completion(Input::Installed {
            number: install.number,
            index: install.at.index,
            leases,
        });
        self.published.installing.store(0, Ordering::Relaxed);
        // A count of its own: the raft thread alone stores a Status, and would overwrite it.
        self.published.installed.fetch_add(1, Ordering::Relaxed);
    }
}
