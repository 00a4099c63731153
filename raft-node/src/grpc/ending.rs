//! Why an open stream must end although its client has not ended it: the member stops, or the client required a
//! leader and there has been none for too long. Clients resume from either elsewhere.

use super::member::Member;
use proto::Error;
use std::{future::pending, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// What a stream listens to besides its client.
pub struct Ending {
    stopping: watch::Receiver<bool>,
    /// Only for clients that require a leader.
    leader: Option<watch::Receiver<u64>>,
    leaderless_since: Option<Instant>,
    require_leader_after: Duration,
}

impl Ending {
    /// For a stream that opens now.
    pub fn new<M: Member>(member: &M, requires_leader: bool) -> Self {
        Self {
            stopping: member.stopping(),
            leader: requires_leader.then(|| member.leader()),
            leaderless_since: None,
            require_leader_after: member.limits().require_leader_after,
        }
    }

    /// Completes when the stream must end. May be dropped and called again at any time.
    pub async fn ended(&mut self) -> Error {
        let leader = leaderless(&mut self.leader, &mut self.leaderless_since, self.require_leader_after);
        tokio::select! {
            // A member that is gone has stopped, too.
            _ = self.stopping.wait_for(|&stopping| stopping) => Error::Stopped,
            () = leader => Error::NoLeader,
        }
    }
}

async fn leaderless(leader: &mut Option<watch::Receiver<u64>>, since: &mut Option<Instant>, after: Duration) {
    let Some(leader) = leader else { return pending().await };
    loop {
        let end = if *leader.borrow_and_update() == 0 {
            Some(*since.get_or_insert_with(Instant::now) + after)
        } else {
            *since = None;
            None
        };
        let cut = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = cut => return,
            changed = leader.changed() => if changed.is_err() { pending::<()>().await },
        }
    }
}
