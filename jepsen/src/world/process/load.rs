//! The clients and watchers of a run: closed loops on one thread inside the clients' namespace, so that one
//! owner holds the history and no lock orders what was concurrent.
//!
//! ```text
//!   Running        every client asks, one request at a time
//!   Draining       each finishes what it has asked
//!   Finishing      the end of the story (`finale`)
//! ```
//! A client whose outcome is unknown goes on under a new process number. Not here: what is asked (`workload`),
//! and faults.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use dipper_client::{Client, Writes};
use tokio::{
    sync::watch,
    task::{JoinHandle, LocalSet},
    time::sleep,
};

use super::{
    client::{Service, Way, connect, perform},
    clock::Clock,
    command::{Result, failed},
    finale::Finale,
    watcher::Watcher,
};
use crate::{
    history::{NEVER, Operation, Outcome, Record, Request, WatchRequest},
    rng::Rng,
    workload::{self, Kind, Step},
};

/// How long a client does nothing when its workload says so.
const REST: Duration = Duration::from_millis(400);
/// Whoever is refused at once must not spin.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Watches of one client that are open at once.
const WATCHES_MAX: usize = 4;

pub type Records = Rc<RefCell<Vec<Record>>>;

/// Everything that a load needs to know of its cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    pub clock: Clock,
    pub is_etcd: bool,
    pub members: usize,
    pub starts: Vec<Arc<AtomicU32>>,
    pub ids: Vec<u64>,
    pub clients: usize,
    /// Between two requests of one client.
    pub pause: Duration,
    pub call_deadline: Duration,
}

/// How a run ends; `Finishing` holds the members that must answer.
#[derive(Clone, Debug)]
enum Phase {
    Running,
    Draining,
    Finishing(Vec<usize>),
}

/// What has happened so far, for those who watch the load from outside.
#[derive(Debug, Default)]
pub struct Tally {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    down: AtomicU64,
}

/// A moment's [`Tally`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub acknowledged: u64,
    /// On their merits.
    pub refused: u64,
    /// Because nobody served them; unknown outcomes are among these.
    pub down: u64,
}

impl Tally {
    pub fn counts(&self) -> Counts {
        Counts {
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
        }
    }

    fn count(&self, outcome: &Outcome, service: Service) {
        let counter = match (outcome, service) {
            (Outcome::Ok(_), _) => &self.acknowledged,
            (_, Service::Served) => &self.refused,
            (_, Service::Down) => &self.down,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A load that runs.
pub struct Load {
    pub tally: Arc<Tally>,
    phase: watch::Sender<Phase>,
    thread: thread::JoinHandle<Result<Vec<Record>>>,
}

impl Load {
    /// Must be called from a thread inside the clients' namespace.
    pub fn start(plan: Plan, kinds: Vec<Kind>, rng: Rng) -> Self {
        let (phase, phases) = watch::channel(Phase::Running);
        let tally = Arc::new(Tally::default());
        let counts = Arc::clone(&tally);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let tasks = LocalSet::new();
            tasks.block_on(&runtime, run(plan, kinds, rng, phases, counts))
        });
        Self { tally, phase, thread }
    }

    pub fn drain(&self) {
        // A thread that is gone says why when it is joined.
        let _ = self.phase.send(Phase::Draining);
    }

    /// Asks `members` for the end of the story; the whole history.
    pub fn finish(self, members: Vec<usize>) -> Result<Vec<Record>> {
        let _ = self.phase.send(Phase::Finishing(members));
        self.thread
            .join()
            .unwrap_or_else(|_| failed("the clients' thread panicked"))
    }
}

async fn run(
    plan: Plan,
    kinds: Vec<Kind>,
    mut rng: Rng,
    mut phases: watch::Receiver<Phase>,
    tally: Arc<Tally>,
) -> Result<Vec<Record>> {
    let plan = Rc::new(plan);
    let records: Records = Rc::default();
    let (watching, seen) = start_watchers(&plan, &records);
    let next_process = Rc::new(Cell::new(plan.clients as u32));
    let next_watcher = Rc::new(Cell::new(plan.members as u32));
    let mut asking = Vec::new();
    for number in 0..plan.clients {
        let member = number % plan.members;
        // Both ways meet at every member, also when members and clients have a common divisor.
        let way = if (number / plan.members).is_multiple_of(2) {
            Way::Calls
        } else {
            Way::Streams
        };
        let asker = Asker {
            client: connect(&[member], Writes::ToEndpoints, way, plan.is_etcd, plan.call_deadline)?,
            member,
            process: number as u32,
            next_process: Rc::clone(&next_process),
            plan: Rc::clone(&plan),
            records: Rc::clone(&records),
            tally: Arc::clone(&tally),
        };
        let workload = workload::Client::new(kind_of(number, &plan, &kinds), number as u32);
        let opened = Opened {
            next_watcher: Rc::clone(&next_watcher),
            watches: Vec::new(),
        };
        let asks = asker.run(workload, rng.fork(), opened, phases.clone());
        asking.push(tokio::task::spawn_local(asks));
    }
    for task in asking {
        if let Err(error) = task.await {
            return failed(format!("a client panicked: {error}"));
        }
    }
    let ending = phases.wait_for(|phase| matches!(phase, Phase::Finishing(_))).await;
    let Ok(Phase::Finishing(members)) = ending.as_deref().cloned() else {
        return failed("the run was abandoned");
    };
    let finale = Finale {
        plan: &plan,
        records: &records,
        next_process: &next_process,
    };
    finale.play(&members, &seen).await?;
    // Before they are told to end: they are open in this history.
    let history = records.take();
    for task in watching {
        task.abort();
    }
    Ok(history)
}

/// Which of the workloads a client has: those of one member take turns, and the next member goes on where it ends, so
/// that no workload is left out as long as there are as many clients.
///
/// ```text
///   12 clients, 3 members, 6 workloads       member 0: a b c d    1: e f a b    2: c d e f
/// ```
pub fn kind_of(client: usize, plan: &Plan, kinds: &[Kind]) -> Kind {
    let (member, turn) = (client % plan.members, client / plan.members);
    let of_members_before = member * (plan.clients / plan.members) + member.min(plan.clients % plan.members);
    kinds[(of_members_before + turn) % kinds.len()]
}

/// One watch of everything on each member; every other one takes its events in fragments.
fn start_watchers(plan: &Rc<Plan>, records: &Records) -> (Vec<JoinHandle<()>>, Vec<Rc<Cell<i64>>>) {
    let mut tasks = Vec::new();
    let mut all_seen = Vec::new();
    for member in 0..plan.members {
        let seen = Rc::new(Cell::new(0));
        let watcher = Watcher {
            number: member as u32,
            member,
            starts: Arc::clone(&plan.starts[member]),
            request: WatchRequest {
                key: "\0".to_owned(),
                range_end: "\0".to_owned(),
                start_revision: 1,
                prev_kv: true,
                progress_notify: true,
                fragment: member % 2 == 0,
                ..WatchRequest::default()
            },
            clock: plan.clock,
            records: Rc::clone(records),
            seen: Rc::clone(&seen),
            is_open: false,
            survives_compactions: true,
        };
        tasks.push(tokio::task::spawn_local(watcher.run()));
        all_seen.push(seen);
    }
    (tasks, all_seen)
}

pub struct Asker {
    pub client: Client,
    pub member: usize,
    pub process: u32,
    pub next_process: Rc<Cell<u32>>,
    pub plan: Rc<Plan>,
    pub records: Records,
    pub tally: Arc<Tally>,
}

impl Asker {
    async fn run(
        mut self,
        mut workload: workload::Client,
        mut rng: Rng,
        mut opened: Opened,
        phases: watch::Receiver<Phase>,
    ) {
        while matches!(*phases.borrow(), Phase::Running) {
            let mut pause = self.plan.pause;
            match workload.next(&mut rng) {
                Step::Rest => pause = REST,
                Step::Watch(request) => opened.watch(&self, request),
                Step::Ask(request) => {
                    let operation = self.ask(request).await;
                    workload.done(&operation.request, &operation.outcome);
                    if matches!(operation.outcome, Outcome::Unknown(_)) {
                        self.process = self.next_process.replace(self.next_process.get() + 1);
                    }
                    if !matches!(operation.outcome, Outcome::Ok(_)) {
                        pause = AFTER_FAILURE;
                    }
                    self.records.borrow_mut().push(Record::Operation(operation));
                }
            }
            sleep(pause).await;
        }
        opened.close();
    }

    pub async fn ask(&self, request: Request) -> Operation {
        let incarnation = self.plan.starts[self.member].load(Ordering::SeqCst);
        let invoked = self.plan.clock.now();
        let (outcome, service) = perform(&self.client, &request, &self.plan.ids).await;
        self.tally.count(&outcome, service);
        let is_unknown = matches!(outcome, Outcome::Unknown(_));
        Operation {
            process: self.process,
            member: self.member as u32,
            incarnation,
            invoked,
            returned: if is_unknown { NEVER } else { self.plan.clock.now() },
            request,
            outcome,
        }
    }
}

/// The watches that one client has opened; they end with it.
struct Opened {
    next_watcher: Rc<Cell<u32>>,
    watches: Vec<JoinHandle<()>>,
}

impl Opened {
    /// The oldest makes room: a client that opens many is not to drown a member.
    fn watch(&mut self, asker: &Asker, request: WatchRequest) {
        if self.watches.len() == WATCHES_MAX {
            self.watches.remove(0).abort();
        }
        let watcher = Watcher {
            number: self.next_watcher.replace(self.next_watcher.get() + 1),
            member: asker.member,
            starts: Arc::clone(&asker.plan.starts[asker.member]),
            request,
            clock: asker.plan.clock,
            records: Rc::clone(&asker.records),
            seen: Rc::default(),
            is_open: false,
            survives_compactions: false,
        };
        self.watches.push(tokio::task::spawn_local(watcher.run()));
    }

    fn close(self) {
        for watch in self.watches {
            watch.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::process::sets::Set;
    use std::collections::{BTreeMap, BTreeSet};

    fn plan(members: usize, clients: usize) -> Plan {
        Plan {
            clock: Clock::start(),
            is_etcd: false,
            members,
            starts: Vec::new(),
            ids: Vec::new(),
            clients,
            pause: Duration::ZERO,
            call_deadline: Duration::ZERO,
        }
    }

    #[test]
    fn every_workload_of_a_mix_has_a_client() {
        for members in 1..=5 {
            for clients in 1..=40 {
                let plan = plan(members, clients);
                for mix in 1..=clients.min(Kind::SOUND.len()) {
                    let kinds = &Kind::SOUND[..mix];
                    let had: BTreeSet<Kind> = (0..clients).map(|client| kind_of(client, &plan, kinds)).collect();
                    assert_eq!(had.len(), mix, "{clients} clients of {members} members");
                }
            }
        }
    }

    #[test]
    fn every_workload_of_every_scenario_is_asked_of_two_members() {
        for scenario in Set::Full.scenarios().chain(Set::Unguarded.scenarios()) {
            let plan = plan(scenario.members, scenario.clients());
            let mut asked: BTreeMap<Kind, BTreeSet<usize>> = BTreeMap::new();
            for client in 0..plan.clients {
                let kind = kind_of(client, &plan, scenario.workloads);
                asked.entry(kind).or_default().insert(client % plan.members);
            }
            assert!(
                scenario
                    .workloads
                    .iter()
                    .all(|kind| asked.get(kind).is_some_and(|members| members.len() > 1)),
                "{}: {asked:?}",
                scenario.name
            );
        }
    }
}
