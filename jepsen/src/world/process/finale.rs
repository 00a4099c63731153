//! The end of a run, when every fault is over: whoever serves says what it holds, and watchers get time to hear it.
//!
//! ```text
//!   a put and a read of everything at every member      must succeed: a cluster that does not serve is no verdict
//!   15 s for every watch of everything                   one that stays behind is judged as it is
//!   HashKV of every member                               at the last revision; at its own if it has not come so far
//! ```
//! A watch that is open and silent is a finding and no reason to end without a verdict: the checkers miss its events
//! (`missed event at the end`) or the revisions that nobody was told of (`members and watches differ`). A watch that
//! its server has ended is neither, and fails the run. Not here: the checkers.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use dipper_client::{Client, Error, ServerError};
use tokio::time::{Instant, sleep};

use super::{
    client::pinned,
    command::{Result, failed},
    load::{Asker, Plan, Records},
};
use crate::{
    checkers::describe,
    history::{Final, Outcome, Put, Range, Record, Reply, Request, WatchStep},
};

const TIME_MAX: Duration = Duration::from_secs(15);

pub struct Finale<'a> {
    pub plan: &'a Rc<Plan>,
    pub records: &'a Records,
    pub next_process: &'a Rc<Cell<u32>>,
}

impl Finale<'_> {
    /// Asks `members` for the end of the story; `seen` is how far the watch of everything on each member has come.
    pub async fn play(&self, members: &[usize], seen: &[Rc<Cell<i64>>]) -> Result<()> {
        let revision = self.last_requests(members).await?;
        self.await_watchers(members, seen, revision).await?;
        self.hashes(members, revision).await?;
        // A lease may have ended meanwhile: nobody may have seen less than another.
        let newest = seen.iter().map(|seen| seen.get()).max().unwrap_or_default();
        self.await_watchers(members, seen, newest).await
    }

    /// A put and a linearizable read of everything through every member; both must succeed.
    async fn last_requests(&self, members: &[usize]) -> Result<i64> {
        let mut newest = 0;
        for member in members {
            let asker = Asker {
                client: pinned(*member, self.plan.is_etcd, TIME_MAX)?,
                member: *member,
                process: self.next_process.replace(self.next_process.get() + 1),
                next_process: Rc::clone(self.next_process),
                plan: Rc::clone(self.plan),
                records: Rc::clone(self.records),
                tally: Arc::default(),
            };
            for request in [last_put(*member), everything()] {
                let operation = asker.ask(request).await;
                let outcome = operation.outcome.clone();
                self.records.borrow_mut().push(Record::Operation(operation));
                newest = newest.max(match outcome {
                    Outcome::Ok(Reply::Put { revision, .. }) => revision,
                    Outcome::Ok(Reply::Range(range)) => range.revision,
                    other => return failed(format!("the last requests at member {member} ended with {other:?}")),
                });
            }
        }
        Ok(newest)
    }

    /// Gives everybody time; the time is one for all, so that what `drained` says is true of each.
    async fn await_watchers(&self, members: &[usize], seen: &[Rc<Cell<i64>>], revision: i64) -> Result<()> {
        let deadline = Instant::now() + TIME_MAX;
        for member in members {
            while seen[*member].get() < revision && Instant::now() < deadline {
                sleep(Duration::from_millis(10)).await;
            }
            let seen = seen[*member].get();
            if seen < revision && self.has_ended(*member) {
                return failed(format!(
                    "the watch of member {member} has ended at {seen} of {revision}; its last record: {}",
                    self.last_of(*member)
                        .map_or_else(String::new, |last| describe::record(&last))
                ));
            }
        }
        Ok(())
    }

    /// Whether nobody listens at this member any more, so that no checker would miss anything.
    fn has_ended(&self, member: usize) -> bool {
        let last = self.last_of(member);
        !matches!(last, Some(Record::Watch(watch)) if !matches!(watch.step, WatchStep::Canceled { .. } | WatchStep::Lost))
    }

    /// What the watch of everything on a member recorded last; it has the member's number.
    fn last_of(&self, member: usize) -> Option<Record> {
        let records = self.records.borrow();
        let is_its = |record: &&Record| matches!(record, Record::Watch(watch) if watch.watcher == member as u32);
        records.iter().rev().find(is_its).cloned()
    }

    async fn hashes(&self, members: &[usize], revision: i64) -> Result<()> {
        for member in members {
            let client = pinned(*member, self.plan.is_etcd, TIME_MAX)?;
            match hash_of(&client, *member, revision).await {
                Ok(last) => self.records.borrow_mut().push(Record::Final(last)),
                Err(error) => return failed(format!("HashKV of member {member}: {error}")),
            }
        }
        Ok(())
    }
}

/// At `revision`, or where the member is if it says that this is still to come.
async fn hash_of(client: &Client, member: usize, revision: i64) -> std::result::Result<Final, Error> {
    let (answer, revision) = match client.hash_kv(revision).await {
        Err(error) if error.row() == Some(&ServerError::FutureRev) => {
            let answer = client.hash_kv(0).await?;
            let own = answer.header.as_ref().map_or(0, |header| header.revision);
            (answer, own)
        }
        answer => (answer?, revision),
    };
    Ok(Final {
        member: member as u32,
        revision,
        compact_revision: answer.compact_revision,
        hash: answer.hash,
    })
}

fn last_put(member: usize) -> Request {
    Request::Put(Put {
        key: format!("last/{member}"),
        value: "last".to_owned(),
        ..Put::default()
    })
}

fn everything() -> Request {
    Request::Range(Range {
        key: "\0".to_owned(),
        range_end: "\0".to_owned(),
        ..Range::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Watch, WatchRequest};
    use crate::world::process::clock::Clock;
    use std::cell::RefCell;

    #[test]
    fn a_watch_that_is_open_and_silent_has_not_ended() {
        let canceled = WatchStep::Canceled {
            revision: 9,
            compact_revision: 7,
            reason: String::new(),
        };
        let cases = [
            (vec![], true),
            (vec![WatchStep::Asked(WatchRequest::default())], false),
            (vec![WatchStep::Created { revision: 1 }], false),
            (
                vec![WatchStep::Created { revision: 1 }, WatchStep::Progress { revision: 5 }],
                false,
            ),
            (vec![WatchStep::Progress { revision: 5 }, WatchStep::Lost], true),
            (vec![WatchStep::Progress { revision: 5 }, canceled], true),
        ];
        for (steps, has_ended) in cases {
            let of = |member: u32, step: &WatchStep| {
                Record::Watch(Watch {
                    watcher: member,
                    member,
                    incarnation: 1,
                    at: 1,
                    step: step.clone(),
                })
            };
            let mut history: Vec<Record> = steps.iter().map(|step| of(1, step)).collect();
            // Another member's watch says nothing of this one.
            history.push(of(0, &WatchStep::Progress { revision: 5 }));
            let plan = Plan {
                clock: Clock::start(),
                is_etcd: false,
                members: 2,
                starts: Vec::new(),
                ids: Vec::new(),
                clients: 0,
                pause: Duration::ZERO,
                call_deadline: Duration::ZERO,
            };
            let finale = Finale {
                plan: &Rc::new(plan),
                records: &Rc::new(RefCell::new(history)),
                next_process: &Rc::default(),
            };
            assert_eq!(finale.has_ended(1), has_ended, "{steps:?}");
        }
    }
}
