//! Linearizable reads: a read may be answered from a state that has applied the commit index which a leader,
//! confirmed by a quorum *after* the read arrived, had at that moment.
//!
//! ```text
//!   waiting --- this member leads ---> a round of raft-rs's read_index ---+
//!      ^   \--- another one leads ---> asked of it ----------------------+--> confirmed at index i
//!      +------- leader gone, no word for a while (a new question each time)      --> applied i: answered
//! ```
//!
//! raft-rs 0.7 answers stale indexes when a context is used twice or a MsgReadIndex is duplicated. So
//! MsgReadIndex never crosses the network, only the leader calls `read_index`, and a context is (term,
//! counter): used once, ever. It also drops reads silently (no leader, nothing committed in this term yet):
//! those stay waiting, and every turn looks at them again.
//!
//! Questions about leases are reads too: the leader answers them after its leadership was confirmed.

use std::collections::{BTreeMap, VecDeque};

use proto::Error;

use super::{Time, pending::extract};

/// What a read wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Index,
    Renew(Vec<i64>),
    Remaining(i64),
}

/// Who asks.
pub enum Asker<W> {
    Local(W),
    Peer {
        member: u64,
        request: u64,
    },
    /// The member itself, once after its start: from then on it serves.
    Boot,
}

/// One question that has no answer yet.
pub struct Read<W> {
    pub question: Question,
    pub asker: Asker<W>,
    pub deadline: Time,
}

struct Asked<W> {
    to: u64,
    at: Time,
    reads: Vec<Read<W>>,
}

/// All reads of a member that have no answer yet.
pub struct Reads<W> {
    pub waiting: VecDeque<Read<W>>,
    rounds: VecDeque<(Vec<u8>, Vec<Read<W>>)>,
    asked: BTreeMap<u64, Asked<W>>,
    confirmed: BTreeMap<u64, Vec<Read<W>>>,
    /// Renewals that met a proposed expiry, by lease.
    pub expiring: Vec<(i64, Read<W>)>,
}

impl<W> Default for Reads<W> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            rounds: VecDeque::new(),
            asked: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            expiring: Vec::new(),
        }
    }
}

impl<W> Reads<W> {
    pub fn open(&self) -> usize {
        self.waiting.len()
            + self.rounds.iter().map(|(_, reads)| reads.len()).sum::<usize>()
            + self.asked.values().map(|asked| asked.reads.len()).sum::<usize>()
            + self.confirmed.values().map(Vec::len).sum::<usize>()
            + self.expiring.len()
    }

    pub fn rounds(&self) -> usize {
        self.rounds.len()
    }

    pub fn asked(&self) -> usize {
        self.asked.len()
    }

    /// A round of raft-rs began with everything that waited.
    pub fn begin_round(&mut self, context: Vec<u8>) {
        let reads = std::mem::take(&mut self.waiting).into();
        self.rounds.push_back((context, reads));
    }

    /// raft-rs confirmed a round.
    pub fn end_round(&mut self, context: &[u8]) -> Vec<Read<W>> {
        let Some(at) = self.rounds.iter().position(|(own, _)| own == context) else {
            return Vec::new();
        };
        self.rounds.remove(at).map_or_else(Vec::new, |(_, reads)| reads)
    }

    /// `reads` were asked of member `to`.
    pub fn ask(&mut self, request: u64, to: u64, at: Time, reads: Vec<Read<W>>) {
        self.asked.insert(request, Asked { to, at, reads });
    }

    /// The answer to a request came.
    pub fn answered(&mut self, request: u64) -> Vec<Read<W>> {
        self.asked.remove(&request).map_or_else(Vec::new, |asked| asked.reads)
    }

    /// These may be answered once `index` is applied.
    pub fn confirm(&mut self, index: u64, reads: impl IntoIterator<Item = Read<W>>) {
        self.confirmed.entry(index).or_default().extend(reads);
    }

    /// Takes what can be answered now.
    pub fn applied(&mut self, index: u64) -> Vec<Read<W>> {
        let mut ready = Vec::new();
        while self.confirmed.first_key_value().is_some_and(|(at, _)| *at <= index) {
            ready.extend(self.confirmed.pop_first().into_iter().flat_map(|(_, reads)| reads));
        }
        ready
    }

    /// Leadership moved: rounds and questions of the old leader are void, and asked anew. Lease questions
    /// that were confirmed too, because only the leader of the moment can answer them.
    pub fn ask_again(&mut self) -> usize {
        let mut again: Vec<Read<W>> = Vec::new();
        again.extend(
            std::mem::take(&mut self.rounds)
                .into_iter()
                .flat_map(|(_, reads)| reads),
        );
        again.extend(
            std::mem::take(&mut self.asked)
                .into_values()
                .flat_map(|asked| asked.reads),
        );
        again.extend(std::mem::take(&mut self.expiring).into_iter().map(|(_, read)| read));
        for reads in self.confirmed.values_mut() {
            again.extend(reads.extract_if(.., |read| read.question != Question::Index));
        }
        self.put_back(again)
    }

    /// Questions without a word since `before`, or to a member that is gone.
    pub fn ask_again_if(&mut self, gone: impl Fn(u64) -> bool, before: Time) -> usize {
        let late: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, a)| gone(a.to) || a.at <= before)
            .map(|(request, _)| *request)
            .collect();
        let again = late.iter().flat_map(|request| self.answered(*request)).collect();
        self.put_back(again)
    }

    pub fn put_back(&mut self, reads: Vec<Read<W>>) -> usize {
        let count = reads.len();
        for read in reads.into_iter().rev() {
            self.waiting.push_front(read);
        }
        count
    }

    /// Questions of peers, when this member cannot answer them any more.
    pub fn take_of_peers(&mut self) -> Vec<Read<W>> {
        extract(&mut self.waiting, |read| matches!(read.asker, Asker::Peer { .. }))
    }

    /// There has been no leader for long: whoever asked here should ask another member. A renewal may have
    /// been granted before.
    pub fn abandon(&mut self) -> Vec<(W, Error)> {
        let is_local = |read: &Read<W>| matches!(read.asker, Asker::Local(_));
        let mut reads = extract(&mut self.waiting, is_local);
        for confirmed in self.confirmed.values_mut() {
            reads.extend(confirmed.extract_if(.., |read| is_local(read)));
        }
        self.confirmed.retain(|_, reads| !reads.is_empty());
        let failed = reads.into_iter().map(|read| match read.question {
            Question::Renew(_) => (read, Error::TimeoutDueToLeaderFail),
            Question::Index | Question::Remaining(_) => (read, Error::NoLeader),
        });
        answers(failed)
    }

    /// Ends what is past its deadline.
    pub fn expire(&mut self, now: Time, leaderless: bool) -> Vec<(W, Error)> {
        let late = |read: &Read<W>| read.deadline <= now;
        let unasked = if leaderless { Error::NoLeader } else { Error::Timeout };
        let mut failed: Vec<(Read<W>, Error)> = extract(&mut self.waiting, late)
            .into_iter()
            .map(|read| (read, unasked.clone()))
            .collect();
        for (_, reads) in &mut self.rounds {
            failed.extend(
                reads
                    .extract_if(.., |read| late(read))
                    .map(|read| (read, Error::Timeout)),
            );
        }
        // Positions matter in a question about several leases, so those wait for the word or the retry.
        for asked in self.asked.values_mut().filter(|asked| asked.reads.iter().all(late)) {
            failed.extend(asked.reads.drain(..).map(|read| (read, Error::Timeout)));
        }
        self.asked.retain(|_, asked| !asked.reads.is_empty());
        for reads in self.confirmed.values_mut() {
            failed.extend(
                reads
                    .extract_if(.., |read| late(read))
                    .map(|read| (read, Error::TimeoutWaitAppliedIndex)),
            );
        }
        self.confirmed.retain(|_, reads| !reads.is_empty());
        let expiring = self.expiring.extract_if(.., |(_, read)| late(read));
        failed.extend(expiring.map(|(_, read)| (read, Error::Timeout)));
        answers(failed)
    }
}

/// Those of this member's own clients.
fn answers<W>(failed: impl IntoIterator<Item = (Read<W>, Error)>) -> Vec<(W, Error)> {
    failed
        .into_iter()
        .filter_map(|(read, error)| match read.asker {
            Asker::Local(waiter) => Some((waiter, error)),
            Asker::Peer { .. } | Asker::Boot => None,
        })
        .collect()
}
