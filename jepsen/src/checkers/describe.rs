//! Records in one line each, as a person would say them: `put a=1 -> 7`.
//!
//! For the texts of anomalies and the drawings of counter-examples. Nothing here decides anything.

use super::canonical::describe as describe_events;
use crate::history::{
    CompareResult, CompareTarget, DeleteRange, KeyValue, NEVER, Operation, Outcome, Put, Range, Record, Reply, Request,
    Txn, Watch, WatchStep,
};

/// `process 3: put a=1 -> revision 7`.
pub fn record(record: &Record) -> String {
    match record {
        Record::Operation(operation) => {
            format!("process {}: {}", operation.process, self::operation(operation))
        }
        Record::Watch(watch) => format!("watcher {}: {}", watch.watcher, self::watch(watch)),
        Record::Fault(fault) => format!("fault: {}", fault.what),
        Record::Final(last) => format!("member {} ends at revision {}", last.member, last.revision),
        Record::Expectations(_) => "expectations".to_owned(),
    }
}

/// `put a=1 -> revision 7`.
pub fn operation(operation: &Operation) -> String {
    let outcome = match &operation.outcome {
        Outcome::Ok(reply) => self::reply(reply),
        Outcome::Failed(text) => format!("failed: {text}"),
        Outcome::Unknown(text) => format!("unknown: {text}"),
    };
    format!("{} -> {outcome}", request(&operation.request))
}

pub fn request(request: &Request) -> String {
    match request {
        Request::Range(range) => self::range(range),
        Request::Put(put) => self::put(put),
        Request::DeleteRange(DeleteRange { key, range_end, .. }) => format!("delete {}", keys(key, range_end)),
        Request::Txn(txn) => self::txn(txn),
        Request::Compact { revision } => format!("compact {revision}"),
        Request::LeaseGrant { id, ttl_s } => format!("grant lease {id} for {ttl_s} s"),
        Request::LeaseRevoke { id } => format!("revoke lease {id}"),
        Request::LeaseKeepAlive { id } => format!("keep lease {id} alive"),
        Request::LeaseTimeToLive { id } => format!("time to live of lease {id}"),
        Request::MoveLeader { to } => format!("move leader to {to}"),
    }
}

fn range(range: &Range) -> String {
    let mut text = format!("get {}", keys(&range.key, &range.range_end));
    let marks = [
        (range.revision != 0, format!(" at {}", range.revision)),
        (range.limit != 0, format!(" limit {}", range.limit)),
        (range.serializable, " serializable".to_owned()),
        (range.keys_only, " keys only".to_owned()),
        (range.count_only, " count only".to_owned()),
    ];
    text.extend(marks.into_iter().filter_map(|(is_set, mark)| is_set.then_some(mark)));
    text
}

fn put(put: &Put) -> String {
    let lease = if put.lease == 0 {
        String::new()
    } else {
        format!(" on lease {}", put.lease)
    };
    format!("put {}={}{lease}", put.key, put.value)
}

fn txn(txn: &Txn) -> String {
    let compares: Vec<_> = txn
        .compares
        .iter()
        .map(|compare| {
            let sign = match compare.result {
                CompareResult::Equal => "=",
                CompareResult::NotEqual => "!=",
                CompareResult::Greater => ">",
                CompareResult::Less => "<",
            };
            let target = match &compare.target {
                CompareTarget::Version(number) => format!("version{sign}{number}"),
                CompareTarget::Create(number) => format!("create{sign}{number}"),
                CompareTarget::Mod(number) => format!("mod{sign}{number}"),
                CompareTarget::Value(value) => format!("value{sign}{value}"),
                CompareTarget::Lease(number) => format!("lease{sign}{number}"),
            };
            format!("{} {target}", keys(&compare.key, &compare.range_end))
        })
        .collect();
    let branch = |requests: &[Request]| requests.iter().map(request).collect::<Vec<_>>().join("; ");
    let condition = if compares.is_empty() {
        String::new()
    } else {
        format!(" if {}", compares.join(", "))
    };
    let otherwise = if txn.failure.is_empty() {
        String::new()
    } else {
        format!(" else [{}]", branch(&txn.failure))
    };
    format!("txn{condition} [{}]{otherwise}", branch(&txn.success))
}

fn keys(key: &str, range_end: &str) -> String {
    let shown = |key: &str| key.replace('\0', "\\0");
    match range_end {
        "" => shown(key),
        "\0" => format!("{}..", shown(key)),
        end => format!("{}..{}", shown(key), shown(end)),
    }
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Range(reply) => {
            let kvs = reply.kvs.iter().map(kv).collect::<Vec<_>>().join(", ");
            let more = if reply.more { " and more" } else { "" };
            format!("[{kvs}]{more}, {} in all, revision {}", reply.count, reply.revision)
        }
        Reply::Put { revision, .. }
        | Reply::Compact { revision }
        | Reply::LeaseGrant { revision, .. }
        | Reply::LeaseRevoke { revision } => format!("revision {revision}"),
        Reply::DeleteRange { revision, deleted, .. } => format!("{deleted} deleted, revision {revision}"),
        Reply::Txn {
            revision,
            succeeded,
            replies,
        } => {
            let branch = if *succeeded { "success" } else { "failure" };
            let replies = replies.iter().map(self::reply).collect::<Vec<_>>().join("; ");
            format!("{branch} [{replies}], revision {revision}")
        }
        Reply::LeaseKeepAlive { ttl_s, .. } => format!("ttl {ttl_s} s"),
        Reply::LeaseTimeToLive { ttl_s, keys, .. } => format!("{ttl_s} s left, keys {keys:?}"),
        Reply::MoveLeader => "moved".to_owned(),
    }
}

/// `a=1@7`.
pub fn kv(kv: &KeyValue) -> String {
    format!("{}={}@{}", kv.key, kv.value, kv.mod_revision)
}

pub fn watch(watch: &Watch) -> String {
    match &watch.step {
        WatchStep::Asked(request) => {
            format!(
                "watch {} from {}",
                keys(&request.key, &request.range_end),
                request.start_revision
            )
        }
        WatchStep::Created { revision } => format!("created at {revision}"),
        WatchStep::Events {
            revision,
            events,
            fragment,
        } => {
            let fragment = if *fragment { " (fragment)" } else { "" };
            let first = events.first().map_or(*revision, |event| event.kv.mod_revision);
            format!("{} at {first}, header {revision}{fragment}", describe_events(events))
        }
        WatchStep::Progress { revision } => format!("progress {revision}"),
        WatchStep::Canceled {
            compact_revision,
            reason,
            ..
        } => {
            format!("canceled, compact revision {compact_revision}: {reason}")
        }
        WatchStep::Lost => "lost".to_owned(),
    }
}

/// `12.000 ms`.
pub fn time(nanoseconds: u64) -> String {
    if nanoseconds == NEVER {
        return "never".to_owned();
    }
    format!("{}.{:03} ms", nanoseconds / 1_000_000, nanoseconds / 1000 % 1000)
}
