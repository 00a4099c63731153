//! The log thread: everything that queued while the last sync ran is one write and one sync.
//!
//! It also carries out what must happen between two writes: truncation, and the installation of a snapshot.
//!
//! ```text
//!   installing a snapshot            crash here is finished at boot by
//!   1 files verified, in place       removing them: nothing points there yet
//!   2 intent synced in raft/         doing 3 and 4 again
//!   3 kv/ACTIVE switched             doing 4 again
//!   4 log reset, intent cleared      nothing: it is done; the old state is removed
//! ```

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use super::{ApplyTask, Published, RaftInbox};
use crate::{
    inbox::{Inbox, Patience},
    log::{EntryId, InstallIntent, Log, LogWrite},
    replica::{Input, Install, Write},
    state_directory::StateDirectory,
};

/// MARK follows the synced log by no more than this under load.
const MARK_EVERY: Duration = Duration::from_millis(100);

/// An order to the log thread. Few wait at once: the replica bounds what is not yet persisted.
pub enum LogTask {
    Write(Write),
    Truncate(EntryId),
    Install(Install),
    Stop,
}

pub struct LogThread<L: Log> {
    pub log: L,
    pub inbox: Arc<Inbox<LogTask>>,
    pub raft: Arc<RaftInbox>,
    pub apply: Arc<Inbox<ApplyTask>>,
    pub published: Arc<Published>,
}

impl<L: Log> LogThread<L> {
    pub fn run(mut self) {
        let mut tasks = Vec::new();
        let mut marked_at = Instant::now();
        let mut is_marked = true;
        loop {
            self.inbox.drain(
                &mut tasks,
                if is_marked { Duration::from_secs(1) } else { MARK_EVERY },
                Patience::NONE,
            );
            let is_idle = tasks.is_empty();
            let mut groups: Vec<LogWrite> = Vec::new();
            let mut number = 0;
            for task in tasks.drain(..) {
                if let LogTask::Write(write) = task {
                    number = write.number;
                    groups.push(write.group);
                    continue;
                }
                is_marked &= !self.write(&mut groups, number);
                match task {
                    LogTask::Truncate(to) => self.log.truncate(to),
                    LogTask::Install(install) => self.install(install),
                    LogTask::Stop => return self.log.mark(),
                    LogTask::Write(_) => {}
                }
            }
            is_marked &= !self.write(&mut groups, number);
            if !is_marked && (is_idle || marked_at.elapsed() >= MARK_EVERY) {
                self.log.mark();
                self.published.log_bytes.store(self.log.bytes(), Ordering::Relaxed);
                marked_at = Instant::now();
                is_marked = true;
            }
        }
    }

    /// One sync for all groups; whether there was one.
    fn write(&mut self, groups: &mut Vec<LogWrite>, number: u64) -> bool {
        if groups.is_empty() {
            return false;
        }
        let is_empty = groups
            .iter()
            .all(|group| group.entries.is_empty() && group.hard_state.is_none());
        if !is_empty {
            let began = Instant::now();
            self.log.write(groups);
            self.published.time(|timings| timings.log_sync.observe(began.elapsed()));
        }
        groups.clear();
        self.raft.push_completion(Input::Persisted { number });
        !is_empty
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
