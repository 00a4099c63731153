//! The second phase: nothing breaks any more, a quorum is there, and it must make progress within bounds; then
//! everything that was promised is compared with everything that is there.

use super::{
    swarm::{MS, S},
    world::{Index, World},
};
use crate::{
    history::{Final, Outcome, Range, Record, Reply, Request},
    world::messages,
};
use raft_node::replica::Standing;
use std::collections::BTreeSet;

impl World {
    /// A leader within two seconds, every request answered within ten more, all members equal.
    pub fn live(&mut self) {
        let healed = self.now;
        self.heal();
        self.run_until(healed + 2 * S);
        self.check_leader();
        for _ in 0..4 {
            for index in self.sound() {
                self.probe(index);
            }
            let end = self.now + 10 * MS;
            self.run_until(end);
        }
        self.run_until(healed + 12 * S);
        self.check_end();
    }

    fn standings(&self) -> impl Iterator<Item = &Standing> {
        self.sound().into_iter().map(|index| {
            let process = self.nodes[index].process.as_ref();
            process.expect("all of the core were started").replica.standing()
        })
    }

    fn check_leader(&self) {
        let leaders: BTreeSet<u64> = self.standings().map(|standing| standing.leader).collect();
        assert!(
            leaders.len() == 1 && !leaders.contains(&0),
            "no leader 2 s after everything was healed: {leaders:x?}"
        );
        assert!(
            self.standings().all(|standing| standing.serving),
            "a member does not serve"
        );
    }

    fn check_end(&mut self) {
        let open: Vec<_> = self.clients.open.values().map(|open| &open.request).collect();
        assert!(open.is_empty(), "unanswered: {open:?}");
        let failed = &self.clients.failed_probes;
        assert!(failed.is_empty(), "a healed cluster refused: {failed:?}");
        self.judge.check_log();
        let finals: Vec<(u64, Final)> = self.sound().into_iter().map(|index| self.last_of(index)).collect();
        for pair in finals.windows(2) {
            let equal =
                (pair[0].0, pair[0].1.hash, pair[0].1.revision) == (pair[1].0, pair[1].1.hash, pair[1].1.revision);
            assert!(equal, "members differ: {finals:?}");
        }
        self.check_marks();
        self.judge
            .history
            .extend(finals.into_iter().map(|(_, last)| Record::Final(last)));
    }

    /// What was written under a lock, and acknowledged, is in the list that the lock guards.
    fn check_marks(&mut self) {
        let core = self.sound();
        let everything = Range {
            key: "marks/".to_owned(),
            range_end: "marks0".to_owned(),
            ..Range::default()
        };
        let view = self.process(core[0]).store().view();
        let found = view
            .range(&messages::range(&everything))
            .map(|reply| messages::range_reply(&reply));
        let found = found.unwrap_or_else(|error| panic!("a healed member refuses a range: {error:?}"));
        let mut marks: BTreeSet<(&str, &str)> = BTreeSet::new();
        for kv in &found.kvs {
            marks.extend(kv.value.split(',').map(|mark| (kv.key.as_str(), mark)));
        }
        let lost = self.judge.history.iter().find_map(|record| {
            let (key, mark) = acknowledged_mark(record)?;
            (!marks.contains(&(key, mark))).then(|| format!("{key}: {mark}"))
        });
        assert!(
            lost.is_none(),
            "a lock lost what it guards: {lost:?} was acknowledged, and is not there"
        );
    }

    fn last_of(&mut self, index: Index) -> (u64, Final) {
        let decided = self.judge.canon.len() as u64;
        let now = self.now;
        let store = self.process(index).store();
        assert_eq!(store.applied().index, decided, "member {index} lags behind for ever");
        let view = store.view();
        let walked = view.hash_kv(0);
        assert_eq!(
            walked,
            Ok(view.hash_kv_kept()),
            "member {index}: the hash that apply keeps is not that of the rows"
        );
        let leases = view.leases();
        let late = leases.iter().find(|id| self.judge.lease_never_ends(**id, now));
        assert!(late.is_none(), "lease {late:?} never ends");
        let hash = walked.map_or(0, |walked| walked.hash);
        let last = Final {
            member: index as u32,
            revision: view.revision(),
            compact_revision: view.compact_revision(),
            hash,
        };
        (view.state_hash(), last)
    }
}

/// The last element of a list of marks that was certainly written.
fn acknowledged_mark(record: &Record) -> Option<(&str, &str)> {
    let Record::Operation(operation) = record else {
        return None;
    };
    let put = match (&operation.request, &operation.outcome) {
        (Request::Put(put), Outcome::Ok(_)) => put,
        (Request::Txn(txn), Outcome::Ok(Reply::Txn { succeeded: true, .. })) => match txn.success.first() {
            Some(Request::Put(put)) => put,
            _ => return None,
        },
        _ => return None,
    };
    let mark = put.value.rsplit(',').next()?;
    put.key.starts_with("marks/").then_some((put.key.as_str(), mark))
}
