//! Watch, as etcd's clients rely on it. A script talks to one stream; what must not come is shown by what comes
//! next, never by waiting.

use crate::fake::{CLUSTER, OWN, Served, TERM, limits, refusal, row};
use proto::{
    Error,
    etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchCancelRequest,
        WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, request_op::Request,
        watch_client::WatchClient, watch_request::RequestUnion,
    },
    mvccpb::{Event, event::EventType},
    node::{Command, command::Op},
};
use raft_node::grpc::{Limits, counters::Rpc};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

fn on(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        ..WatchCreateRequest::default()
    }
}

fn everything() -> WatchCreateRequest {
    WatchCreateRequest {
        range_end: vec![0].into(),
        ..on("\0")
    }
}

impl Stream {
    async fn open(served: &Served) -> Self {
        Self::try_open(served, false).await.unwrap()
    }

    async fn try_open(served: &Served, require_leader: bool) -> Result<Self, Status> {
        let (requests, receive) = mpsc::channel(16);
        let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(receive));
        if require_leader {
            request.metadata_mut().insert("hasleader", "true".parse().unwrap());
        }
        let mut client = WatchClient::new(served.channel.clone()).max_decoding_message_size(usize::MAX);
        let responses = client.watch(request).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn send(&self, union: RequestUnion) {
        self.requests
            .send(WatchRequest {
                request_union: Some(union),
            })
            .await
            .unwrap();
    }

    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        let response = self.next().await;
        assert!(response.created, "{response:?}");
        response
    }

    async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
            .await;
    }

    async fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    async fn next(&mut self) -> WatchResponse {
        let message = tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await;
        let response = message.expect("a response within 20 s").unwrap().unwrap();
        let header = response.header.unwrap();
        assert_eq!(
            (header.cluster_id, header.member_id, header.raft_term),
            (CLUSTER, OWN, TERM)
        );
        response
    }
}

fn put(served: &Served, key: &str, value: &str) -> i64 {
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    served.fake.apply(Command { op: Some(Op::Put(put)) }).unwrap();
    revision(served)
}

fn delete(served: &Served, key: &str) -> i64 {
    let delete = DeleteRangeRequest {
        key: key.to_owned().into(),
        ..DeleteRangeRequest::default()
    };
    served
        .fake
        .apply(Command {
            op: Some(Op::DeleteRange(delete)),
        })
        .unwrap();
    revision(served)
}

fn put_many(served: &Served, keys: &[&str], value_bytes: usize) {
    let put = |key: &&str| PutRequest {
        key: (*key).to_owned().into(),
        value: vec![7; value_bytes].into(),
        ..PutRequest::default()
    };
    let success = keys
        .iter()
        .map(|key| RequestOp {
            request: Some(Request::RequestPut(put(key))),
        })
        .collect();
    served
        .fake
        .apply(Command {
            op: Some(Op::Txn(TxnRequest {
                success,
                ..TxnRequest::default()
            })),
        })
        .unwrap();
}

fn compact(served: &Served, revision: i64) {
    let compact = CompactionRequest {
        revision,
        physical: false,
    };
    served
        .fake
        .apply(Command {
            op: Some(Op::Compact(compact)),
        })
        .unwrap();
}

fn revision(served: &Served) -> i64 {
    raft_node::grpc::Member::view(&*served.fake).revision()
}

fn header_revision(response: &WatchResponse) -> i64 {
    response.header.unwrap().revision
}

fn told(event: &Event) -> (EventType, &[u8], i64) {
    let kv = event.kv.as_ref().unwrap();
    (event.r#type(), &kv.key[..], kv.mod_revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_follow_created_and_carry_what_was_asked_for() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    put(&served, "a", "0");
    let created = stream
        .create(WatchCreateRequest {
            prev_kv: true,
            ..on("a")
        })
        .await;
    assert_eq!(
        (created.watch_id, header_revision(&created), created.canceled),
        (0, 2, false)
    );
    put(&served, "b", "not watched");
    put(&served, "a", "1");
    let response = stream.next().await;
    assert_eq!(
        (response.watch_id, header_revision(&response), response.created),
        (0, 4, false)
    );
    assert_eq!(told(&response.events[0]), (EventType::Put, &b"a"[..], 4));
    assert_eq!(&response.events[0].prev_kv.as_ref().unwrap().value[..], b"0");
    delete(&served, "a");
    let event = stream.next().await.events.remove(0);
    assert_eq!(told(&event), (EventType::Delete, &b"a"[..], 5));
    let kv = event.kv.unwrap();
    assert_eq!((kv.create_revision, kv.version, kv.value.len()), (0, 0, 0));
    assert_eq!(&event.prev_kv.unwrap().value[..], b"1");
    put(&served, "a", "2");
    assert_eq!(stream.next().await.events[0].prev_kv, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_revision_is_one_response_in_the_order_of_its_operations() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    stream.create(everything()).await;
    put_many(&served, &["c", "a", "b"], 1);
    let response = stream.next().await;
    let events: Vec<_> = response.events.iter().map(told).collect();
    assert_eq!(
        events,
        [
            (EventType::Put, &b"c"[..], 2),
            (EventType::Put, &b"a"[..], 2),
            (EventType::Put, &b"b"[..], 2)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_leave_nothing_behind() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    stream
        .create(WatchCreateRequest {
            filters: vec![0],
            ..everything()
        })
        .await;
    stream
        .create(WatchCreateRequest {
            filters: vec![1],
            ..everything()
        })
        .await;
    put(&served, "a", "1");
    assert_eq!(stream.next().await.watch_id, 1);
    delete(&served, "a");
    let response = stream.next().await;
    assert_eq!(
        (response.watch_id, told(&response.events[0])),
        (0, (EventType::Delete, &b"a"[..], 3))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_given_skipped_and_refused() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    let with = |watch_id| WatchCreateRequest { watch_id, ..on("a") };
    assert_eq!(stream.create(with(1)).await.watch_id, 1);
    assert_eq!(stream.create(with(0)).await.watch_id, 0);
    assert_eq!(stream.create(with(0)).await.watch_id, 2);
    let refused = |response: WatchResponse| {
        assert!(response.created && response.canceled);
        assert_eq!((response.watch_id, response.compact_revision), (-1, 0));
        response.cancel_reason
    };
    let duplicate = "mvcc: duplicate watch ID provided on the WatchStream";
    assert_eq!(refused(stream.create(with(1)).await), duplicate);
    let empty = WatchCreateRequest {
        range_end: "a".into(),
        ..on("b")
    };
    assert_eq!(refused(stream.create(empty).await), "mvcc: watcher range is empty");
    let past = WatchCreateRequest {
        start_revision: -1,
        ..on("b")
    };
    assert_eq!(refused(stream.create(past).await), Error::Compacted.text());

    // Canceling an unknown id says nothing: the next answer is the next request's.
    stream.cancel(77).await;
    stream.cancel(1).await;
    let canceled = stream.next().await;
    assert!(canceled.canceled && !canceled.created && canceled.cancel_reason.is_empty());
    assert_eq!((canceled.watch_id, header_revision(&canceled)), (1, 1));
    put(&served, "a", "1");
    assert_eq!(
        [stream.next().await.watch_id, stream.next().await.watch_id]
            .iter()
            .sum::<i64>(),
        2
    );
    assert_eq!(stream.create(with(1)).await.watch_id, 1);
    assert_eq!(served.fake_watches(), 3);
    drop(stream);
    served.wait_for_watches(0).await;
}

impl Served {
    fn fake_watches(&self) -> usize {
        raft_node::grpc::Member::watchers(&*self.fake).watches()
    }

    async fn wait_for_watches(&self, count: usize) {
        let wait = async {
            while self.fake_watches() != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("the watches go with their stream");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_key_is_the_smallest_one() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    stream
        .create(WatchCreateRequest {
            range_end: vec![0].into(),
            ..on("")
        })
        .await;
    put(&served, "anything", "1");
    assert_eq!(told(&stream.next().await.events[0]).1, b"anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_start_is_told_behind_created_and_the_stream_lives_on() {
    let served = Served::start();
    for i in 0..4 {
        put(&served, "a", &i.to_string());
    }
    let deleted = delete(&served, "a");
    put(&served, "b", "1");
    compact(&served, deleted);
    let mut stream = Stream::open(&served).await;
    let from = |start_revision| WatchCreateRequest {
        start_revision,
        prev_kv: true,
        ..on("a")
    };
    let created = stream.create(from(deleted - 1)).await;
    assert_eq!(
        (created.watch_id, created.canceled, created.compact_revision),
        (0, false, 0)
    );
    let canceled = stream.next().await;
    assert_eq!(
        (canceled.watch_id, canceled.created, canceled.canceled),
        (0, false, true)
    );
    assert_eq!((canceled.compact_revision, header_revision(&canceled)), (deleted, 0));
    assert_eq!(canceled.cancel_reason, "");
    // At the compacted revision itself the delete is still told, without what it replaced.
    assert_eq!(stream.create(from(deleted)).await.watch_id, 1);
    let event = stream.next().await.events.remove(0);
    assert_eq!(
        (told(&event), event.prev_kv.as_ref()),
        ((EventType::Delete, &b"a"[..], deleted), None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_future_start_hears_nothing_before() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    let created = stream
        .create(WatchCreateRequest {
            start_revision: 4,
            ..on("a")
        })
        .await;
    assert_eq!((created.canceled, header_revision(&created)), (false, 1));
    stream.ask_progress().await;
    for _ in 0..3 {
        put(&served, "a", "x");
    }
    let response = stream.next().await;
    assert_eq!((response.watch_id, told(&response.events[0]).2), (0, 4));
    // The progress that was asked for at revision 1 comes when it is the watch's own.
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert!(header_revision(&progress) >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_waits_until_everything_before_was_sent() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    // Without a watch there is nothing to say.
    stream.ask_progress().await;
    stream.create(everything()).await;
    stream.ask_progress().await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, header_revision(&progress)), (-1, 1));
    for i in 0..50 {
        let revision = put(&served, "a", &i.to_string());
        stream.ask_progress().await;
        assert_eq!(told(&stream.next().await.events[0]).2, revision);
        let progress = stream.next().await;
        assert_eq!((progress.watch_id, header_revision(&progress)), (-1, revision));
    }
    // Published, but the index has not been told: progress must wait for the marks.
    served.fake.silent.store(true, Ordering::SeqCst);
    let revision = put(&served, "a", "silent");
    stream.ask_progress().await;
    stream.cancel(77).await;
    let created = stream.create(on("other")).await;
    assert_eq!((created.watch_id, header_revision(&created)), (1, revision));
    served.fake.tell();
    assert_eq!(told(&stream.next().await.events[0]).2, revision);
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, header_revision(&progress)), (-1, revision));
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_watches_that_ask_for_it_hear_of_progress() {
    let served = Served::with(
        Limits {
            progress_interval: Duration::from_millis(100),
            ..limits()
        },
        1 << 20,
    );
    let mut stream = Stream::open(&served).await;
    stream.create(on("a")).await;
    stream
        .create(WatchCreateRequest {
            progress_notify: true,
            ..on("b")
        })
        .await;
    stream
        .create(WatchCreateRequest {
            progress_notify: true,
            start_revision: 1000,
            ..on("c")
        })
        .await;
    let revision = put(&served, "not watched", "1");
    for _ in 0..3 {
        let progress = stream.next().await;
        assert_eq!((progress.watch_id, progress.events.len()), (1, 0));
        assert!((1..=revision).contains(&header_revision(&progress)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_revisions_are_fragmented_only_on_request() {
    let served = Served::with(
        Limits {
            max_request_bytes: 1 << 20,
            ..limits()
        },
        64 << 20,
    );
    let mut stream = Stream::open(&served).await;
    stream
        .create(WatchCreateRequest {
            fragment: true,
            ..everything()
        })
        .await;
    stream.create(everything()).await;
    let keys: Vec<String> = (0..40).map(|i| format!("k{i:02}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    put_many(&served, &keys, 100 << 10);
    let mut got = [Vec::new(), Vec::new()];
    let mut pieces = 0;
    while got.iter().any(|events| events.len() < 40) {
        let response = stream.next().await;
        let id = response.watch_id as usize;
        assert_eq!(header_revision(&response), 2);
        pieces += usize::from(id == 0);
        got[id].extend(response.events);
        assert_eq!(response.fragment, id == 0 && got[0].len() < 40);
        // Fragments are contiguous: once one has come, the other watch says nothing until the last.
        assert!(!response.fragment || got[1].is_empty() || got[1].len() == 40);
    }
    assert!(pieces >= 3, "{pieces}");
    assert_eq!(got[0], got[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_leader_is_required_at_the_start_and_later() {
    let served = Served::start();
    let mut stream = Stream::try_open(&served, true).await.unwrap();
    let mut careless = Stream::open(&served).await;
    stream.create(on("a")).await;
    served.fake.leader.send_replace(0);
    let refused = Stream::try_open(&served, true).await.map(|_| ());
    assert_eq!(refusal(refused), row(&Error::NoLeader));
    assert_eq!(refusal(stream.responses.message().await), row(&Error::NoLeader));
    careless.create(on("a")).await;
    put(&served, "a", "1");
    assert_eq!(careless.next().await.events.len(), 1);
    assert_eq!(served.counters.handled(Rpc::Watch, Code::Unavailable), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_the_member_stops() {
    let mut served = Served::start();
    let mut stream = Stream::open(&served).await;
    stream.create(on("a")).await;
    served.fake.stopping.send_replace(true);
    assert_eq!(refusal(stream.responses.message().await), row(&Error::Stopped));
    drop(stream);
    served.stop(Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_when_its_client_has_said_everything() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    stream.create(on("a")).await;
    stream.requests = mpsc::channel(1).0;
    put(&served, "a", "1");
    assert_eq!(stream.next().await.events.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_beyond_memory_is_read_on_the_pool_even_when_it_is_busy() {
    let served = Served::with(limits(), 4096);
    for i in 0..3000 {
        put(&served, if i % 3 == 0 { "a" } else { "b" }, &"v".repeat(300));
    }
    served.fake.refused_reads.store(3, Ordering::SeqCst);
    let mut stream = Stream::open(&served).await;
    stream
        .create(WatchCreateRequest {
            start_revision: 2,
            ..on("a")
        })
        .await;
    let mut expected = 2;
    while expected <= 3001 {
        for event in stream.next().await.events {
            assert_eq!(told(&event).2, expected);
            expected += 3;
        }
        if expected == 1502 {
            put(&served, "b", "while it catches up");
        }
    }
    assert!(served.fake.pool_reads.load(Ordering::SeqCst) > 1);
    let revision = put(&served, "a", "live");
    assert_eq!(told(&stream.next().await.events[0]).2, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watches_on_one_stream_wake_alone() {
    let served = Served::start();
    let mut stream = Stream::open(&served).await;
    for i in 0..10_000 {
        let request = match i % 3 {
            0 => on(&format!("key{i}")),
            1 => WatchCreateRequest {
                range_end: format!("key{i}0").into(),
                ..on(&format!("key{i}/"))
            },
            _ => WatchCreateRequest {
                range_end: vec![0].into(),
                ..on(&format!("z{i}"))
            },
        };
        assert_eq!(stream.create(request).await.watch_id, i);
    }
    for (key, watch_id) in [
        ("key9/x", None),
        ("key9", Some(9)),
        ("key10/x", Some(10)),
        ("key9999", Some(9999)),
    ] {
        let revision = put(&served, key, "1");
        stream.ask_progress().await;
        if let Some(watch_id) = watch_id {
            assert_eq!(stream.next().await.watch_id, watch_id);
        }
        let progress = stream.next().await;
        assert_eq!((progress.watch_id, header_revision(&progress)), (-1, revision));
    }
    drop(stream);
    served.wait_for_watches(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_hold_nobody_up_and_lose_nothing() {
    let served = Served::with(limits(), 1 << 20);
    let mut lazy = Vec::new();
    for _ in 0..2000 {
        let mut stream = Stream::open(&served).await;
        stream.create(everything()).await;
        lazy.push(stream);
    }
    for i in 0..2000 {
        put(&served, &format!("k{}", i % 10), &"v".repeat(4 << 10));
    }
    // On a connection of its own, because flow control is the connection's, too.
    let mut other = served.share();
    other.channel = served.another_channel();
    let mut reader = Stream::open(&other).await;
    reader
        .create(WatchCreateRequest {
            start_revision: 2,
            ..everything()
        })
        .await;
    let mut seen = 1;
    while seen < 2001 {
        for event in reader.next().await.events {
            seen += 1;
            assert_eq!(told(&event).2, seen);
        }
    }
    // The last of them wakes up and has missed nothing; the others go away.
    let mut last = lazy.pop().unwrap();
    drop(lazy);
    let mut seen = 1;
    while seen < 2001 {
        for event in last.next().await.events {
            seen += 1;
            assert_eq!(told(&event).2, seen);
        }
    }
}

/// A small generator: the tests print its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Watches opened at random moments on old, current and future revisions, while writes go on, must each see
/// exactly the events of their range from their start, in order; and no progress may run ahead.
#[tokio::test(flavor = "multi_thread")]
async fn every_watch_sees_its_range_exactly_once_and_in_order() {
    for seed in 1..=6u64 {
        println!("seed {seed}");
        let served = Served::with(limits(), if seed % 2 == 0 { 3000 } else { 1 << 20 });
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut stream = Stream::open(&served).await;
        let mut watches: Vec<(WatchCreateRequest, i64, Vec<i64>)> = Vec::new();
        let mut log: Vec<(i64, String)> = Vec::new();
        let mut pending_created = std::collections::VecDeque::new();
        for _ in 0..400 {
            match dice.below(10) {
                0 | 1 => {
                    let key = format!("{}", dice.below(4));
                    let range_end = [String::new(), "\0".to_owned(), "3".to_owned()][dice.below(3) as usize].clone();
                    let start = [0, 2, revision(&served) / 2 + 1, revision(&served) + 9][dice.below(4) as usize];
                    let request = WatchCreateRequest {
                        range_end: range_end.into(),
                        start_revision: start,
                        ..on(&key)
                    };
                    pending_created.push_back(request.clone());
                    stream.send(RequestUnion::CreateRequest(request)).await;
                    let response = loop {
                        let response = stream.next().await;
                        if response.created {
                            break response;
                        }
                        note(&response, &mut watches);
                    };
                    let request = pending_created.pop_front().unwrap();
                    let from = if start == 0 {
                        header_revision(&response) + 1
                    } else {
                        start
                    };
                    if response.canceled {
                        assert_eq!(response.cancel_reason, "mvcc: watcher range is empty");
                    } else {
                        assert_eq!(response.watch_id, watches.len() as i64);
                        watches.push((request, from, Vec::new()));
                    }
                }
                2 => stream.ask_progress().await,
                _ => {
                    let key = format!("{}", dice.below(5));
                    log.push((put(&served, &key, &"v".repeat(dice.below(200) as usize)), key));
                }
            }
        }
        // Far enough that every start is reached; then progress closes the book.
        for _ in 0..12 {
            log.push((put(&served, "9", "end"), "9".to_owned()));
        }
        let last = revision(&served);
        stream.create_tail(&mut watches).await;
        stream.ask_progress().await;
        loop {
            let response = stream.next().await;
            if response.watch_id == -1 && header_revision(&response) >= last {
                break;
            }
            note(&response, &mut watches);
        }
        for (request, from, seen) in &watches {
            let range = proto::KeyRange::new(request.key.clone(), request.range_end.clone());
            let expected: Vec<i64> = log
                .iter()
                .filter(|(revision, key)| revision >= from && range.contains(key.as_bytes()))
                .map(|(revision, _)| *revision)
                .collect();
            assert_eq!(*seen, expected, "{request:?}");
        }
    }
}

fn note(response: &WatchResponse, watches: &mut [(WatchCreateRequest, i64, Vec<i64>)]) {
    if response.watch_id == -1 {
        return;
    }
    let (_, _, seen) = &mut watches[response.watch_id as usize];
    for event in &response.events {
        seen.push(told(event).2);
        assert!(told(event).2 <= header_revision(response));
    }
}

impl Stream {
    /// One more watch, so that a stream that happens to have none answers progress, too.
    async fn create_tail(&mut self, watches: &mut Vec<(WatchCreateRequest, i64, Vec<i64>)>) {
        self.send(RequestUnion::CreateRequest(on("tail"))).await;
        loop {
            let response = self.next().await;
            if response.created {
                watches.push((on("tail"), header_revision(&response) + 1, Vec::new()));
                return;
            }
            note(&response, watches);
        }
    }
}
