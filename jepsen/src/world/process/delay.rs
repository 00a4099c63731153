//! Packets that arrive late: the kernel hands them to us, we hand them back after a while (NFQUEUE).
//!
//! This kernel has no netem. A queue belongs to a network namespace, so a delay touches what one member
//! receives and nothing else; jitter lets packets overtake each other. Not here: loss (`network`).

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nfq::{Message, Queue, Verdict};

use super::{
    command::{Error, Result, failed, need, run},
    network::inside,
};
use crate::rng::Rng;

/// How late a packet may be beyond what was asked for: the queue's crate has nothing to wait on.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// What the kernel may queue; more is lost, as on a full link.
const PACKETS_MAX: u32 = 8192;
const RULE: &str = "INPUT -s 10.99.0.0/24 -j NFQUEUE --queue-num 0";

/// A delay that lasts until it is dropped.
#[derive(Debug)]
pub struct Delay {
    namespace: String,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Late {
    due: Instant,
    message: Message,
}

impl Delay {
    /// Everything that arrives in `namespace` is `time` late, and up to `jitter` more.
    pub fn begin(namespace: &str, time: Duration, jitter: Duration) -> Result<Self> {
        need(&["iptables-legacy"])?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let thread = inside(namespace, move || {
            match open() {
                Ok(queue) => {
                    // The one who waits for it is a few lines below.
                    let _ = ready.send(Ok(()));
                    hold_back(queue, time, jitter, &stopped);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        match is_ready.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Error::Skipped(format!("no NFQUEUE here: {error}"))),
            Err(_) => return failed("the thread that delays packets is gone"),
        }
        // Only now: a queue that nobody reads holds up everything.
        run(&format!("ip netns exec {namespace} iptables-legacy -A {RULE}"))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        // The namespace may be gone already, with its rules.
        let _ = run(&format!("ip netns exec {} iptables-legacy -D {RULE}", self.namespace));
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has shown itself as a network that is dead.
            let _ = thread.join();
        }
    }
}

fn open() -> io::Result<Queue> {
    let mut queue = Queue::open()?;
    queue.bind(0)?;
    queue.set_queue_max_len(0, PACKETS_MAX)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

fn hold_back(mut queue: Queue, time: Duration, jitter: Duration, stop: &AtomicBool) {
    let mut rng = Rng::new(1);
    let mut held: BinaryHeap<Reverse<Late>> = BinaryHeap::new();
    loop {
        while let Ok(message) = queue.recv() {
            held.push(Reverse(Late {
                due: Instant::now() + rng.between(time, time + jitter),
                message,
            }));
        }
        let is_over = stop.load(Ordering::Relaxed);
        while held
            .peek()
            .is_some_and(|Reverse(late)| is_over || late.due <= Instant::now())
        {
            let Some(Reverse(Late { mut message, .. })) = held.pop() else {
                break;
            };
            message.set_verdict(Verdict::Accept);
            // A packet that cannot be handed back is lost, as packets are.
            let _ = queue.verdict(message);
        }
        if is_over {
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Late {}

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::process::{
        footprint::Footprint,
        network::{Network, Node},
    };

    #[test]
    fn both_directions_are_late_and_then_no_more() {
        let footprint = Footprint::begin().unwrap();
        let network = match Network::new(&footprint, 2) {
            Err(Error::Skipped(why)) => return println!("skipped: {why}"),
            network => network.unwrap(),
        };
        let time = Duration::from_millis(20);
        let namespaces = (0..2).map(|member| network.namespace(Node::Member(member)));
        let delays: Vec<Delay> = namespaces.map(|each| Delay::begin(each, time, time).unwrap()).collect();
        let late = network.round_trip_ms(Node::Member(0), 1).unwrap();
        drop(delays);
        let prompt = network.round_trip_ms(Node::Member(0), 1).unwrap();
        assert!((40.0..120.0).contains(&late), "a round trip took {late} ms");
        assert!(prompt < 10.0, "a round trip without a delay took {prompt} ms");
    }
}
