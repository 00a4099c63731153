//! Leases: granted, kept alive or not, with keys that end with them.

use super::{Step, Values, get};
use crate::{
    history::{Outcome, Put, Reply, Request},
    rng::Rng,
};

const KEYS: u64 = 6;
/// A client keeps few leases, so that each is asked about often.
const OWNED_MAX: usize = 3;

/// The leases that a client believes to have.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    leases: Vec<i64>,
}

impl Owned {
    pub fn next(&mut self, values: &mut Values, rng: &mut Rng) -> Step {
        let key = format!("lease/{}", rng.below(KEYS));
        if self.leases.is_empty() || (self.leases.len() < OWNED_MAX && rng.permille(100)) {
            let ttl_s = 2 + rng.below(3) as i64;
            return Step::Ask(Request::LeaseGrant { id: values.id(), ttl_s });
        }
        let id = self.leases[rng.below(self.leases.len() as u64) as usize];
        let request = match rng.below(20) {
            0..=5 => Request::LeaseKeepAlive { id },
            6..=10 => Request::Put(Put {
                key,
                value: values.next(),
                lease: id,
                ..Put::default()
            }),
            11 => Request::Put(Put {
                key,
                value: values.next(),
                ..Put::default()
            }),
            12 => Request::Put(Put {
                key,
                value: values.next(),
                ignore_lease: true,
                ..Put::default()
            }),
            13 if rng.permille(300) => Request::LeaseRevoke { id },
            13..=15 => Request::LeaseTimeToLive { id },
            16 => return Step::Rest,
            _ => get(key),
        };
        Step::Ask(request)
    }

    pub fn done(&mut self, request: &Request, outcome: &Outcome) {
        match (request, outcome) {
            (Request::LeaseGrant { id, .. }, Outcome::Ok(_)) => self.leases.push(*id),
            (Request::LeaseRevoke { id } | Request::LeaseKeepAlive { id }, Outcome::Ok(reply)) => {
                let lives_on = matches!(reply, Reply::LeaseKeepAlive { ttl_s, .. } if *ttl_s > 0);
                if !lives_on {
                    self.leases.retain(|own| own != id);
                }
            }
            (Request::LeaseTimeToLive { id }, Outcome::Ok(Reply::LeaseTimeToLive { ttl_s, .. })) if *ttl_s < 0 => {
                self.leases.retain(|own| own != id);
            }
            _ => {}
        }
    }
}
