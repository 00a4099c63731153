//! How long nobody, and how long the unluckiest client, is without an acknowledged write when a leader fails.
//!
//! ```text
//!   client 0   --x--x--x------------------------x--x--
//!   client 1   -x--x--x---x--------x--x--x--x--x--x---
//!                      ^  |<-gap ->|                       of the cluster: no ack by anybody
//!                    fault|<----- client 0's gap --->|     of the worst client: its own silence
//! ```
//! Clients are as applications have them: all endpoints, a different one first, the leader when it is known;
//! finding out that a member is silent and connecting elsewhere is part of the gap. Not here: whether the data
//! is right (`scenario`).

use std::{collections::BTreeMap, thread, time::Duration};

use super::{
    cluster::Cluster,
    command::{Result, failed},
    fault::{Fault, Whom},
    footprint::Footprint,
    member::System,
    network::{Network, Node, inside},
    writers::{MEMBERS, Write, Writers},
};
use crate::rng::Rng;

const CLIENTS: usize = 12;
const PAUSE: Duration = Duration::from_millis(2);
/// Silences are looked for in this time after a fault: longer than any that is allowed.
const HOLD: Duration = Duration::from_millis(2500);
const BETWEEN: Duration = Duration::from_millis(700);
/// The promise for what nobody has planned, and for what was planned.
const UNPLANNED_MAX: Duration = Duration::from_secs(1);
const PLANNED_MAX: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// kill -9
    Kill,
    /// Nothing in, nothing out
    Blackhole,
    /// Hears no peer, is heard by all
    DeafLeader,
    /// SIGSTOP
    Pause,
    /// Every sync takes 2 s
    SlowDisk,
    /// SIGTERM
    Stop,
}

impl Case {
    fn fault(self) -> Fault {
        match self {
            Self::Kill => Fault::Kill(Whom::Leader),
            Self::Blackhole => Fault::Blackhole(Whom::Leader),
            Self::DeafLeader => Fault::Deaf(Whom::Leader),
            Self::Pause => Fault::Pause(Whom::Leader),
            Self::SlowDisk => Fault::SlowDisk(Whom::Leader, 2000),
            Self::Stop => Fault::Stop(Whom::Leader),
        }
    }

    pub fn gap_max(self) -> Duration {
        if self == Self::Stop { PLANNED_MAX } else { UNPLANNED_MAX }
    }
}

/// What a case came to, in milliseconds, round by round.
#[derive(Debug, Default, serde::Serialize)]
pub struct Gaps {
    pub cluster_ms: Vec<f64>,
    pub worst_client_ms: Vec<f64>,
    /// Writes that were not acknowledged, between each fault and its healing.
    pub not_acknowledged: Vec<usize>,
    /// Why not, and how often.
    pub errors: BTreeMap<String, usize>,
}

pub fn measure(case: Case, system: &System, rounds: usize) -> Result<Gaps> {
    let footprint = Footprint::begin()?;
    let network = Network::new(&footprint, MEMBERS)?;
    let hub = network.namespace(Node::Clients).to_owned();
    let system = system.clone();
    let thread = inside(&hub, move || {
        let cluster = Cluster::prepare(footprint, network, system, MEMBERS)?;
        play(case, cluster, rounds)
    })?;
    thread.join().unwrap_or_else(|_| failed("the measurement panicked"))
}

fn play(case: Case, mut cluster: Cluster, rounds: usize) -> Result<Gaps> {
    let mut rng = Rng::new(1);
    case.fault().arrange(&mut cluster)?;
    cluster.start()?;
    let writers = Writers::start(cluster.clock, cluster.system.is_etcd, CLIENTS, PAUSE);
    let mut windows = Vec::new();
    for _ in 0..rounds {
        thread::sleep(BETWEEN);
        let from = cluster.clock.now();
        let begun = case.fault().begin(&mut cluster, &mut rng)?;
        thread::sleep(HOLD);
        let until = cluster.clock.now();
        let proof = begun.prove(&cluster);
        begun.heal(&mut cluster, &mut rng)?;
        proof?;
        windows.push((from, until));
        cluster.await_ready(Duration::from_secs(20))?;
    }
    let writes = writers.stop()?;
    Ok(gaps(&writes, &windows))
}

impl Gaps {
    /// Fails unless every round kept the promise.
    pub fn judge(&self, case: Case) -> Result<()> {
        let max = case.gap_max().as_secs_f64() * 1000.0;
        let longest = |gaps: &[f64]| gaps.iter().copied().fold(0.0, f64::max);
        let (cluster, client) = (longest(&self.cluster_ms), longest(&self.worst_client_ms));
        if cluster > max {
            return failed(format!(
                "{case:?}: nobody was served for {cluster:.0} ms, {max:.0} is the end"
            ));
        }
        if client > max {
            return failed(format!(
                "{case:?}: a client was not served for {client:.0} ms, {max:.0} is the end"
            ));
        }
        let refused: usize = self.not_acknowledged.iter().sum();
        if case == Case::Stop && refused > 0 {
            return failed(format!("{case:?}: {refused} writes failed: {:?}", self.errors));
        }
        Ok(())
    }

    pub fn line(&self, case: Case) -> String {
        let refused: usize = self.not_acknowledged.iter().sum();
        format!(
            "{:12} cluster {}   worst client {}   not acknowledged {refused}",
            format!("{case:?}"),
            distribution(&self.cluster_ms),
            distribution(&self.worst_client_ms),
        )
    }
}

fn distribution(gaps_ms: &[f64]) -> String {
    let mut sorted = gaps_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    format!(
        "min {:.0} p50 {:.0} p90 {:.0} max {:.0} ms",
        at(0.0),
        at(0.5),
        at(0.9),
        at(1.0)
    )
}

/// The longest silences within each window.
fn gaps(writes: &[Write], windows: &[(u64, u64)]) -> Gaps {
    let mut gaps = Gaps::default();
    for (from, until) in windows {
        let acks = |client: Option<usize>| -> Vec<u64> {
            let wanted = writes
                .iter()
                .filter(|write| write.is_acknowledged() && client.is_none_or(|c| c == write.client));
            wanted.map(|write| write.ended).collect()
        };
        gaps.cluster_ms.push(longest_silence_ms(acks(None), *from, *until));
        let of_clients = (0..CLIENTS).map(|client| longest_silence_ms(acks(Some(client)), *from, *until));
        gaps.worst_client_ms.push(of_clients.fold(0.0, f64::max));
        let refused = |write: &&Write| !write.is_acknowledged() && (*from..*until).contains(&write.ended);
        gaps.not_acknowledged.push(writes.iter().filter(refused).count());
        for error in writes.iter().filter(refused).filter_map(|write| write.error.clone()) {
            *gaps.errors.entry(error).or_default() += 1;
        }
    }
    gaps
}

/// From the last ack before the window on, so that a silence that begins with the fault counts in full.
fn longest_silence_ms(mut acks: Vec<u64>, from: u64, until: u64) -> f64 {
    acks.sort_unstable();
    let mut last = acks.iter().copied().rev().find(|at| *at <= from).unwrap_or(from);
    let mut longest = 0;
    for at in acks.into_iter().filter(|at| *at > from && *at <= until).chain([until]) {
        longest = longest.max(at - last);
        last = at;
    }
    longest as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_counts_from_the_last_ack_before_the_fault() {
        let ms = 1_000_000;
        let acks = vec![5 * ms, 95 * ms, 300 * ms, 310 * ms];
        assert!((longest_silence_ms(acks.clone(), 100 * ms, 320 * ms) - 205.0).abs() < 1e-9);
        // Whoever never comes back is silent to the end.
        assert!((longest_silence_ms(acks, 100 * ms, 900 * ms) - 590.0).abs() < 1e-9);
        assert!((longest_silence_ms(Vec::new(), 100 * ms, 900 * ms) - 800.0).abs() < 1e-9);
    }

    #[test]
    fn a_broken_promise_is_noticed() {
        let gaps = |worst: f64, refused: usize| Gaps {
            cluster_ms: vec![worst / 2.0],
            worst_client_ms: vec![worst],
            not_acknowledged: vec![refused],
            errors: BTreeMap::new(),
        };
        assert!(gaps(999.0, 3).judge(Case::Kill).is_ok());
        assert!(gaps(1001.0, 0).judge(Case::Kill).is_err());
        assert!(gaps(1001.0, 0).judge(Case::SlowDisk).is_err());
        assert!(gaps(99.0, 0).judge(Case::Stop).is_ok());
        assert!(gaps(101.0, 0).judge(Case::Stop).is_err());
        assert!(gaps(50.0, 1).judge(Case::Stop).is_err());
    }
}
