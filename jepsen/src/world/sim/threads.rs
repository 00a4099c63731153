//! A member's log thread and apply thread, as `driver/log.rs` and `driver/apply.rs` do them: what queued is one
//! write and one sync; what was committed is applied in slices, answered, and flushed now and then.

use super::{
    disk::Down,
    engine::SimEngine,
    judge::outcome_hash,
    member::{ApplyTask, LogTask},
    mutant::Mutant,
    swarm::{MS, US},
    world::{Event, Index, World, tell},
};
use kv::{LeaseChange, LogEntry, Store, engine::Engine as _};
use prost::Message as _;
use proto::node::CommandBatch;
use raft_node::{
    log::{EntryId, InstallIntent, LogWrite},
    replica::{Committed, Input, Install},
};

impl World {
    pub fn log(&mut self, index: Index) {
        let process = self.process(index);
        let (mut groups, mut number) = (Vec::new(), 0);
        while let Some(LogTask::Write(_)) = process.log_queue.front() {
            let Some(LogTask::Write(write)) = process.log_queue.pop_front() else {
                break;
            };
            number = write.number;
            groups.push(write.group);
        }
        if number > 0 {
            self.write(index, groups, number);
            return;
        }
        match self.process(index).log_queue.pop_front() {
            Some(LogTask::Truncate(to)) => {
                let node = &mut self.nodes[index];
                node.disk.truncate(to);
                node.durable.truncate(to.index);
            }
            Some(LogTask::Install(install)) => {
                let EntryId { index: at, term } = install.at;
                let directory = format!("state-{at}-{term}");
                let intent = InstallIntent {
                    index: at,
                    term,
                    directory,
                };
                let node = &mut self.nodes[index];
                node.disk.set_intent(Some(intent));
                let process = self.process(index);
                process.apply_queue.push_back(ApplyTask::Install(install.at));
                process.installing = Some(install);
                // Busy until the state is switched.
                self.kick(index);
                return;
            }
            _ => {}
        }
        self.process(index).log_is_busy = false;
        self.kick(index);
    }

    fn write(&mut self, index: Index, groups: Vec<LogWrite>, number: u64) {
        let delay = if self.nodes[index].slow_until > self.now {
            self.rng.between(50 * MS, 900 * MS)
        } else {
            let sync = if self.is_faulty { self.swarm.sync } else { US * 200 };
            self.rng.between(20 * US, sync.max(50 * US))
        };
        tell!(self, "{index} writes up to {number} in {delay:?}");
        let node = &mut self.nodes[index];
        node.disk.write(&groups);
        node.durable.pending = groups;
        if node.full_until > self.now {
            // ENOSPC in the middle of a write: the process stops, some of it may be there.
            self.go_down(index, Down::PowerLost);
            let wait = self.nodes[index].full_until - self.now;
            self.after(wait, Event::Start(index));
            return;
        }
        self.for_node(index, delay, Event::Synced(index, number));
        if self.mutant == Mutant::PersistedBeforeSync {
            self.push(index, Input::Persisted { number });
        }
    }

    pub fn synced(&mut self, index: Index, number: u64) {
        if self.nodes[index].sync_fails {
            self.nodes[index].sync_fails = false;
            if self.mutant == Mutant::SyncRetried {
                // The pages were dropped and marked clean: the second sync has nothing to do, and says OK.
                self.nodes[index].disk.forget_pending();
            } else {
                self.go_down(index, Down::SyncFailed);
                let down = self.rng.between(10 * MS, 1000 * MS);
                self.after(down, Event::Start(index));
                return;
            }
        }
        let node = &mut self.nodes[index];
        node.disk.sync();
        node.durable.sync();
        if self.mutant != Mutant::PersistedBeforeSync {
            self.push(index, Input::Persisted { number });
        }
        self.process(index).log_is_busy = false;
        self.kick(index);
    }

    /// MARK follows the log off the critical path.
    pub fn mark(&mut self, index: Index) {
        self.nodes[index].disk.raise_mark();
        self.for_node(index, 100 * MS, Event::Mark(index));
    }

    /// The state is switched: the log follows.
    pub fn installed(&mut self, index: Index) {
        let process = self.process(index);
        let leases = process.leases();
        let Install { number, at, group } = process.installing.take().expect("it was begun");
        let hard_state = group.hard_state.clone().unwrap_or_default();
        let mut at_reset = hard_state.clone();
        at_reset.commit = at_reset.commit.min(at.index);
        let node = &mut self.nodes[index];
        node.disk.reset(at, &at_reset);
        node.durable.reset(at, &at_reset);
        let rest = vec![LogWrite {
            entries: group.entries,
            hard_state: Some(hard_state),
        }];
        node.disk.write(&rest);
        node.durable.pending = rest;
        node.disk.sync();
        node.durable.sync();
        self.judge.snapshots += 1;
        let index_of_snapshot = at.index;
        self.push(
            index,
            Input::Installed {
                number,
                index: index_of_snapshot,
                leases,
            },
        );
        self.process(index).log_is_busy = false;
        self.kick(index);
    }

    pub fn apply(&mut self, index: Index) {
        let slice = 1 + self.rng.below(6) as usize;
        let process = self.process(index);
        process.apply_is_due = false;
        match process.apply_queue.pop_front() {
            Some(ApplyTask::Entries(mut entries)) => {
                let now: Vec<Committed<u64>> = entries.drain(..slice.min(entries.len())).collect();
                if !entries.is_empty() {
                    process.apply_queue.push_front(ApplyTask::Entries(entries));
                }
                self.apply_entries(index, now);
            }
            Some(ApplyTask::Checkpoint) => {
                process.store_mut().flush();
                let at = process.store().applied();
                let at = EntryId {
                    index: at.index,
                    term: at.term,
                };
                process.checkpoints.image = Some((at, process.store().engine().crash()));
                self.report_flushed(index);
                self.push(index, Input::SnapshotMade { at });
            }
            Some(ApplyTask::Forget(at)) => drop(self.nodes[index].disk.staged.remove(&at)),
            Some(ApplyTask::Install(at)) => self.install(index, at),
            None => {}
        }
        self.kick(index);
    }

    fn install(&mut self, index: Index, at: EntryId) {
        self.process(index).flushing = None;
        let node = &mut self.nodes[index];
        let staged = node.disk.staged.get(&at);
        node.disk.engine = staged.expect("the state that is to be installed was forgotten").crash();
        let store = Store::open(node.disk.engine.clone(), self.swarm.store);
        let applied = store.applied();
        assert_eq!(
            (applied.index, applied.term),
            (at.index, at.term),
            "another state than was announced"
        );
        self.check_member_table(index, &store);
        self.check_state(index, at.index, store.view().state_hash());
        let process = self.process(index);
        process.store = Some(store);
        process.flushed = at.index;
        process.publish();
        let delay = self.rng.between(US, 20 * MS);
        self.for_node(index, delay, Event::Installed(index));
    }

    fn apply_entries(&mut self, index: Index, committed: Vec<Committed<u64>>) {
        let entries: Vec<LogEntry> = committed.iter().map(|committed| committed.entry.clone()).collect();
        let mut store = self.process(index).store.take().expect("one apply at a time");
        let outcomes = self.judged_apply(index, &mut store, &entries);
        let process = self.process(index);
        process.store = Some(store);
        process.publish();
        let mut lease_changes: Vec<LeaseChange> = Vec::new();
        for (committed, outcome) in committed.into_iter().zip(outcomes) {
            if !committed.waiters.is_empty() {
                let batch = CommandBatch::decode(committed.entry.data.clone()).expect("it was just applied");
                for (offset, op) in committed.waiters {
                    self.written(op, &batch.commands[offset], &outcome.results[offset]);
                }
            }
            lease_changes.extend(outcome.lease_changes);
        }
        let flush = self.rng.below(1000);
        let flush_every = self.swarm.flush_every;
        let process = self.process(index);
        let applied = process.store().applied().index;
        if let Some(begun) = process.flushing.take() {
            begun.run();
            self.report_flushed(index);
        } else if applied - process.flushed >= flush_every || flush < 10 {
            // It takes as long as the disk does: until something was applied, or a crash comes.
            process.flushing = Some(process.store_mut().begin_flush());
        } else if flush < 30 {
            // RocksDB flushes by itself, too.
            process.store().engine().flush();
            self.report_flushed(index);
        }
        let input = Input::Applied {
            index: applied,
            lease_changes,
        };
        self.push(index, input);
    }

    fn report_flushed(&mut self, index: Index) {
        let process = self.process(index);
        let flushed = process.store().flushed();
        if flushed.index > process.flushed {
            process.flushed = flushed.index;
            let applied = EntryId {
                index: flushed.index,
                term: flushed.term,
            };
            self.push(index, Input::Flushed { applied });
        }
    }

    /// Applies, and compares with what the first member that applied the same entries did.
    pub fn judged_apply(
        &mut self,
        index: Index,
        store: &mut Store<SimEngine>,
        entries: &[LogEntry],
    ) -> Vec<kv::EntryOutcome> {
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut entry = entry.clone();
            if self.mutant == Mutant::EntryIsSkipped && index == 1 && self.rng.permille(5) {
                entry.data = bytes::Bytes::new();
            }
            self.check_entry(index, &entry);
            let revision = store.view().revision();
            let outcome = store
                .apply(std::slice::from_ref(&entry))
                .pop()
                .expect("one outcome for one entry");
            assert_eq!(outcome.index, entry.index);
            if self.is_first(entry.index) {
                self.first_applied(&entry, &outcome);
            }
            self.check_outcome(index, entry.index, outcome_hash(&outcome));
            self.check_state(index, entry.index, store.state_hash());
            self.check_events(index, store, revision + 1);
            outcomes.push(outcome);
        }
        outcomes
    }
}
