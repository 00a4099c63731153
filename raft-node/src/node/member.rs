//! The running node, as the gRPC services see it.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
};

use kv::{Response, RocksEngine};
use proto::{Error, node::Command};
use tokio::{sync::watch, time::Instant};

use super::Node;
use crate::{
    driver::{Reply, View},
    grpc::{Identity, Limits, Member, Standing},
    mailbox::Mailbox,
    replica::{Answer, Input},
    watchers::Watchers,
};

impl Member for Node {
    type Engine = RocksEngine;

    fn identity(&self) -> Identity {
        self.identity
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn propose(&self, command: Command, deadline: Instant) -> Result<Response, Error> {
        self.write(command, deadline).await
    }

    fn submit(&self, commands: Vec<(u64, Command, Instant)>, to: &Arc<Mailbox>) -> Vec<u64> {
        let since = std::time::Instant::now();
        let mut refused = Vec::new();
        for (id, command, deadline) in commands {
            let waiter = Reply::to_stream(Arc::clone(to), id, since);
            let deadline = self.time(deadline);
            let input = Input::Propose {
                command,
                waiter,
                deadline,
            };
            if self.inbox.push_patiently(input, 1).is_err() {
                refused.push(id);
            }
        }
        refused
    }

    async fn read_index(&self, deadline: Instant) -> Result<Arc<View>, Error> {
        self.question(deadline, |waiter, deadline| Input::Read { waiter, deadline })
            .await?;
        Ok(self.latest())
    }

    fn view(&self) -> Arc<View> {
        self.latest()
    }

    fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        let place = Arc::clone(&self.blocking_places).try_acquire_owned();
        let pool = self.blocking.clone();
        async move {
            let place = place.map_err(|_| Error::RequestTooManyRequests)?;
            let run = pool.spawn_blocking(move || {
                let answer = read();
                drop(place);
                answer
            });
            run.await.map_err(|_| Error::Stopped)
        }
    }

    fn standing(&self) -> Standing {
        let status = self.published.status.load();
        Standing {
            leader: status.leader,
            term: status.term,
            raft_index: status.last_index,
            applied_index: status.applied_index,
            disk_bytes: self.disk_bytes.load(Ordering::Relaxed),
            disk_full: *self.disk_full.borrow(),
            serving: status.ready,
        }
    }

    fn leader(&self) -> watch::Receiver<u64> {
        self.published.leader.subscribe()
    }

    fn serving(&self) -> watch::Receiver<bool> {
        self.published.serving.subscribe()
    }

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    fn watchers(&self) -> &Watchers {
        &self.published.watchers
    }

    fn next_lease_id(&self) -> i64 {
        (self.lease_ids.fetch_add(1, Ordering::Relaxed) & i64::MAX as u64).cast_signed()
    }

    async fn lease_renew(&self, id: i64, deadline: Instant) -> Result<i64, Error> {
        let ask = |waiter, deadline| Input::LeaseRenew { id, waiter, deadline };
        self.question(deadline, ask).await.map(seconds)
    }

    async fn lease_remaining(&self, id: i64, deadline: Instant) -> Result<i64, Error> {
        let ask = |waiter, deadline| Input::LeaseRemaining { id, waiter, deadline };
        self.question(deadline, ask).await.map(seconds)
    }

    async fn move_leader(&self, target: u64, deadline: Instant) -> Result<(), Error> {
        let target = Some(target);
        self.question(deadline, |waiter, deadline| Input::MoveLeader {
            target,
            waiter,
            deadline,
        })
        .await?;
        Ok(())
    }

    fn resting(&self) {
        self.inbox.announce();
    }
}

fn seconds(answer: Answer) -> i64 {
    match answer {
        Answer::Lease(seconds) => seconds,
        other => unreachable!("a lease question is answered with seconds, not with {other:?}"),
    }
}
