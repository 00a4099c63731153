//! A member's process: how it starts, how it goes down, and its raft thread's turns, as `node/start.rs` and
//! `driver/mod.rs` do them.

use super::{
    disk::{Down, Found},
    engine::SimEngine,
    mutant::Mutant,
    swarm::{MS, US},
    world::{Event, Index, Node, W, World, id_of, index_of, tell},
};
use kv::{Flush, LogEntry, Store, StoreOptions};
use proto::node::{Member, Membership};
use raft_node::{
    limits,
    log::{EntryId, InstallIntent, Log as _, LogReader as _, Recovered, memory::MemoryReader},
    replica::{Committed, Input, Install, Output, Replica, ReplicaConfig, Time, Write, initial_conf_state, start_of},
    watchers::Watchers,
};
use std::collections::{BTreeSet, VecDeque};

pub enum LogTask {
    Write(Write),
    Truncate(EntryId),
    Install(Install),
}

pub enum ApplyTask {
    Entries(VecDeque<Committed<W>>),
    Checkpoint,
    Forget(EntryId),
    Install(EntryId),
}

#[derive(Default)]
pub struct Checkpoints {
    pub being_made: bool,
    pub image: Option<(EntryId, SimEngine)>,
    pub made: Option<EntryId>,
    pub on_its_way_to: BTreeSet<u64>,
}

/// A running member.
pub struct Process {
    pub replica: Replica<W, MemoryReader>,
    /// `None` only while entries are applied.
    pub store: Option<Store<SimEngine>>,
    pub born: Time,
    pub inbox: Vec<Input<W>>,
    pub turn_is_due: bool,
    next_tick: Time,
    /// Until when an idle raft thread waits.
    wakes: Time,
    pub log_queue: VecDeque<LogTask>,
    pub log_is_busy: bool,
    pub apply_queue: VecDeque<ApplyTask>,
    pub apply_is_due: bool,
    pub installing: Option<Install>,
    pub flushed: u64,
    /// A flush that has begun and is not done.
    pub flushing: Option<Flush<SimEngine>>,
    pub checkpoints: Checkpoints,
    /// Who watches here.
    pub watchers: Watchers,
    pub contexts: BTreeSet<Vec<u8>>,
}

impl Process {
    fn new(replica: Replica<W, MemoryReader>, store: Store<SimEngine>, born: Time) -> Self {
        Self {
            replica,
            flushed: store.flushed().index,
            flushing: None,
            watchers: Watchers::new(store.view().revision()),
            store: Some(store),
            born,
            inbox: Vec::new(),
            turn_is_due: true,
            next_tick: Time::ZERO,
            wakes: Time::ZERO,
            log_queue: VecDeque::new(),
            log_is_busy: false,
            apply_queue: VecDeque::new(),
            apply_is_due: false,
            installing: None,
            checkpoints: Checkpoints::default(),
            contexts: BTreeSet::new(),
        }
    }

    pub fn store(&self) -> &Store<SimEngine> {
        self.store.as_ref().expect("nothing asks while entries are applied")
    }

    pub fn store_mut(&mut self) -> &mut Store<SimEngine> {
        self.store.as_mut().expect("nothing asks while entries are applied")
    }

    /// As the apply thread does it behind every View.
    pub fn publish(&self) {
        self.watchers.published(&self.store().view());
    }

    pub fn leases(&self) -> Vec<(i64, i64)> {
        let rows = self.store().view().lease_rows();
        rows.iter().map(|lease| (lease.id, lease.ttl)).collect()
    }
}

impl World {
    pub fn start(&mut self, index: Index) {
        let node = &self.nodes[index];
        if node.process.is_some() || node.is_halted || node.full_until > self.now {
            if node.full_until > self.now {
                let wait = node.full_until - self.now;
                self.after(wait, Event::Start(index));
            }
            return;
        }
        tell!(self, "start {index}");
        let is_first = self.nodes[index].incarnation == 0;
        if !is_first && let Err(why) = self.nodes[index].find_log(index) {
            assert!(
                self.nodes[index].is_damaged,
                "member {index} refuses to start, though nothing of its disk was damaged: {why}"
            );
            tell!(self, "{index} refuses to start: {why}");
            self.nodes[index].is_halted = true;
            self.judge.refusals += 1;
            return;
        }
        self.nodes[index].finish_installation();
        let disk = &mut self.nodes[index].disk;
        disk.staged.clear();
        let recovered = disk.log.recovered().clone();
        let mut store = Store::open(disk.engine.clone(), self.swarm.store);
        if store.is_empty() {
            store.bootstrap(self.membership());
        }
        self.replay(index, &mut store, &recovered);
        self.check_member_table(index, &store);
        let config = ReplicaConfig {
            id: id_of(index),
            election_ticks: 15,
            heartbeat_ticks: 3,
            applied: store.applied().index,
            catch_up_entries: self.swarm.catch_up,
            seed: self.rng.number(),
            logger: slog::Logger::root(slog::Discard, slog::o!()),
        };
        let leases: Vec<(i64, i64)> = store
            .view()
            .lease_rows()
            .iter()
            .map(|lease| (lease.id, lease.ttl))
            .collect();
        let reader = self.nodes[index].disk.log.reader();
        let start = start_of(&recovered, &store.membership().conf_state);
        let replica = Replica::new(&config, start, reader, &leases);
        let now = self.now;
        let node = &mut self.nodes[index];
        node.incarnation += 1;
        node.paused_until = now;
        node.process = Some(Process::new(replica, store, now));
        self.for_node(index, US, Event::Turn(index));
        self.for_node(index, 100 * MS, Event::Mark(index));
    }

    /// Applies what the log has and the state has not.
    fn replay(&mut self, index: Index, store: &mut Store<SimEngine>, recovered: &Recovered) {
        let applied = store.applied().index;
        assert!(
            (recovered.truncated.index..=recovered.last.index).contains(&applied),
            "member {index}: the state has applied {applied}, the log is {recovered:?}"
        );
        let reader = self.nodes[index].disk.log.reader();
        for entry in reader.entries(applied + 1, recovered.hard_state.commit + 1, u64::MAX) {
            let entry = LogEntry {
                index: entry.index,
                term: entry.term,
                data: entry.data,
                conf_state: None,
            };
            self.judged_apply(index, store, &[entry]);
        }
    }

    pub fn membership(&self) -> Membership {
        let ids = (0..self.members()).map(id_of);
        let members = ids.clone().map(|id| Member {
            id,
            ..Member::default()
        });
        Membership {
            cluster_id: 7,
            members: members.collect(),
            conf_state: initial_conf_state(ids.collect()),
        }
    }

    /// The process ends, with what that does to its disk.
    pub fn go_down(&mut self, index: Index, how: Down) {
        if self.nodes[index].process.is_none() {
            return;
        }
        tell!(self, "{index} goes down: {how:?}");
        self.judge.crashes += 1;
        let chance = self.rng.pick(&[0, 300, 700, 1000]);
        let rng = &mut self.rng;
        let node = &mut self.nodes[index];
        node.life += 1;
        node.process = None;
        node.parked.clear();
        node.paused_until = Time::ZERO;
        node.disk.go_down(how, || rng.permille(chance));
        if self.mutant == Mutant::SyncIsLost {
            node.disk.lose_everything();
        }
        self.clients_lose(index);
        self.watchers_lose(index);
    }

    pub fn turn(&mut self, index: Index) {
        let local = self.local(index);
        let process = self.process(index);
        process.turn_is_due = false;
        if process.replica.rest().until <= local {
            process.inbox.push(Input::Wake);
        }
        for input in std::mem::take(&mut process.inbox) {
            process.note_snapshot(&input);
            process.replica.handle(local, input);
        }
        if local >= process.next_tick {
            process.replica.handle(local, Input::Tick);
            process.next_tick = (process.next_tick + limits::TICK).max(local);
        }
        let output = process.replica.take_output();
        if process.wakes < process.next_tick {
            process.wakes = process.next_tick;
            // A little more, for a clock that runs slow must have reached the tick by then.
            let wait = process.next_tick.saturating_sub(local);
            self.for_node(index, wait + wait / 500 + US, Event::Turn(index));
        }
        let process = self.process(index);
        let rest = process.replica.rest().until;
        if rest < process.next_tick {
            self.for_node(index, rest.saturating_sub(local) + US, Event::Turn(index));
        }
        self.check_standing(index);
        self.carry_out(index, output);
    }

    fn carry_out(&mut self, index: Index, output: Output<W>) {
        self.check_committed(index, &output.committed);
        for frame in output.frames {
            self.send(index, frame);
        }
        self.check_contexts(index);
        let process = self.process(index);
        process.log_queue.extend(output.writes.into_iter().map(LogTask::Write));
        if !output.committed.is_empty() {
            process
                .apply_queue
                .push_back(ApplyTask::Entries(output.committed.into()));
        }
        for (op, answer) in output.answers {
            self.answered(index, op, answer);
        }
        let process = self.process(index);
        process.log_queue.extend(output.truncate.map(LogTask::Truncate));
        let checkpoints = &mut process.checkpoints;
        if output.snapshot_wanted && !checkpoints.being_made && checkpoints.on_its_way_to.is_empty() {
            checkpoints.being_made = true;
            checkpoints.made = None;
            process.apply_queue.push_back(ApplyTask::Checkpoint);
        }
        for (to, at, message) in output.send_snapshots {
            self.send_snapshot(index, to, at, message);
        }
        let process = self.process(index);
        process.log_queue.extend(output.install.map(LogTask::Install));
        process
            .apply_queue
            .extend(output.discard_snapshots.into_iter().map(ApplyTask::Forget));
        self.kick(index);
    }

    fn send_snapshot(&mut self, from: Index, to: u64, at: EntryId, message: bytes::Bytes) {
        let checkpoints = &mut self.process(from).checkpoints;
        if checkpoints.made != Some(at) {
            self.push(from, Input::SnapshotSent { to, ok: false });
            return;
        }
        let (made, image) = checkpoints.image.clone().expect("its files are there");
        assert_eq!(at, made, "the files of another snapshot");
        checkpoints.on_its_way_to.insert(to);
        let delay = self.rng.between(MS, 300 * MS);
        tell!(self, "{from} sends {to:x} a snapshot at {at:?}");
        let to = index_of(to);
        self.after(
            delay,
            Event::Snapshot {
                from,
                to,
                at,
                image,
                message,
            },
        );
    }

    /// Wakes threads that have something to do.
    pub fn kick(&mut self, index: Index) {
        let Some(process) = self.nodes[index].process.as_mut() else {
            return;
        };
        if !process.log_is_busy && !process.log_queue.is_empty() {
            process.log_is_busy = true;
            let delay = self.rng.between(US, 50 * US);
            self.for_node(index, delay, Event::Log(index));
        }
        let process = self.process(index);
        if !process.apply_is_due && !process.apply_queue.is_empty() {
            process.apply_is_due = true;
            let most = if self.is_faulty { self.swarm.apply } else { US * 50 };
            let delay = self.rng.between(US, most);
            self.for_node(index, delay, Event::Apply(index));
        }
    }
}

impl Process {
    fn note_snapshot(&mut self, input: &Input<W>) {
        let checkpoints = &mut self.checkpoints;
        match input {
            Input::SnapshotMade { at } => {
                checkpoints.being_made = false;
                checkpoints.made = Some(*at);
            }
            Input::SnapshotSent { to, .. } => {
                checkpoints.on_its_way_to.remove(to);
                if checkpoints.on_its_way_to.is_empty() && !checkpoints.being_made {
                    checkpoints.made = None;
                }
            }
            _ => {}
        }
    }
}

impl Node {
    /// Reads the log back, and compares it with what was certainly on the disk.
    fn find_log(&mut self, index: Index) -> Result<(), String> {
        match self.disk.recover() {
            Found::Damaged(why) => Err(why),
            Found::Log(found) => {
                let covered = found
                    .install_intent
                    .as_ref()
                    .map_or(found.last.index, |intent| intent.index.max(found.last.index));
                let applied = |engine: &SimEngine| Store::open(engine.clone(), StoreOptions::default()).applied();
                if self.is_damaged && applied(&self.disk.engine).index > covered {
                    let state = applied(&self.disk.engine);
                    return Err(format!(
                        "the state has applied {state:?}, the log ends at {:?}",
                        found.last
                    ));
                }
                self.durable.check_found(index, &found, &self.disk.log.reader());
                Ok(())
            }
        }
    }

    /// What the log thread had begun: the state is switched, then the log follows.
    fn finish_installation(&mut self) {
        let intent = self.disk.log.recovered().install_intent.clone();
        let Some(InstallIntent { index, term, .. }) = intent else {
            return;
        };
        let at = EntryId { index, term };
        let staged = self.disk.staged.get(&at);
        self.disk.engine = staged.expect("the state whose installation had begun is there").crash();
        let mut hard_state = self.disk.log.recovered().hard_state.clone();
        hard_state.commit = hard_state.commit.max(index);
        self.disk.reset(at, &hard_state);
        self.disk.log.crash(0);
        self.durable.reset(at, &hard_state);
    }
}
