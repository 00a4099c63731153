//! Full load and no fault: nobody may stand for election because it was busy.
//!
//! Not here: how fast the load is; that is `make bench`.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    cluster::Cluster,
    command::{Result, failed},
    footprint::Footprint,
    member::System,
    network::{Network, Node, inside},
    writers::{MEMBERS, Writers},
};

/// As many as keep the machine busy.
const CLIENTS: usize = 64;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a quiet time came to.
#[derive(Debug)]
pub struct Steady {
    pub term: u64,
    pub acknowledged: usize,
    pub refused: usize,
}

/// Fails if the term changes within `time`.
pub fn watch(system: &System, time: Duration) -> Result<Steady> {
    let footprint = Footprint::begin()?;
    let network = Network::new(&footprint, MEMBERS)?;
    let hub = network.namespace(Node::Clients).to_owned();
    let system = system.clone();
    let thread = inside(&hub, move || {
        let mut cluster = Cluster::prepare(footprint, network, system, MEMBERS)?;
        cluster.start()?;
        let writers = Writers::start(cluster.clock, cluster.system.is_etcd, CLIENTS, Duration::ZERO);
        let terms = look(&mut cluster, time);
        let writes = writers.stop()?;
        let acknowledged = writes.iter().filter(|write| write.is_acknowledged()).count();
        Ok(Steady {
            term: terms?,
            acknowledged,
            refused: writes.len() - acknowledged,
        })
    })?;
    thread
        .join()
        .unwrap_or_else(|_| failed("the watch over a quiet cluster panicked"))
}

fn look(cluster: &mut Cluster, time: Duration) -> Result<u64> {
    let began = Instant::now();
    let mut first = None;
    while began.elapsed() < time {
        cluster.fail_if_somebody_ended()?;
        for member in 0..cluster.size() {
            // A status that is late says nothing about terms.
            let Some(status) = cluster.status(member) else { continue };
            let first = *first.get_or_insert(status.term);
            if status.term != first {
                let after = began.elapsed();
                return failed(format!(
                    "an election without a fault after {after:?}: term {first} became {}",
                    status.term
                ));
            }
        }
        thread::sleep(LOOK_EVERY);
    }
    first.map_or_else(|| failed("no member ever answered"), Ok)
}
