//! The Raft log through its own door: one conformance suite over the log in RocksDB and the simulated one, random
//! operations against a plain Vec, and what MARK must look like around each kind of write.
//! Damaged files are the business of `log_damage`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use raft::eraftpb::{Entry, HardState};
use raft_node::log::mark::{Mark, MarkFile};
use raft_node::log::memory::MemoryLog;
use raft_node::log::rocks::RocksLog;
use raft_node::log::{EntryId, InstallIntent, Log, LogReader, LogWrite, Recovered};
use std::path::Path;

fn entry(index: u64, term: u64) -> Entry {
    let data = format!("entry {index} of term {term}").into_bytes().into();
    Entry {
        index,
        term,
        data,
        ..Entry::default()
    }
}

fn entries(from: u64, to: u64, term: u64) -> LogWrite {
    LogWrite {
        entries: (from..=to).map(|index| entry(index, term)).collect(),
        hard_state: None,
    }
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState {
        term,
        vote,
        commit,
        ..HardState::default()
    }
}

fn state(term: u64, vote: u64, commit: u64) -> LogWrite {
    LogWrite {
        entries: Vec::new(),
        hard_state: Some(hard_state(term, vote, commit)),
    }
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId { index, term }
}

/// Index and term of all entries behind `truncated`.
fn ids<L: Log>(log: &L, truncated: u64) -> Vec<(u64, u64)> {
    let entries = log.reader().entries(truncated + 1, u64::MAX, u64::MAX);
    entries.iter().map(|entry| (entry.index, entry.term)).collect()
}

/// A disk that a log can be opened on again and again.
trait Disk: Default {
    type Log: Log;
    fn open(&mut self) -> Self::Log;
    fn reopen(&mut self, log: Self::Log) -> Self::Log;
}

struct Files(tempfile::TempDir);

impl Default for Files {
    fn default() -> Files {
        Files(tempfile::tempdir().unwrap())
    }
}

impl Disk for Files {
    type Log = RocksLog;
    fn open(&mut self) -> RocksLog {
        RocksLog::open(&self.0.path().join("raft")).unwrap()
    }
    fn reopen(&mut self, log: RocksLog) -> RocksLog {
        log.verify_checksums().unwrap();
        drop(log);
        self.open()
    }
}

#[derive(Default)]
struct Memory;

impl Disk for Memory {
    type Log = MemoryLog;
    fn open(&mut self) -> MemoryLog {
        MemoryLog::new()
    }
    fn reopen(&mut self, mut log: MemoryLog) -> MemoryLog {
        log.crash(0);
        log
    }
}

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod rocks { $(#[test] fn $case() { super::$case::<super::Files>(); })* }
        mod memory { $(#[test] fn $case() { super::$case::<super::Memory>(); })* }
    };
}

conformance!(
    new_log_is_empty,
    appends,
    overwrites_a_suffix,
    merges_a_group,
    truncates,
    resets,
    keeps_the_intent
);

fn new_log_is_empty<D: Disk>() {
    let mut disk = D::default();
    let log = disk.open();
    assert_eq!(*log.recovered(), Recovered::default());
    assert_eq!(log.reader().term(0), Some(0));
    assert_eq!(log.reader().term(1), None);
    assert!(log.reader().entries(1, 2, u64::MAX).is_empty());
    let log = disk.reopen(log);
    assert_eq!(*log.recovered(), Recovered::default());
}

fn appends<D: Disk>() {
    let mut disk = D::default();
    let mut log = disk.open();
    let reader = log.reader();
    log.write(&[entries(1, 5, 1), state(1, 3, 0)]);
    log.write(&[]);
    log.write(&[entries(6, 8, 2), state(2, 0, 4), entries(9, 10, 2)]);
    let all = reader.entries(1, 11, u64::MAX);
    assert_eq!(all.len(), 10);
    assert_eq!(all[6], entry(7, 2));
    assert_eq!(reader.entries(3, 5, u64::MAX), [entry(3, 1), entry(4, 1)]);
    assert_eq!(reader.entries(3, 3, u64::MAX), []);
    assert_eq!(reader.entries(3, 9, 0), [entry(3, 1)], "at least one");
    let two = 2 * u64::from(protobuf::Message::compute_size(&entry(3, 1)));
    assert_eq!(reader.entries(3, 9, two).len(), 2, "the bound itself is allowed");
    assert_eq!(reader.entries(3, 9, two - 1).len(), 1);
    assert_eq!(reader.entries(11, 20, u64::MAX), []);
    assert_eq!(
        (reader.term(5), reader.term(6), reader.term(10), reader.term(11)),
        (Some(1), Some(2), Some(2), None)
    );
    assert!(log.bytes() > 0);
    drop(reader);
    let log = disk.reopen(log);
    let recovered = log.recovered();
    assert_eq!((recovered.last, recovered.truncated), (id(10, 2), id(0, 0)));
    assert_eq!(recovered.hard_state, hard_state(2, 0, 4));
    assert_eq!(log.reader().entries(1, 11, u64::MAX), all);
}

fn overwrites_a_suffix<D: Disk>() {
    let mut disk = D::default();
    let mut log = disk.open();
    log.write(&[entries(1, 10, 1)]);
    log.write(&[entries(6, 7, 2)]);
    let expected: Vec<_> = (1..=5).map(|index| (index, 1)).chain([(6, 2), (7, 2)]).collect();
    assert_eq!(ids(&log, 0), expected);
    assert_eq!(log.reader().term(8), None);
    let mut log = disk.reopen(log);
    assert_eq!(ids(&log, 0), expected);
    assert_eq!(log.recovered().last, id(7, 2));
    log.write(&[entries(1, 1, 3)]);
    let log = disk.reopen(log);
    assert_eq!(ids(&log, 0), [(1, 3)]);
}

fn merges_a_group<D: Disk>() {
    let mut disk = D::default();
    let mut log = disk.open();
    log.write(&[entries(1, 6, 1)]);
    let overwriting = [entries(9, 10, 2), state(2, 1, 0), entries(8, 9, 3), state(3, 1, 4)];
    log.write(&[&[entries(7, 12, 1)][..], &overwriting].concat());
    let expected: Vec<_> = (1..=7).map(|index| (index, 1)).chain([(8, 3), (9, 3)]).collect();
    assert_eq!(ids(&log, 0), expected);
    log.write(&[entries(10, 10, 3), entries(6, 6, 4)]);
    let expected: Vec<_> = (1..=5).map(|index| (index, 1)).chain([(6, 4)]).collect();
    assert_eq!(ids(&log, 0), expected);
    let log = disk.reopen(log);
    assert_eq!(ids(&log, 0), expected);
    assert_eq!(log.recovered().hard_state, hard_state(3, 1, 4));
}

fn truncates<D: Disk>() {
    let mut disk = D::default();
    let mut log = disk.open();
    log.write(&[entries(1, 10, 1)]);
    log.truncate(id(4, 1));
    log.truncate(id(3, 1));
    let reader = log.reader();
    assert_eq!(
        (reader.term(3), reader.term(4), reader.term(5)),
        (None, Some(1), Some(1))
    );
    assert_eq!(reader.entries(4, 11, u64::MAX), []);
    assert_eq!(reader.entries(5, 11, u64::MAX).len(), 6);
    drop(reader);
    let mut log = disk.reopen(log);
    assert_eq!((log.recovered().truncated, log.recovered().last), (id(4, 1), id(10, 1)));
    log.write(&[entries(5, 6, 2)]);
    log.truncate(id(6, 2));
    let mut log = disk.reopen(log);
    assert_eq!((log.recovered().truncated, log.recovered().last), (id(6, 2), id(6, 2)));
    log.write(&[entries(7, 7, 2)]);
    let log = disk.reopen(log);
    assert_eq!(ids(&log, 6), [(7, 2)]);
}

fn resets<D: Disk>() {
    let mut disk = D::default();
    let mut log = disk.open();
    log.write(&[entries(1, 10, 1), state(1, 2, 5)]);
    log.mark();
    for (to, next) in [(id(7, 3), 8), (id(100, 4), 101), (id(100, 4), 101)] {
        log.reset(to, &hard_state(to.term, 0, to.index));
        assert_eq!(
            (log.reader().term(to.index), log.reader().term(next)),
            (Some(to.term), None)
        );
        assert_eq!(log.reader().entries(next, u64::MAX, u64::MAX), []);
        log = disk.reopen(log);
        assert_eq!((log.recovered().truncated, log.recovered().last), (to, to));
        assert_eq!(log.recovered().hard_state, hard_state(to.term, 0, to.index));
        log.write(&[entries(next, next + 2, to.term)]);
        log.mark();
        log = disk.reopen(log);
        assert_eq!(log.recovered().last, id(next + 2, to.term));
    }
}

fn keeps_the_intent<D: Disk>() {
    let mut disk = D::default();
    let mut log = disk.open();
    let intent = InstallIntent {
        index: 50,
        term: 2,
        directory: "snapshot/50".into(),
    };
    log.set_install_intent(Some(intent.clone()));
    // Raft has accepted the snapshot, so its commit may be written before the log is reset.
    log.write(&[state(2, 0, 50)]);
    let mut log = disk.reopen(log);
    assert_eq!(log.recovered().install_intent, Some(intent.clone()));
    log.reset(id(50, 2), &hard_state(2, 0, 50));
    let mut log = disk.reopen(log);
    assert_eq!(log.recovered().install_intent, None);
    log.set_install_intent(Some(intent));
    log.set_install_intent(None);
    let log = disk.reopen(log);
    assert_eq!(log.recovered().install_intent, None);
}

fn broken_promise<L: Log>(mut log: L, write: LogWrite) {
    log.write(&[entries(1, 10, 2), state(2, 1, 5)]);
    log.write(&[write]);
}

macro_rules! broken_promises {
    ($($case:ident: $write:expr, $text:literal;)*) => { $(
        mod $case {
            use super::*;
            #[test]
            #[should_panic(expected = $text)]
            fn memory() { broken_promise(MemoryLog::new(), $write); }
            #[test]
            #[should_panic(expected = $text)]
            fn rocks() {
                let directory = tempfile::tempdir().unwrap();
                broken_promise(RocksLog::open(directory.path()).unwrap(), $write);
            }
        }
    )* };
}

broken_promises! {
    gap: entries(12, 12, 2), "takes 6 to 11";
    committed_overwritten: entries(5, 5, 3), "takes 6 to 11";
    second_vote: state(2, 3, 5), "second vote";
    older_term: state(1, 1, 5), "goes back";
    commit_behind_last: state(2, 1, 11), "behind the last entry";
    gap_in_group: LogWrite { entries: vec![entry(11, 2), entry(13, 2)], hard_state: None }, "cannot follow";
}

#[test]
fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
    let mut log = MemoryLog::new();
    log.write(&[entries(1, 2, 1)]);
    let write = |log: &mut MemoryLog| {
        log.write_unsynced(&[entries(3, 4, 1), state(1, 1, 0)]);
        log.write_unsynced(&[entries(4, 4, 2), state(2, 1, 3)]);
        log.write_unsynced(&[entries(5, 6, 2)]);
        assert_eq!(log.unsynced_groups(), 3);
    };
    write(&mut log);
    assert_eq!(log.reader().term(6), Some(2), "readers see what is not yet synced");
    log.crash(0);
    assert_eq!((log.recovered().last, log.recovered().hard_state.term), (id(2, 1), 0));
    write(&mut log);
    log.crash(2);
    assert_eq!((log.recovered().last, log.recovered().hard_state.term), (id(4, 2), 2));
    assert_eq!((log.unsynced_groups(), log.reader().term(5)), (0, None));
    log.write_unsynced(&[entries(5, 6, 2)]);
    log.sync();
    log.crash(0);
    assert_eq!(log.recovered().last, id(6, 2));
}

fn mark_of(directory: &Path) -> Mark {
    MarkFile::open(directory).unwrap().unwrap().written()
}

#[test]
fn mark_is_synced_with_a_vote_and_lowered_before_an_overwrite() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = RocksLog::open(directory.path()).unwrap();
    let mark = || mark_of(directory.path());
    log.write(&[entries(1, 3, 1)]);
    assert_eq!(mark(), Mark::default(), "entries alone do not wait for MARK");
    log.write(&[entries(4, 5, 1), state(1, 2, 0)]);
    assert_eq!((mark().entry, mark().term, mark().vote), (id(5, 1), 1, 2));
    log.write(&[entries(6, 9, 1), state(1, 2, 3)]);
    assert_eq!(mark().entry, id(5, 1), "a commit index is no promise");
    log.mark();
    assert_eq!(mark().entry, id(9, 1));
    log.write(&[entries(9, 12, 2)]);
    assert_eq!((mark().entry, mark().term, mark().vote), (id(8, 1), 1, 2));
    log.write(&[entries(10, 10, 3)]);
    assert_eq!(mark().entry, id(8, 1), "the overwritten suffix is behind MARK");
    log.write(&[state(2, 0, 3)]);
    assert_eq!((mark().entry, mark().term, mark().vote), (id(10, 3), 2, 0));
    log.write(&[entries(4, 4, 3), state(4, 1, 3)]);
    assert_eq!((mark().entry, mark().term, mark().vote), (id(4, 3), 4, 1));
    log.reset(id(4, 9), &hard_state(9, 0, 4));
    assert_eq!((mark().entry, mark().term, mark().vote), (id(4, 9), 9, 0));
    drop(log);
    RocksLog::open(directory.path()).unwrap();
}

#[test]
fn random_operations_agree_with_a_vec() {
    proptest!(ProptestConfig::with_cases(60), |(steps in prop::collection::vec(step(), 1..40))| {
        follow_a_vec::<Files>(&steps);
        follow_a_vec::<Memory>(&steps);
    });
}

#[derive(Clone, Debug)]
enum Step {
    Append { count: u64 },
    Overwrite { count: u64, back: u64 },
    Commit { back: u64 },
    Vote { member: u64 },
    Truncate { back: u64 },
    Reset { ahead: u64 },
    Mark,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6u64).prop_map(|count| Step::Append { count }),
        3 => (1..6u64, 1..7u64).prop_map(|(count, back)| Step::Overwrite { count, back }),
        1 => (0..4u64).prop_map(|back| Step::Commit { back }),
        1 => (1..4u64).prop_map(|member| Step::Vote { member }),
        1 => (0..9usize as u64).prop_map(|back| Step::Truncate { back }),
        1 => (0..5u64).prop_map(|ahead| Step::Reset { ahead }),
        2 => Just(Step::Mark),
        2 => Just(Step::Reopen),
    ]
}

/// The naive log: all entries it ever kept in a Vec, of which those up to `truncated` are forgotten.
struct Plain {
    all: Vec<Entry>,
    truncated: EntryId,
    hard_state: HardState,
}

impl Plain {
    fn last(&self) -> EntryId {
        self.all
            .last()
            .map_or(self.truncated, |entry| id(entry.index, entry.term))
    }

    fn agrees_with<L: Log>(&self, log: &L) {
        let reader = log.reader();
        let live: Vec<_> = self
            .all
            .iter()
            .filter(|entry| entry.index > self.truncated.index)
            .cloned()
            .collect();
        assert_eq!(reader.entries(self.truncated.index + 1, u64::MAX, u64::MAX), live);
        assert_eq!(reader.term(self.truncated.index), Some(self.truncated.term));
        assert_eq!(reader.term(self.last().index + 1), None);
    }

    /// A new leader's entries from `from` on, and the term they come with.
    fn overwrite(&mut self, from: u64, count: u64) -> LogWrite {
        let from = from.max(self.truncated.index.max(self.hard_state.commit) + 1);
        self.all.retain(|entry| entry.index < from);
        let new = entries(from, from + count - 1, self.hard_state.term);
        self.all.extend(new.entries.iter().cloned());
        LogWrite {
            hard_state: Some(self.hard_state.clone()),
            ..new
        }
    }

    /// What the step asks to be written, if it is a write.
    fn write(&mut self, step: &Step) -> Option<LogWrite> {
        let next = self.last().index + 1;
        match *step {
            Step::Append { count } => Some(LogWrite {
                hard_state: None,
                ..self.overwrite(next, count)
            }),
            Step::Overwrite { count, back } => {
                self.hard_state = hard_state(self.hard_state.term + 1, 0, self.hard_state.commit);
                Some(self.overwrite(next.saturating_sub(back), count))
            }
            Step::Commit { back } => {
                self.hard_state.commit = self.hard_state.commit.max((next - 1).saturating_sub(back));
                Some(LogWrite {
                    entries: Vec::new(),
                    hard_state: Some(self.hard_state.clone()),
                })
            }
            Step::Vote { member } => {
                self.hard_state = hard_state(self.hard_state.term + 1, member, self.hard_state.commit);
                Some(LogWrite {
                    entries: Vec::new(),
                    hard_state: Some(self.hard_state.clone()),
                })
            }
            _ => None,
        }
    }
}

fn follow_a_vec<D: Disk>(steps: &[Step]) {
    let mut disk = D::default();
    let mut log = disk.open();
    let mut plain = Plain {
        all: Vec::new(),
        truncated: id(0, 0),
        hard_state: hard_state(1, 0, 0),
    };
    log.write(&[state(1, 0, 0)]);
    for step in steps {
        if let Some(write) = plain.write(step) {
            log.write(&[write]);
        }
        match *step {
            Step::Truncate { back } => {
                let at = plain
                    .all
                    .iter()
                    .rev()
                    .nth(back as usize)
                    .map_or(plain.truncated, |e| id(e.index, e.term));
                plain.truncated = plain.truncated.max(at);
                log.truncate(plain.truncated);
            }
            Step::Reset { ahead } => {
                let term = plain.hard_state.term + 1;
                plain.truncated = id(plain.hard_state.commit.max(plain.truncated.index) + 1 + ahead, term);
                plain.hard_state = hard_state(term, 0, plain.truncated.index);
                plain.all.clear();
                log.reset(plain.truncated, &plain.hard_state);
            }
            Step::Mark => log.mark(),
            Step::Reopen => log = disk.reopen(log),
            _ => {}
        }
        plain.agrees_with(&log);
    }
    let log = disk.reopen(log);
    plain.agrees_with(&log);
    let recovered = log.recovered();
    assert_eq!(
        (&recovered.hard_state, recovered.last),
        (&plain.hard_state, plain.last())
    );
}
