//! One run: a cluster, a load, a fault again and again, an end in peace, and the history of it all.
//!
//! ```text
//!   |- calm -|- fault -|- calm -|- fault -|- calm -|- drain, heal, last requests, hashes
//! ```
//! What makes a run worthless fails it: too few operations, a fault without effect, a member that died by
//! itself, a cluster that does not serve again. Not here: whether the history is right (`checkers`).

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    cluster::Cluster,
    command::{Result, failed},
    fault::Fault,
    faultfs::FaultFs,
    footprint::Footprint,
    load::{Counts, Load},
    member::System,
    network::{Network, Node, inside},
};
use crate::{
    checkers::{Anomaly, check_all},
    expectations::Expectations,
    history::Record,
    rng::Rng,
    workload::{Kind, promises_of},
};

/// etcd's robustness tests call a run unreliable below this.
const OPERATIONS_PER_SECOND_MIN: u64 = 100;
/// As many as a small machine drives; the largest mix has six workloads, and three members have twelve clients.
const CLIENTS_PER_MEMBER: usize = 4;
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// How long a fault lasts, and the time between two, from and to.
const FAULT_TIME: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(2500));
/// etcd's elections take longer.
const FAULT_TIME_ETCD: (Duration, Duration) = (Duration::from_millis(2500), Duration::from_millis(4500));
const CALM_TIME: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1500));
const SERVING_WITHIN: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub workloads: &'static [Kind],
    pub fault: Fault,
    pub members: usize,
    pub seconds: u64,
    /// A workload that is broken by design: it is the checkers who are on trial.
    pub must_fail: bool,
}

/// What a run leaves for judges and readers.
pub struct Run {
    pub history: Vec<Record>,
    pub anomalies: Vec<Anomaly>,
    pub counts: Counts,
    pub faults: usize,
}

impl Scenario {
    pub fn clients(&self) -> usize {
        self.members * CLIENTS_PER_MEMBER
    }

    /// Runs it in namespaces of its own.
    pub fn run(&self, system: &System, seed: u64) -> Result<Run> {
        let footprint = Footprint::begin()?;
        let network = Network::new(&footprint, self.members)?;
        let hub = network.namespace(Node::Clients).to_owned();
        let (scenario, system) = (self.clone(), system.clone());
        let thread = inside(&hub, move || {
            let cluster = Cluster::prepare(footprint, network, system, scenario.members)?;
            scenario.play(cluster, seed)
        })?;
        thread.join().unwrap_or_else(|_| failed("the scenario panicked"))
    }

    fn play(&self, mut cluster: Cluster, seed: u64) -> Result<Run> {
        let mut rng = Rng::new(seed);
        self.fault.arrange(&mut cluster)?;
        cluster.start()?;
        if cluster.system.is_etcd {
            // It never syncs the name of its directory `member`, nor that of `db` within `snap`. By the letter of POSIX
            // the first power loss takes everything, and no run would show anything else: see the catalogue.
            cluster.disks.iter().try_for_each(FaultFs::sync_names)?;
        }
        let plan = cluster.plan(self.clients(), Duration::from_millis(2), CALL_DEADLINE)?;
        let load = Load::start(plan, self.workloads.to_vec(), rng.fork());
        let outcome = self.disturb(&mut cluster, &mut rng, &load);
        load.drain();
        outcome?;
        cluster.start()?;
        cluster.await_ready(SERVING_WITHIN)?;
        let counts = load.tally.counts();
        let mut history = load.finish(cluster.running())?;
        if counts.acknowledged < OPERATIONS_PER_SECOND_MIN * self.seconds {
            return failed(format!(
                "only {} operations in {} s prove nothing",
                counts.acknowledged, self.seconds
            ));
        }
        let faults = cluster.faults.len();
        history.extend(cluster.faults.drain(..).map(Record::Fault));
        let expectations = self.expectations();
        let anomalies = check_all(&history, &expectations);
        history.insert(0, Record::Expectations(expectations));
        Ok(Run {
            history,
            anomalies,
            counts,
            faults,
        })
    }

    fn expectations(&self) -> Expectations {
        Expectations {
            members: self.members as u32,
            drained: true,
            closed: true,
            promises: self.workloads.iter().copied().flat_map(promises_of).collect(),
            ..Expectations::default()
        }
    }

    fn disturb(&self, cluster: &mut Cluster, rng: &mut Rng, load: &Load) -> Result<()> {
        let ends = Instant::now() + Duration::from_secs(self.seconds);
        thread::sleep(Duration::from_secs(2));
        if load.tally.counts().acknowledged == 0 {
            return failed("nothing was acknowledged before the first fault");
        }
        while Instant::now() < ends {
            if self.fault.is_once() && !cluster.faults.is_empty() {
                thread::sleep(Duration::from_millis(100));
                continue;
            }
            let begun = self.fault.begin(cluster, rng)?;
            let (least, most) = if cluster.system.is_etcd {
                FAULT_TIME_ETCD
            } else {
                FAULT_TIME
            };
            thread::sleep(rng.between(least, most));
            let proof = begun.prove(cluster);
            begun.heal(cluster, rng)?;
            proof?;
            Self::recover(cluster, load)?;
            thread::sleep(rng.between(CALM_TIME.0, CALM_TIME.1));
        }
        Ok(())
    }

    /// After a fault the cluster serves again, and soon nearly every request succeeds.
    fn recover(cluster: &mut Cluster, load: &Load) -> Result<()> {
        cluster.await_ready(SERVING_WITHIN)?;
        let began = Instant::now();
        loop {
            // What was asked during the fault ends first.
            thread::sleep(Duration::from_millis(200));
            let before = load.tally.counts();
            thread::sleep(Duration::from_millis(500));
            let after = load.tally.counts();
            let (good, bad) = (after.acknowledged - before.acknowledged, after.down - before.down);
            if good > 0 && bad * 100 <= good + bad {
                return Ok(());
            }
            if began.elapsed() > SERVING_WITHIN {
                return failed(format!(
                    "{SERVING_WITHIN:?} after healing {good} requests succeed and {bad} do not"
                ));
            }
        }
    }
}
