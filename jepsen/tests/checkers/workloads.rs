//! Leases, locks, banks, sets and payments: each anomaly by its name, on histories of a few records.
//!
//! A script is run on the model; then something is changed in what came out.

use jepsen::checkers::{Anomaly, canonical::Log, lease, promises, revision};
use jepsen::expectations::{Expectations, Promise};
use jepsen::history::{Operation, Outcome, Put, Range, RangeReply, Record, Reply, Request, Txn};
use jepsen::model::{Etcd, execute};

const MS: u64 = 1_000_000;

/// A history in the making: what is asked happens halfway, 2 ms after the call.
#[derive(Default)]
struct Script {
    etcd: Etcd,
    history: Vec<Record>,
    process: u32,
}

impl Script {
    /// Asks at a time in milliseconds.
    fn ask(&mut self, at_ms: u64, request: Request) -> &mut Operation {
        let outcome = match self.etcd.apply(&request) {
            Ok((reply, _)) => Outcome::Ok(reply),
            Err(refusal) => Outcome::Failed(refusal.text().to_owned()),
        };
        self.say(at_ms, request, outcome)
    }

    /// Records what never reached the model.
    fn say(&mut self, at_ms: u64, request: Request, outcome: Outcome) -> &mut Operation {
        self.process += 1;
        self.history.push(Record::Operation(Operation {
            process: self.process,
            member: 0,
            incarnation: 0,
            invoked: at_ms * MS,
            returned: (at_ms + 4) * MS,
            request,
            outcome,
        }));
        match self.history.last_mut() {
            Some(Record::Operation(operation)) => operation,
            _ => unreachable!(),
        }
    }

    /// Happens without anybody having asked.
    fn happen(&mut self, request: &Request) {
        self.etcd.apply(request).unwrap();
    }

    fn judge(&self, expectations: &Expectations) -> Vec<String> {
        let log = Log::new(self.etcd.log.clone());
        let (claims, mut anomalies): (_, Vec<Anomaly>) = revision::check(&self.history, &log, expectations);
        anomalies.extend(lease::check(&self.history, &log, &claims, expectations));
        anomalies.extend(promises::check(&self.history, &log, &claims, expectations));
        let mut names: Vec<_> = anomalies.into_iter().map(|anomaly| anomaly.name).collect();
        names.dedup();
        names
    }

    #[track_caller]
    fn is(&self, expectations: &Expectations, expected: &[&str]) {
        assert_eq!(self.judge(expectations), expected, "{:#?}", self.history);
    }
}

fn put(key: &str, value: &str, lease: i64) -> Request {
    Request::Put(Put {
        key: key.to_owned(),
        value: value.to_owned(),
        lease,
        ..Put::default()
    })
}

fn get(key: &str, range_end: &str) -> Request {
    Request::Range(Range {
        key: key.to_owned(),
        range_end: range_end.to_owned(),
        ..Range::default()
    })
}

fn txn(success: Vec<Request>) -> Request {
    Request::Txn(Txn {
        success,
        ..Txn::default()
    })
}

fn promising(promise: Promise) -> Expectations {
    Expectations {
        promises: vec![promise],
        ..Expectations::default()
    }
}

/// A lease of 5 s with a key, kept alive at 3 s.
fn leased() -> Script {
    let mut script = Script::default();
    script.ask(0, Request::LeaseGrant { id: 1, ttl_s: 5 });
    script.ask(10, put("k", "v", 1));
    script.ask(3000, Request::LeaseKeepAlive { id: 1 });
    script
}

#[test]
fn a_lease_that_ends_in_time_is_right() {
    let mut script = leased();
    script.happen(&Request::LeaseRevoke { id: 1 });
    script.ask(8100, get("k", ""));
    script.ask(8200, Request::LeaseKeepAlive { id: 1 });
    let patient = Expectations {
        lease_late_ms: Some(1000),
        ..Expectations::default()
    };
    script.is(&patient, &[]);
}

#[test]
fn a_lease_that_ends_early_is_found_down_to_the_tolerance() {
    // Renewed by a call at 3000 ms for 5 s, seen gone at the return of a read.
    for (seen_at, expected) in [
        (7900, &["lease expired early"][..]),
        (7940, &["lease expired early"]),
        (7960, &[]),
    ] {
        let mut script = leased();
        script.happen(&Request::LeaseRevoke { id: 1 });
        script.ask(seen_at, get("k", ""));
        script.is(&Expectations::default(), expected);
    }
}

#[test]
fn a_lease_that_does_not_end_is_found() {
    let mut script = leased();
    script.ask(10_000, get("k", ""));
    script.is(&Expectations::default(), &[]);
    let patient = |late| Expectations {
        lease_late_ms: Some(late),
        ..Expectations::default()
    };
    script.is(&patient(1000), &["lease outlived its time"]);
    script.is(&patient(3000), &[]);
}

#[test]
fn a_dead_lease_stays_dead() {
    let mut script = leased();
    script.ask(4000, Request::LeaseRevoke { id: 1 });
    let alive = Outcome::Ok(Reply::LeaseKeepAlive { revision: 3, ttl_s: 5 });
    script.say(5000, Request::LeaseKeepAlive { id: 1 }, alive);
    script.is(&Expectations::default(), &["dead lease renewed"]);

    let mut script = leased();
    script.ask(4000, Request::LeaseRevoke { id: 1 });
    // A server that forgot that the lease is gone.
    script.etcd.leases.insert(1, 5);
    script.ask(5000, put("other", "v", 1));
    script.is(&Expectations::default(), &["write on a dead lease"]);
}

#[test]
fn a_live_lease_is_not_reported_dead() {
    for (at_ms, expected) in [(4000, &["live lease reported dead"][..]), (7990, &[])] {
        let mut script = leased();
        let dead = Outcome::Ok(Reply::LeaseKeepAlive { revision: 2, ttl_s: 0 });
        script.say(at_ms, Request::LeaseKeepAlive { id: 1 }, dead);
        script.is(&Expectations::default(), expected);
    }
    let mut script = leased();
    let not_found = Outcome::Failed("etcdserver: requested lease not found".to_owned());
    script.say(4000, put("other", "v", 1), not_found);
    script.is(&Expectations::default(), &["live lease reported dead"]);
}

#[test]
fn leases_come_from_grants() {
    let mut script = Script::default();
    script.happen(&Request::LeaseGrant { id: 9, ttl_s: 5 });
    script.ask(0, put("k", "v", 9));
    script.is(&Expectations::default(), &["lease that nobody granted"]);

    let mut script = Script::default();
    let exists = Outcome::Failed("etcdserver: lease already exists".to_owned());
    script.say(0, Request::LeaseGrant { id: 9, ttl_s: 5 }, exists);
    script.is(&Expectations::default(), &["refused without a reason"]);

    let mut script = Script::default();
    let less = Outcome::Ok(Reply::LeaseGrant {
        revision: 1,
        id: 9,
        ttl_s: 4,
    });
    script.say(0, Request::LeaseGrant { id: 9, ttl_s: 5 }, less);
    script.is(&Expectations::default(), &["granted less than asked"]);
}

#[test]
fn a_revoked_lease_takes_all_its_keys() {
    let mut script = leased();
    script.ask(3100, put("k2", "v", 1));
    let revoked = Outcome::Ok(Reply::LeaseRevoke { revision: 4 });
    script.happen(&Request::DeleteRange(jepsen::history::DeleteRange {
        key: "k".to_owned(),
        ..Default::default()
    }));
    script.say(4000, Request::LeaseRevoke { id: 1 }, revoked);
    script.is(
        &Expectations::default(),
        &["revoked lease keeps keys", "write of nobody"],
    );
}

fn bank() -> Expectations {
    promising(Promise::Bank {
        prefix: "bank/".to_owned(),
        total: 100,
    })
}

#[test]
fn the_banks_sum_is_constant() {
    let mut script = Script::default();
    script.ask(0, txn(vec![put("bank/a", "60", 0), put("bank/b", "40", 0)]));
    script.ask(10, txn(vec![put("bank/a", "50", 0), put("bank/b", "50", 0)]));
    script.ask(20, get("bank/", "bank0"));
    script.is(&bank(), &[]);
    // Half of a transfer, in the log and in a read.
    script.ask(30, put("bank/a", "40", 0));
    script.ask(40, get("bank/", "bank0"));
    script.is(&bank(), &["wrong total"]);
}

#[test]
fn sets_keep_their_elements() {
    let set = promising(Promise::Set {
        prefix: "set/".to_owned(),
    });
    let mut script = Script::default();
    script.ask(0, put("set/1", "", 0));
    script.ask(10, put("set/2", "", 0));
    script.ask(20, get("set/", "set0"));
    script.is(&set, &[]);
    let without = |script: &Script, gone: &str, revision: i64| {
        let effect = execute(script.etcd.timeline.now(), &get("set/", "set0")).unwrap();
        let Reply::Range(mut reply) = effect.reply else {
            panic!()
        };
        reply.kvs.retain(|kv| kv.key != gone);
        Outcome::Ok(Reply::Range(RangeReply {
            count: reply.kvs.len() as i64,
            revision,
            ..reply
        }))
    };
    let stale = without(&script, "set/2", 2);
    script.say(30, get("set/", "set0"), stale);
    script.is(&set, &["stale read", "lost element"]);

    let mut script = Script::default();
    script.happen(&put("set/7", "", 0));
    script.ask(10, get("set/", "set0"));
    script.is(&set, &["write of nobody", "phantom element"]);
}

fn payment(id: &str, from: &str, to: &str) -> Request {
    txn(vec![
        put(&format!("paid/{id}"), "a:b:30", 0),
        put("account/a", from, 0),
        put("account/b", to, 0),
    ])
}

#[test]
fn payments_happen_once() {
    let payments = promising(Promise::Payments {
        receipts: "paid/".to_owned(),
        accounts: "account/".to_owned(),
    });
    let opened = || {
        let mut script = Script::default();
        script.ask(0, txn(vec![put("account/a", "100", 0), put("account/b", "0", 0)]));
        script.ask(10, payment("1", "70", "30"));
        script
    };
    opened().is(&payments, &[]);

    let mut script = opened();
    script.ask(20, payment("1", "40", "60"));
    assert!(script.judge(&payments).contains(&"paid twice".to_owned()));

    let mut script = opened();
    script.ask(20, payment("2", "40", "61"));
    script.is(&payments, &["wrong amount paid"]);

    let mut script = opened();
    script.ask(20, put("account/a", "0", 0));
    script.is(&payments, &["paid without a receipt"]);

    let mut script = opened();
    let told = Outcome::Ok(Reply::Txn {
        revision: 3,
        succeeded: true,
        replies: Vec::new(),
    });
    script.say(20, payment("9", "40", "60"), told);
    assert!(script.judge(&payments).contains(&"lost payment".to_owned()));
}

#[test]
fn an_unguarded_lock_is_seen_to_fail() {
    let lock = promising(Promise::Lock {
        lock: "lock".to_owned(),
        resource: "list".to_owned(),
    });
    let mut script = Script::default();
    script.ask(0, put("lock", "ann", 0));
    script.ask(10, put("list", "ann:1", 0));
    script.ask(20, put("list", "ann:1,ann:2", 0));
    script.ask(30, put("lock", "bob", 0));
    script.ask(40, put("list", "ann:1,ann:2,bob:1", 0));
    script.is(&lock, &[]);
    let mut paused = Script {
        etcd: script.etcd.clone(),
        ..Script::default()
    };
    paused.history = script.history.clone();
    paused.ask(50, put("list", "ann:1,ann:2,bob:1,ann:3", 0));
    paused.is(&lock, &["write without the lock"]);
    script.ask(50, put("list", "ann:1,ann:2,bob:2", 0));
    script.is(&lock, &["lost update"]);
}
