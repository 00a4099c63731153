//! Clients as applications have them, which write and note when they were answered: no history, so that they
//! cost little beside what they measure.
//!
//! Each knows all endpoints, a different one first, and half of them the leader once they have asked; half of each
//! kind use streams. Not here: what the
//! times mean (`failover`, `steady`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use dipper_client::{Client, Writes};
use tokio::task::LocalSet;

use super::{
    client::{Way, connect},
    clock::Clock,
    command::{Error, Result, failed},
};

pub const MEMBERS: usize = 3;

/// One write's end.
#[derive(Clone, Debug)]
pub struct Write {
    pub client: usize,
    pub ended: u64,
    /// Why it was not acknowledged.
    pub error: Option<String>,
}

impl Write {
    pub fn is_acknowledged(&self) -> bool {
        self.error.is_none()
    }
}

/// Clients that write as fast as they are answered, on a thread of their own.
pub struct Writers {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<Vec<Write>>>,
}

impl Writers {
    pub fn start(clock: Clock, is_etcd: bool, clients: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, write_all(clock, is_etcd, clients, pause, stopped))
        });
        Self { stop, thread }
    }

    pub fn stop(self) -> Result<Vec<Write>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| failed("the writers panicked"))
    }
}

async fn write_all(
    clock: Clock,
    is_etcd: bool,
    clients: usize,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Write>> {
    let mut tasks = Vec::new();
    for client in 0..clients {
        let order: Vec<usize> = (0..MEMBERS).map(|i| (client + i) % MEMBERS).collect();
        // One half looks for the leader, as our library does; the other uses its endpoints in turn, as etcd's does.
        let writes = if client % 2 == 0 {
            Writes::ToLeader
        } else {
            Writes::ToEndpoints
        };
        let way = if client % 4 < 2 { Way::Calls } else { Way::Streams };
        let connection = connect(&order, writes, way, is_etcd, Duration::from_secs(5))?;
        tasks.push(tokio::task::spawn_local(write(
            client,
            connection,
            clock,
            pause,
            Arc::clone(&stop),
        )));
    }
    let mut writes = Vec::new();
    for task in tasks {
        writes.extend(task.await.map_err(|error| Error::Failed(error.to_string()))?);
    }
    Ok(writes)
}

async fn write(client: usize, connection: Client, clock: Clock, pause: Duration, stop: Arc<AtomicBool>) -> Vec<Write> {
    let mut writes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let outcome = connection
            .put(format!("w{client}"), writes.len().to_string())
            .send()
            .await;
        writes.push(Write {
            client,
            ended: clock.now(),
            error: outcome.err().map(|error| error.to_string()),
        });
        tokio::time::sleep(pause).await;
    }
    writes
}
