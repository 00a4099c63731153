//! Random commands against a naive model: responses, the past, counts, events, hashes, crashes.

#![allow(clippy::unwrap_used)]

mod model;

use bytes::Bytes;
use kv::{
    LeaseChange, LogEntry, MemoryEngine, PrevKv, Response, RocksEngine, RocksOptions, Store, StoreOptions,
    engine::{Batch, Engine, Family},
};
use model::{Model, header};
use proptest::{collection::vec, option, prelude::*, sample::select};
use prost::Message;
use proto::{
    COMMAND_VERSION, Error, KeyRange,
    etcdserverpb::{
        CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
        RangeRequest, RequestOp, TxnRequest, compare::TargetUnion, request_op::Request,
    },
    node::{Command, CommandBatch, LeaseExpire, Membership, command::Op},
};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};

/// Revisions in requests are given as a distance from the model's latest, so that they hit.
#[derive(Clone, Debug)]
enum Step {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Grant(i64),
    Revoke(i64),
    Expire(Vec<i64>, bool),
    Compact(i64),
}

fn key() -> impl Strategy<Value = Bytes> {
    select(vec!["a", "b", "bb", "c", "d", "e", "f\0", "g"]).prop_map(Bytes::from)
}

fn end() -> impl Strategy<Value = Bytes> {
    select(vec!["", "", "\0", "b", "c", "e", "z"]).prop_map(Bytes::from)
}

fn put() -> impl Strategy<Value = PutRequest> {
    let flags = prop_oneof![8 => Just((false, false)), 1 => Just((true, false)), 1 => Just((false, true))];
    (
        key(),
        "[xyz]{0,3}",
        select(vec![0, 0, 0, 1, 2, 3]),
        any::<bool>(),
        flags,
    )
        .prop_map(
            |(key, value, lease, prev_kv, (ignore_value, ignore_lease))| PutRequest {
                key,
                value: if ignore_value { Bytes::new() } else { value.into() },
                lease: if ignore_lease { 0 } else { lease },
                prev_kv,
                ignore_value,
                ignore_lease,
            },
        )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let bound = || prop_oneof![6 => Just(0_i64), 1 => 1..20_i64];
    (
        (
            prop_oneof![key(), Just(Bytes::from("\0"))],
            end(),
            0..6_i64,
            prop_oneof![2 => Just(0), 3 => -3..30_i64],
        ),
        (
            0..3_i32,
            0..5_i32,
            any::<bool>(),
            prop_oneof![4 => Just(false), 1 => Just(true)],
        ),
        (bound(), bound(), bound(), bound()),
    )
        .prop_map(
            |((key, range_end, limit, revision), (order, target, keys_only, count_only), bounds)| RangeRequest {
                key,
                range_end,
                limit,
                revision,
                sort_order: order,
                sort_target: target,
                keys_only,
                count_only,
                serializable: false,
                min_mod_revision: bounds.0,
                max_mod_revision: bounds.1,
                min_create_revision: bounds.2,
                max_create_revision: bounds.3,
            },
        )
}

fn compare() -> impl Strategy<Value = Compare> {
    let union = prop_oneof![
        (0..4_i64).prop_map(TargetUnion::Version),
        (0..12_i64).prop_map(TargetUnion::CreateRevision),
        (0..12_i64).prop_map(TargetUnion::ModRevision),
        (0..4_i64).prop_map(TargetUnion::Lease),
        "[xyz]{0,2}".prop_map(|value| TargetUnion::Value(value.into())),
    ];
    (0..4_i32, 0..5_i32, key(), end(), option::of(union)).prop_map(|(result, target, key, range_end, target_union)| {
        Compare {
            result,
            target,
            key,
            range_end,
            target_union,
        }
    })
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        3 => put().prop_map(Request::RequestPut),
        2 => delete().prop_map(Request::RequestDeleteRange),
        3 => range().prop_map(Request::RequestRange),
    ]
    .prop_map(|request| RequestOp { request: Some(request) });
    let build = |op: BoxedStrategy<RequestOp>| {
        let parts = (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4));
        parts.prop_map(|(compare, success, failure)| TxnRequest {
            compare,
            success,
            failure,
        })
    };
    let op = leaf.prop_recursive(2, 8, 3, move |op| {
        build(op.boxed()).prop_map(|txn| RequestOp {
            request: Some(Request::RequestTxn(txn)),
        })
    });
    build(op.boxed())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => put().prop_map(Step::Put),
        4 => delete().prop_map(Step::Delete),
        8 => txn().prop_map(Step::Txn),
        2 => (1..4_i64).prop_map(Step::Grant),
        1 => (1..4_i64).prop_map(Step::Revoke),
        1 => (vec(1..4_i64, 1..3), any::<bool>()).prop_map(|(ids, current)| Step::Expire(ids, current)),
        1 => (-2..8_i64).prop_map(Step::Compact),
    ]
}

fn command(step: &Step, model: &Model) -> Command {
    let op = match step {
        Step::Put(put) => Op::Put(put.clone()),
        Step::Delete(delete) => Op::DeleteRange(delete.clone()),
        Step::Txn(txn) => Op::Txn(txn.clone()),
        Step::Grant(id) => Op::LeaseGrant(LeaseGrantRequest { ttl: 10 + id, id: *id }),
        Step::Revoke(id) => Op::LeaseRevoke(LeaseRevokeRequest { id: *id }),
        Step::Expire(ids, current) => Op::LeaseExpire(LeaseExpire {
            term: if *current { 7 } else { 6 },
            ids: ids.clone(),
        }),
        Step::Compact(ago) => Op::Compact(CompactionRequest {
            revision: model.revision() - ago,
            physical: false,
        }),
    };
    Command { op: Some(op) }
}

/// What the model answers, in the store's words.
fn expected(step: &Step, model: &mut Model) -> Result<Response, Error> {
    Ok(match step {
        Step::Put(put) => Response::Put(model.put(put)?),
        Step::Delete(delete) => Response::DeleteRange(model.delete(delete)?),
        Step::Txn(txn) => Response::Txn(model.txn(txn)?),
        Step::Grant(id) => {
            model.grant(*id)?;
            let header = header(model.revision());
            Response::LeaseGrant(proto::etcdserverpb::LeaseGrantResponse {
                header,
                id: *id,
                ttl: 10 + id,
                error: String::new(),
            })
        }
        Step::Revoke(id) => {
            let header = header(model.revoke(*id)?);
            Response::LeaseRevoke(proto::etcdserverpb::LeaseRevokeResponse { header })
        }
        Step::Expire(ids, current) => {
            let ended = ids.iter().filter(|id| *current && model.revoke(**id).is_ok());
            Response::LeaseExpire(ended.copied().collect())
        }
        Step::Compact(ago) => {
            let header = header(model.compact(model.revision() - ago)?);
            Response::Compact(proto::etcdserverpb::CompactionResponse { header })
        }
    })
}

type Results = Vec<Result<Response, Error>>;

/// Entries of one or more commands, with the responses that they must give.
fn script(steps: &[Step], sizes: &[usize]) -> (Vec<LogEntry>, Vec<Results>, Model) {
    let mut model = Model::new();
    let (mut entries, mut answers) = (vec![], vec![]);
    let mut steps = steps.iter();
    for size in sizes.iter().cycle() {
        let mut batch = CommandBatch {
            version: COMMAND_VERSION,
            commands: vec![],
        };
        let mut results = vec![];
        for step in steps.by_ref().take(*size) {
            batch.commands.push(command(step, &model));
            results.push(expected(step, &mut model));
        }
        if results.is_empty() {
            return (entries, answers, model);
        }
        let index = entries.len() as u64 + 1;
        entries.push(LogEntry {
            index,
            term: 7,
            data: batch.encode_to_vec().into(),
            conf_state: None,
        });
        answers.push(results);
    }
    unreachable!("sizes are not empty")
}

fn start<E: Engine>(engine: E, options: StoreOptions) -> Store<E> {
    let mut store = Store::open(engine, options);
    if store.is_empty() {
        store.bootstrap(Membership {
            cluster_id: 5,
            ..Default::default()
        });
    }
    store
}

fn assert_reads<E: Engine>(store: &Store<E>, model: &Model, ranges: &[RangeRequest]) {
    let view = store.view();
    assert_eq!(view.revision(), model.revision());
    assert_eq!(view.compact_revision(), model.compact);
    assert_eq!(view.keys_total(), model.latest().len() as u64);
    assert_eq!(view.leases(), model.leases.iter().copied().collect::<Vec<_>>());
    for lease in &model.leases {
        let attached: Vec<_> = model
            .latest()
            .values()
            .filter(|kv| kv.lease == *lease)
            .map(|kv| kv.key.clone())
            .collect();
        assert_eq!(view.lease_keys(*lease), attached);
    }
    assert_eq!(view.hash_kv(0).unwrap(), view.hash_kv_kept());
    for request in ranges {
        let wanted = model.range(request);
        assert_eq!(view.range(request), wanted, "{request:?}");
        assert_eq!(view.range_encoded(request).map(decoded), wanted, "{request:?}");
        if let Some(cached) = view.range_cached(request) {
            assert_eq!(cached, wanted, "{request:?}");
        }
        let plain = RangeRequest {
            key: request.key.clone(),
            range_end: request.range_end.clone(),
            limit: request.limit,
            revision: request.revision,
            keys_only: request.keys_only,
            count_only: request.count_only,
            ..Default::default()
        };
        let wanted = model.range(&plain);
        match view.range_chunks(plain) {
            Err(error) => assert_eq!(Err(error), wanted),
            Ok(mut chunks) => {
                let mut merged = proto::etcdserverpb::RangeResponse::default();
                while let Some(chunk) = chunks.next_chunk(3) {
                    let chunk = chunk.unwrap();
                    assert!(merged.header.is_none(), "only the last has a header");
                    merged.kvs.extend(chunk.kvs);
                    (merged.header, merged.count, merged.more) = (chunk.header, chunk.count, chunk.more);
                }
                assert_eq!(Ok(merged), wanted);
            }
        }
    }
    assert_events(store, model, ranges);
}

fn assert_events<E: Engine>(store: &Store<E>, model: &Model, ranges: &[RangeRequest]) {
    let view = store.view();
    for request in ranges {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let from = request.revision.clamp(0, model.revision() + 1);
        if from < model.compact {
            assert_eq!(
                view.events(&range, from, 10).unwrap_err().compact_revision,
                model.compact
            );
            continue;
        }
        let (mut next, mut events) = (from, vec![]);
        while next <= model.revision() {
            let page = view.events(&range, next, 400).unwrap();
            assert!(page.next_revision > next);
            assert!(
                page.events
                    .iter()
                    .all(|event| (next..page.next_revision).contains(&event.revision))
            );
            next = page.next_revision;
            events.extend(page.events.iter().map(|event| event.to_proto(PrevKv::With)));
        }
        assert_eq!(events, model.events_from(&range, from), "from {from} in {range:?}");
    }
}

/// Keeps what a crash after each single write would leave, were that write flushed.
#[derive(Clone)]
struct Recorder {
    inner: MemoryEngine,
    images: Arc<Mutex<Vec<MemoryEngine>>>,
}

impl Engine for Recorder {
    type Snapshot = <MemoryEngine as Engine>::Snapshot;

    fn snapshot(&self) -> Self::Snapshot {
        self.inner.snapshot()
    }

    fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.inner.get(family, key)
    }

    fn multi_get(&self, family: Family, keys: &[Bytes]) -> Vec<Option<Bytes>> {
        self.inner.multi_get(family, keys)
    }

    fn write(&self, batch: &Batch) {
        self.inner.write(batch);
        self.inner.flush();
        self.images.lock().unwrap().push(self.inner.crash());
    }

    fn flush(&self) {
        self.inner.flush();
    }

    fn get_persisted(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.inner.get_persisted(family, key)
    }

    fn reclaim(&self, family: Family, last: &[u8]) {
        self.inner.reclaim(family, last);
    }

    fn checkpoint(&self, directory: &Path) -> Result<(), String> {
        self.inner.checkpoint(directory)
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }
}

fn options(ring_bytes: usize, piece_bytes_max: usize) -> StoreOptions {
    StoreOptions {
        ring_bytes,
        piece_bytes_max,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_answer_like_the_model(
        steps in vec(step(), 1..60),
        sizes in vec(1..5_usize, 1..4),
        per_apply in 1..4_usize,
        ring in select(vec![0, 600, 5_000, 1 << 20]),
        piece in select(vec![100, 2_000, 1 << 20]),
        ranges in vec(range(), 30),
    ) {
        let (entries, answers, model) = script(&steps, &sizes);
        let engine = MemoryEngine::new();
        let mut store = start(engine.clone(), options(ring, piece));
        let mut outcomes = vec![];
        for chunk in entries.chunks(per_apply) {
            outcomes.extend(store.apply(chunk));
            prop_assert_eq!(store.view().hash_kv(0).unwrap(), store.view().hash_kv_kept());
        }
        for ((outcome, entry), wanted) in outcomes.iter().zip(&entries).zip(answers) {
            prop_assert_eq!(outcome.index, entry.index);
            prop_assert_eq!(&outcome.results, &wanted);
        }
        assert_reads(&store, &model, &ranges);
        store.flush();
        prop_assert_eq!(store.flushed(), store.applied());
        let reopened = start(engine.crash(), options(ring, piece));
        prop_assert_eq!(reopened.state_hash(), store.state_hash());
        assert_reads(&reopened, &model, &ranges);
    }

    #[test]
    fn a_crash_at_any_write_is_made_good_by_replay(
        steps in vec(step(), 1..25),
        sizes in vec(1..4_usize, 1..3),
        flush_every in 1..9_usize,
        ranges in vec(range(), 10),
    ) {
        let (entries, _, model) = script(&steps, &sizes);
        let recorder = Recorder { inner: MemoryEngine::new(), images: Arc::default() };
        let mut store = start(recorder.clone(), options(1000, 300));
        for chunk in entries.chunks(2) {
            store.apply(chunk);
            if (chunk[0].index as usize).is_multiple_of(flush_every) {
                store.flush();
            }
        }
        let images = std::mem::take(&mut *recorder.images.lock().unwrap());
        for image in images {
            let mut replayed = start(image, options(1 << 20, 1 << 20));
            let from = replayed.applied().index as usize;
            replayed.apply(&entries[from..]);
            prop_assert_eq!(replayed.state_hash(), store.state_hash());
            assert_reads(&replayed, &model, &ranges);
        }
    }

    #[test]
    fn an_old_view_stays_what_it_was(steps in vec(step(), 2..40), ranges in vec(range(), 20), ring in select(vec![0, 1 << 20])) {
        let half = steps.len() / 2;
        let (_, _, model) = script(&steps[..half], &[1]);
        let (entries, _, _) = script(&steps, &[1]);
        let mut store = start(MemoryEngine::new(), options(ring, 1 << 20));
        store.apply(&entries[..half]);
        let view = store.view();
        for entry in &entries[half..] {
            store.apply(std::slice::from_ref(entry));
        }
        for request in &ranges {
            prop_assert_eq!(view.range(request), model.range(request));
            prop_assert_eq!(view.range_encoded(request).map(decoded), model.range(request));
        }
        prop_assert_eq!(view.hash_kv(0).unwrap(), view.hash_kv_kept());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_disk_answers_like_the_model(steps in vec(step(), 1..80), ranges in vec(range(), 30), piece in select(vec![100, 1 << 20])) {
        let directory = tempfile::tempdir().unwrap();
        let open = || RocksEngine::open(&directory.path().join("kv"), &RocksOptions { block_cache_bytes: 8 << 20, background_jobs: 1, ..RocksOptions::default() });
        let (entries, answers, model) = script(&steps, &[2]);
        let mut store = start(open().unwrap(), options(0, piece));
        let mut outcomes = vec![];
        for chunk in entries.chunks(3) {
            outcomes.extend(store.apply(chunk));
            if chunk[0].index % 4 == 0 {
                store.flush();
            }
        }
        let results: Vec<_> = outcomes.into_iter().map(|outcome| outcome.results).collect();
        prop_assert_eq!(results, answers);
        assert_reads(&store, &model, &ranges);
        store.flush();
        prop_assert_eq!(store.flushed(), store.applied());
        let hash = store.state_hash();
        drop(store);
        let reopened = start(open().unwrap(), options(0, piece));
        prop_assert_eq!(reopened.state_hash(), hash);
        assert_reads(&reopened, &model, &ranges);
    }
}

/// A reader with an old View is told so when a compaction took what it reads, whether or not the files went.
#[test]
fn a_view_behind_a_compaction_answers_or_says_compacted() {
    let directory = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(&directory.path().join("kv"), &RocksOptions::default()).unwrap();
    let mut store = start(engine, options(0, 1 << 20));
    let put = |value: u64| {
        Op::Put(PutRequest {
            key: numbered(value % 100),
            value: numbered(value),
            ..Default::default()
        })
    };
    for index in 1..=50 {
        store.apply(&[entry(index, (0..100).map(|number| put(index * 100 + number)).collect())]);
    }
    let view = store.view();
    let all = |revision| RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        revision,
        ..Default::default()
    };
    assert_eq!(view.range(&all(200)).unwrap().kvs.len(), 100);
    store.flush();
    store.apply(&[entry(
        51,
        vec![Op::Compact(CompactionRequest {
            revision: 4_000,
            physical: false,
        })],
    )]);
    store.flush();
    match view.range(&all(200)) {
        Ok(reply) => assert_eq!(reply.kvs.len(), 100),
        Err(error) => assert_eq!(error, Error::Compacted),
    }
    let range = KeyRange::From("\0".into());
    assert_eq!(view.events(&range, 200, 10).unwrap_err().compact_revision, 4_000);
    assert_eq!(
        view.range_chunks(all(200)).unwrap().next_chunk(10).unwrap(),
        Err(Error::Compacted)
    );
    assert_eq!(store.view().range(&all(4_000)).unwrap().kvs.len(), 100);
    assert_eq!(store.view().events(&range, 4_000, 1).unwrap().events[0].revision, 4_000);
}

fn entry(index: u64, commands: Vec<Op>) -> LogEntry {
    let commands = commands.into_iter().map(|op| Command { op: Some(op) }).collect();
    let data = CommandBatch {
        version: COMMAND_VERSION,
        commands,
    }
    .encode_to_vec()
    .into();
    LogEntry {
        index,
        term: 1,
        data,
        conf_state: None,
    }
}

fn numbered(number: u64) -> Bytes {
    format!("{number:06}").into()
}

/// Many keys, so that fences are set, split and merged; counts are compared with a plain set.
#[test]
fn counts_of_many_keys_are_exact() {
    let engine = MemoryEngine::new();
    let mut store = start(engine.clone(), options(1 << 20, 100_000));
    let mut live = std::collections::BTreeSet::new();
    let mut history = vec![];
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut index = 0;
    let mut crashed = false;
    while index < 120 {
        index += 1;
        let mut ops = vec![];
        if index % 10 == 0 {
            let from = next(20_000);
            let to = from + next(4_000);
            live.retain(|key| !(from..to).contains(key));
            let delete = DeleteRangeRequest {
                key: numbered(from),
                range_end: numbered(to),
                prev_kv: false,
            };
            ops.push(Op::DeleteRange(delete));
        } else {
            for _ in 0..200 {
                let key = next(20_000);
                live.insert(key);
                ops.push(Op::Put(PutRequest {
                    key: numbered(key),
                    value: "v".into(),
                    ..Default::default()
                }));
            }
        }
        store.apply(&[entry(index, ops)]);
        history.push((store.view(), live.clone()));
        if index % 17 == 0 {
            store.flush();
        }
        if index == 60 && !crashed {
            crashed = true;
            store = start(engine.crash(), options(1 << 20, 100_000));
            index = store.applied().index;
            assert_eq!(index, 51);
            history.truncate(index as usize);
            live = history.last().unwrap().1.clone();
        }
    }
    let check =
        |view: &kv::View<MemoryEngine>, live: &std::collections::BTreeSet<u64>, revision, from: u64, to: u64| {
            let request = RangeRequest {
                key: numbered(from),
                range_end: numbered(to),
                count_only: true,
                revision,
                ..Default::default()
            };
            let reply = view.range(&request).unwrap();
            let wanted = if from < to { live.range(from..to).count() } else { 0 };
            assert_eq!(reply.count, wanted as i64, "{from}..{to} at {revision}");
        };
    let latest = store.view();
    for (view, live) in &history {
        for _ in 0..20 {
            let (from, to) = (next(20_000), next(20_000));
            check(view, live, 0, from, to);
            check(&latest, live, view.revision(), from, to);
        }
    }
}

#[test]
fn paging_counts_all_and_stops_at_the_limit() {
    let mut store = start(MemoryEngine::new(), StoreOptions::default());
    let put = |key| {
        Op::Put(PutRequest {
            key: numbered(key),
            value: "v".into(),
            ..Default::default()
        })
    };
    store.apply(&[entry(1, (0..3_000).map(put).collect())]);
    let request = RangeRequest {
        key: numbered(10),
        range_end: "\0".into(),
        limit: 100,
        ..Default::default()
    };
    let reply = store.view().range(&request).unwrap();
    assert_eq!((reply.kvs.len(), reply.count, reply.more), (100, 2_990, true));
}

#[test]
fn a_long_answer_is_encoded_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(directory.path(), &RocksOptions::default()).unwrap();
    let mut store = start(engine, StoreOptions::default());
    // One of them is larger than any piece, and some are empty.
    let put = |key: u64| {
        Op::Put(PutRequest {
            key: numbered(key),
            value: vec![key as u8; if key == 777 { 300 << 10 } else { key as usize % 4_000 }].into(),
            ..Default::default()
        })
    };
    store.apply(&[entry(1, (0..4_000).map(put).collect())]);
    let all = RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    let view = store.view();
    let encoded = view.range_encoded(&all).unwrap();
    assert!(encoded.pieces.len() > 5, "{} pieces", encoded.pieces.len());
    assert!(
        encoded.tail.as_ref().unwrap().bytes() > 1 << 20,
        "more than a turn of it is left"
    );
    assert_eq!(decoded(encoded), view.range(&all).unwrap());
    for limit in [1, 1_500, 3_000, 3_500, 3_999, 4_000] {
        let page = RangeRequest {
            limit,
            min_mod_revision: 7,
            ..all.clone()
        };
        let encoded = view.range_encoded(&page).unwrap();
        assert_eq!(decoded(encoded), view.range(&page).unwrap(), "{limit}");
    }
}

/// As a client reads it.
fn decoded<E: Engine>(encoded: kv::EncodedRange<E>) -> proto::etcdserverpb::RangeResponse {
    assert!(encoded.rest.kvs.is_empty(), "rows are in the pieces");
    assert!(
        encoded.pieces.iter().all(|piece| !piece.is_empty()),
        "a frame of nothing"
    );
    let mut message = encoded.rest.encode_to_vec();
    message.extend(encoded.pieces.into_iter().flatten());
    if let Some(mut tail) = encoded.tail {
        let promised = message.len() + tail.bytes();
        while tail.bytes() > 0 {
            message.extend(tail.next_pieces().into_iter().flatten());
        }
        assert_eq!(message.len(), promised);
        assert!(tail.next_pieces().is_empty(), "there is no more");
    }
    proto::etcdserverpb::RangeResponse::decode(&*message).unwrap()
}

#[test]
fn lease_changes_are_told_and_alarms_refuse() {
    use proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
    let alarm = |action: AlarmAction, alarm: AlarmType| {
        Op::Alarm(AlarmRequest {
            action: action as i32,
            member_id: 9,
            alarm: alarm as i32,
        })
    };
    let put = || {
        Op::Put(PutRequest {
            key: "k".into(),
            lease: 4,
            ..Default::default()
        })
    };
    let mut store = start(MemoryEngine::new(), StoreOptions::default());
    let grant = || Op::LeaseGrant(LeaseGrantRequest { ttl: 5, id: 4 });
    let outcomes = store.apply(&[entry(
        1,
        vec![
            grant(),
            grant(),
            put(),
            alarm(AlarmAction::Activate, AlarmType::Nospace),
        ],
    )]);
    assert_eq!(outcomes[0].lease_changes, [LeaseChange::Granted { id: 4, ttl: 5 }]);
    assert_eq!(outcomes[0].results[1], Err(Error::LeaseExist));
    assert_eq!(store.view().alarms().len(), 1);
    let delete = || {
        Op::DeleteRange(DeleteRangeRequest {
            key: "k".into(),
            ..Default::default()
        })
    };
    let outcomes = store.apply(&[entry(
        2,
        vec![put(), grant(), delete(), Op::LeaseRevoke(LeaseRevokeRequest { id: 4 })],
    )]);
    assert_eq!(outcomes[0].results[..2], [Err(Error::NoSpace), Err(Error::NoSpace)]);
    assert!(outcomes[0].results[2].is_ok());
    assert_eq!(outcomes[0].lease_changes, [LeaseChange::Revoked { id: 4 }]);
    store.apply(&[entry(
        3,
        vec![
            alarm(AlarmAction::Deactivate, AlarmType::Nospace),
            alarm(AlarmAction::Activate, AlarmType::Corrupt),
        ],
    )]);
    let outcomes = store.apply(&[entry(4, vec![delete(), grant()])]);
    assert_eq!(outcomes[0].results, [Err(Error::Corrupt), Err(Error::Corrupt)]);
    let get = RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    assert_eq!(store.view().range(&get), Err(Error::Corrupt));
}

#[test]
fn members_publish_themselves_and_configurations_are_flushed() {
    use proto::node::{Member, PublishMember};
    let engine = MemoryEngine::new();
    let mut store = Store::open(engine.clone(), StoreOptions::default());
    assert!(store.is_empty());
    store.bootstrap(Membership {
        cluster_id: 1,
        members: vec![Member {
            id: 3,
            ..Default::default()
        }],
        ..Default::default()
    });
    let publish = PublishMember {
        id: 3,
        name: "m".into(),
        client_urls: vec!["http://c".into()],
    };
    let conf = LogEntry {
        index: 2,
        term: 1,
        data: Bytes::new(),
        conf_state: Some("new".into()),
    };
    store.apply(&[entry(1, vec![Op::PublishMember(publish)]), conf, entry(3, vec![])]);
    assert_eq!(store.applied().index, 3);
    assert_eq!(store.flushed().index, 2);
    let reopened = Store::open(engine.crash(), StoreOptions::default());
    assert_eq!(reopened.membership().conf_state, Bytes::from("new"));
    assert_eq!(reopened.membership().members[0].name, "m");
}

#[test]
#[should_panic(expected = "written by a newer dipper")]
fn a_newer_command_stops_the_store() {
    let mut store = start(MemoryEngine::new(), StoreOptions::default());
    let data = CommandBatch {
        version: COMMAND_VERSION + 1,
        commands: vec![],
    }
    .encode_to_vec()
    .into();
    store.apply(&[LogEntry {
        index: 1,
        term: 1,
        data,
        conf_state: None,
    }]);
}
