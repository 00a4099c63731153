//! A member's disk: a log file of checksummed records in sectors, the file MARK, the state, and what of it all
//! a crash, a power loss or a rotten block leaves.
//!
//! ```text
//!   bytes    [record][record][record][rec|ord][reco..          a record: length, checksum, number, payload
//!   sectors  |        512 |        512 |        512 |
//!            <------- synced -------> <-- pending -->          each pending sector: there after a power loss, or not
//!            <--- up to MARK --->                              what must be found again, or the member refuses
//! ```
//! This models what `raft_node::log::rocks` promises, not its code: a group is one record and survives whole or
//! not at all; MARK is synced before a vote leaves, lowered before a suffix is overwritten, and otherwise follows
//! within 100 ms. While a member runs, its log is `MemoryLog`; after a fault it is read back from the bytes.
//!
//! Not here: RocksDB's own files, which `raft-node/tests/log_damage.rs` damages for real.

use super::{engine::SimEngine, mutant::Mutant, sectors::Sectors};
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use raft_node::log::{
    EntryId, InstallIntent, Log as _, LogReader as _, LogWrite, Recovered, memory::MemoryLog, memory::MemoryReader,
};
use std::collections::BTreeMap;

/// A log file is written anew when it has grown to this, as a memtable is flushed.
const LOG_FILE_BYTES_MAX: usize = 32 << 10;

/// The file MARK: this was certainly synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub entry: EntryId,
    pub term: u64,
    pub vote: u64,
    /// How far the log file is vouched for.
    pub bytes: usize,
}

/// What a fault left of the log.
pub enum Found {
    Log(Box<Recovered>),
    /// The member must refuse to start.
    Damaged(String),
}

/// The files of a member.
pub struct Disk {
    /// What the running process reads.
    pub log: MemoryLog,
    pub engine: SimEngine,
    /// Snapshots that arrived, by the entry they end at.
    pub staged: BTreeMap<EntryId, SimEngine>,
    pub mark: Mark,
    file: Sectors,
    /// What a power loss brings back when the directory was not synced after a file was written anew.
    before: Option<(Sectors, u64)>,
    number: u64,
    hard_state: HardState,
    intent: Option<InstallIntent>,
    truncated: EntryId,
    last: EntryId,
    mutant: Mutant,
}

/// How a member goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// A killed process: what was written stays in the page cache.
    Killed,
    /// Every pending sector for itself is there, or not.
    PowerLost,
    /// A failed sync: pending pages are dropped and marked clean.
    SyncFailed,
}

const GROUP: u8 = 1;
const TRUNCATE: u8 = 2;
const RESET: u8 = 3;
const INTENT: u8 = 4;

impl Disk {
    pub fn new(mutant: Mutant, engine: SimEngine) -> Self {
        Self {
            log: MemoryLog::new(),
            engine,
            staged: BTreeMap::new(),
            mark: Mark::default(),
            file: Sectors::default(),
            before: None,
            number: 0,
            hard_state: HardState::default(),
            intent: None,
            truncated: EntryId::default(),
            last: EntryId::default(),
            mutant,
        }
    }

    /// Writes what queued while the last sync ran, as one record.
    pub fn write(&mut self, group: &[LogWrite]) {
        let entries: Vec<&Entry> = group.iter().flat_map(|write| &write.entries).collect();
        if let Some(first) = entries.iter().map(|entry| entry.index).min()
            && first <= self.mark.entry.index
        {
            // Lowered before a suffix that it vouches for is overwritten.
            let index = first - 1;
            let term = self.log.reader().term(index).unwrap_or(self.truncated.term);
            self.mark.entry = EntryId { index, term };
            // Nor does it vouch for the bytes of that suffix, should the new one be lost. A leader of a later term
            // has overwritten it, so it was never committed, and a member may forget it.
            self.mark.bytes = 0;
        }
        self.log.write_unsynced(group);
        for write in group {
            if let Some(hard_state) = &write.hard_state {
                self.hard_state.clone_from(hard_state);
            }
            if let Some(last) = write.entries.last() {
                self.last = id_of(last);
            }
        }
        let mut payload = Vec::with_capacity(64 + entries.iter().map(|entry| entry.data.len() + 32).sum::<usize>());
        encode_hard_state(&self.hard_state, &mut payload);
        for write in group {
            for entry in &write.entries {
                put_bytes(&mut payload, &encode(entry));
            }
        }
        self.append(GROUP, &payload);
    }

    /// Everything written is durable from here on; whether MARK has to follow before anybody hears of it.
    pub fn sync(&mut self) {
        self.file.sync();
        self.log.sync();
        if (self.mark.term, self.mark.vote) != (self.hard_state.term, self.hard_state.vote) {
            self.raise_mark();
        }
    }

    /// Vouches for all that is synced.
    pub fn raise_mark(&mut self) {
        if self.log.unsynced_groups() == 0 {
            self.mark = Mark {
                entry: self.last,
                term: self.hard_state.term,
                vote: self.hard_state.vote,
                bytes: self.file.synced_bytes(),
            };
        }
    }

    pub fn truncate(&mut self, to: EntryId) {
        self.log.truncate(to);
        self.truncated = self.truncated.max(to);
        self.append(TRUNCATE, &encode_id(to));
        self.file.sync();
        if self.file.bytes() > LOG_FILE_BYTES_MAX {
            self.write_anew();
        }
    }

    pub fn set_intent(&mut self, intent: Option<InstallIntent>) {
        self.log.set_install_intent(intent.clone());
        self.append(INTENT, &encode_intent(intent.as_ref()));
        self.intent = intent;
        self.file.sync();
    }

    /// After an installation: an empty log behind `to`.
    pub fn reset(&mut self, to: EntryId, hard_state: &HardState) {
        self.log.reset(to, hard_state);
        self.hard_state.clone_from(hard_state);
        (self.truncated, self.last, self.intent) = (to, to, None);
        let mut payload = encode_id(to);
        encode_hard_state(hard_state, &mut payload);
        self.append(RESET, &payload);
        self.file.sync();
        self.raise_mark();
    }

    /// A new file with what the old one amounts to takes its place. The directory is synced behind it.
    fn write_anew(&mut self) {
        let entries = self
            .log
            .reader()
            .entries(self.truncated.index + 1, self.last.index + 1, u64::MAX);
        let old = std::mem::take(&mut self.file);
        if self.mutant == Mutant::DirectoryNotSynced {
            self.before = Some((old, self.number));
        }
        let mut payload = encode_id(self.truncated);
        let mut before = self.hard_state.clone();
        before.commit = before.commit.min(self.truncated.index);
        encode_hard_state(&before, &mut payload);
        self.append(RESET, &payload);
        if self.intent.is_some() {
            let intent = encode_intent(self.intent.as_ref());
            self.append(INTENT, &intent);
        }
        let mut payload = Vec::new();
        encode_hard_state(&self.hard_state, &mut payload);
        for entry in &entries {
            put_bytes(&mut payload, &encode(entry));
        }
        self.append(GROUP, &payload);
        self.file.sync();
        self.raise_mark();
    }

    fn append(&mut self, kind: u8, payload: &[u8]) {
        self.number += 1;
        let mut body = Vec::with_capacity(payload.len() + 9);
        body.extend_from_slice(&self.number.to_le_bytes());
        body.push(kind);
        body.extend_from_slice(payload);
        let mut record = Vec::with_capacity(body.len() + 8);
        record.extend_from_slice(&(body.len() as u32).to_le_bytes());
        record.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        record.extend_from_slice(&body);
        self.file.append(&record);
    }

    /// Linux after a failed sync: what was pending is dropped, and nobody is told again.
    pub fn forget_pending(&mut self) {
        self.file.lose(|| false);
    }

    /// A disk whose syncs were lies: neither the log nor MARK is there.
    pub fn lose_everything(&mut self) {
        self.file.cut(0);
        self.mark = Mark::default();
    }

    /// The process is gone; `keeps` says of each pending sector whether it had reached the disk.
    pub fn go_down(&mut self, how: Down, keeps: impl FnMut() -> bool) {
        match how {
            Down::Killed => self.file.sync(),
            Down::SyncFailed => self.file.lose(|| false),
            Down::PowerLost => {
                self.file.lose(keeps);
                if let Some((file, _)) = self.before.take() {
                    self.file = file;
                }
            }
        }
        self.engine = self.engine.crash();
    }

    /// Flips one bit of what MARK vouches for, or writes a sector of it to another place.
    pub fn rot(&mut self, random: u64, is_misdirected: bool) -> bool {
        if self.mark.bytes != self.file.synced_bytes() {
            // What is behind MARK for its 100 ms could be lost unseen, as the README says.
            return false;
        }
        if is_misdirected {
            self.file.misdirect(self.mark.bytes, random)
        } else {
            self.file.flip(self.mark.bytes, random)
        }
    }

    /// Reads the log back from its bytes, and judges it by MARK.
    pub fn recover(&mut self) -> Found {
        let mut log = MemoryLog::new();
        let (mut hard_state, mut intent) = (HardState::default(), None);
        let (mut at, mut number) = (0, None);
        while let Some((record, next)) = next_record(self.file.all(), at, number) {
            replay(record, &mut log, &mut hard_state, &mut intent);
            number = Some(number_of(record));
            at = next;
        }
        // A torn tail is cut, so that nothing of it is ever taken for a record again.
        self.file.cut(at);
        log.crash(0);
        let recovered = log.recovered().clone();
        self.number = number.unwrap_or(0);
        (self.truncated, self.last) = (recovered.truncated, recovered.last);
        (self.hard_state, self.intent) = (hard_state, intent);
        let reader = log.reader();
        self.log = log;
        self.before = None;
        if self.mutant != Mutant::PointInTimeRecovery
            && let Err(why) = judge(self.mark, &recovered, &reader)
        {
            return Found::Damaged(why);
        }
        self.raise_mark();
        Found::Log(Box::new(recovered))
    }
}

/// As `raft_node::log::recover` does it.
fn judge(mark: Mark, found: &Recovered, reader: &MemoryReader) -> Result<(), String> {
    let hard_state = &found.hard_state;
    let is_forgotten =
        hard_state.term < mark.term || (hard_state.term == mark.term && mark.vote != 0 && hard_state.vote != mark.vote);
    if is_forgotten {
        return Err(format!(
            "MARK says term {} and vote {}, the log {hard_state:?}",
            mark.term, mark.vote
        ));
    }
    if found.last.index < mark.entry.index {
        return Err(format!("MARK says {:?}, the log ends at {:?}", mark.entry, found.last));
    }
    let is_there = mark.entry.index < found.truncated.index || mark.entry == EntryId::default();
    if !is_there && reader.term(mark.entry.index) != Some(mark.entry.term) {
        return Err(format!("MARK says {:?}, the log has another entry there", mark.entry));
    }
    let covered = found
        .install_intent
        .as_ref()
        .map_or(found.last.index, |intent| intent.index.max(found.last.index));
    if hard_state.commit > covered {
        return Err(format!(
            "entry {} was committed, the log ends at {:?}",
            hard_state.commit, found.last
        ));
    }
    Ok(())
}

/// The record at `at`, and where the next one begins; `None` where there is none or a broken one.
fn next_record(bytes: &[u8], at: usize, before: Option<u64>) -> Option<(&[u8], usize)> {
    let header = bytes.get(at..at + 8)?;
    let length = u32::from_le_bytes(header[..4].try_into().ok()?) as usize;
    let checksum = u32::from_le_bytes(header[4..].try_into().ok()?);
    let body = bytes.get(at + 8..at.checked_add(8)?.checked_add(length)?)?;
    let is_whole = body.len() >= 9 && crc32fast::hash(body) == checksum;
    // The first one too must be what a file begins with: a sector that was written to a wrong place may be a record.
    let follows = is_whole
        && match before {
            Some(before) => number_of(body) == before + 1,
            None => number_of(body) == 1 || body[8] == RESET,
        };
    follows.then_some((body, at + 8 + length))
}

fn number_of(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().expect("a record has a number"))
}

fn replay(body: &[u8], log: &mut MemoryLog, hard_state: &mut HardState, intent: &mut Option<InstallIntent>) {
    let (kind, mut rest) = (body[8], &body[9..]);
    match kind {
        GROUP => {
            *hard_state = take_hard_state(&mut rest);
            let mut entries = Vec::new();
            let mut groups = Vec::new();
            while !rest.is_empty() {
                let entry = Entry::parse_from_bytes(take_bytes(&mut rest)).expect("its checksum is right");
                // Several groups were written at once: a later one may begin anew below the last.
                if entries.last().is_some_and(|last: &Entry| entry.index != last.index + 1) {
                    groups.push(LogWrite {
                        entries: std::mem::take(&mut entries),
                        hard_state: None,
                    });
                }
                entries.push(entry);
            }
            groups.push(LogWrite {
                entries,
                hard_state: Some(hard_state.clone()),
            });
            log.write(&groups);
        }
        TRUNCATE => log.truncate(take_id(&mut rest)),
        RESET => {
            let to = take_id(&mut rest);
            *hard_state = take_hard_state(&mut rest);
            *intent = None;
            log.reset(to, hard_state);
        }
        INTENT => {
            *intent = take_intent(rest);
            log.set_install_intent(intent.clone());
        }
        kind => panic!("a record of kind {kind} with a right checksum"),
    }
}

fn id_of(entry: &Entry) -> EntryId {
    EntryId {
        index: entry.index,
        term: entry.term,
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    entry.write_to_bytes().expect("an entry of a replica can be encoded")
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    to.extend_from_slice(bytes);
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> &'a [u8] {
    let (length, rest) = from.split_at(4);
    let length = u32::from_le_bytes(length.try_into().expect("four bytes were taken")) as usize;
    let (bytes, rest) = rest.split_at(length);
    *from = rest;
    bytes
}

fn take_number(from: &mut &[u8]) -> u64 {
    let (number, rest) = from.split_at(8);
    *from = rest;
    u64::from_le_bytes(number.try_into().expect("eight bytes were taken"))
}

fn encode_id(id: EntryId) -> Vec<u8> {
    [id.index.to_le_bytes(), id.term.to_le_bytes()].concat()
}

fn take_id(from: &mut &[u8]) -> EntryId {
    let index = take_number(from);
    EntryId {
        index,
        term: take_number(from),
    }
}

fn encode_hard_state(hard_state: &HardState, to: &mut Vec<u8>) {
    for number in [hard_state.term, hard_state.vote, hard_state.commit] {
        to.extend_from_slice(&number.to_le_bytes());
    }
}

fn take_hard_state(from: &mut &[u8]) -> HardState {
    let (term, vote, commit) = (take_number(from), take_number(from), take_number(from));
    HardState {
        term,
        vote,
        commit,
        ..HardState::default()
    }
}

fn encode_intent(intent: Option<&InstallIntent>) -> Vec<u8> {
    intent.map_or_else(Vec::new, |intent| {
        let mut bytes = [intent.index.to_le_bytes(), intent.term.to_le_bytes()].concat();
        bytes.extend_from_slice(intent.directory.as_bytes());
        bytes
    })
}

fn take_intent(mut from: &[u8]) -> Option<InstallIntent> {
    if from.is_empty() {
        return None;
    }
    let EntryId { index, term } = take_id(&mut from);
    let directory = String::from_utf8_lossy(from).into_owned();
    Some(InstallIntent { index, term, directory })
}
