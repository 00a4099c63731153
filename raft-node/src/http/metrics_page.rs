//! `/metrics`: the member's facts and this server's own counts of health checks, in one page.

use super::health::{CHECKS_BY_KIND, Checks};
use super::{HealthSource, Member};
use crate::metrics::exposition::{CONTENT_TYPE, Page};
use crate::metrics::process::Process;
use crate::metrics::render;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The page as of now.
pub(super) async fn metrics<S: HealthSource>(State(shared): Member<S>) -> Response {
    let mut page = Page::default();
    render(&mut page, &shared.source.facts(), &Process::this());
    health_checks(&mut page, &shared.checks);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page.into_text()).into_response()
}

fn health_checks(page: &mut Page, checks: &Checks) {
    page.counter(
        "etcd_server_health_success",
        "The total number of successful health checks",
        checks.healthy(),
    );
    page.counter(
        "etcd_server_health_failures",
        "The total number of failed health checks",
        checks.unhealthy(),
    );
    let counted: Vec<_> = CHECKS_BY_KIND
        .iter()
        .flat_map(|(kind, names)| {
            names
                .iter()
                .map(|name| (kind.name(), name.name(), checks.count(*kind, *name)))
        })
        .filter(|(_, _, count)| count.successes + count.errors > 0)
        .collect();
    if counted.is_empty() {
        return;
    }
    let mut last = page.family(
        "etcd_server_healthcheck",
        "gauge",
        "The result of each kind of healthcheck.",
    );
    for (kind, name, count) in &counted {
        last.series(&[("type", kind), ("name", name)], u8::from(count.last_was_success));
    }
    let mut totals = page.family(
        "etcd_server_healthchecks_total",
        "counter",
        "The total number of each kind of healthcheck.",
    );
    for (kind, name, count) in &counted {
        for (status, number) in [("success", count.successes), ("error", count.errors)] {
            totals.series(&[("type", kind), ("name", name), ("status", status)], number);
        }
    }
}
