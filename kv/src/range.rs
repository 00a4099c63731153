//! One RangeRequest over rows: revision, filters, sorting, limit, count and `more`, each with etcd's quirks.
//!
//! | quirk | what happens |
//! |---|---|
//! | count | all keys in the range, whatever limit and filters say |
//! | order NONE, target not KEY | the first limit + 1 *keys* are fetched, and only those are sorted |
//! | filters | work on what was fetched: before sorting and cutting; `more` speaks of the filtered list |
//! | keys_only | the lease is 0, unless the order is by VALUE |
//! | revision <= 0 | the latest (inside a transaction the check comes first, see `txn`) |
//!
//! It never holds more than it answers: what a limit will cut anyway is dropped while walking, and an answer
//! beyond [`REPLY_BYTES_MAX`] is refused. Not here: where the count comes from when not every key was walked.

use crate::{
    engine::{Family, Rows},
    history::{self, Forgotten, Live},
    mutants,
    record::Record,
    state::header,
};
use bytes::Bytes;
use proto::{
    Error, KeyRange,
    etcdserverpb::{
        RangeRequest, RangeResponse,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};
use std::cmp::Ordering;

/// The largest answer to one request. The same on all members, because ranges are also part of replicated
/// transactions; below gRPC's own limit of 2 GiB a message, and what a small machine can hold once.
pub const REPLY_BYTES_MAX: usize = 512 << 20;
/// What a key in an answer costs besides its key and value.
pub const ANSWER_ROW_BYTES: usize = 64;
/// Rows beyond twice the limit that are sorted before the cut is made.
const SORT_SLACK_ROWS: usize = 1024;

/// Which state of the rows is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// As they are.
    Latest,
    /// As they were at a revision that is not compacted.
    Revision(i64),
}

/// Chooses the state that a request reads, by its revision.
pub fn at(requested: i64, current: i64, compact: i64) -> Result<At, Error> {
    if requested <= 0 || requested == current {
        Ok(At::Latest)
    } else if requested > current {
        Err(Error::FutureRev)
    } else if requested < compact || (requested == compact && mutants::is("compaction-off-by-one")) {
        Err(Error::Compacted)
    } else {
        Ok(At::Revision(requested))
    }
}

/// The live keys of a range, in order.
pub fn scan<'a, R: Rows>(
    rows: &'a R,
    from: &'a [u8],
    to: Option<&'a [u8]>,
    at: At,
) -> Box<dyn Iterator<Item = Result<Live, Forgotten>> + 'a> {
    match at {
        At::Latest => Box::new(history::scan_latest(rows, from, to)),
        At::Revision(revision) => Box::new(history::scan_at(rows, from, to, revision)),
    }
}

/// The record of one key.
pub fn get<R: Rows>(rows: &R, key: &[u8], at: At) -> Result<Option<Record>, Forgotten> {
    match at {
        At::Latest => Ok(history::latest(rows, key)),
        At::Revision(revision) => history::record_at(rows, key, revision),
    }
}

/// The number of live keys in `[from, to)`, by walking.
pub fn walk<R: Rows>(rows: &R, from: &[u8], to: Option<&[u8]>, at: At) -> Result<i64, Forgotten> {
    if at == At::Latest {
        return Ok(rows.count(Family::Cur, from, to) as i64);
    }
    scan(rows, from, to, at).try_fold(0, |keys, live| live.map(|_| keys + 1))
}

/// Why a range has no answer.
#[derive(Debug)]
pub enum Failure {
    /// The client's to know.
    Error(Error),
    /// The history is not there any more.
    Forgotten,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Forgotten> for Failure {
    fn from(_: Forgotten) -> Self {
        Self::Forgotten
    }
}

/// Answers a request that was checked. `current` is the revision of the header; `count` is asked when the
/// walk did not see every key of the range.
pub fn range<R: Rows>(
    rows: &R,
    request: &RangeRequest,
    at: At,
    (current, bytes_max): (i64, usize),
    count: impl FnOnce(&KeyRange) -> Result<i64, Forgotten>,
) -> Result<RangeResponse, Failure> {
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    let mut reply = RangeResponse {
        header: header(current),
        ..Default::default()
    };
    if range.is_empty() {
        return Ok(reply);
    }
    if let KeyRange::Key(key) = &range {
        let record = get(rows, key, at)?;
        fill_single(&mut reply, request, record);
        return Ok(reply);
    }
    if request.count_only {
        reply.count = count(&range)?;
        return Ok(reply);
    }
    let mut gathered = Gathered::new(request, bytes_max);
    let end = range.to();
    for live in scan(rows, range.from(), end.as_deref(), at) {
        let (key, record) = live?;
        if gathered.add(key, record)? == Walk::Stop {
            break;
        }
    }
    reply.count = match gathered.walked_all() {
        Some(keys) => keys,
        None => count(&range)?,
    };
    (reply.kvs, reply.more) = gathered.finish();
    if mutants::is("count-after-filter") && has_filter(request) {
        reply.count = reply.kvs.len() as i64;
    }
    Ok(reply)
}

/// Answers for a single key.
pub fn fill_single(reply: &mut RangeResponse, request: &RangeRequest, record: Option<Record>) {
    let Some(record) = record else { return };
    reply.count = 1;
    if !request.count_only && passes(request, record.create_revision, record.modified.main) {
        reply.kvs.push(answer(request, request.key.clone(), &record));
    }
}

/// The key as the request wants to see it.
pub fn answer(request: &RangeRequest, key: Bytes, record: &Record) -> KeyValue {
    let mut kv = record.to_proto(key);
    if request.keys_only {
        kv.value = Bytes::new();
        if request.sort_target != SortTarget::Value as i32 {
            kv.lease = 0;
        }
    }
    kv
}

/// Whether a request has a filter by revision.
pub fn has_filter(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// Whether a key with these revisions passes the request's filters.
pub fn passes(request: &RangeRequest, create_revision: i64, mod_revision: i64) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(
            create_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
}

/// Whether the answer is what a walk over the keys meets, in its order.
pub fn is_in_order_of_keys(request: &RangeRequest) -> bool {
    order(request) == Order::Keys
}

/// An answer that nobody should have to hold.
pub fn too_large(bytes_max: usize) -> Error {
    let text = format!("etcdserver: the answer is larger than {bytes_max} bytes: use a limit or RangeStream");
    Error::ResourceExhausted(text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    GoOn,
    Stop,
}

/// How the answer is ordered, and therefore what has to be walked for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As the keys come; the walk ends behind the limit.
    Keys,
    /// As the keys come for the fetch, then by the target.
    KeysThen(SortTarget),
    /// By the target, over the whole range.
    By(SortTarget, SortOrder),
}

fn order(request: &RangeRequest) -> Order {
    let (order, target) = (request.sort_order(), request.sort_target());
    match (order, target) {
        (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => Order::Keys,
        (SortOrder::None, target) if has_filter(request) => Order::By(target, SortOrder::Ascend),
        (SortOrder::None, target) => Order::KeysThen(target),
        (order, target) => Order::By(target, order),
    }
}

/// What a walk keeps of the keys it sees.
struct Gathered<'a> {
    request: &'a RangeRequest,
    order: Order,
    /// One more than the limit, to know whether there is more.
    keep: Option<usize>,
    kept: Vec<Live>,
    bytes: usize,
    bytes_max: usize,
    walked: i64,
    stopped: bool,
}

impl<'a> Gathered<'a> {
    fn new(request: &'a RangeRequest, bytes_max: usize) -> Self {
        let keep = usize::try_from(request.limit)
            .ok()
            .filter(|limit| *limit > 0)
            .map(|limit| limit.saturating_add(1));
        Self {
            request,
            order: order(request),
            keep,
            kept: Vec::new(),
            bytes: 0,
            bytes_max,
            walked: 0,
            stopped: false,
        }
    }

    fn add(&mut self, key: Bytes, record: Record) -> Result<Walk, Error> {
        self.walked += 1;
        if !passes(self.request, record.create_revision, record.modified.main) {
            return Ok(Walk::GoOn);
        }
        self.bytes += self.size(&key, &record);
        self.kept.push((key, record));
        let Some(keep) = self.keep else {
            return self.check_size();
        };
        match self.order {
            Order::Keys | Order::KeysThen(_) if self.kept.len() == keep => {
                self.stopped = true;
                return Ok(Walk::Stop);
            }
            Order::By(..) if self.kept.len() >= keep.saturating_mul(2).saturating_add(SORT_SLACK_ROWS) => {
                self.cut(keep);
            }
            _ => {}
        }
        self.check_size()
    }

    /// Only what may still be answered counts: what a cut will remove is no reason to refuse.
    fn check_size(&mut self) -> Result<Walk, Error> {
        if self.bytes > self.bytes_max
            && let (Some(keep), Order::By(..)) = (self.keep, self.order)
        {
            self.cut(keep);
        }
        if self.bytes > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        Ok(Walk::GoOn)
    }

    fn cut(&mut self, keep: usize) {
        self.sort();
        self.kept.truncate(keep);
        self.bytes = self.kept.iter().map(|(key, record)| self.size(key, record)).sum();
    }

    fn size(&self, key: &[u8], record: &Record) -> usize {
        let value = if self.request.keys_only { 0 } else { record.value.len() };
        key.len() + value + ANSWER_ROW_BYTES
    }

    /// Stable, so that keys in order decide among equals (etcd leaves that open).
    fn sort(&mut self) {
        let (target, order) = match self.order {
            Order::Keys => return,
            Order::KeysThen(target) => (target, SortOrder::Ascend),
            Order::By(target, order) => (target, order),
        };
        let compare = |(a_key, a): &Live, (b_key, b): &Live| match target {
            SortTarget::Key => a_key.cmp(b_key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.modified.main.cmp(&b.modified.main),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        let ordered = |a: &Live, b: &Live| -> Ordering {
            if order == SortOrder::Descend {
                compare(b, a)
            } else {
                compare(a, b)
            }
        };
        self.kept.sort_by(ordered);
    }

    fn walked_all(&self) -> Option<i64> {
        (!self.stopped).then_some(self.walked)
    }

    fn finish(mut self) -> (Vec<KeyValue>, bool) {
        self.sort();
        let limit = self.keep.map_or(usize::MAX, |keep| keep - 1);
        let more = self.kept.len() > limit;
        self.kept.truncate(limit);
        let request = self.request;
        let kvs = self
            .kept
            .into_iter()
            .map(|(key, record)| answer(request, key, &record))
            .collect();
        (kvs, more)
    }
}
