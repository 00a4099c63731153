//! What a damaged disk may do to the Raft log: it is reported by name, or nothing that MARK vouches for is gone.
//!
//! A log with a flushed file and a live WAL is built once, closed cleanly and copied; every copy gets one fault: a
//! flipped bit, a cut, or a missing file, in each file of the directory at several places. The judge is the list of
//! entries that was written, not anything the log says about itself.

#![allow(clippy::unwrap_used)]

use raft::eraftpb::{Entry, HardState};
use raft_node::log::mark::{MARK_FILE, MarkFile};
use raft_node::log::rocks::{RocksLog, wal};
use raft_node::log::{EntryId, Log, LogReader, LogWrite};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const TRUNCATED: u64 = 20;
const MARKED: u64 = 300;
const LAST: u64 = 340;
/// Places in each file where a bit is flipped and where it is cut, besides its ends.
const PLACES: u64 = 24;

fn entry(index: u64, term: u64) -> Entry {
    let data: Vec<u8> = (0..300).map(|at| (at * 7 + index * 13 + term) as u8).collect();
    Entry {
        index,
        term,
        data: data.into(),
        ..Entry::default()
    }
}

fn write(log: &mut RocksLog, from: u64, to: u64, vote: u64) {
    for index in from..=to {
        let hard_state = HardState {
            term: 3,
            vote,
            commit: index - 1,
            ..HardState::default()
        };
        log.write(&[LogWrite {
            entries: vec![entry(index, 3)],
            hard_state: Some(hard_state),
        }]);
    }
}

/// Lets the next entries be written over a WAL that holds former ones.
fn recycle(log: &mut RocksLog, directory: &Path, from: u64) {
    write(log, from, from + 49, 2);
    for _ in 0..10 {
        if is_recycled(directory) {
            return;
        }
        log.reader().lengthen_wal(128 << 10);
        log.reader().change_wal();
    }
    panic!("{:?}: no WAL was recycled", files(directory));
}

fn is_recycled(directory: &Path) -> bool {
    let wal = last_wal(directory);
    wal::tail(&wal).unwrap().end < fs::metadata(&wal).unwrap().len()
}

/// A log with entries in flushed files, in a live WAL up to MARK, and behind MARK, as a kill leaves it.
fn build(directory: &Path) {
    let open = tempfile::tempdir().unwrap();
    let mut log = RocksLog::open(open.path()).unwrap();
    write(&mut log, 1, 200, 2);
    drop(log);
    let mut log = RocksLog::open(open.path()).unwrap();
    log.truncate(EntryId {
        index: TRUNCATED,
        term: 3,
    });
    recycle(&mut log, open.path(), 201);
    write(&mut log, 251, MARKED, 2);
    log.mark();
    write(&mut log, MARKED + 1, LAST, 2);
    copy_into(open.path(), directory);
    assert!(is_recycled(directory));
}

fn last_wal(directory: &Path) -> PathBuf {
    wal::last(directory).unwrap().unwrap()
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    for file in files(from) {
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().file_name().into())
        .collect();
    names.sort();
    names
}

#[derive(Debug)]
enum Outcome {
    /// Open said no, with this text.
    Refused(String),
    /// Open said yes, and the log ends here.
    Intact { last: u64, cut: u64 },
}

/// Opens the log and holds what it returns against what was written.
fn judge(directory: &Path, what: &str) -> Outcome {
    let log = match RocksLog::open(directory) {
        Ok(log) => log,
        Err(text) => {
            assert!(text.contains(directory.to_str().unwrap()), "{what}: {text}");
            assert!(text.contains("remove this member from the cluster"), "{what}: {text}");
            let again = RocksLog::open(directory).err();
            assert!(again.is_some(), "{what}: refused once, then accepted: {text}");
            return Outcome::Refused(text);
        }
    };
    let recovered = log.recovered();
    assert!(
        recovered.last.index >= MARKED,
        "{what}: silently lost entries behind {:?}",
        recovered.last
    );
    assert_eq!(
        (recovered.hard_state.term, recovered.hard_state.vote),
        (3, 2),
        "{what}: silently lost the vote"
    );
    let found = log.reader().entries(TRUNCATED + 1, u64::MAX, u64::MAX);
    let expected: Vec<_> = (TRUNCATED + 1..=recovered.last.index)
        .map(|index| entry(index, 3))
        .collect();
    assert!(found == expected, "{what}: silently changed entries");
    log.verify_checksums().unwrap();
    Outcome::Intact {
        last: recovered.last.index,
        cut: recovered.torn_tail_cut,
    }
}

#[test]
fn every_damaged_file_is_reported_or_harmless() {
    let whole = tempfile::tempdir().unwrap();
    build(whole.path());
    assert!(matches!(
        judge(copy(whole.path()).path(), "untouched"),
        Outcome::Intact { last: LAST, cut: 0 }
    ));
    let last = last_wal(whole.path());
    let mut outcomes: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for file in files(whole.path()) {
        let content = fs::read(whole.path().join(&file)).unwrap();
        let is_wal = file.extension().is_some_and(|extension| extension == "log");
        let used = if whole.path().join(&file) == last {
            wal::tail(&last).unwrap().end
        } else {
            content.len() as u64
        };
        let is_spare = is_wal && whole.path().join(&file) != last;
        for (fault, damaged) in faults(&content, used) {
            let directory = copy(whole.path());
            let path = directory.path().join(&file);
            let damaged_away = damaged.is_none();
            match damaged {
                Some(damaged) => fs::write(&path, damaged).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let what = format!("{} {fault}", file.display());
            let counts = outcomes.entry(file.display().to_string()).or_default();
            match judge(directory.path(), &what) {
                Outcome::Intact { last: LAST, .. } => counts[0] += 1,
                Outcome::Intact { .. } => counts[1] += 1,
                Outcome::Refused(text) => {
                    assert!(!is_spare, "{what}: refused for a file that nothing needs: {text}");
                    counts[2] += 1;
                    let named = text.contains(file.to_str().unwrap());
                    // Nothing on disk remembers the name of a WAL that is gone.
                    let named = named || (damaged_away && text.contains("the files were"));
                    assert!(named, "{what}: the text does not name the file: {text}");
                }
            }
        }
    }
    println!("{:<20} intact  cut behind MARK  refused", "file");
    for (file, [intact, cut, refused]) in &outcomes {
        println!("{file:<20} {intact:>6} {cut:>16} {refused:>8}");
        let matters = last.ends_with(file) || file.ends_with("sst") || file == "CURRENT";
        assert!(
            !matters || *refused > PLACES / 4,
            "damage to {file} went unnoticed too often"
        );
    }
}

/// Flipped bits and cuts in the first `length` bytes, and None for the missing file.
fn faults(content: &[u8], length: u64) -> Vec<(String, Option<Vec<u8>>)> {
    let mut faults = vec![("missing".to_owned(), None)];
    let places: std::collections::BTreeSet<u64> = (0..PLACES)
        .map(|place| place * length / PLACES)
        .chain([1, length.saturating_sub(1)])
        .collect();
    for at in places.into_iter().filter(|at| *at < length) {
        let mut flipped = content.to_vec();
        flipped[at as usize] ^= 1 << (at % 8);
        faults.push((format!("bit flipped at {at}"), Some(flipped)));
        faults.push((format!("cut at {at}"), Some(content[..at as usize].to_vec())));
    }
    faults
}

/// A write of the WAL's last bytes that did not reach the disk: the file ends there, or holds what it held before.
fn tear(directory: &Path, bytes: u64, is_cut: bool) {
    let wal = last_wal(directory);
    let from = wal::tail(&wal).unwrap().end - bytes;
    let mut content = fs::read(&wal).unwrap();
    if is_cut {
        content.truncate(from as usize);
    } else {
        let before: Vec<u8> = content[from as usize..].iter().map(|byte| !byte).collect();
        content.splice(
            from as usize..(from + bytes) as usize,
            before.into_iter().take(bytes as usize),
        );
    }
    fs::write(&wal, content).unwrap();
}

#[test]
fn a_torn_tail_behind_mark_is_cut_and_counted() {
    let whole = tempfile::tempdir().unwrap();
    build(whole.path());
    for is_cut in [true, false] {
        let mut last_seen = LAST;
        for torn in [1, 200, 5000] {
            let directory = copy(whole.path());
            tear(directory.path(), torn, is_cut);
            let Outcome::Intact { last, cut } = judge(directory.path(), "torn") else {
                panic!("a torn tail was refused")
            };
            assert!(last < last_seen || torn == 200, "{torn} bytes torn, last {last}");
            assert!(cut > 0, "{torn} bytes torn and not counted");
            last_seen = last;
            let Outcome::Intact { last: again, cut } = judge(directory.path(), "again") else {
                panic!("refused the second time")
            };
            assert_eq!((again, cut), (last, 0), "what was cut stays cut, and is counted once");
            let mut log = RocksLog::open(directory.path()).unwrap();
            write(&mut log, last + 1, last + 5, 2);
            log.mark();
            drop(log);
            let log = RocksLog::open(directory.path()).unwrap();
            assert_eq!(log.recovered().last.index, last + 5);
        }
    }
}

/// What lies behind a damaged record was written too, and is gone with it.
#[test]
fn whole_records_behind_a_damaged_one_are_counted() {
    let whole = tempfile::tempdir().unwrap();
    build(whole.path());
    let wal = last_wal(whole.path());
    let end = wal::tail(&wal).unwrap().end;
    for place in 0..400 {
        let directory = copy(whole.path());
        let at = end - 2000 + place;
        let mut content = fs::read(&wal).unwrap();
        content[at as usize] ^= 0xff;
        fs::write(last_wal(directory.path()), content).unwrap();
        let tail = wal::tail(&last_wal(directory.path())).unwrap();
        assert!(tail.end <= at && tail.torn > 0, "byte {at} of {end}: {tail:?}");
    }
}

#[test]
fn a_wal_cut_before_mark_is_refused() {
    let whole = tempfile::tempdir().unwrap();
    build(whole.path());
    let directory = copy(whole.path());
    tear(directory.path(), 40 * 400, true);
    let Outcome::Refused(text) = judge(directory.path(), "cut before MARK") else {
        panic!("accepted")
    };
    assert!(
        text.contains("MARK says EntryId { index: 300, term: 3 } was synced"),
        "{text}"
    );
}

#[test]
fn a_log_without_its_mark_or_a_mark_without_its_log_is_refused() {
    let whole = tempfile::tempdir().unwrap();
    build(whole.path());
    let without_mark = copy(whole.path());
    fs::remove_file(without_mark.path().join(MARK_FILE)).unwrap();
    let Outcome::Refused(text) = judge(without_mark.path(), "no MARK") else {
        panic!("accepted without MARK")
    };
    assert!(text.contains("MARK is missing"), "{text}");
    let only_mark = tempfile::tempdir().unwrap();
    fs::copy(whole.path().join(MARK_FILE), only_mark.path().join(MARK_FILE)).unwrap();
    assert!(
        matches!(judge(only_mark.path(), "only MARK"), Outcome::Refused(_)),
        "an empty log forgot its promises"
    );
}

#[test]
fn a_first_start_cut_short_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("MARK.new"), b"torn").unwrap();
    let log = RocksLog::open(directory.path()).unwrap();
    drop(log);
    for file in files(directory.path()) {
        if file != Path::new(MARK_FILE) {
            fs::remove_file(directory.path().join(file)).unwrap();
        }
    }
    let log = RocksLog::open(directory.path()).unwrap();
    assert_eq!(log.recovered().last, EntryId::default());
}

/// The crash between two steps of one write, made of the files before it and after it.
#[test]
fn mark_goes_down_before_an_overwrite_and_up_after_a_vote() {
    let before = tempfile::tempdir().unwrap();
    build(before.path());
    let overwritten = copy(before.path());
    let mut log = RocksLog::open(overwritten.path()).unwrap();
    log.mark();
    drop(log);
    let before = copy(overwritten.path());
    let mut log = RocksLog::open(overwritten.path()).unwrap();
    let hard_state = HardState {
        term: 3,
        vote: 2,
        commit: LAST - 1,
        ..HardState::default()
    };
    log.write(&[LogWrite {
        entries: vec![entry(LAST, 4)],
        hard_state: Some(hard_state.clone()),
    }]);
    drop(log);

    // Lowered, then the crash: the old suffix is still there and is kept.
    let crashed = copy(before.path());
    fs::copy(overwritten.path().join(MARK_FILE), crashed.path().join(MARK_FILE)).unwrap();
    assert!(matches!(
        judge(crashed.path(), "lowered only"),
        Outcome::Intact { last: LAST, cut: 0 }
    ));
    // The other order would have left this, which is refused: the test above would fail if MARK were not lowered.
    let wrong = copy(overwritten.path());
    fs::copy(before.path().join(MARK_FILE), wrong.path().join(MARK_FILE)).unwrap();
    let Err(text) = RocksLog::open(wrong.path()) else {
        panic!("another entry than MARK's was accepted")
    };
    assert!(text.contains("term: 4"), "{text}");

    // A vote: the log first, so a crash in between leaves MARK behind it. MARK without the vote's log is refused.
    let voted = copy(before.path());
    let mut log = RocksLog::open(voted.path()).unwrap();
    let vote = HardState {
        term: 9,
        vote: 1,
        ..hard_state
    };
    log.write(&[LogWrite {
        entries: Vec::new(),
        hard_state: Some(vote),
    }]);
    drop(log);
    let crashed = copy(voted.path());
    fs::copy(before.path().join(MARK_FILE), crashed.path().join(MARK_FILE)).unwrap();
    assert_eq!(RocksLog::open(crashed.path()).unwrap().recovered().hard_state.vote, 1);
    let forgotten = copy(before.path());
    fs::copy(voted.path().join(MARK_FILE), forgotten.path().join(MARK_FILE)).unwrap();
    let Err(text) = RocksLog::open(forgotten.path()) else {
        panic!("a forgotten vote was accepted")
    };
    assert!(
        text.contains("MARK says term 9 and vote 1 were synced, but the log has 3 and 2"),
        "{text}"
    );
}

/// The files of a running process, as a kill leaves them: nothing that `write` returned from is missing.
#[test]
fn a_killed_process_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = RocksLog::open(directory.path()).unwrap();
    recycle(&mut log, directory.path(), 1);
    for index in 51..=70 {
        write(&mut log, index, index, 2);
        if index % 4 == 0 {
            log.truncate(EntryId {
                index: index - 2,
                term: 3,
            });
        }
        let killed = copy(directory.path());
        let log = RocksLog::open(killed.path()).unwrap();
        assert_eq!((log.recovered().last.index, log.recovered().torn_tail_cut), (index, 0));
    }
}

#[test]
fn a_second_process_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let _log = RocksLog::open(directory.path()).unwrap();
    let Err(text) = RocksLog::open(directory.path()) else {
        panic!("opened twice")
    };
    assert!(text.contains("is in use by another process"), "{text}");
}

/// The scrub reads the disk while the log is open, and names the file.
#[test]
fn a_scrub_finds_a_file_damaged_under_an_open_log() {
    let whole = tempfile::tempdir().unwrap();
    build(whole.path());
    let log = RocksLog::open(whole.path()).unwrap();
    log.verify_checksums().unwrap();
    let mut tables = files(whole.path())
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "sst"));
    let first = tables
        .next()
        .expect("the table of what was written before the second start");
    let path = whole.path().join(first);
    let mut content = fs::read(&path).unwrap();
    content[1000] ^= 1;
    fs::write(&path, content).unwrap();
    let text = log.reader().verify_checksums().unwrap_err();
    assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "{text}");
}

const CHILD: &str = "DIPPER_TEST_WRITE_TO";
const CHILD_WRITES: u64 = 50;

/// Not a test by itself: what `every_write_is_synced` runs under strace.
#[test]
fn child_that_writes() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let mut log = RocksLog::open(Path::new(&directory)).unwrap();
    write(&mut log, 1, 1, 2);
    for index in 2..=CHILD_WRITES {
        log.write(&[LogWrite {
            entries: vec![entry(index, 3)],
            hard_state: None,
        }]);
    }
}

/// Asks the kernel, not the log: one sync of the WAL for each group. A build with syncing off fails here.
#[test]
fn every_write_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let status = std::process::Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,fdatasync", "-o", trace.to_str().unwrap()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes"])
        .env(CHILD, directory.path().join("raft"))
        .stdout(std::process::Stdio::null())
        .status()
        .expect("strace is installed");
    assert!(status.success());
    let trace = fs::read_to_string(trace).unwrap();
    let wal_syncs = trace
        .lines()
        .filter(|line| line.contains("sync(") && line.contains(".log>"))
        .count() as u64;
    assert!(
        wal_syncs >= CHILD_WRITES,
        "{wal_syncs} syncs of the WAL for {CHILD_WRITES} groups:\n{trace}"
    );
    let mark_syncs = trace
        .lines()
        .filter(|line| line.contains("sync(") && line.contains("/MARK>"))
        .count();
    assert_eq!(
        mark_syncs, 1,
        "MARK is synced with the vote and with nothing else:\n{trace}"
    );
}

#[test]
fn a_torn_write_of_mark_leaves_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = RocksLog::open(directory.path()).unwrap();
    for index in 1..=5 {
        let before = MarkFile::open(directory.path()).unwrap().unwrap().written();
        let content = fs::read(directory.path().join(MARK_FILE)).unwrap();
        write(&mut log, index, index, 2);
        log.mark();
        let mut torn = fs::read(directory.path().join(MARK_FILE)).unwrap();
        let changed = (0..torn.len()).rev().find(|at| torn[*at] != content[*at]).unwrap();
        torn[changed] = !torn[changed];
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join(MARK_FILE), torn).unwrap();
        assert_eq!(MarkFile::open(other.path()).unwrap().unwrap().written(), before);
    }
}
