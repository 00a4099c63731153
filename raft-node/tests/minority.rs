//! Two of three members gone, by SIGKILL and by SIGSTOP, with the last one leading and following: writes and
//! linearizable reads end with the error that names the case and in time, serializable reads go on, and
//! streams that require a leader end. When the others are back, everything goes on without a gap.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Cluster, Kind,
    load::{Outcome, Watcher, Write, Writers, assert_dense, assert_hashes_equal, history, judge},
    rpc::{Rpc, block_on, runtime},
};
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, request_op, watch_request::RequestUnion,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

/// What a request without a deadline of its own gets.
const OWN_DEADLINE: Duration = Duration::from_secs(7);
/// A read is refused by a member that has had no leader for so long: another one may have it. A write waits on, as
/// nobody repeats it.
const READS_GIVEN_UP: Duration = Duration::from_millis(500);
/// From a deadline until its error is in the client's hands.
const GRACE: Duration = Duration::from_millis(500);
/// Streams that require a leader end so long after the leader is gone.
const STREAM_END: Duration = Duration::from_secs(3);
const STREAM_GRACE: Duration = Duration::from_secs(1);
/// A refusal "at once".
const AT_ONCE: Duration = Duration::from_millis(250);
const NO_LEADER: &str = "etcdserver: no leader";
/// What a write may hear that was on its way when the majority went.
const ON_ITS_WAY: [&str; 3] = [
    "etcdserver: request timed out",
    "etcdserver: request timed out, possibly due to previous leader failure",
    "etcdserver: request timed out, possibly due to connection lost",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survivor {
    Leader,
    Follower,
}

#[test]
fn the_killed_majority_of_a_follower() {
    one_member_left(Fault::Killed, Survivor::Follower);
}

#[test]
fn the_killed_majority_of_a_leader() {
    one_member_left(Fault::Killed, Survivor::Leader);
}

#[test]
fn the_stopped_majority_of_a_follower() {
    one_member_left(Fault::Stopped, Survivor::Follower);
}

#[test]
fn the_stopped_majority_of_a_leader() {
    one_member_left(Fault::Stopped, Survivor::Leader);
}

fn one_member_left(fault: Fault, survivor: Survivor) {
    let mut cluster = Cluster::start(Kind::Dipper, 3, &[]);
    let leader = cluster.await_leader(Duration::from_secs(10));
    let left = if survivor == Survivor::Leader {
        leader
    } else {
        (leader + 1) % 3
    };
    let urls: Vec<String> = (0..3).map(|i| cluster.client_url(i).to_owned()).collect();
    let rpc = Rpc::connect(&urls[left]);
    rpc.put(b"kept", b"value").expect("a put to a complete cluster");
    let watcher = Watcher::start(&urls[left], 3);
    let watch_ends = open_watch(&rpc);
    let keep_alive_ends = open_keep_alive(&rpc);
    let writers = Writers::start(&urls[left..=left], 16);
    std::thread::sleep(Duration::from_millis(300));

    let gone_at = Instant::now();
    for other in (0..3).filter(|i| *i != left) {
        match fault {
            Fault::Killed => cluster.kill(other),
            Fault::Stopped => cluster.pause(other),
        }
    }
    std::thread::sleep(Duration::from_millis(20));
    let writers = std::thread::spawn(move || writers.stop());
    await_leaderless(&rpc, gone_at);
    let answers = ask_everything(&rpc);
    check_what_goes_on(&rpc);
    check_stream(watch_ends, "watch", gone_at);
    check_stream(keep_alive_ends, "keep-alive", gone_at);
    for answer in answers {
        answer.check();
    }
    let writes = writers.join().expect("the writers end");
    check_on_their_way(&writes, gone_at, survivor);
    assert!(
        watcher.lock().breaks.is_empty(),
        "a watch without hasleader broke: {:?}",
        watcher.lock().breaks
    );

    for other in (0..3).filter(|i| *i != left) {
        match fault {
            Fault::Killed => cluster.restart(other),
            Fault::Stopped => cluster.resume(other),
        }
    }
    cluster
        .await_ready(Duration::from_mins(1))
        .expect("all members serve again");
    check_afterwards(&urls, left, &writes, watcher);
}

/// The watch went on, and the history holds what was acknowledged and nothing that was refused.
fn check_afterwards(urls: &[String], left: usize, writes: &[Write], watcher: Watcher) {
    let rpc = Rpc::connect(&urls[left]);
    let last = rpc.put(b"load/end", b"end").expect("a put to a complete cluster again");
    let last = last.header.expect("a header").revision;
    let mut events = history(&urls[(left + 1) % 3], 3, last);
    assert_dense(&events, 3, last, "the history");
    watcher.await_revision(last, Duration::from_secs(20));
    let log = watcher.stop();
    assert!(
        log.breaks.is_empty(),
        "a watch without hasleader broke: {:?}",
        log.breaks
    );
    assert_eq!(log.events, events, "the watch saw something else than the history");
    events.pop();
    println!("{:?}", judge(writes, &events));
    assert_hashes_equal(urls, last);
}

fn await_leaderless(rpc: &Rpc, gone_at: Instant) {
    while rpc.status().expect("Status needs no leader").leader != 0 {
        assert!(
            gone_at.elapsed() < Duration::from_secs(3),
            "a member still believes in a leader"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("leaderless after {:?}", gone_at.elapsed());
}

/// A call that is under way.
struct Asked {
    what: &'static str,
    deadline: Duration,
    answer: JoinHandle<(Duration, Result<(), Status>)>,
}

impl Asked {
    /// It fails for want of a leader: not before it has waited for one, and in time.
    fn check(self) {
        let (took, answer) = block_on(self.answer).expect("a call does not panic");
        let status = answer.expect_err(self.what);
        println!(
            "{} with {:?}: {:?} after {took:?}",
            self.what,
            self.deadline,
            status.message()
        );
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, NO_LEADER),
            "{} with {:?}",
            self.what,
            self.deadline
        );
        let end = match self.what {
            "range" => self.deadline.min(READS_GIVEN_UP),
            _ => self.deadline,
        };
        assert!(took <= end + GRACE, "{}: {took:?} for {end:?}", self.what);
        assert!(took >= end / 2, "{} did not wait for a leader: {took:?}", self.what);
    }
}

fn ask_everything(rpc: &Rpc) -> Vec<Asked> {
    let given = [Some(Duration::from_secs(1)), Some(Duration::from_secs(3)), None];
    given.into_iter().flat_map(|deadline| ask_with(rpc, deadline)).collect()
}

fn ask_with(rpc: &Rpc, deadline: Option<Duration>) -> Vec<Asked> {
    let put = || PutRequest {
        key: b"refused".to_vec().into(),
        ..PutRequest::default()
    };
    let range = RangeRequest {
        key: b"kept".to_vec().into(),
        ..RangeRequest::default()
    };
    let delete = DeleteRangeRequest {
        key: b"kept".to_vec().into(),
        ..DeleteRangeRequest::default()
    };
    let txn = TxnRequest {
        success: vec![RequestOp {
            request: Some(request_op::Request::RequestPut(put())),
        }],
        ..TxnRequest::default()
    };
    let compact = CompactionRequest {
        revision: 2,
        ..CompactionRequest::default()
    };
    let grant = LeaseGrantRequest { ttl: 60, id: 0 };
    let kv = || rpc.kv.clone();
    let lease = rpc.lease.clone();
    vec![
        ask("put", deadline, put(), {
            let mut kv = kv();
            async move |r| kv.put(r).await.map(drop)
        }),
        ask("range", deadline, range, {
            let mut kv = kv();
            async move |r| kv.range(r).await.map(drop)
        }),
        ask("delete", deadline, delete, {
            let mut kv = kv();
            async move |r| kv.delete_range(r).await.map(drop)
        }),
        ask("txn", deadline, txn, {
            let mut kv = kv();
            async move |r| kv.txn(r).await.map(drop)
        }),
        ask("compact", deadline, compact, {
            let mut kv = kv();
            async move |r| kv.compact(r).await.map(drop)
        }),
        ask("grant", deadline, grant, {
            let mut lease = lease;
            async move |r| lease.lease_grant(r).await.map(drop)
        }),
    ]
}

fn ask<R, C, F>(what: &'static str, deadline: Option<Duration>, message: R, call: C) -> Asked
where
    C: FnOnce(Request<R>) -> F,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    let asked = call(request);
    let answer = runtime().spawn(async move {
        let began = Instant::now();
        let answer = asked.await;
        (began.elapsed(), answer)
    });
    let deadline = deadline.unwrap_or(OWN_DEADLINE);
    Asked { what, deadline, answer }
}

/// Serializable reads are answered; whoever requires a leader is refused at once.
fn check_what_goes_on(rpc: &Rpc) {
    let serializable = || RangeRequest {
        key: b"kept".to_vec().into(),
        serializable: true,
        ..RangeRequest::default()
    };
    let began = Instant::now();
    let read = rpc.range(serializable()).expect("a serializable read needs no leader");
    assert_eq!(read.kvs.first().map(|kv| &kv.value[..]), Some(&b"value"[..]));
    assert!(
        began.elapsed() < AT_ONCE,
        "a serializable read took {:?}",
        began.elapsed()
    );

    let began = Instant::now();
    let (mut kv, mut watch, mut lease) = (rpc.kv.clone(), rpc.watch.clone(), rpc.lease.clone());
    let put = PutRequest {
        key: b"refused".to_vec().into(),
        ..PutRequest::default()
    };
    let refused = [
        block_on(kv.put(requiring_leader(put))).map(drop),
        block_on(kv.range(requiring_leader(serializable()))).map(drop),
        block_on(watch.watch(requiring_leader(tokio_stream::pending()))).map(drop),
        block_on(lease.lease_keep_alive(requiring_leader(tokio_stream::pending()))).map(drop),
    ];
    for (answer, what) in refused
        .into_iter()
        .zip(["put", "serializable range", "watch", "keep-alive"])
    {
        let status = answer.expect_err("it requires a leader");
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, NO_LEADER),
            "{what} with hasleader"
        );
    }
    assert!(
        began.elapsed() < AT_ONCE,
        "refusals for hasleader took {:?}",
        began.elapsed()
    );
}

fn requiring_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("hasleader", "true".parse().expect("ascii"));
    request
}

/// When an open stream ended, and how.
type End = JoinHandle<(Instant, Status)>;

fn open_watch(rpc: &Rpc) -> End {
    let mut client = rpc.watch.clone();
    let (requests, receiver) = mpsc::channel(1);
    let create = WatchCreateRequest {
        key: b"nothing".to_vec().into(),
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let stream = block_on(async {
        requests.send(request).await.expect("the receiver lives");
        let mut stream = client
            .watch(requiring_leader(ReceiverStream::new(receiver)))
            .await?
            .into_inner();
        assert!(stream.message().await?.is_some_and(|response| response.created));
        Ok::<_, Status>(stream)
    });
    let mut stream = stream.expect("a watch on a complete cluster");
    runtime().spawn(async move {
        let _open = requests;
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return (Instant::now(), Status::ok("ended without an error")),
                Err(status) => return (Instant::now(), status),
            }
        }
    })
}

fn open_keep_alive(rpc: &Rpc) -> End {
    let mut client = rpc.lease.clone();
    let (requests, receiver) = mpsc::channel(1);
    let stream = block_on(async {
        let id = client
            .lease_grant(LeaseGrantRequest { ttl: 60, id: 0 })
            .await?
            .into_inner()
            .id;
        requests
            .send(LeaseKeepAliveRequest { id })
            .await
            .expect("the receiver lives");
        let mut stream = client
            .lease_keep_alive(requiring_leader(ReceiverStream::new(receiver)))
            .await?
            .into_inner();
        assert!(stream.message().await?.is_some_and(|response| response.ttl == 60));
        Ok::<_, Status>(stream)
    });
    let mut stream = stream.expect("a keep-alive on a complete cluster");
    runtime().spawn(async move {
        let _open = requests;
        match stream.message().await {
            Ok(_) => (Instant::now(), Status::ok("ended without an error")),
            Err(status) => (Instant::now(), status),
        }
    })
}

/// It was cut for want of a leader: not at the first doubt, and in time.
fn check_stream(end: End, what: &str, gone_at: Instant) {
    let (ended_at, status) = block_on(end).expect("the reader of a stream does not panic");
    let after = ended_at - gone_at;
    println!("{what} with hasleader ended after {after:?}: {}", status.message());
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, NO_LEADER),
        "{what}"
    );
    assert!(after <= STREAM_END + STREAM_GRACE, "{what} ended after {after:?}");
    assert!(after >= STREAM_END / 3, "{what} was cut at once: {after:?}");
}

/// Writes that were under way heard what may have happened to them, in time.
fn check_on_their_way(writes: &[Write], gone_at: Instant, survivor: Survivor) {
    let mut said = std::collections::BTreeMap::<&str, usize>::new();
    for write in writes {
        let took = write.ended - write.sent;
        assert!(took <= OWN_DEADLINE + GRACE, "{write:?} took {took:?}");
        let text = match &write.outcome {
            Outcome::Acked(_) => "acknowledged",
            Outcome::Refused(text) | Outcome::Unknown(text) => text,
        };
        *said.entry(text).or_default() += 1;
        let is_named = matches!(write.outcome, Outcome::Acked(_)) || text == NO_LEADER || ON_ITS_WAY.contains(&text);
        assert!(is_named, "an error that names no case: {write:?}");
        assert!(
            write.ended > gone_at || matches!(write.outcome, Outcome::Acked(_)),
            "failed before the fault: {write:?}"
        );
    }
    println!("{survivor:?}: {said:?}");
    assert!(said.len() > 1, "no write was under way when the majority went");
    if survivor == Survivor::Leader {
        let sent = writes
            .iter()
            .filter(|write| matches!(write.outcome, Outcome::Unknown(_)))
            .count();
        assert!(
            sent > 0,
            "no write was in the leader's log when the majority went: {said:?}"
        );
    }
}
