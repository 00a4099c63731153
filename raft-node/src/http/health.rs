//! `/health`, `/livez` and `/readyz`: may this member be sent work, or should somebody look at it?
//!
//! ```text
//! GET /health                    200 {"health":"true","reason":""}
//! GET /health                    503 {"health":"false","reason":"RAFT NO LEADER"}
//! GET /readyz?verbose            200 [+]data_corruption ok ... ok
//! GET /readyz                    503 [-]linearizable_read failed: etcdserver: no leader ...
//! ```
//!
//! Bodies are etcd's to the byte, the newline that Go's `http.Error` adds to failures included; the order of
//! the checks, random in etcd, is fixed. The checks read; none of them repairs or restarts anything.

use super::{HealthSource, Member, plain_text};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Parameters = Query<Vec<(String, String)>>;

/// Which question a check belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Livez,
    Readyz,
}

/// One thing that can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

/// The checks of each question, in the order of their lines.
pub(super) const CHECKS_BY_KIND: [(Kind, &[Check]); 2] = [
    (Kind::Livez, &[Check::SerializableRead]),
    (
        Kind::Readyz,
        &[
            Check::DataCorruption,
            Check::SerializableRead,
            Check::LinearizableRead,
            Check::NonLearner,
        ],
    ),
];

/// What became of one check since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CheckCount {
    pub(super) successes: u64,
    pub(super) errors: u64,
    pub(super) last_was_success: bool,
}

/// Counts of the checks that were asked for; this server's own, so they live here and not in the Status.
#[derive(Default)]
pub(super) struct Checks {
    healthy: AtomicU64,
    unhealthy: AtomicU64,
    by_name: Mutex<BTreeMap<(Kind, Check), CheckCount>>,
}

/// `/health`: alarms, leader, a read; the first failure is the reason.
pub(super) async fn health<S: HealthSource>(State(shared): Member<S>, Query(parameters): Parameters) -> Response {
    let excluded: Vec<&str> = values(&parameters, "exclude").collect();
    let serializable = values(&parameters, "serializable").next() == Some("true");
    let reason = unhealthy_because(&shared.source, &excluded, serializable).await;
    shared.checks.count_health(reason.is_none());
    match reason {
        None => plain_text(StatusCode::OK, r#"{"health":"true","reason":""}"#.to_owned()),
        Some(reason) => {
            let reason = serde_json::Value::String(reason);
            plain_text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{{\"health\":\"false\",\"reason\":{reason}}}\n"),
            )
        }
    }
}

async fn unhealthy_because<S: HealthSource>(source: &S, excluded: &[&str], serializable: bool) -> Option<String> {
    if let Some(alarm) = source.alarms().into_iter().find(|alarm| !excluded.contains(alarm)) {
        return Some(format!("ALARM {alarm}"));
    }
    if !serializable && !source.status().has_leader() {
        return Some("RAFT NO LEADER".to_owned());
    }
    let read = if serializable {
        read_local(source).await
    } else {
        read_linearizable(source).await
    };
    read.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// `/livez`: should the process be restarted?
pub(super) async fn livez<S: HealthSource>(member: Member<S>, parameters: Parameters) -> Response {
    all_checks(Kind::Livez, member, parameters).await
}

/// `/readyz`: should it be sent work?
pub(super) async fn readyz<S: HealthSource>(member: Member<S>, parameters: Parameters) -> Response {
    all_checks(Kind::Readyz, member, parameters).await
}

/// `/livez/<check>`.
pub(super) async fn livez_check<S: HealthSource>(
    name: Path<String>,
    member: Member<S>,
    parameters: Parameters,
) -> Response {
    one_check(Kind::Livez, name, member, parameters).await
}

/// `/readyz/<check>`.
pub(super) async fn readyz_check<S: HealthSource>(
    name: Path<String>,
    member: Member<S>,
    parameters: Parameters,
) -> Response {
    one_check(Kind::Readyz, name, member, parameters).await
}

async fn all_checks<S: HealthSource>(kind: Kind, member: Member<S>, Query(parameters): Parameters) -> Response {
    // A name that no check has excludes nothing, and is no error.
    let excluded: Vec<&str> = values(&parameters, "exclude").collect();
    let checks: Vec<_> = kind
        .checks()
        .iter()
        .copied()
        .filter(|check| !excluded.contains(&check.name()))
        .collect();
    run(kind, &checks, member, &parameters).await
}

async fn one_check<S: HealthSource>(
    kind: Kind,
    Path(name): Path<String>,
    member: Member<S>,
    Query(parameters): Parameters,
) -> Response {
    match kind.checks().iter().find(|check| check.name() == name) {
        Some(check) => run(kind, &[*check], member, &parameters).await,
        None => plain_text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    }
}

async fn run<S: HealthSource>(
    kind: Kind,
    checks: &[Check],
    State(shared): Member<S>,
    parameters: &[(String, String)],
) -> Response {
    let mut details = String::new();
    let mut failed = false;
    for check in checks {
        let outcome = check.run(&shared.source).await;
        shared.checks.count_check(kind, *check, outcome.is_ok());
        failed |= outcome.is_err();
        // Writing into a String cannot fail.
        let _ = match outcome {
            Ok(()) => writeln!(details, "[+]{} ok", check.name()),
            Err(reason) => writeln!(details, "[-]{} failed: {reason}", check.name()),
        };
    }
    if failed {
        return plain_text(StatusCode::SERVICE_UNAVAILABLE, details + "\n");
    }
    let verbose = values(parameters, "verbose").next().is_some();
    plain_text(
        StatusCode::OK,
        if verbose { details + "ok\n" } else { "ok\n".to_owned() },
    )
}

fn values<'a>(parameters: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    parameters
        .iter()
        .filter(move |(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

async fn read_local<S: HealthSource>(source: &S) -> Result<(), proto::Error> {
    within(source, source.read_local()).await
}

async fn read_linearizable<S: HealthSource>(source: &S) -> Result<(), proto::Error> {
    within(source, source.read_linearizable()).await
}

async fn within<S: HealthSource>(
    source: &S,
    read: impl Future<Output = Result<(), proto::Error>>,
) -> Result<(), proto::Error> {
    tokio::time::timeout(source.check_time_max(), read)
        .await
        .unwrap_or(Err(proto::Error::Timeout))
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Livez => "livez",
            Kind::Readyz => "readyz",
        }
    }

    fn checks(self) -> &'static [Check] {
        CHECKS_BY_KIND[self as usize].1
    }
}

impl Check {
    pub(super) fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run<S: HealthSource>(self, source: &S) -> Result<(), String> {
        match self {
            Check::DataCorruption if source.alarms().contains(&"CORRUPT") => Err("alarm activated: CORRUPT".to_owned()),
            Check::NonLearner if source.status().is_learner => Err("not supported for learner".to_owned()),
            Check::DataCorruption | Check::NonLearner => Ok(()),
            Check::SerializableRead => read_local(source).await.map_err(|error| error.to_string()),
            Check::LinearizableRead => read_linearizable(source).await.map_err(|error| error.to_string()),
        }
    }
}

impl Checks {
    pub(super) fn healthy(&self) -> u64 {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn unhealthy(&self) -> u64 {
        self.unhealthy.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, kind: Kind, check: Check) -> CheckCount {
        self.by_name().get(&(kind, check)).copied().unwrap_or_default()
    }

    fn count_health(&self, healthy: bool) {
        let counter = if healthy { &self.healthy } else { &self.unhealthy };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn count_check(&self, kind: Kind, check: Check, success: bool) {
        let mut by_name = self.by_name();
        let count = by_name.entry((kind, check)).or_default();
        count.last_was_success = success;
        *(if success {
            &mut count.successes
        } else {
            &mut count.errors
        }) += 1;
    }

    fn by_name(&self) -> MutexGuard<'_, BTreeMap<(Kind, Check), CheckCount>> {
        // Numbers cannot be left half-changed.
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
