//! Writes that wait: for a leader, for the leader's word, for their entry.
//!
//! ```text
//!   waiting ----> forwarded to the leader ----> sent: known by (index, term) ----> applied
//!      ^  \___________ this member leads ___________/      \___ another term's entry is there: failed
//!      |                     |
//!      +------ NotDone ------+--- no word, and the leader's connection or its term is gone: outcome unknown
//!                            +--- no leader at all for long, or it led and its disk hangs: outcome unknown
//! ```
//!
//! A write is either waiting, and may be sent, or sent, and never sent again. Only a definite "not done"
//! moves it back. Everything here has a deadline.

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;
use proto::{Error, node::Command};

use super::Time;
use crate::limits;

/// A client's write that nobody has been sent yet.
pub struct Waiting<W> {
    pub command: Command,
    pub waiter: W,
    pub deadline: Time,
}

struct Forwarded<W> {
    to: u64,
    at: Time,
    /// Since when another one than `to` leads, or nobody.
    doubted_at: Option<Time>,
    /// With its position in the request, which stays when a neighbour's deadline passes.
    writes: Vec<(usize, Waiting<W>)>,
}

struct Sent<W> {
    offset: usize,
    waiter: W,
    deadline: Time,
}

/// All writes of this member's clients that have no outcome yet.
pub struct Pending<W> {
    waiting: VecDeque<Waiting<W>>,
    waiting_bytes: usize,
    forwarded: BTreeMap<u64, Forwarded<W>>,
    sent: BTreeMap<(u64, u64), Vec<Sent<W>>>,
    sent_count: usize,
}

/// A write that ended without being applied.
pub type Failed<W> = (W, Error);

impl<W> Default for Pending<W> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            forwarded: BTreeMap::new(),
            sent: BTreeMap::new(),
            sent_count: 0,
        }
    }
}

impl<W> Pending<W> {
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub fn sent(&self) -> usize {
        self.sent_count
            + self
                .forwarded
                .values()
                .map(|forwarded| forwarded.writes.len())
                .sum::<usize>()
    }

    pub fn wait(&mut self, write: Waiting<W>) {
        self.waiting_bytes += write.command.encoded_len();
        self.waiting.push_back(write);
    }

    /// Takes waiting writes of about `bytes_max`, at least one if any waits.
    pub fn take_waiting(&mut self, bytes_max: usize) -> Vec<Waiting<W>> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.waiting.front() {
            let cost = next.command.encoded_len();
            if bytes + cost > bytes_max && !taken.is_empty() {
                break;
            }
            bytes += cost;
            self.waiting_bytes -= cost;
            taken.extend(self.waiting.pop_front());
        }
        taken
    }

    /// Puts writes back that were certainly not done, before those that came later.
    pub fn put_back(&mut self, writes: Vec<Waiting<W>>) {
        for write in writes.into_iter().rev() {
            self.waiting_bytes += write.command.encoded_len();
            self.waiting.push_front(write);
        }
    }

    /// Writes are on their way to the leader.
    pub fn forwarded(&mut self, request: u64, to: u64, at: Time, writes: Vec<Waiting<W>>) {
        self.forwarded.insert(
            request,
            Forwarded {
                to,
                at,
                doubted_at: None,
                writes: writes.into_iter().enumerate().collect(),
            },
        );
    }

    /// How many requests are on their way to the leader and may still be answered soon.
    pub fn forwards(&self, now: Time) -> usize {
        let is_fresh = |forwarded: &&Forwarded<W>| now.saturating_sub(forwarded.at) < limits::FORWARD_PATIENCE;
        self.forwarded.values().filter(is_fresh).count()
    }

    /// The leader put the writes of a request into the entry (index, term), from `offset` on.
    /// Below `handed_out` the entry has already passed by: its outcome is unknown.
    pub fn accepted(&mut self, request: u64, id: (u64, u64), offset: usize, handed_out: u64) -> Vec<Failed<W>> {
        let Some(forwarded) = self.forwarded.remove(&request) else {
            return Vec::new();
        };
        if id.0 <= handed_out {
            return fail(forwarded.writes, &Error::Timeout);
        }
        for (position, write) in forwarded.writes {
            self.record_sent(id, offset + position, write.waiter, write.deadline);
        }
        Vec::new()
    }

    /// The leader did nothing of a request, and never will.
    pub fn not_done(&mut self, request: u64) {
        if let Some(forwarded) = self.forwarded.remove(&request) {
            self.put_back(forwarded.writes.into_iter().map(|(_, write)| write).collect());
        }
    }

    /// `leader` leads now: a former leader that lives still says what became of its writes, but may be gone.
    pub fn doubt(&mut self, leader: u64, now: Time) {
        for forwarded in self.forwarded.values_mut().filter(|forwarded| forwarded.to != leader) {
            forwarded.doubted_at.get_or_insert(now);
        }
    }

    /// What was on its way to a member that has led no more since `before`, without a word.
    pub fn expire_doubted(&mut self, before: Time) -> Vec<Failed<W>> {
        self.take_forwarded(
            |forwarded| forwarded.doubted_at.is_some_and(|at| at <= before),
            &Error::TimeoutDueToLeaderFail,
        )
    }

    /// The connection to a member is gone, and with it its word on what was on its way there.
    pub fn lost(&mut self, member: u64) -> Vec<Failed<W>> {
        self.take_forwarded(|forwarded| forwarded.to == member, &Error::TimeoutDueToConnectionLost)
    }

    /// What became of anything that was sent will not be known here soon: `error` says why. What waits was not
    /// sent, and may wait on.
    pub fn abandon_sent(&mut self, error: &Error) -> Vec<Failed<W>> {
        let mut failed = self.take_forwarded(|_| true, error);
        let sent = std::mem::take(&mut self.sent).into_values().flatten();
        failed.extend(sent.map(|write| (write.waiter, error.clone())));
        self.sent_count = 0;
        failed
    }

    /// What was sent to nobody ends, undone.
    pub fn abandon_waiting(&mut self, error: &Error) -> Vec<Failed<W>> {
        self.waiting_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|write| (write.waiter, error.clone())).collect()
    }

    fn take_forwarded(&mut self, matches: impl Fn(&Forwarded<W>) -> bool, error: &Error) -> Vec<Failed<W>> {
        let requests: Vec<u64> = self
            .forwarded
            .iter()
            .filter(|(_, forwarded)| matches(forwarded))
            .map(|(request, _)| *request)
            .collect();
        requests
            .iter()
            .filter_map(|request| self.forwarded.remove(request))
            .flat_map(|forwarded| fail(forwarded.writes, error))
            .collect()
    }

    /// A write is the command at `offset` of the entry (index, term).
    pub fn record_sent(&mut self, id: (u64, u64), offset: usize, waiter: W, deadline: Time) {
        self.sent_count += 1;
        self.sent.entry(id).or_default().push(Sent {
            offset,
            waiter,
            deadline,
        });
    }

    /// The entry (index, term) is committed: who waits for it, and whom it makes fail.
    pub fn committed(&mut self, index: u64, term: u64) -> (Vec<(usize, W)>, Vec<Failed<W>>) {
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        while self.sent.first_key_value().is_some_and(|(id, _)| id.0 <= index) {
            let Some((id, writes)) = self.sent.pop_first() else {
                break;
            };
            self.sent_count -= writes.len();
            if id == (index, term) {
                done.extend(writes.into_iter().map(|write| (write.offset, write.waiter)));
            } else {
                failed.extend(writes.into_iter().map(|write| (write.waiter, Error::LeaderChanged)));
            }
        }
        (done, failed)
    }

    /// A snapshot took the place of every entry up to `index`: what they did with a write is not known.
    pub fn skipped(&mut self, index: u64) -> Vec<Failed<W>> {
        let behind = self.sent.split_off(&(index + 1, 0));
        let skipped = std::mem::replace(&mut self.sent, behind);
        let failed: Vec<_> = skipped
            .into_values()
            .flatten()
            .map(|write| (write.waiter, Error::Timeout))
            .collect();
        self.sent_count -= failed.len();
        failed
    }

    /// Ends what is past its deadline. A write that was never sent certainly did not happen: it fails with
    /// `unsent`; of the others that is not known, and they time out.
    pub fn expire(&mut self, now: Time, unsent: &Error) -> Vec<Failed<W>> {
        let mut failed = Vec::new();
        for write in extract(&mut self.waiting, |write| write.deadline <= now) {
            self.waiting_bytes -= write.command.encoded_len();
            failed.push((write.waiter, unsent.clone()));
        }
        for forwarded in self.forwarded.values_mut() {
            let late = forwarded
                .writes
                .extract_if(.., |(_, write)| write.deadline <= now)
                .collect();
            failed.extend(fail(late, &Error::Timeout));
        }
        self.forwarded.retain(|_, forwarded| !forwarded.writes.is_empty());
        for writes in self.sent.values_mut() {
            for write in writes.extract_if(.., |write| write.deadline <= now) {
                self.sent_count -= 1;
                failed.push((write.waiter, Error::Timeout));
            }
        }
        self.sent.retain(|_, writes| !writes.is_empty());
        failed
    }
}

fn fail<W>(writes: Vec<(usize, Waiting<W>)>, error: &Error) -> Vec<Failed<W>> {
    writes
        .into_iter()
        .map(|(_, write)| (write.waiter, error.clone()))
        .collect()
}

/// Removes the items that match, keeping the order of the rest.
pub fn extract<T>(queue: &mut VecDeque<T>, matches: impl Fn(&T) -> bool) -> Vec<T> {
    if !queue.iter().any(&matches) {
        return Vec::new();
    }
    let (gone, kept): (Vec<T>, Vec<T>) = std::mem::take(queue).into_iter().partition(matches);
    *queue = kept.into();
    gone
}
