//! The nemesis: what goes wrong, when, and for how long. It never takes more than the cluster promises to bear:
//! for each entry a quorum keeps a sound copy, so that whatever does not come back is a bug.

use super::{
    disk::Down,
    swarm::{Harm, MS, S},
    world::{Event, Index, MEMBERS_MAX, World, id_of, tell},
};
use crate::history::{Fault, Record};
use raft_node::replica::{Role, Time};

impl World {
    pub fn fault(&mut self) {
        if !self.is_faulty || self.swarm.harms.is_empty() {
            return;
        }
        let every = self.swarm.fault_every;
        let next = self.rng.between(every / 4, every * 2);
        self.after(next, Event::Fault);
        let index = self.rng.below(self.members() as u64) as usize;
        // Most of what is interesting happens to leaders.
        let led = (0..self.members()).find(|index| self.leads(*index));
        let index = led.filter(|_| self.rng.permille(400)).unwrap_or(index);
        let long = self.rng.between(50 * MS, 2 * S);
        let harm = self.swarm.harms[self.rng.below(self.swarm.harms.len() as u64) as usize];
        tell!(self, "{harm:?} at {index} for {long:?}");
        self.judge.faults += 1;
        self.judge.history.push(Record::Fault(Fault {
            from: self.now.as_nanos() as u64,
            until: (self.now + long).as_nanos() as u64,
            what: format!("{harm:?} at member {index}"),
        }));
        self.harm(harm, index, long);
    }

    fn harm(&mut self, harm: Harm, index: Index, long: Time) {
        match harm {
            Harm::Kill => self.restart(index, Down::Killed, long),
            Harm::PowerLoss => self.restart(index, Down::PowerLost, long),
            Harm::PowerLossOfAll => {
                for index in 0..self.members() {
                    let long = self.rng.between(10 * MS, S);
                    self.restart(index, Down::PowerLost, long);
                }
            }
            Harm::CutOff => {
                let (inbound, outbound) = self.rng.pick(&[(true, true), (true, false), (false, true)]);
                for other in (0..self.members()).filter(|other| *other != index) {
                    if inbound {
                        self.cut_link(other, index, Time::ZERO, long);
                    }
                    if outbound {
                        self.cut_link(index, other, Time::ZERO, long);
                    }
                }
            }
            Harm::OneLink => {
                let other = (index + 1 + self.rng.below(3) as usize) % self.members();
                if other != index {
                    self.cut_link(index, other, Time::ZERO, long);
                }
            }
            Harm::Halves => {
                let side = self.rng.number();
                self.cut_where(long, |from, to| (side >> from) & 1 != (side >> to) & 1);
            }
            Harm::Ring => {
                let members = self.members();
                self.cut_where(long, |from, to| {
                    let apart = (from + members - to) % members;
                    apart != 1 && apart != members - 1
                });
            }
            Harm::Swizzle => self.swizzle(long),
            Harm::Pause => self.pause(index, long),
            Harm::PauseOfAll => {
                for index in 0..self.members() {
                    let long = self.rng.between(10 * MS, long);
                    self.pause(index, long);
                }
            }
            Harm::SlowDisk => self.nodes[index].slow_until = self.now + long,
            Harm::SyncFails => self.nodes[index].sync_fails = true,
            Harm::DiskFull => self.nodes[index].full_until = self.now + long,
            Harm::Rot => self.rot(index, long),
            Harm::ClockJump => self.nodes[index].wall_jump += long * 60,
            Harm::MoveLeader => self.move_leader(index),
        }
    }

    fn restart(&mut self, index: Index, how: Down, long: Time) {
        self.go_down(index, how);
        self.after(long, Event::Start(index));
    }

    fn pause(&mut self, index: Index, long: Time) {
        if self.nodes[index].process.is_some() {
            let until = self.now + long;
            let paused = &mut self.nodes[index].paused_until;
            *paused = until.max(*paused);
            let wait = *paused - self.now;
            self.after(wait, Event::Resume(index));
        }
    }

    fn cut_link(&mut self, from: Index, to: Index, delay: Time, long: Time) {
        self.after(delay, Event::Cut(from, to, true));
        self.after(delay + long, Event::Cut(from, to, false));
    }

    fn cut_where(&mut self, long: Time, is_cut: impl Fn(Index, Index) -> bool) {
        for from in 0..self.members() {
            for to in (0..self.members()).filter(|to| *to != from) {
                if is_cut(from, to) {
                    self.cut_link(from, to, Time::ZERO, long);
                }
            }
        }
    }

    /// Links of some members stop one by one and come back in another order.
    fn swizzle(&mut self, long: Time) {
        let chosen = self.rng.number();
        for index in (0..self.members()).filter(|index| (chosen >> index) & 1 == 1) {
            let begin = self.rng.between(Time::ZERO, long);
            let end = begin + self.rng.between(10 * MS, long);
            for other in (0..self.members()).filter(|other| *other != index) {
                self.cut_link(index, other, begin, end - begin);
                self.cut_link(other, index, begin, end - begin);
            }
        }
    }

    /// A member's synced log rots while it is down. Only so many that a quorum stays sound.
    fn rot(&mut self, index: Index, long: Time) {
        let damaged = self.nodes.iter().filter(|node| node.is_damaged).count();
        if self.nodes[index].is_damaged || damaged >= (self.members() - 1) / 2 {
            return;
        }
        self.go_down(index, Down::Killed);
        let (random, is_misdirected) = (self.rng.number(), self.rng.permille(300));
        let node = &mut self.nodes[index];
        node.is_damaged |= node.disk.rot(random, is_misdirected);
        self.after(long, Event::Start(index));
    }

    fn move_leader(&mut self, index: Index) {
        let other = (index + 1) % self.members();
        let target = (!self.rng.permille(300)).then(|| id_of(other));
        self.ask_to_move(index, target);
    }

    pub fn leads(&self, index: Index) -> bool {
        let process = self.nodes[index].process.as_ref();
        process.is_some_and(|process| process.replica.standing().role == Role::Leader)
    }

    /// Everything works again for a quorum; the others stay down for good.
    pub fn heal(&mut self) {
        self.is_faulty = false;
        self.cut = [[0; MEMBERS_MAX]; MEMBERS_MAX];
        for index in 0..self.members() {
            let node = &mut self.nodes[index];
            (node.slow_until, node.full_until, node.sync_fails) = (self.now, self.now, false);
            node.paused_until = self.now;
            self.resume(index);
            self.start(index);
        }
        let mut core = self.sound();
        let quorum = self.members() / 2 + 1;
        assert!(
            core.len() >= quorum,
            "only {core:?} are left of {} members",
            self.members()
        );
        // Where clients are to notice nothing, nobody is taken from them.
        let spare = if self.swarm.is_patient { 0 } else { core.len() - quorum };
        for _ in 0..self.rng.below(spare as u64 + 1) {
            let out = self.rng.below(core.len() as u64) as usize;
            let index = core.remove(out);
            self.go_down(index, Down::Killed);
            self.nodes[index].is_halted = true;
        }
        tell!(self, "healed: {core:?}");
    }

    /// The members that did not refuse to start.
    pub fn sound(&self) -> Vec<Index> {
        (0..self.members())
            .filter(|index| !self.nodes[*index].is_halted)
            .collect()
    }
}
