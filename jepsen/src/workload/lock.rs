//! A lock on a lease, and a list of marks that only its holder writes.
//!
//! ```text
//!   grant -> take the lock if nobody has it -> read the marks -> write them with one more -> ... -> revoke
//! ```
//! A lock of a lease is no mutex: the holder may be paused for longer than its lease lives, and write after the
//! next one has begun. The guarded one compares the lock's own revision in the transaction that writes, and so
//! never loses a mark; the unguarded one writes blindly and must be *seen* to lose some. It holds its lock
//! longer than its lease lives now and then, as a paused process would.
//!
//! The lock's value is its owner's name, new for every hold; a mark is `owner:number`.

use super::{Step, Values, appended, equal, found, get, put};
use crate::{
    history::{CompareTarget, Outcome, Put, Range, Reply, Request, Txn},
    rng::Rng,
};

const TTL_S: i64 = 2;
/// Marks written under one lock before it is given back.
const MARKS_PER_HOLD: u32 = 5;
/// The list is copied by every write: a holder that finds more begins a new one.
const MARKS_MAX: usize = 150;
/// Lists that one run fills at most.
pub const ROUNDS_MAX: u64 = 40;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Granted(i64),
    /// The lease and the revision at which the lock was taken.
    Held(i64, i64),
    /// And what the list was, to be written longer.
    Read(i64, i64, String),
    Over(i64),
}

/// How far a client is with its lock.
#[derive(Clone, Debug)]
pub struct Hold {
    guarded: bool,
    phase: Phase,
    marks: u32,
    rests: u32,
    round: u64,
    owner: String,
}

/// The lock itself.
pub fn key(guarded: bool) -> &'static str {
    if guarded { "lock/guarded" } else { "lock/unguarded" }
}

/// The list that it is for.
pub fn list(guarded: bool, round: u64) -> String {
    let kind = if guarded { "guarded" } else { "unguarded" };
    format!("marks/{kind}/{round}")
}

impl Hold {
    pub fn new(guarded: bool) -> Self {
        Self {
            guarded,
            phase: Phase::Idle,
            marks: 0,
            rests: 0,
            round: 0,
            owner: String::new(),
        }
    }

    fn lock(&self) -> &'static str {
        key(self.guarded)
    }

    fn list(&self) -> String {
        list(self.guarded, self.round)
    }

    pub fn next(&mut self, values: &mut Values, rng: &mut Rng) -> Step {
        if self.rests > 0 {
            self.rests -= 1;
            return Step::Rest;
        }
        let request = match self.phase.clone() {
            Phase::Idle => Request::LeaseGrant {
                id: values.id(),
                ttl_s: TTL_S,
            },
            Phase::Granted(lease) => {
                self.owner = values.next();
                self.take(lease)
            }
            Phase::Held(..) => get(self.list()),
            Phase::Read(lease, taken, list) => {
                if rng.permille(100) {
                    // A pause in the worst place: what was read may be old by the time of the write.
                    self.rests = rng.below(8) as u32;
                }
                self.phase = Phase::Held(lease, taken);
                self.marks += 1;
                self.write(taken, &list)
            }
            Phase::Over(id) => Request::LeaseRevoke { id },
        };
        Step::Ask(request)
    }

    fn take(&self, lease: i64) -> Request {
        let mine = Put {
            key: self.lock().to_owned(),
            value: self.owner.clone(),
            lease,
            ..Put::default()
        };
        Request::Txn(Txn {
            compares: vec![equal(self.lock(), CompareTarget::Create(0))],
            success: vec![Request::Put(mine)],
            failure: vec![Request::Range(Range {
                key: self.lock().to_owned(),
                ..Range::default()
            })],
        })
    }

    fn write(&self, taken: i64, list: &str) -> Request {
        let mark = format!("{}:{}", self.owner, self.marks);
        let longer = put(self.list(), appended(list, &mark));
        if !self.guarded {
            return longer;
        }
        Request::Txn(Txn {
            compares: vec![equal(self.lock(), CompareTarget::Create(taken))],
            success: vec![longer],
            failure: Vec::new(),
        })
    }

    pub fn done(&mut self, request: &Request, outcome: &Outcome) {
        self.phase = match (&self.phase, request, outcome) {
            (Phase::Idle, Request::LeaseGrant { id, .. }, Outcome::Ok(_)) => Phase::Granted(*id),
            (
                Phase::Granted(lease),
                Request::Txn(_),
                Outcome::Ok(Reply::Txn {
                    revision, succeeded, ..
                }),
            ) => {
                if *succeeded {
                    self.marks = 0;
                    Phase::Held(*lease, *revision)
                } else {
                    Phase::Granted(*lease)
                }
            }
            (Phase::Held(lease, taken), Request::Range(_), Outcome::Ok(Reply::Range(reply))) => {
                let list = found(reply).0.unwrap_or_default();
                if list.split(',').count() >= MARKS_MAX {
                    self.round = (self.round + 1) % ROUNDS_MAX;
                    Phase::Held(*lease, *taken)
                } else {
                    Phase::Read(*lease, *taken, list.to_owned())
                }
            }
            (Phase::Held(lease, taken), _, Outcome::Ok(reply)) => {
                let is_lost = matches!(reply, Reply::Txn { succeeded: false, .. });
                if is_lost || self.marks >= MARKS_PER_HOLD {
                    Phase::Over(*lease)
                } else {
                    Phase::Held(*lease, *taken)
                }
            }
            (Phase::Over(_) | Phase::Idle, ..) => Phase::Idle,
            // Lost, or not known: the lease ends by itself.
            (Phase::Granted(lease) | Phase::Held(lease, _) | Phase::Read(lease, ..), ..) => Phase::Over(*lease),
        };
    }
}
