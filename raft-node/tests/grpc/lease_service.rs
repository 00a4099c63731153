//! Leases, as a client sees them. Time does not pass here.

use crate::fake::{Served, refusal, row};
use proto::{
    Error,
    etcdserverpb::{
        LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
        PutRequest, kv_client::KvClient, lease_client::LeaseClient,
    },
};
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_from_grant_to_revoke() {
    let served = Served::start();
    let mut lease = LeaseClient::new(served.channel.clone());
    let mut kv = KvClient::new(served.channel.clone());
    // Drawn ids skip those that clients gave themselves.
    let given = lease
        .lease_grant(LeaseGrantRequest { ttl: 30, id: 100 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((given.id, given.ttl, given.header.unwrap().revision), (100, 30, 1));
    let drawn = lease
        .lease_grant(LeaseGrantRequest { ttl: -5, id: 0 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((drawn.id, drawn.ttl), (101, 2));
    assert_eq!(
        refusal(lease.lease_grant(LeaseGrantRequest { ttl: 9, id: 100 }).await),
        row(&Error::LeaseExist)
    );
    let forever = LeaseGrantRequest {
        ttl: 9_000_000_001,
        id: 0,
    };
    assert_eq!(refusal(lease.lease_grant(forever).await), row(&Error::LeaseTTLTooLarge));

    for key in ["b", "a"] {
        kv.put(PutRequest {
            key: key.into(),
            lease: 100,
            ..PutRequest::default()
        })
        .await
        .unwrap();
    }
    let ask = |id, keys| LeaseTimeToLiveRequest { id, keys };
    let left = lease.lease_time_to_live(ask(100, true)).await.unwrap().into_inner();
    assert_eq!((left.id, left.ttl, left.granted_ttl), (100, 30, 30));
    assert_eq!(left.keys, ["a", "b"]);
    assert!(
        lease
            .lease_time_to_live(ask(100, false))
            .await
            .unwrap()
            .into_inner()
            .keys
            .is_empty()
    );
    let unknown = lease.lease_time_to_live(ask(7, true)).await.unwrap().into_inner();
    assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl), (7, -1, 0));

    let ids: Vec<i64> = lease
        .lease_leases(LeaseLeasesRequest {})
        .await
        .unwrap()
        .into_inner()
        .leases
        .iter()
        .map(|l| l.id)
        .collect();
    assert_eq!(ids, [100, 101]);
    let revoked = lease
        .lease_revoke(LeaseRevokeRequest { id: 100 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(revoked.header.unwrap().revision, 4);
    assert_eq!(
        refusal(lease.lease_revoke(LeaseRevokeRequest { id: 100 }).await),
        row(&Error::LeaseNotFound)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_alives_are_answered_in_order_and_end_with_the_member() {
    let served = Served::start();
    let mut lease = LeaseClient::new(served.channel.clone());
    for id in [1, 2] {
        lease.lease_grant(LeaseGrantRequest { ttl: 10 * id, id }).await.unwrap();
    }
    let (send, receive) = tokio::sync::mpsc::channel(16);
    for id in [1, 9, 2, 1] {
        send.send(LeaseKeepAliveRequest { id }).await.unwrap();
    }
    let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = lease
        .lease_keep_alive(Request::new(requests))
        .await
        .unwrap()
        .into_inner();
    for (id, ttl) in [(1, 10), (9, 0), (2, 20), (1, 10)] {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), (id, ttl));
        assert!(answer.header.unwrap().raft_term > 0);
    }
    served.fake.stopping.send_replace(true);
    let status = answers.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, Error::Stopped.text())
    );
}
