//! A network of our own: one namespace per member and one for the clients, joined by a bridge, so that a fault
//! can never touch anything else on the machine.
//!
//! ```text
//!   hub  bridge 10.99.0.254  (the clients)
//!    |--- m0   peers 10.99.0.1   clients 10.99.0.101
//!    |--- m1   peers 10.99.0.2   clients 10.99.0.102
//! ```
//! Peers and clients have addresses of their own, so each kind of traffic is cut by itself. A cut is a rule in
//! the *receiver's* input chain: one direction, a silent drop, also for connections that are open. Each rule
//! counts what it drops; a cut that dropped nothing was none.
//! Not here: delays (`delay`), and who is cut off when (`fault`).

use std::{fmt::Write, fs::File, thread};

use nix::sched::{CloneFlags, setns};

use super::{
    command::{Error, Result, failed, need, run, run_with},
    footprint::{Footprint, Trace},
};

pub const PEER_PORT: u16 = 2380;
pub const CLIENT_PORT: u16 = 2379;

/// One direction of a link. Clients count as one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub from: Node,
    pub to: Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    Member(usize),
    Clients,
}

#[derive(Debug)]
pub struct Network {
    hub: String,
    members: Vec<String>,
}

impl Network {
    pub fn new(footprint: &Footprint, members: usize) -> Result<Self> {
        need(&["ip", "nft", "ping"])?;
        let network = Self {
            hub: footprint.name("hub"),
            members: (0..members).map(|i| footprint.name(&format!("m{i}"))).collect(),
        };
        for name in network.all() {
            footprint.note(&Trace::Namespace(name.clone()))?;
            run(&format!("ip netns add {name}"))
                .map_err(|error| Error::Skipped(format!("no network namespaces here: {error}")))?;
        }
        let hub = &network.hub;
        run_with(
            &format!("ip -n {hub} -batch -"),
            "link set lo up\nlink add br0 type bridge\nlink set br0 up\naddr add 10.99.0.254/24 dev br0\n",
        )?;
        for (member, name) in network.members.iter().enumerate() {
            run(&format!(
                "ip -n {hub} link add v{member} type veth peer name eth0 netns {name}"
            ))?;
            run_with(
                &format!("ip -n {hub} -batch -"),
                &format!("link set v{member} master br0\nlink set v{member} up\n"),
            )?;
            let (peer, client) = (peer_address(member), client_address(member));
            run_with(
                &format!("ip -n {name} -batch -"),
                // The first address is the source of what this member sends to the others.
                &format!(
                    "link set lo up\nlink set eth0 up\naddr add {peer}/24 dev eth0\naddr add {client}/24 dev eth0\n"
                ),
            )?;
        }
        for name in network.all() {
            let table = "table inet jepsen { chain input { type filter hook input priority 0; }; }\n";
            run_with(&format!("ip netns exec {name} nft -f -"), table)?;
        }
        network.await_links()?;
        Ok(network)
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.hub).chain(&self.members)
    }

    fn await_links(&self) -> Result<()> {
        for member in 0..self.members.len() {
            let reached = (0..50).any(|_| self.ping(Node::Clients, member));
            if !reached {
                return failed(format!("member {member}'s address cannot be reached in a new network"));
            }
        }
        Ok(())
    }

    pub fn namespace(&self, node: Node) -> &str {
        match node {
            Node::Member(member) => &self.members[member],
            Node::Clients => &self.hub,
        }
    }

    /// Cuts all of them, on top of what is cut already.
    pub fn cut(&self, cuts: &[Cut]) -> Result<()> {
        self.add_rules(cuts, "counter drop")
    }

    /// Drops this share of the packets.
    pub fn lose(&self, cuts: &[Cut], percent: u32) -> Result<()> {
        self.add_rules(cuts, &format!("numgen random mod 100 < {percent} counter drop"))
    }

    fn add_rules(&self, cuts: &[Cut], action: &str) -> Result<()> {
        let receivers = std::iter::once(Node::Clients).chain((0..self.members.len()).map(Node::Member));
        for receiver in receivers {
            let mut rules = String::new();
            for cut in cuts.iter().filter(|cut| cut.to == receiver) {
                let from = addresses(cut.from);
                writeln!(rules, "add rule inet jepsen input ip saddr {{ {from} }} {action}")
                    .expect("a string takes everything");
            }
            if !rules.is_empty() {
                run_with(&format!("ip netns exec {} nft -f -", self.namespace(receiver)), &rules)?;
            }
        }
        Ok(())
    }

    /// How many packets the present rules have dropped.
    pub fn dropped(&self) -> Result<u64> {
        let mut packets = 0;
        for name in self.all() {
            let rules = run(&format!("ip netns exec {name} nft list chain inet jepsen input"))?;
            packets += rules
                .split("counter packets ")
                .skip(1)
                .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(packets)
    }

    pub fn heal(&self) -> Result<()> {
        for name in self.all() {
            run(&format!("ip netns exec {name} nft flush chain inet jepsen input"))?;
        }
        Ok(())
    }

    /// Whether one packet to a member's peer address comes back within a second.
    pub fn ping(&self, from: Node, to: usize) -> bool {
        self.round_trip_ms(from, to).is_some()
    }

    /// The best of three round trips, from program to program (-U): the kernel's own time of arrival does not know
    /// that a packet is held back after it.
    pub fn round_trip_ms(&self, from: Node, to: usize) -> Option<f64> {
        let (name, address) = (self.namespace(from), peer_address(to));
        let output = run(&format!("ip netns exec {name} ping -U -q -c 3 -i 0.05 -w 1 {address}")).ok()?;
        output
            .split("min/avg/max/mdev = ")
            .nth(1)?
            .split('/')
            .next()?
            .parse()
            .ok()
    }
}

/// Runs `work` on a thread of its own inside a namespace; threads that it starts are inside as well.
pub fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    let (entered, answer) = std::sync::mpsc::sync_channel(1);
    let thread = thread::spawn(move || {
        let moved = setns(&file, CloneFlags::CLONE_NEWNET);
        let is_in = moved.is_ok();
        // The one who waits for it is the line below this thread.
        let _ = entered.send(moved);
        assert!(is_in, "outside of its namespace nothing may run");
        work()
    });
    match answer.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(errno)) => failed(format!("cannot enter the namespace {namespace}: {errno}")),
        Err(_) => failed("the thread that was to enter a namespace is gone"),
    }
}

pub fn peer_address(member: usize) -> String {
    format!("10.99.0.{}", member + 1)
}

pub fn client_address(member: usize) -> String {
    format!("10.99.0.{}", member + 101)
}

fn addresses(node: Node) -> String {
    match node {
        Node::Member(member) => format!("{}, {}", peer_address(member), client_address(member)),
        Node::Clients => "10.99.0.254".to_owned(),
    }
}
