//! The network: frames are delayed, lost, sent twice, overtaken, cut off. The transport's contract is kept: a
//! forwarded write arrives at most once (TCP, and frames are never sent again).

use super::{
    engine::SimEngine,
    mutant::Mutant,
    swarm::{MS, US},
    world::{Event, Index, World, id_of, index_of},
};
use bytes::Bytes;
use kv::engine::{Batch, Engine as _, Family, Rows as _};
use prost::Message as _;
use proto::node::{Lane, PeerFrame, peer_frame::Body};
use raft_node::{
    log::EntryId,
    replica::{Input, Outgoing},
};

impl World {
    pub fn send(&mut self, from: Index, outgoing: Outgoing) {
        let (to, forward) = (index_of(outgoing.to), outgoing.forward());
        let Outgoing { lane, frame, .. } = outgoing;
        self.note(xxhash_rust::xxh3::xxh3_64(&frame.encode_to_vec()));
        if let Some(Body::Raft(message)) = &frame.body {
            self.check_message(from, message);
        }
        let (loss, duplicates) = if self.is_faulty {
            (self.swarm.loss, self.swarm.duplicates)
        } else {
            (0, 0)
        };
        if self.cut[from][to] > 0 || self.rng.permille(loss) {
            self.lost(from, to, forward);
            return;
        }
        let twice = if forward.is_some() {
            self.mutant == Mutant::ForwardTwice && self.rng.permille(100)
        } else {
            self.rng.permille(duplicates)
        };
        if twice {
            self.deliver(from, to, lane, frame.clone());
        }
        self.deliver(from, to, lane, frame);
    }

    fn lost(&mut self, from: Index, to: Index, forward: Option<u64>) {
        // There may have been no connection to begin with.
        if let Some(request) = forward
            && self.rng.permille(500)
        {
            self.push(from, Input::NotForwarded { request });
            return;
        }
        // A connection that breaks is usually noticed.
        if self.rng.permille(200) {
            let delay = self.rng.between(US, 500 * MS);
            let member = id_of(to);
            self.for_node(from, delay, Event::Input(from, Box::new(Input::Unreachable { member })));
        }
    }

    fn deliver(&mut self, from: Index, to: Index, lane: Lane, frame: PeerFrame) {
        let most = if self.is_faulty { self.swarm.delay } else { MS };
        let mut delay = self.rng.between(30 * US, most.max(50 * US));
        if self.is_faulty && self.rng.permille(self.swarm.spike) {
            delay += self.rng.between(5 * MS, 800 * MS);
        }
        let mut at = self.now + delay;
        if self.swarm.ordered || !self.is_faulty {
            // One connection for each lane.
            let last = &mut self.delivered[from][to][usize::from(lane == Lane::Bulk)];
            at = at.max(*last + US);
            *last = at;
        }
        self.after(at - self.now, Event::Frame { from, to, frame });
    }

    pub fn frame_lands(&mut self, from: Index, to: Index, frame: PeerFrame) {
        if self.cut[from][to] > 0 || self.nodes[to].process.is_none() {
            return;
        }
        let input = Input::Frame {
            from: id_of(from),
            frame,
        };
        if self.nodes[to].paused_until > self.now {
            // The kernel takes it in for a process that does not run.
            self.nodes[to].parked.push(Event::Input(to, Box::new(input)));
        } else {
            self.push(to, input);
        }
    }

    pub fn snapshot_lands(&mut self, (from, to): (Index, Index), at: EntryId, image: SimEngine, message: Bytes) {
        let is_rotten = self.is_faulty && self.rng.permille(100);
        let arrives = self.is_up(to)
            && self.cut[from][to] == 0
            && !(self.is_faulty && self.rng.permille(200))
            && (!is_rotten || self.mutant == Mutant::SnapshotUnchecked);
        if arrives {
            if is_rotten {
                rot(&image);
            }
            self.nodes[to].disk.staged.insert(at, image);
            let from = id_of(from);
            self.push(to, Input::SnapshotArrived { from, message });
        }
        // The word of it may be lost, too.
        let ok = arrives && self.cut[to][from] == 0 && !(self.is_faulty && self.rng.permille(100));
        let delay = self.rng.between(US, 20 * MS);
        if self.nodes[from].process.is_some() {
            let input = Input::SnapshotSent { to: id_of(to), ok };
            self.for_node(from, delay, Event::Input(from, Box::new(input)));
        }
    }
}

/// A flipped bit in the value of one key, as a block that nobody checks may have it.
fn rot(image: &SimEngine) {
    let snapshot = image.snapshot();
    let mut rows: Vec<_> = snapshot.scan(Family::Cur, &[], None).collect();
    let Some((key, row)) = rows.pop() else { return };
    let mut row = row.to_vec();
    if let Some(last) = row.last_mut() {
        *last ^= 1;
    }
    let mut batch = Batch::default();
    batch.put(Family::Cur, key, row.into());
    image.write(&batch);
    image.flush();
}
