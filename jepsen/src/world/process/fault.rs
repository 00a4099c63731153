//! Faults: each is done, proven, and undone.
//!
//! ```text
//!   begin   a victim is chosen, the thing is done          "SIGSTOP of the leader (member 1)"
//!   prove   after it has lasted: what shows that it did    state T, packets dropped, a ping that is lost
//!   heal    everything is as before
//! ```
//! A fault that cannot be proven fails its scenario: a nemesis that does nothing makes every system look
//! good. Not here: how a disk, a clock or a link is made to fail (`faultfs`, `small_disk`, `rot`, `wall_clock`,
//! `memory`, `network`, `delay`), and when a fault begins (`scenario`).

use std::time::Duration;

use super::{
    cluster::Cluster,
    command::{Error, Result, failed},
    delay::Delay,
    evidence::{Begun, Proof, Undo},
    faultfs::{FaultFs, journal::Loss},
    memory,
    network::{Cut, Node},
    rot, small_disk, wall_clock,
};
use crate::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    Leader,
    Follower,
    Any,
    /// As many as a cluster survives.
    Minority,
    Majority,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    Kill(Whom),
    Pause(Whom),
    /// SIGTERM, the planned way.
    Stop(Whom),
    /// Nothing in and nothing out, clients included.
    Blackhole(Whom),
    /// Peers only: the victims on one side, the others on the other side.
    Split(Whom),
    /// Peers are not heard.
    Deaf(Whom),
    /// Peers hear nothing.
    Mute(Whom),
    /// Two members do not hear each other; everybody else hears both.
    OneLink,
    /// Everyone loses one direction to its neighbour.
    Ring,
    /// Share of packets between members, in percent.
    Loss(u32),
    /// Every packet between members is so many milliseconds late, or up to twice that.
    Latency(u64),
    /// Its wall clock is so many seconds off.
    ClockJump(Whom, i64),
    /// Every sync takes so many milliseconds.
    SlowDisk(Whom, u64),
    /// The next sync fails, and what it should have covered is never durable.
    SyncError(Whom),
    /// `kill -9`, and what was not synced is gone.
    PowerLoss(Whom, Loss),
    DiskFull(Whom),
    /// One bit flips while it is down; it may stay down for ever, and that is right.
    Rot(Whom),
    /// No more memory than it uses already.
    NoMemory(Whom),
}

impl Fault {
    pub fn begin(self, cluster: &mut Cluster, rng: &mut Rng) -> Result<Begun> {
        let begun = self.act(cluster, rng)?;
        if !begun.what.is_empty() {
            cluster.note_fault(&begun.what);
        }
        Ok(begun)
    }

    fn act(self, cluster: &mut Cluster, rng: &mut Rng) -> Result<Begun> {
        let victims = match self.whom() {
            Some(whom) => whom.of(cluster, rng)?,
            None => Vec::new(),
        };
        let inside: Vec<Node> = victims.iter().map(|member| Node::Member(*member)).collect();
        let all: Vec<Node> = (0..cluster.size()).map(Node::Member).collect();
        let mut others: Vec<Node> = all.iter().filter(|node| !inside.contains(node)).copied().collect();
        let who = named(&victims);
        match self {
            Self::None => Ok(Begun::default()),
            Self::Kill(_) => kill(cluster, victims),
            Self::Pause(_) => pause(cluster, victims),
            Self::Stop(_) => stop(cluster, victims),
            Self::Blackhole(_) => {
                others.push(Node::Clients);
                cut(cluster, format!("blackhole of {who}"), &both_ways(&inside, &others))
            }
            Self::Split(_) => cut(
                cluster,
                format!("{who} split from the others"),
                &both_ways(&inside, &others),
            ),
            Self::Deaf(_) => cut(cluster, format!("{who} deaf to the others"), &one_way(&others, &inside)),
            Self::Mute(_) => cut(cluster, format!("{who} mute to the others"), &one_way(&inside, &others)),
            Self::OneLink => {
                let (one, other) = (inside[0], all[(victims[0] + 1) % all.len()]);
                cut(
                    cluster,
                    format!("no link between {who} and its neighbour"),
                    &both_ways(&[one], &[other]),
                )
            }
            Self::Ring => {
                let neighbours = all.iter().zip(all.iter().cycle().skip(1));
                let cuts: Vec<Cut> = neighbours.map(|(from, to)| Cut { from: *from, to: *to }).collect();
                cut(cluster, "everyone deaf to a neighbour".to_owned(), &cuts)
            }
            Self::Loss(percent) => {
                cluster.network.lose(&one_way(&all, &all), percent)?;
                Ok(Begun {
                    what: format!("{percent} % of the packets between members are lost"),
                    proofs: vec![Proof::PacketsDropped],
                    undo: vec![Undo::HealNetwork],
                })
            }
            Self::Latency(ms) => delay(cluster, Duration::from_millis(ms)),
            Self::ClockJump(_, seconds) => jump(cluster, &victims, seconds),
            Self::SlowDisk(_, ms) => Ok(slow_disk(cluster, &victims, Duration::from_millis(ms))),
            Self::SyncError(_) => Ok(fail_sync(cluster, &victims)),
            Self::PowerLoss(_, loss) => lose_power(cluster, victims, loss, rng),
            Self::DiskFull(_) => fill_disk(cluster, &victims),
            Self::Rot(_) => rot(cluster, victims, rng),
            Self::NoMemory(_) => squeeze(cluster, &victims),
        }
    }

    /// Must be called before members start: disks, clocks and groups are theirs from the beginning.
    pub fn arrange(self, cluster: &mut Cluster) -> Result<()> {
        for member in &mut cluster.members {
            match self {
                Self::ClockJump(..) if cluster.system.is_etcd => {
                    return Err(Error::Skipped("Go asks the kernel for the time, not libc".to_owned()));
                }
                Self::ClockJump(..) => wall_clock::arrange(member)?,
                Self::SlowDisk(..) | Self::SyncError(_) | Self::PowerLoss(..) => {
                    cluster.disks.push(FaultFs::mount(&cluster.footprint, &member.data)?);
                }
                Self::DiskFull(_) => small_disk::arrange(member, &cluster.footprint)?,
                Self::NoMemory(_) => memory::arrange(member, &cluster.footprint)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// What is lost for good cannot be lost again and again.
    pub fn is_once(self) -> bool {
        matches!(self, Self::Rot(_))
    }

    fn whom(self) -> Option<Whom> {
        match self {
            Self::Kill(whom)
            | Self::Pause(whom)
            | Self::Stop(whom)
            | Self::Blackhole(whom)
            | Self::Split(whom)
            | Self::Deaf(whom)
            | Self::Mute(whom)
            | Self::ClockJump(whom, _)
            | Self::SlowDisk(whom, _)
            | Self::SyncError(whom)
            | Self::PowerLoss(whom, _)
            | Self::DiskFull(whom)
            | Self::Rot(whom)
            | Self::NoMemory(whom) => Some(whom),
            Self::OneLink => Some(Whom::Any),
            Self::None | Self::Ring | Self::Loss(_) | Self::Latency(_) => None,
        }
    }
}

impl Whom {
    pub fn of(self, cluster: &Cluster, rng: &mut Rng) -> Result<Vec<usize>> {
        let all = cluster.running();
        let any = rng.pick(&all);
        let minority = (cluster.size() - 1) / 2;
        Ok(match self {
            Self::Leader => vec![cluster.await_leader()?],
            Self::Follower => {
                let leader = cluster.await_leader()?;
                let followers: Vec<usize> = all.into_iter().filter(|member| *member != leader).collect();
                vec![rng.pick(&followers)]
            }
            Self::Any => vec![any],
            Self::Minority => around(any, minority, cluster.size()),
            Self::Majority => around(any, minority + 1, cluster.size()),
            Self::All => all,
        })
    }
}

/// Neighbours on the circle of members, beginning with `first`.
fn around(first: usize, count: usize, size: usize) -> Vec<usize> {
    (0..count).map(|i| (first + i) % size).collect()
}

fn kill(cluster: &mut Cluster, victims: Vec<usize>) -> Result<Begun> {
    for member in &victims {
        cluster.members[*member].kill()?;
    }
    Ok(Begun {
        what: format!("kill -9 of {}", named(&victims)),
        // How it ended was its proof.
        proofs: Vec::new(),
        undo: victims.into_iter().map(Undo::Start).collect(),
    })
}

fn pause(cluster: &mut Cluster, victims: Vec<usize>) -> Result<Begun> {
    for member in &victims {
        cluster.members[*member].pause()?;
    }
    Ok(Begun {
        what: format!("SIGSTOP of {}", named(&victims)),
        // Its state was.
        proofs: Vec::new(),
        undo: victims.into_iter().map(Undo::Resume).collect(),
    })
}

fn stop(cluster: &mut Cluster, victims: Vec<usize>) -> Result<Begun> {
    for member in &victims {
        let status = cluster.members[*member].stop(Duration::from_secs(10))?;
        // etcd raises the signal again once it is done.
        if !status.success() && !cluster.system.is_etcd {
            return failed(format!("member {member} ended with {status} after SIGTERM"));
        }
    }
    Ok(Begun {
        what: format!("SIGTERM of {}", named(&victims)),
        proofs: Vec::new(),
        undo: victims.into_iter().map(Undo::Start).collect(),
    })
}

fn cut(cluster: &mut Cluster, what: String, cuts: &[Cut]) -> Result<Begun> {
    cluster.network.cut(cuts)?;
    let to_members = cuts.iter().filter_map(|cut| match cut.to {
        Node::Member(to) => Some(Proof::Unreachable(cut.from, to)),
        Node::Clients => None,
    });
    Ok(Begun {
        what,
        // One ping is enough as a proof, and each costs a second.
        proofs: to_members.take(1).chain([Proof::PacketsDropped]).collect(),
        undo: vec![Undo::HealNetwork],
    })
}

fn delay(cluster: &Cluster, time: Duration) -> Result<Begun> {
    let namespaces = (0..cluster.size()).map(|member| cluster.network.namespace(Node::Member(member)));
    let delays = namespaces
        .map(|namespace| Delay::begin(namespace, time, time))
        .collect::<Result<Vec<_>>>()?;
    Ok(Begun {
        what: format!("every packet {time:?} late, or up to twice that"),
        proofs: vec![Proof::RoundTrip(time * 2)],
        undo: vec![Undo::EndDelays(delays)],
    })
}

fn jump(cluster: &Cluster, victims: &[usize], seconds: i64) -> Result<Begun> {
    for member in victims {
        wall_clock::jump(&cluster.members[*member], seconds)?;
    }
    Ok(Begun {
        what: format!("the wall clock of {} jumps by {seconds:+} s", named(victims)),
        proofs: victims.iter().map(|member| Proof::ClockOff(*member, seconds)).collect(),
        undo: victims.iter().map(|member| Undo::SetClock(*member)).collect(),
    })
}

fn slow_disk(cluster: &Cluster, victims: &[usize], time: Duration) -> Begun {
    for member in victims {
        cluster.disks[*member].slow_syncs(time);
    }
    Begun {
        what: format!("every sync of {} takes {time:?}", named(victims)),
        proofs: victims.iter().map(|member| Proof::SlowSync(*member, time)).collect(),
        undo: victims.iter().map(|member| Undo::FastSyncs(*member)).collect(),
    }
}

fn fail_sync(cluster: &mut Cluster, victims: &[usize]) -> Begun {
    for member in victims {
        cluster.disks[*member].fail_syncs(1);
        cluster.may_end.insert(*member);
    }
    Begun {
        what: format!("a sync of {} fails", named(victims)),
        proofs: victims.iter().map(|member| Proof::FailedSync(*member)).collect(),
        undo: victims.iter().map(|member| Undo::ReplaceDisk(*member)).collect(),
    }
}

fn lose_power(cluster: &mut Cluster, victims: Vec<usize>, loss: Loss, rng: &mut Rng) -> Result<Begun> {
    for member in &victims {
        cluster.members[*member].kill()?;
    }
    let mut bytes = 0;
    for member in &victims {
        bytes += cluster.disks[*member].lose_unsynced(loss, rng)?.bytes;
    }
    // Dipper always has state that is not synced yet. Of etcd, everything may be on its disks at that moment; then it
    // is a kill, and what is written down says so.
    if bytes == 0 && !cluster.system.is_etcd {
        return failed("no effect: a power loss that lost nothing");
    }
    Ok(Begun {
        what: format!(
            "power loss of {}: {bytes} unsynced bytes {}",
            named(&victims),
            match loss {
                Loss::All => "gone",
                Loss::Torn => "torn",
            }
        ),
        proofs: Vec::new(),
        undo: victims.into_iter().map(Undo::Start).collect(),
    })
}

fn fill_disk(cluster: &mut Cluster, victims: &[usize]) -> Result<Begun> {
    for member in victims {
        cluster.may_end.insert(*member);
        small_disk::fill(&cluster.members[*member])?;
    }
    Ok(Begun {
        what: format!("the disk of {} is full", named(victims)),
        proofs: victims.iter().map(|member| Proof::NoRoom(*member)).collect(),
        undo: victims.iter().map(|member| Undo::MakeRoom(*member)).collect(),
    })
}

fn rot(cluster: &mut Cluster, victims: Vec<usize>, rng: &mut Rng) -> Result<Begun> {
    let mut where_ = Vec::new();
    for member in &victims {
        cluster.members[*member].kill()?;
        where_.push(rot::flip(&cluster.members[*member].data, rng)?);
        cluster.damaged.insert(*member);
    }
    Ok(Begun {
        what: format!("a bit of {} flips: {}", named(&victims), where_.join(", ")),
        proofs: Vec::new(),
        undo: victims.into_iter().map(Undo::Start).collect(),
    })
}

fn squeeze(cluster: &mut Cluster, victims: &[usize]) -> Result<Begun> {
    let mut proofs = Vec::new();
    for member in victims {
        cluster.may_end.insert(*member);
        proofs.push(Proof::MemoryRefused(
            *member,
            memory::refusals(&cluster.members[*member])?,
        ));
        memory::squeeze(&cluster.members[*member])?;
    }
    Ok(Begun {
        what: format!("no more memory for {}", named(victims)),
        proofs,
        undo: victims.iter().map(|member| Undo::ReleaseMemory(*member)).collect(),
    })
}

fn one_way(from: &[Node], to: &[Node]) -> Vec<Cut> {
    let pairs = from
        .iter()
        .flat_map(|from| to.iter().map(|to| Cut { from: *from, to: *to }));
    pairs.filter(|cut| cut.from != cut.to).collect()
}

fn both_ways(inside: &[Node], outside: &[Node]) -> Vec<Cut> {
    let mut cuts = one_way(outside, inside);
    cuts.extend(one_way(inside, outside));
    cuts
}

fn named(members: &[usize]) -> String {
    match members {
        [one] => format!("member {one}"),
        several => format!("members {several:?}"),
    }
}
