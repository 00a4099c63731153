//! What clients ask for: generators as values, the same in both worlds.
//!
//! ```text
//!   Client::next(rng) -> Step ----> the world does it ----> Client::done(request, outcome)
//!        ^                                                        |
//!        +---------------- what the client learnt ----------------+
//! ```
//! A client is closed: it asks, waits for the outcome, and asks again. Every value that is written is written
//! once in a run, so that whoever reads it knows who wrote it. Keys of different workloads never meet, so that
//! several can share a cluster.
//!
//! Not here: where a request goes and how long it may take (the worlds), and what is right (`checkers/`); a
//! workload whose promise is of its own (a constant sum, exactly once) names it in `promises`.

mod kv_mix;
mod lease;
mod lock;
mod money;
mod promises;
mod simple;
mod txns;

pub use promises::of as promises_of;

use crate::{
    history::{Compare, CompareResult, CompareTarget, Outcome, Put, Range, RangeReply, Request, Txn, WatchRequest},
    rng::Rng,
};

/// What a client does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Asks and waits.
    Ask(Request),
    /// Opens a watch that goes on by itself.
    Watch(WatchRequest),
    /// Does nothing for a while.
    Rest,
}

/// The workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Reads, writes and compare-and-sets of independent registers.
    Register,
    /// Elements added to one key by compare-and-set; all that were acknowledged must stay.
    Set,
    /// Transactions that read lists and append to them.
    ListAppend,
    /// Transactions that read and write registers.
    RwTxn,
    /// Puts, ranges, deletes, limits, old revisions, nested transactions.
    KvMix,
    /// What Kubernetes does: compare-and-set of objects, a list, then a watch from there.
    Kubernetes,
    /// Writes, and watches of all shapes.
    Watch,
    /// Grants, keep-alives, keys on leases, revocations and expiries.
    Lease,
    /// A lock on a lease that guards its writes with the lock's own revision.
    GuardedLock,
    /// The same without the guard: it must be seen to lose updates.
    UnguardedLock,
    /// Transfers between accounts; the sum never changes.
    Bank,
    /// Payments with an id, retried until they are known to be done: each is done once.
    Payments,
    /// Compactions and planned changes of the leader, beside a few writes.
    Admin,
}

impl Kind {
    /// All that must hold: everything but the unguarded lock.
    pub const SOUND: [Self; 12] = [
        Self::Register,
        Self::Set,
        Self::ListAppend,
        Self::RwTxn,
        Self::KvMix,
        Self::Kubernetes,
        Self::Watch,
        Self::Lease,
        Self::GuardedLock,
        Self::Bank,
        Self::Payments,
        Self::Admin,
    ];
}

/// One client of a workload.
#[derive(Clone, Debug)]
pub struct Client {
    /// What it does.
    pub kind: Kind,
    /// Which of the run's clients it is.
    pub number: u32,
    written: u64,
    memory: Memory,
}

/// What a client remembers between two requests.
#[derive(Clone, Debug)]
enum Memory {
    Nothing,
    /// The last register that was read: its key, value and modification.
    Register(simple::Seen),
    Txns(txns::Lists),
    KvMix(kv_mix::Past),
    Kubernetes(simple::Objects),
    Lease(lease::Owned),
    Lock(lock::Hold),
    Bank(money::Teller),
    Payments(money::Payer),
}

impl Client {
    /// A client that has not asked for anything yet.
    pub fn new(kind: Kind, number: u32) -> Self {
        let memory = match kind {
            Kind::Register | Kind::Set => Memory::Register(simple::Seen::default()),
            Kind::ListAppend => Memory::Txns(txns::Lists::default()),
            Kind::KvMix | Kind::Admin => Memory::KvMix(kv_mix::Past::default()),
            Kind::Kubernetes => Memory::Kubernetes(simple::Objects::default()),
            Kind::Lease => Memory::Lease(lease::Owned::default()),
            Kind::GuardedLock => Memory::Lock(lock::Hold::new(true)),
            Kind::UnguardedLock => Memory::Lock(lock::Hold::new(false)),
            Kind::Bank => Memory::Bank(money::Teller::default()),
            Kind::Payments => Memory::Payments(money::Payer::default()),
            Kind::RwTxn | Kind::Watch => Memory::Nothing,
        };
        Self {
            kind,
            number,
            written: 0,
            memory,
        }
    }

    /// What it does next.
    pub fn next(&mut self, rng: &mut Rng) -> Step {
        let mut values = Values {
            client: self.number,
            written: &mut self.written,
        };
        match (&mut self.memory, self.kind) {
            (Memory::Register(seen), Kind::Set) => seen.next_of_set(&mut values, rng),
            (Memory::Register(seen), _) => seen.next_of_register(&mut values, rng),
            (Memory::Txns(lists), _) => lists.next(&mut values, rng),
            (Memory::KvMix(past), Kind::Admin) => past.next_of_admin(&mut values, rng),
            (Memory::KvMix(past), _) => past.next(&mut values, rng),
            (Memory::Kubernetes(objects), _) => objects.next(&mut values, rng),
            (Memory::Lease(owned), _) => owned.next(&mut values, rng),
            (Memory::Lock(hold), _) => hold.next(&mut values, rng),
            (Memory::Bank(teller), _) => teller.next(&mut values, rng),
            (Memory::Payments(payer), _) => payer.next(&mut values, rng),
            (Memory::Nothing, Kind::RwTxn) => txns::read_and_write(&mut values, rng),
            (Memory::Nothing, _) => simple::write_and_watch(&mut values, rng),
        }
    }

    /// Takes in what came of its last request.
    pub fn done(&mut self, request: &Request, outcome: &Outcome) {
        match &mut self.memory {
            Memory::Nothing => {}
            Memory::Register(seen) => seen.done(request, outcome),
            Memory::Txns(lists) => lists.done(request, outcome),
            Memory::KvMix(past) => past.done(outcome),
            Memory::Kubernetes(objects) => objects.done(outcome),
            Memory::Lease(owned) => owned.done(request, outcome),
            Memory::Lock(hold) => hold.done(request, outcome),
            Memory::Bank(teller) => teller.done(request, outcome),
            Memory::Payments(payer) => payer.done(request, outcome),
        }
    }
}

/// Values that nobody else writes, and ids that nobody else takes.
struct Values<'a> {
    client: u32,
    written: &'a mut u64,
}

impl Values<'_> {
    fn number(&mut self) -> u64 {
        *self.written += 1;
        *self.written
    }

    /// As text: `client.number`.
    fn next(&mut self) -> String {
        let number = self.number();
        format!("{}.{number}", self.client)
    }

    /// As a lease id.
    fn id(&mut self) -> i64 {
        i64::from(self.client + 1) * 1_000_000 + self.number() as i64
    }
}

/// A list with one element more: lists are text, with commas.
fn appended(list: &str, element: &str) -> String {
    if list.is_empty() {
        element.to_owned()
    } else {
        format!("{list},{element}")
    }
}

fn put(key: impl Into<String>, value: impl Into<String>) -> Request {
    Request::Put(Put {
        key: key.into(),
        value: value.into(),
        ..Put::default()
    })
}

fn get(key: impl Into<String>) -> Request {
    Request::Range(Range {
        key: key.into(),
        ..Range::default()
    })
}

/// Every key that begins with `prefix`, which ends in '/'.
fn list(prefix: &str) -> Range {
    Range {
        key: prefix.to_owned(),
        range_end: end_of(prefix),
        ..Range::default()
    }
}

/// The end of the range of keys that begin with `prefix`, which ends in '/': the next letter is '0'.
fn end_of(prefix: &str) -> String {
    let stem = prefix.strip_suffix('/').expect("prefixes of workloads end in a slash");
    format!("{stem}0")
}

fn equal(key: impl Into<String>, target: CompareTarget) -> Compare {
    Compare {
        key: key.into(),
        range_end: String::new(),
        result: CompareResult::Equal,
        target,
    }
}

/// Does `success` if the key was last changed at `modified`, else reads it.
fn if_unchanged(key: &str, modified: i64, success: Vec<Request>) -> Request {
    Request::Txn(Txn {
        compares: vec![equal(key, CompareTarget::Mod(modified))],
        success,
        failure: vec![get(key)],
    })
}

/// The one key that a read found: value and modification, or nothing and 0.
fn found(reply: &RangeReply) -> (Option<&str>, i64) {
    reply
        .kvs
        .first()
        .map_or((None, 0), |kv| (Some(kv.value.as_str()), kv.mod_revision))
}
