//! `/version`: the API level that is served, under the names that etcd's clients parse.
//!
//! Not Dipper's own version: that is in the first log line and in `dipper --version`.

use super::{HealthSource, Member};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The three versions; those of cluster and storage stand once the member has joined its cluster.
pub(super) async fn version<S: HealthSource>(State(shared): Member<S>) -> Response {
    let (cluster, storage) = if shared.source.status().ready {
        (proto::ETCD_CLUSTER_VERSION, proto::ETCD_CLUSTER_VERSION)
    } else {
        ("not_decided", "unknown")
    };
    // Written by hand: the order of the fields is etcd's, and the values need no escaping.
    let server = proto::ETCD_VERSION;
    let body = format!(r#"{{"etcdserver":"{server}","etcdcluster":"{cluster}","storage":"{storage}"}}"#);
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
