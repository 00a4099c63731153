//! What a member tells about itself: to health checks, to Prometheus, and on the peer port.

use std::sync::{Arc, atomic::Ordering};

use arc_swap::ArcSwapOption;
use proto::{
    Error,
    etcdserverpb::{AlarmType, RangeRequest},
};
use serde_json::json;

use super::Node;
use crate::{
    driver::View,
    grpc::{Member as _, Traffic},
    http::HealthSource,
    metrics::{ClientBytes, Facts, PeerFacts, RoundTrips, StoreFacts, WatchFacts},
    status::Status,
};

/// The node, with what the HTTP pages need beside it.
pub struct Source {
    pub node: Arc<Node>,
    /// Known once the server runs.
    pub traffic: Arc<ArcSwapOption<Traffic>>,
}

impl HealthSource for Source {
    fn status(&self) -> Arc<Status> {
        let status = self.node.published.status.load_full();
        let stopping = *self.node.stopping.borrow();
        if stopping {
            Arc::new(Status {
                stopping,
                ..(*status).clone()
            })
        } else {
            status
        }
    }

    fn alarms(&self) -> Vec<&'static str> {
        self.node
            .latest()
            .alarms()
            .iter()
            .filter_map(|alarm| alarm_name(alarm.alarm))
            .collect()
    }

    async fn read_local(&self) -> Result<(), Error> {
        let view = self.node.latest();
        self.node.blocking(move || read_one(&view)).await?
    }

    async fn read_linearizable(&self) -> Result<(), Error> {
        let view = self
            .node
            .read_index(tokio::time::Instant::now() + self.check_time_max())
            .await?;
        self.node.blocking(move || read_one(&view)).await?
    }

    fn check_time_max(&self) -> std::time::Duration {
        self.node.limits.request_timeout
    }

    fn facts(&self) -> Facts {
        let node = &self.node;
        let view = node.latest();
        let stats = node.peers.stats();
        let peers = stats.peers.into_iter().map(|(id, counts)| PeerFacts {
            id,
            connected: counts.connected,
            disconnects: counts.disconnects,
            sent_bytes: counts.sent_bytes,
            received_bytes: counts.received_bytes,
            send_failures: counts.send_failures + counts.drops,
            receive_failures: counts.receive_failures,
            round_trips: Some(round_trips(&counts.round_trips)),
            snapshots_sent: counts.snapshots_sent,
            snapshots_send_failures: counts.snapshots_failed,
            snapshots_received: counts.snapshots_received,
            snapshots_receive_failures: counts.snapshot_receive_failures,
        });
        Facts {
            status: self.status(),
            store: self.store(&view),
            peers: peers.collect(),
            rpcs: node.counters.facts(),
            client_bytes: self.traffic.load().as_ref().map(|traffic| ClientBytes {
                received: traffic.received_bytes(),
                sent: traffic.sent_bytes(),
            }),
            watches: Some(WatchFacts {
                streams: node.published.watchers.streams() as u64,
                watchers: node.published.watchers.watches() as u64,
                behind: 0,
            }),
            quota_bytes: node.limits.quota_bytes,
        }
    }
}

impl Source {
    fn store(&self, view: &View) -> StoreFacts {
        let alarms = view.alarms();
        StoreFacts {
            revision: view.revision(),
            compact_revision: view.compact_revision(),
            keys: view.keys_total(),
            live_bytes: view.live_bytes(),
            disk_bytes: self.node.disk_bytes.load(Ordering::Relaxed),
            leases: view.leases().len() as u64,
            alarms: alarms
                .iter()
                .filter_map(|row| Some((row.member_id, alarm_name(row.alarm)?)))
                .collect(),
        }
    }
}

/// `GET` pages of the peer port.
pub fn peer_page(path: &str, view: &View) -> Option<String> {
    match path {
        "/version" => Some(
            json!({"etcdserver": proto::ETCD_VERSION, "etcdcluster": proto::ETCD_CLUSTER_VERSION,
                "storage": proto::ETCD_CLUSTER_VERSION})
            .to_string(),
        ),
        "/members" => {
            let member = |member: &proto::node::Member| {
                json!({"id": member.id, "peerURLs": member.peer_urls, "name": member.name,
                    "clientURLs": member.client_urls})
            };
            let members: Vec<_> = view.membership().members.iter().map(member).collect();
            Some(serde_json::Value::from(members).to_string())
        }
        _ => None,
    }
}

fn round_trips(counts: &crate::peer::RoundTrips) -> RoundTrips {
    let mut bounded = [0; 16];
    let (within, above) = counts.buckets.split_at(bounded.len());
    bounded.copy_from_slice(within);
    RoundTrips::from_counts(bounded, above.iter().sum(), counts.sum)
}

fn read_one(view: &View) -> Result<(), Error> {
    let request = RangeRequest {
        key: vec![0].into(),
        limit: 1,
        keys_only: true,
        ..RangeRequest::default()
    };
    view.range(&request).map(drop)
}

fn alarm_name(alarm: i32) -> Option<&'static str> {
    match AlarmType::try_from(alarm) {
        Ok(AlarmType::Nospace) => Some("NOSPACE"),
        Ok(AlarmType::Corrupt) => Some("CORRUPT"),
        _ => None,
    }
}
