//! Members that form a cluster, as seen from the clients' side: who runs, who leads, how far each has come.
//!
//! It must live on a thread inside the clients' namespace. Not here: load and faults.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

use super::{
    client::pinned,
    clock::Clock,
    command::{Error, Result, failed},
    faultfs::FaultFs,
    footprint::Footprint,
    load::Plan,
    member::{Member, System},
    network::{Network, Node},
};
use crate::history::{Fault, NEVER};

const STATUS_TIME_MAX: Duration = Duration::from_millis(400);

/// What a member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub id: u64,
    pub leader: u64,
    pub term: u64,
    pub revision: i64,
}

// Dropped in this order, members first: the footprint's end is the end of everything else.
pub struct Cluster {
    pub network: Network,
    pub members: Vec<Member>,
    pub system: System,
    pub clock: Clock,
    pub faults: Vec<Fault>,
    /// Fault file systems, by member; empty unless a fault needs them.
    pub disks: Vec<FaultFs>,
    /// Members that may end by themselves while a fault lasts.
    pub may_end: BTreeSet<usize>,
    /// Members with a damaged file: they may refuse to live, at once or later.
    pub damaged: BTreeSet<usize>,
    runtime: Runtime,
    pub footprint: Footprint,
}

impl Cluster {
    /// Members that do not run yet, so that disks and environments can be arranged first.
    pub fn prepare(footprint: Footprint, network: Network, system: System, size: usize) -> Result<Self> {
        let new = |i| Member::new(i, network.namespace(Node::Member(i)), footprint.directory());
        let members = (0..size).map(new).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            network,
            members,
            system,
            clock: Clock::start(),
            faults: Vec::new(),
            disks: Vec::new(),
            may_end: BTreeSet::new(),
            damaged: BTreeSet::new(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            footprint,
        })
    }

    /// Starts whoever does not run and waits until all serve.
    pub fn start(&mut self) -> Result<()> {
        for i in 0..self.members.len() {
            if !self.members[i].is_running() && !self.damaged.contains(&i) {
                self.start_member(i)?;
            }
        }
        self.await_ready(Duration::from_secs(20))
    }

    pub fn start_member(&mut self, member: usize) -> Result<()> {
        let size = self.size();
        self.members[member].start(&self.system, size, &self.footprint)
    }

    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Whoever may be asked.
    pub fn running(&self) -> Vec<usize> {
        (0..self.size()).filter(|i| self.members[*i].is_running()).collect()
    }

    pub fn status(&self, member: usize) -> Option<Status> {
        let answer = self.runtime.block_on(async {
            let client = pinned(member, self.system.is_etcd, STATUS_TIME_MAX).ok()?;
            client.status().await.ok()
        })?;
        let header = answer.header?;
        Some(Status {
            id: header.member_id,
            leader: answer.leader,
            term: answer.raft_term,
            revision: header.revision,
        })
    }

    /// The member that says it leads, in the newest term that anybody knows of.
    pub fn leader(&self) -> Option<usize> {
        let all: Vec<(usize, Status)> = self
            .running()
            .into_iter()
            .filter_map(|i| Some((i, self.status(i)?)))
            .collect();
        let newest = all.iter().map(|(_, status)| status.term).max()?;
        let leads = |(_, status): &&(usize, Status)| status.term == newest && status.leader == status.id;
        all.iter().find(leads).map(|(i, _)| *i)
    }

    pub fn await_leader(&self) -> Result<usize> {
        let began = Instant::now();
        while began.elapsed() < self.system.election_time_max() {
            if let Some(leader) = self.leader() {
                return Ok(leader);
            }
            thread::sleep(Duration::from_millis(20));
        }
        failed(format!("no leader within {:?}", self.system.election_time_max()))
    }

    /// Waits until everybody who runs answers, follows one leader and has the same revision.
    pub fn await_ready(&mut self, within: Duration) -> Result<()> {
        let began = Instant::now();
        let mut last = Vec::new();
        while began.elapsed() < within {
            self.fail_if_somebody_ended()?;
            last = self.running().into_iter().map(|i| self.status(i)).collect();
            let leader = last.first().copied().flatten().map_or(0, |status| status.leader);
            if leader != 0
                && last
                    .iter()
                    .all(|status| status.is_some_and(|status| status.leader == leader))
            {
                return self.await_linearizable(within.saturating_sub(began.elapsed()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        failed(format!("not ready within {within:?}: {last:?}; {}", self.last_words()))
    }

    /// A linearizable read through every member: only then has it caught up.
    fn await_linearizable(&self, within: Duration) -> Result<()> {
        for member in self.running() {
            let asked = self.runtime.block_on(async {
                let client = pinned(member, self.system.is_etcd, within.max(Duration::from_secs(1)))?;
                client
                    .get("ready")
                    .send()
                    .await
                    .map_err(|error| Error::Failed(error.to_string()))
            });
            if let Err(error) = asked {
                return failed(format!(
                    "member {member} answers no read: {error}; {}",
                    self.last_words()
                ));
            }
        }
        Ok(())
    }

    /// A member that ended although nobody ended it.
    pub fn fail_if_somebody_ended(&mut self) -> Result<()> {
        for member in &mut self.members {
            let is_expected = self.may_end.contains(&member.index) || self.damaged.contains(&member.index);
            if let Some(status) = member.ended()?
                && !is_expected
            {
                let how = status
                    .signal()
                    .map_or(format!("{status}"), |signal| format!("signal {signal}"));
                return failed(format!(
                    "member {} ended by itself ({how}):\n    {}",
                    member.index,
                    member.last_words()
                ));
            }
        }
        Ok(())
    }

    /// Waits for a member that must end by itself, and takes note that it did.
    pub fn await_end(&mut self, member: usize) -> Result<()> {
        let began = Instant::now();
        while self.members[member].is_running() {
            if began.elapsed() > Duration::from_secs(5) {
                return failed(format!("member {member} lives on although a sync has failed"));
            }
            self.members[member].ended()?;
            thread::sleep(Duration::from_millis(10));
        }
        self.may_end.remove(&member);
        Ok(())
    }

    /// After a fault that a member may have died of.
    pub fn start_if_ended(&mut self, member: usize) -> Result<()> {
        self.members[member].ended()?;
        self.may_end.remove(&member);
        if self.members[member].is_running() {
            Ok(())
        } else {
            self.start_member(member)
        }
    }

    fn last_words(&self) -> String {
        let words = self
            .members
            .iter()
            .map(|member| format!("\n  member {}:\n    {}", member.index, member.last_words()));
        words.collect()
    }

    /// Writes a fault down as begun; [`Cluster::note_healed`] ends it.
    pub fn note_fault(&mut self, what: &str) {
        self.faults.push(Fault {
            from: self.clock.now(),
            until: NEVER,
            what: what.to_owned(),
        });
    }

    pub fn note_healed(&mut self) {
        let now = self.clock.now();
        for fault in self.faults.iter_mut().filter(|fault| fault.until == NEVER) {
            fault.until = now;
        }
    }

    pub fn plan(&self, clients: usize, pause: Duration, call_deadline: Duration) -> Result<Plan> {
        let mut ids = Vec::new();
        for member in 0..self.size() {
            let Some(status) = self.status(member) else {
                return failed(format!("member {member} does not say who it is"));
            };
            ids.push(status.id);
        }
        Ok(Plan {
            clock: self.clock,
            is_etcd: self.system.is_etcd,
            members: self.size(),
            starts: self.members.iter().map(Member::starts).collect(),
            ids,
            clients,
            pause,
            call_deadline,
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.is_running()) {
            // Whoever ended by itself meanwhile needs no end.
            let _ = member.kill();
        }
    }
}
