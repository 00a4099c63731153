//! When a member stands for election: staggered, so that two members seldom stand at once.
//!
//! raft-rs draws its timeout from a thread-local random source at every reset. That would make runs
//! impossible to repeat, so the replica sets a timeout of its own before every tick:
//!
//! ```text
//! base + base/3 * ((rank of this member among the sorted voters + term) mod n) + 0..2 ticks (seeded)
//! ```
//!
//! With base = 15 ticks of 10 ms and three voters that is 150, 200 or 250 ms. The turn moves on with the
//! term, so a member that cannot win does not stand first for ever.

/// The election clock of one member, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Stagger {
    pub base: usize,
    pub seed: u64,
}

/// The most voters for which every member has a step of its own; more share steps.
const STEPS_MAX: usize = 7;
const JITTER: u64 = 3;

impl Stagger {
    fn step(&self) -> usize {
        (self.base / 3).max(1)
    }

    /// The timeout of `member` in `term`. `voters` need not be sorted; who is not among them ranks last.
    pub fn timeout(&self, member: u64, voters: &[u64], term: u64) -> usize {
        let steps = voters.len().clamp(1, STEPS_MAX);
        let rank = voters.iter().filter(|voter| **voter < member).count();
        let turn = (rank as u64).wrapping_add(term) % steps as u64;
        self.base + self.step() * turn as usize + (mix(self.seed ^ member ^ term.rotate_left(32)) % JITTER) as usize
    }

    /// Above every timeout: raft-rs wants an exclusive bound.
    pub fn upper_bound(&self) -> usize {
        self.base + self.step() * (STEPS_MAX - 1) + JITTER as usize
    }
}

/// One round of splitmix64: spreads a counter over all bits.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_never_share_a_step() {
        let stagger = Stagger { base: 15, seed: 7 };
        let voters = [30, 10, 20];
        for term in 0..100 {
            let mut timeouts = voters.map(|voter| stagger.timeout(voter, &voters, term));
            timeouts.sort_unstable();
            assert!(
                timeouts[0] + 2 < timeouts[1] && timeouts[1] + 2 < timeouts[2],
                "{timeouts:?} in term {term}"
            );
            assert!(timeouts[0] >= 15 && timeouts[2] < stagger.upper_bound());
        }
    }
}
