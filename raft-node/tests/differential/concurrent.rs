//! Many tasks at once, each on keys of its own: every answer and every task's event sequence is determined
//! but for the revisions, which depend on who came first. Those are masked; their sum is not.

use bytes::Bytes;
use proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
        WatchCreateRequest, compare::TargetUnion, request_op::Request as Op, response_op::Response as OpAnswer,
    },
    mvccpb::{Event, KeyValue},
};

use super::{
    generate::Random,
    request::{Answer, Request},
    side::{Side, refused},
    watching::WatchStream,
};

const TASKS: usize = 8;
const OPERATIONS_PER_TASK: usize = 50;
/// Operations of one phase.
pub const OPERATIONS: usize = TASKS * OPERATIONS_PER_TASK;

/// Runs the same tasks on both and returns what differed.
pub async fn phase(oracle: &mut Side, subject: &mut Side, random: &mut Random) -> Vec<String> {
    let scripts: Vec<Vec<Request>> = (0..TASKS).map(|task| script(random, task)).collect();
    let (theirs, ours) = tokio::join!(run(oracle, &scripts), run(subject, &scripts));
    let mut found = Vec::new();
    for (task, script) in scripts.iter().enumerate() {
        for (i, request) in script.iter().enumerate() {
            let (a, b) = (&theirs.answers[task][i], &ours.answers[task][i]);
            if a != b {
                found.push(format!(
                    "concurrent task {task}: {request:?}\n  oracle:  {a:?}\n  subject: {b:?}"
                ));
            }
        }
        if theirs.events[task] != ours.events[task] {
            let (a, b) = (&theirs.events[task], &ours.events[task]);
            let at = a.iter().zip(b).position(|(a, b)| a != b);
            found.push(format!(
                "concurrent task {task}: events differ at {at:?} of {} and {}",
                a.len(),
                b.len()
            ));
        }
    }
    found.extend(ours.faults);
    found
}

/// Removes the tasks' keys, and puts a key so that the last revision is not a tombstone's.
pub fn clean_up() -> [Request; 2] {
    let all = DeleteRangeRequest {
        key: b"p".to_vec().into(),
        range_end: b"q".to_vec().into(),
        prev_kv: false,
    };
    let put = PutRequest {
        key: b"a".to_vec().into(),
        value: b"after".to_vec().into(),
        ..PutRequest::default()
    };
    [Request::DeleteRange(all), Request::Put(put)]
}

struct Outcome {
    answers: Vec<Vec<Answer>>,
    events: Vec<Vec<Event>>,
    faults: Vec<String>,
}

async fn run(side: &mut Side, scripts: &[Vec<Request>]) -> Outcome {
    let mut watch = watch_tasks(side).await;
    let side = &*side;
    let tasks = scripts.iter().enumerate().map(|(task, script)| async move {
        let mut answers = Vec::new();
        for (i, request) in script.iter().enumerate() {
            let rpc = side.rpcs[(task + i) % side.rpcs.len()].clone();
            answers.push(masked(side.ask(rpc, request).await.unwrap_or_else(refused)));
        }
        answers
    });
    let answers = join_all(tasks).await;
    let mut events = Vec::new();
    for task in 0..TASKS {
        events.push(events_until_end(&mut watch, task).await);
    }
    Outcome {
        answers,
        events,
        faults: watch.log.faults,
    }
}

/// One stream with a watch on each task's keys.
async fn watch_tasks(side: &Side) -> WatchStream {
    let member = side.rpcs.len() - 1;
    side.catch_up(member).await;
    let mut stream = WatchStream::open(&side.rpcs[member], member);
    for task in 0..TASKS {
        let request = WatchCreateRequest {
            key: key(task, ""),
            range_end: key(task, "\u{7f}"),
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        stream.create(request).await;
    }
    stream
}

/// A task's script ends with a put of this key, so that its events have an end.
const END: &str = "~end";

async fn events_until_end(watch: &mut WatchStream, task: usize) -> Vec<Event> {
    loop {
        let Some(events) = watch.log.events.get(task) else {
            return Vec::new();
        };
        let count = events.len();
        let ended = events
            .last()
            .and_then(|event| event.kv.as_ref())
            .is_some_and(|kv| kv.key == key(task, END));
        if !ended {
            watch.await_events(task, count + 1).await;
        }
        if ended || watch.log.events[task].len() == count {
            return watch.log.events[task].iter().cloned().map(masked_event).collect();
        }
    }
}

/// Polls all tasks on this thread's runtime until each has ended.
async fn join_all<F: Future<Output = Vec<Answer>>>(tasks: impl Iterator<Item = F>) -> Vec<Vec<Answer>> {
    let mut tasks: Vec<_> = tasks.map(|task| (Box::pin(task), None)).collect();
    std::future::poll_fn(|context| {
        let mut all = true;
        for (task, answers) in &mut tasks {
            if answers.is_none() {
                match task.as_mut().poll(context) {
                    std::task::Poll::Ready(ready) => *answers = Some(ready),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    tasks
        .into_iter()
        .map(|(_, answers)| answers.expect("polled to its end"))
        .collect()
}

fn key(task: usize, suffix: &str) -> Bytes {
    Bytes::from(format!("p{task}/{suffix}"))
}

fn script(random: &mut Random, task: usize) -> Vec<Request> {
    let mut script: Vec<Request> = (1..OPERATIONS_PER_TASK).map(|_| operation(random, task)).collect();
    script.push(Request::Put(PutRequest {
        key: key(task, END),
        ..PutRequest::default()
    }));
    script
}

fn operation(random: &mut Random, task: usize) -> Request {
    let one = |random: &mut Random| key(task, ["a", "b", "c"][random.below(3) as usize]);
    let put = |random: &mut Random| PutRequest {
        key: one(random),
        value: Bytes::from(random.below(4).to_string()),
        prev_kv: true,
        ..PutRequest::default()
    };
    let all = RangeRequest {
        key: key(task, ""),
        range_end: key(task, "\u{7f}"),
        ..RangeRequest::default()
    };
    match random.below(10) {
        0..5 => Request::Put(put(random)),
        5 | 6 => Request::Range(RangeRequest {
            limit: random.below(3) as i64,
            ..all
        }),
        7 => Request::DeleteRange(DeleteRangeRequest {
            key: one(random),
            prev_kv: true,
            ..Default::default()
        }),
        _ => {
            let union = TargetUnion::Value(Bytes::from(random.below(4).to_string()));
            let compare = Compare {
                target: 3,
                key: one(random),
                target_union: Some(union),
                ..Compare::default()
            };
            let op = |request| RequestOp { request: Some(request) };
            Request::Txn(TxnRequest {
                compare: vec![compare],
                success: vec![op(Op::RequestPut(put(random))), op(Op::RequestRange(all.clone()))],
                failure: vec![op(Op::RequestRange(all))],
            })
        }
    }
}

/// Without revisions, but with whether a key was just created.
fn masked_record(kv: &mut KeyValue) {
    kv.create_revision = i64::from(kv.create_revision == kv.mod_revision);
    kv.mod_revision = 0;
}

fn masked_event(mut event: Event) -> Event {
    event.kv.iter_mut().chain(&mut event.prev_kv).for_each(masked_record);
    event
}

fn masked(mut answer: Answer) -> Answer {
    let ids = answer
        .header()
        .map(|header| (header.cluster_id, header.member_id, header.raft_term));
    if ids.is_some_and(|(cluster, member, term)| cluster == 0 || member == 0 || term == 0) {
        return Answer::Wrong("a header without ids or term".to_owned());
    }
    match &mut answer {
        Answer::Put(put) => {
            put.header = None;
            put.prev_kv.iter_mut().for_each(masked_record);
        }
        Answer::Range(found) => masked_range(found),
        Answer::DeleteRange(deleted) => {
            deleted.header = None;
            deleted.prev_kvs.iter_mut().for_each(masked_record);
        }
        Answer::Txn(done) => masked_txn(done),
        _ => {}
    }
    answer
}

fn masked_range(found: &mut RangeResponse) {
    found.header = None;
    found.kvs.iter_mut().for_each(masked_record);
}

fn masked_txn(done: &mut TxnResponse) {
    done.header = None;
    for response in &mut done.responses {
        match &mut response.response {
            Some(OpAnswer::ResponsePut(put)) => {
                put.header = None;
                put.prev_kv.iter_mut().for_each(masked_record);
            }
            Some(OpAnswer::ResponseRange(found)) => masked_range(found),
            _ => {}
        }
    }
}
