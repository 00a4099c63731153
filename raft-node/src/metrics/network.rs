//! The part of the page that is about others: peers, snapshots to and from them, and clients' calls.
//!
//! Labels are etcd's: `To`, `From`, `Local`, `Remote` with ids in hexadecimal, and the four `grpc_*` of the
//! Go gRPC middleware.

use super::exposition::Page;
use super::hex;
use crate::histogram::Histogram;
use crate::status::Status;

/// Round trips with etcd's bounds: 0.1 ms to 3.3 s.
pub type RoundTrips = Histogram<100, 16>;

/// What passed between this member and another one.
#[derive(Clone, Debug, Default)]
pub struct PeerFacts {
    /// The other member.
    pub id: u64,
    /// Whether frames flow now.
    pub connected: bool,
    /// How often they ceased to.
    pub disconnects: u64,
    /// Bytes to it.
    pub sent_bytes: u64,
    /// Bytes from it.
    pub received_bytes: u64,
    /// Frames that did not reach it: no connection, a broken one, a full queue.
    pub send_failures: u64,
    /// Broken or refused input from it.
    pub receive_failures: u64,
    /// Pings answered, where they are timed.
    pub round_trips: Option<RoundTrips>,
    /// Snapshots streamed to it completely.
    pub snapshots_sent: u64,
    /// Snapshots broken off on the way to it.
    pub snapshots_send_failures: u64,
    /// Snapshots taken from it completely.
    pub snapshots_received: u64,
    /// Snapshots broken off, or found damaged, on the way from it.
    pub snapshots_receive_failures: u64,
}

/// Calls of one gRPC method.
#[derive(Clone, Debug, Default)]
pub struct RpcFacts {
    /// `unary`, `server_stream`, `client_stream` or `bidi_stream`.
    pub kind: &'static str,
    /// With its package: `etcdserverpb.KV`.
    pub service: &'static str,
    /// `Put`.
    pub method: &'static str,
    /// Calls that arrived.
    pub started: u64,
    /// Calls that ended, by Go's name of the gRPC code: `OK`, `InvalidArgument`.
    pub handled: Vec<(&'static str, u64)>,
}

/// Bytes of clients' calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientBytes {
    /// From clients.
    pub received: u64,
    /// To clients.
    pub sent: u64,
}

/// Connections, bytes, failures, round trips and snapshots by peer.
pub(super) fn peers(page: &mut Page, status: &Status, peers: &[PeerFacts]) {
    if peers.is_empty() {
        return;
    }
    by_peer(
        page,
        peers,
        "etcd_network_peer_sent_bytes_total",
        "The total number of bytes sent to peers.",
        "To",
        |peer| peer.sent_bytes,
    );
    by_peer(
        page,
        peers,
        "etcd_network_peer_received_bytes_total",
        "The total number of bytes received from peers.",
        "From",
        |peer| peer.received_bytes,
    );
    by_peer(
        page,
        peers,
        "etcd_network_peer_sent_failures_total",
        "The total number of send failures to peers.",
        "To",
        |peer| peer.send_failures,
    );
    by_peer(
        page,
        peers,
        "etcd_network_peer_received_failures_total",
        "The total number of receive failures from peers.",
        "From",
        |peer| peer.receive_failures,
    );
    connections(page, &hex(status.member_id), peers);
    round_trips(page, peers);
    snapshots(page, peers);
}

fn connections(page: &mut Page, local: &str, peers: &[PeerFacts]) {
    between(
        page,
        local,
        peers,
        "etcd_network_known_peers",
        "gauge",
        "The current number of known peers.",
        |_| 1,
    );
    between(
        page,
        local,
        peers,
        "etcd_network_active_peers",
        "gauge",
        "The current number of active peer connections.",
        |peer| u64::from(peer.connected),
    );
    between(
        page,
        local,
        peers,
        "etcd_network_disconnected_peers_total",
        "counter",
        "The total number of disconnected peers.",
        |peer| peer.disconnects,
    );
}

fn round_trips(page: &mut Page, peers: &[PeerFacts]) {
    if peers.iter().any(|peer| peer.round_trips.is_some()) {
        let name = "etcd_network_peer_round_trip_time_seconds";
        let mut family = page.family(name, "histogram", "Round-Trip-Time histogram between peers");
        for peer in peers {
            if let Some(round_trips) = &peer.round_trips {
                family.histogram(&[("To", &hex(peer.id))], round_trips);
            }
        }
    }
}

fn by_peer(
    page: &mut Page,
    peers: &[PeerFacts],
    name: &str,
    help: &str,
    label: &str,
    number: impl Fn(&PeerFacts) -> u64,
) {
    let mut family = page.family(name, "counter", help);
    for peer in peers {
        family.series(&[(label, &hex(peer.id))], number(peer));
    }
}

fn between(
    page: &mut Page,
    local: &str,
    peers: &[PeerFacts],
    name: &str,
    kind: &str,
    help: &str,
    number: impl Fn(&PeerFacts) -> u64,
) {
    let mut family = page.family(name, kind, help);
    for peer in peers {
        family.series(&[("Local", local), ("Remote", &hex(peer.id))], number(peer));
    }
}

fn snapshots(page: &mut Page, peers: &[PeerFacts]) {
    let (to, from) = ("To", "From");
    let sends = "Total number of successful snapshot sends";
    by_peer(page, peers, "etcd_network_snapshot_send_success", sends, to, |peer| {
        peer.snapshots_sent
    });
    let failures = "Total number of snapshot send failures";
    by_peer(
        page,
        peers,
        "etcd_network_snapshot_send_failures",
        failures,
        to,
        |peer| peer.snapshots_send_failures,
    );
    let receives = "Total number of successful snapshot receives";
    by_peer(
        page,
        peers,
        "etcd_network_snapshot_receive_success",
        receives,
        from,
        |peer| peer.snapshots_received,
    );
    let failures = "Total number of snapshot receive failures";
    by_peer(
        page,
        peers,
        "etcd_network_snapshot_receive_failures",
        failures,
        from,
        |peer| peer.snapshots_receive_failures,
    );
}

/// Calls by method and outcome.
pub(super) fn rpcs(page: &mut Page, rpcs: &[RpcFacts], bytes: Option<&ClientBytes>) {
    if let Some(bytes) = bytes {
        page.counter(
            "etcd_network_client_grpc_received_bytes_total",
            "The total number of bytes received from grpc clients.",
            bytes.received,
        );
        page.counter(
            "etcd_network_client_grpc_sent_bytes_total",
            "The total number of bytes sent to grpc clients.",
            bytes.sent,
        );
    }
    if rpcs.is_empty() {
        return;
    }
    let mut started = page.family(
        "grpc_server_started_total",
        "counter",
        "Total number of RPCs started on the server.",
    );
    for rpc in rpcs {
        started.series(&method_labels(rpc), rpc.started);
    }
    let mut handled = page.family(
        "grpc_server_handled_total",
        "counter",
        "Total number of RPCs completed on the server, regardless of success or failure.",
    );
    for rpc in rpcs {
        let [kind, service, method] = method_labels(rpc);
        for (code, count) in &rpc.handled {
            handled.series(&[kind, service, method, ("grpc_code", code)], count);
        }
    }
}

fn method_labels(rpc: &RpcFacts) -> [(&'static str, &'static str); 3] {
    [
        ("grpc_type", rpc.kind),
        ("grpc_service", rpc.service),
        ("grpc_method", rpc.method),
    ]
}
