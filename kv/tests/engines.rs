//! What an engine promises, on both engines.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use kv::{
    MemoryEngine, RocksEngine, RocksOptions,
    engine::{Batch, Cached, Engine, Family, Rows, Snapshot},
};
use std::{fs, path::Path};

fn put(batch: &mut Batch, family: Family, key: &'static str, value: &'static str) {
    batch.put(family, key.into(), value.into());
}

fn rows<R: Rows>(rows: &R, family: Family, from: &str, to: Option<&str>) -> Vec<(Bytes, Bytes)> {
    rows.scan(family, from.as_bytes(), to.map(str::as_bytes)).collect()
}

fn row(key: &'static str, value: &'static str) -> (Bytes, Bytes) {
    (key.into(), value.into())
}

fn open(path: &Path) -> Result<RocksEngine, String> {
    RocksEngine::open(
        path,
        &RocksOptions {
            block_cache_bytes: 8 << 20,
            background_jobs: 2,
            ..RocksOptions::default()
        },
    )
}

/// `reopen` gives the engine as a restart after a crash finds it.
fn conformance<E: Engine>(engine: E, reopen: impl FnOnce(E) -> E) {
    assert_eq!(engine.get(Family::Cur, b"a"), None);
    let empty = engine.snapshot();
    let mut batch = Batch::default();
    for key in ["a", "b", "c", "d"] {
        put(&mut batch, Family::Cur, key, "1");
        put(&mut batch, Family::Meta, key, "m");
    }
    engine.write(&batch);
    assert_eq!(engine.get(Family::Cur, b"a"), Some("1".into()));
    assert_eq!(engine.get(Family::Ev, b"a"), None, "families are apart");
    let keys = ["d", "x", "a"].map(Bytes::from);
    assert_eq!(
        engine.multi_get(Family::Cur, &keys),
        [Some("1".into()), None, Some("1".into())]
    );

    let first = engine.snapshot();
    let mut batch = Batch::default();
    put(&mut batch, Family::Cur, "a", "2");
    batch.delete(Family::Cur, "b".into());
    batch.delete_range(Family::Cur, "c".into(), "d".into());
    put(&mut batch, Family::Cur, "e", "2");
    engine.write(&batch);
    let second = engine.snapshot();
    assert_eq!(rows(&empty, Family::Cur, "", None), []);
    assert_eq!(
        rows(&first, Family::Cur, "b", Some("d")),
        [row("b", "1"), row("c", "1")]
    );
    let latest = [row("a", "2"), row("d", "1"), row("e", "2")];
    assert_eq!(rows(&second, Family::Cur, "", None), latest);
    assert_eq!(rows(&second, Family::Cur, "d", Some("e")), latest[1..2]);
    assert_eq!(
        rows(&second, Family::Cur, "e", Some("a")),
        [],
        "an inverted range is empty"
    );
    assert_eq!(first.clone().get(Family::Cur, b"b"), Some("1".into()));
    assert_eq!(second.get_cached(Family::Cur, b"a"), Cached::Hit(Some("2".into())));
    assert_eq!(second.get_cached(Family::Cur, b"b"), Cached::Hit(None));

    let mut batch = Batch::default();
    put(&mut batch, Family::Ev, "k", "first");
    put(&mut batch, Family::Ev, "k", "last");
    engine.write(&batch);
    assert_eq!(
        engine.get(Family::Ev, b"k"),
        Some("last".into()),
        "changes of a batch apply in order"
    );

    assert_eq!(engine.get_persisted(Family::Cur, b"a"), None);
    engine.flush();
    assert_eq!(engine.get_persisted(Family::Cur, b"a"), Some("2".into()));
    let mut batch = Batch::default();
    put(&mut batch, Family::Cur, "a", "3");
    put(&mut batch, Family::Gone, "g", "3");
    engine.write(&batch);
    assert_eq!(
        engine.get_persisted(Family::Cur, b"a"),
        Some("2".into()),
        "writing is not flushing"
    );
    assert_eq!(engine.get_persisted(Family::Gone, b"g"), None);
    assert!(engine.disk_bytes() > 0);

    drop((empty, first, second));
    let engine = reopen(engine);
    assert_eq!(
        rows(&engine.snapshot(), Family::Cur, "", None),
        latest,
        "a crash leaves the last flush"
    );
    assert_eq!(engine.get(Family::Gone, b"g"), None);
    assert_eq!(engine.get(Family::Ev, b"k"), Some("last".into()));
}

#[test]
fn the_engine_in_memory_conforms() {
    conformance(MemoryEngine::new(), |engine| engine.crash());
}

#[test]
fn the_engine_on_disk_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let (live, copy) = (directory.path().join("live"), directory.path().join("copy"));
    conformance(open(&live).unwrap(), |engine| {
        // Closing would flush: what a crash leaves is the files as they are.
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(&live).unwrap() {
            let entry = entry.unwrap();
            match fs::copy(entry.path(), copy.join(entry.file_name())) {
                // RocksDB removes what it needs no more, by and by.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
        drop(engine);
        open(&copy).unwrap()
    });
}

fn long_scan<E: Engine>(engine: &E) {
    let mut batch = Batch::default();
    for number in 0..1000_u32 {
        batch.put(Family::Cur, format!("{number:05}").into(), "v".into());
    }
    engine.write(&batch);
    let snapshot = engine.snapshot();
    let keys: Vec<_> = snapshot
        .scan(Family::Cur, b"00010", Some(b"00990"))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys.len(), 980);
    assert!(keys.is_sorted());
}

#[test]
fn long_scans_see_every_row_once() {
    let directory = tempfile::tempdir().unwrap();
    long_scan(&MemoryEngine::new());
    long_scan(&open(&directory.path().join("kv")).unwrap());
}

#[test]
fn a_checkpoint_has_everything_and_outlives_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(&directory.path().join("kv")).unwrap();
    let mut batch = Batch::default();
    put(&mut batch, Family::Cur, "a", "1");
    engine.write(&batch);
    let copy = directory.path().join("copy");
    engine.checkpoint(&copy).unwrap();
    let mut batch = Batch::default();
    put(&mut batch, Family::Cur, "a", "2");
    engine.write(&batch);
    drop(engine);
    fs::remove_dir_all(directory.path().join("kv")).unwrap();
    assert_eq!(open(&copy).unwrap().get(Family::Cur, b"a"), Some("1".into()));
    assert!(MemoryEngine::new().checkpoint(&copy).is_err());
}

#[test]
fn reclaiming_keeps_what_is_behind() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(&directory.path().join("kv")).unwrap();
    let mut batch = Batch::default();
    for key in ["a", "b", "c"] {
        put(&mut batch, Family::Ev, key, "1");
    }
    engine.write(&batch);
    engine.flush();
    let mut batch = Batch::default();
    batch.delete_range(Family::Ev, "a".into(), "c".into());
    engine.write(&batch);
    engine.flush();
    engine.reclaim(Family::Ev, b"b");
    assert_eq!(rows(&engine.snapshot(), Family::Ev, "", None), [row("c", "1")]);
}

#[test]
fn a_lost_current_file_is_refused_and_not_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv");
    let engine = open(&path).unwrap();
    let mut batch = Batch::default();
    put(&mut batch, Family::Cur, "a", "1");
    engine.write(&batch);
    engine.flush();
    drop(engine);
    fs::remove_file(path.join("CURRENT")).unwrap();
    let reason = open(&path).err().expect("it is refused");
    assert!(reason.contains("CURRENT is missing"), "{reason}");
}

#[test]
fn a_flipped_bit_is_found_by_the_scrub_or_at_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kv");
    let engine = open(&path).unwrap();
    let mut batch = Batch::default();
    for number in 0..5000_u32 {
        batch.put(
            Family::Cur,
            format!("{number:05}").into(),
            format!("value {number}").into(),
        );
    }
    engine.write(&batch);
    engine.flush();
    engine.verify_checksums().unwrap();
    drop(engine);
    let is_table = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "sst");
    let tables = fs::read_dir(&path).unwrap().map(Result::unwrap).filter(is_table);
    let table = tables
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap()
        .path();
    let mut bytes = fs::read(&table).unwrap();
    bytes[1000] ^= 1;
    fs::write(&table, bytes).unwrap();
    let reason = match open(&path) {
        Err(reason) => reason,
        Ok(engine) => engine.verify_checksums().unwrap_err(),
    };
    assert!(
        reason.contains(table.file_name().unwrap().to_str().unwrap()),
        "{reason}"
    );
}
