//! What the client port answers over plain HTTP: health, version and metrics. The same routes serve
//! `--listen-metrics-urls`.
//!
//! Paths, bodies and status codes are etcd's. Not here: the JSON gateway, and gRPC, whose routes are merged
//! with these by `grpc/`. Handlers ask a [`HealthSource`] and format; they decide nothing about the member.

mod health;
mod metrics_page;
mod version;

use crate::metrics::Facts;
use crate::status::Status;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use health::Checks;
use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// How long the answers in flight may take when the metrics server stops; a scrape takes milliseconds.
const STOP_TIME_MAX: Duration = Duration::from_secs(1);

/// What a member tells about itself; `Node` is one, tests have another.
pub trait HealthSource: Send + Sync + 'static {
    /// As the driver published it last.
    fn status(&self) -> Arc<Status>;

    /// Active alarms by etcd's names, `NOSPACE` and `CORRUPT`, those of all members.
    fn alarms(&self) -> Vec<&'static str>;

    /// Reads one key of the local state, as a serializable range would, and fails as it would.
    fn read_local(&self) -> impl Future<Output = Result<(), proto::Error>> + Send;

    /// The same at a fresh read index: succeeds only with a leader that a majority follows.
    fn read_linearizable(&self) -> impl Future<Output = Result<(), proto::Error>> + Send;

    /// How long a check may take: etcd's request timeout, 5 s and two election timeouts.
    fn check_time_max(&self) -> Duration;

    /// Everything that the metrics page shows.
    fn facts(&self) -> Facts;
}

/// What every handler gets: the member, and the counts of this server's own checks.
struct Shared<S> {
    source: S,
    checks: Checks,
}

/// The routes, for whoever serves them; clones share one count of checks.
pub fn router<S: HealthSource>(source: S) -> Router {
    let shared = Arc::new(Shared {
        source,
        checks: Checks::default(),
    });
    Router::new()
        .route("/health", any(health::health::<S>))
        .route("/livez", any(health::livez::<S>))
        .route("/livez/{check}", any(health::livez_check::<S>))
        .route("/readyz", any(health::readyz::<S>))
        .route("/readyz/{check}", any(health::readyz_check::<S>))
        .route("/version", any(version::version::<S>))
        .route("/metrics", any(metrics_page::metrics::<S>))
        .route_layer(middleware::from_fn(only_get))
        .with_state(shared)
}

/// Serves the routes on a listener of their own until `stop` resolves, then finishes what is in flight.
pub async fn serve_metrics(
    listener: TcpListener,
    routes: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (stopped, stopping) = tokio::sync::oneshot::channel();
    let until = async move {
        stop.await;
        // Nobody listens only if serving has ended already.
        let _ = stopped.send(());
    };
    let serving = axum::serve(listener, routes).with_graceful_shutdown(until);
    let serving = std::pin::pin!(serving.into_future());
    let bound = std::pin::pin!(async {
        let _ = stopping.await;
        tokio::time::sleep(STOP_TIME_MAX).await;
    });
    tokio::select! {
        served = serving => served,
        // Whoever still reads its answer now reads a closed connection when the runtime goes.
        () = bound => Ok(()),
    }
}

/// etcd answers any other method, HEAD included, with 405.
async fn only_get(request: Request, next: Next) -> Response {
    if request.method() == Method::GET {
        return next.run(request).await;
    }
    let mut response = plain_text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
    response
        .headers_mut()
        .insert(header::ALLOW, header::HeaderValue::from_static("GET"));
    response
}

/// A text answer with the headers that Go's `http.Error` sets.
fn plain_text(status: StatusCode, text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, text).into_response()
}

type Member<S> = State<Arc<Shared<S>>>;

#[cfg(test)]
mod tests;
