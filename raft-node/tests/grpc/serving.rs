//! Cluster, Maintenance, health, what is not served, HTTP/1.1 beside gRPC, and stopping.

use crate::fake::{OTHER, OWN, Served, TERM, refusal, row};
use proto::{
    Error,
    etcdserverpb::{
        AlarmRequest, DefragmentRequest, HashKvRequest, HashRequest, MemberAddRequest, MemberListRequest,
        MoveLeaderRequest, PutRequest, StatusRequest, auth_client::AuthClient, cluster_client::ClusterClient,
        kv_client::KvClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
    },
    v3lockpb::{LockRequest, lock_client::LockClient},
};
use raft_node::grpc::counters::Rpc;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

#[tokio::test(flavor = "multi_thread")]
async fn member_list_is_sorted_and_without_a_revision() {
    let served = Served::start();
    let mut cluster = ClusterClient::new(served.channel.clone());
    let list = cluster
        .member_list(MemberListRequest { linearizable: true })
        .await
        .unwrap()
        .into_inner();
    let header = list.header.unwrap();
    assert_eq!((header.revision, header.raft_term, header.member_id), (0, TERM, OWN));
    let ids: Vec<u64> = list.members.iter().map(|member| member.id).collect();
    assert_eq!(ids, [OWN, OTHER]);
    assert_eq!(list.members[0].client_ur_ls, ["http://own:1"]);
    served.fake.leader.send_replace(0);
    let linearizable = cluster.member_list(MemberListRequest { linearizable: true }).await;
    assert_eq!(refusal(linearizable), row(&Error::Timeout));
    cluster
        .member_list(MemberListRequest { linearizable: false })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_answers_an_operator() {
    let served = Served::start();
    let mut maintenance = MaintenanceClient::new(served.channel.clone());
    KvClient::new(served.channel.clone())
        .put(PutRequest {
            key: "a".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let status = maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (status.version.as_str(), status.storage_version.as_str()),
        ("3.7.1", "3.7.0")
    );
    assert_eq!(
        (
            status.leader,
            status.raft_term,
            status.raft_index,
            status.raft_applied_index
        ),
        (OWN, TERM, 1, 1)
    );
    assert_eq!(
        (status.db_size_quota, status.errors.len(), status.is_learner),
        (2 << 30, 0, false)
    );
    assert!(status.db_size > 0 && status.db_size_in_use > 0);

    let hash = maintenance
        .hash_kv(HashKvRequest { revision: 0 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (hash.compact_revision, hash.hash_revision, hash.header.unwrap().revision),
        (-1, 2, 2)
    );
    assert_eq!(
        refusal(maintenance.hash_kv(HashKvRequest { revision: 9 }).await),
        row(&Error::FutureRev)
    );
    assert_eq!(
        maintenance
            .defragment(DefragmentRequest {})
            .await
            .unwrap()
            .into_inner()
            .header,
        None
    );

    let unknown = maintenance.move_leader(MoveLeaderRequest { target_id: 7 }).await;
    assert_eq!(refusal(unknown), row(&Error::BadLeaderTransferee));
    let moved = maintenance
        .move_leader(MoveLeaderRequest { target_id: OTHER })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (moved.header, served.fake.moved_to.load(Ordering::SeqCst)),
        (None, OTHER)
    );

    served.fake.leader.send_replace(0);
    let status = maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (status.leader, status.errors),
        (0, vec!["etcdserver: no leader".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_listed_and_printed() {
    let served = Served::start();
    let mut maintenance = MaintenanceClient::new(served.channel.clone());
    let act = |action, alarm| AlarmRequest {
        action,
        member_id: OWN,
        alarm,
    };
    assert!(
        maintenance
            .alarm(act(0, 0))
            .await
            .unwrap()
            .into_inner()
            .alarms
            .is_empty()
    );
    assert!(
        maintenance
            .alarm(act(1, 0))
            .await
            .unwrap()
            .into_inner()
            .alarms
            .is_empty()
    );
    assert_eq!(maintenance.alarm(act(1, 1)).await.unwrap().into_inner().alarms.len(), 1);
    let status = maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, [format!("memberID:{OWN} alarm:NOSPACE ")]);
    let other = AlarmRequest {
        member_id: OTHER,
        ..act(0, 0)
    };
    assert!(maintenance.alarm(other).await.unwrap().into_inner().alarms.is_empty());
    assert_eq!(
        maintenance.alarm(act(0, 1)).await.unwrap().into_inner().alarms[0].member_id,
        OWN
    );
    assert_eq!(maintenance.alarm(act(2, 1)).await.unwrap().into_inner().alarms.len(), 1);
    assert!(
        maintenance
            .alarm(act(0, 0))
            .await
            .unwrap()
            .into_inner()
            .alarms
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_says_so() {
    let served = Served::start();
    let channel = || served.channel.clone();
    let sentence = |result: (Code, String)| {
        assert_eq!(result.0, Code::Unimplemented);
        assert!(result.1.starts_with("dipper "), "{}", result.1);
    };
    sentence(refusal(
        AuthClient::new(channel())
            .auth_enable(proto::etcdserverpb::AuthEnableRequest {})
            .await,
    ));
    sentence(refusal(LockClient::new(channel()).lock(LockRequest::default()).await));
    sentence(refusal(
        ClusterClient::new(channel())
            .member_add(MemberAddRequest::default())
            .await,
    ));
    sentence(refusal(MaintenanceClient::new(channel()).hash(HashRequest {}).await));
    sentence(refusal(
        MaintenanceClient::new(channel())
            .snapshot(proto::etcdserverpb::SnapshotRequest {})
            .await,
    ));
    assert_eq!(served.counters.handled(Rpc::AuthEnable, Code::Unimplemented), 1);
    assert_eq!(served.counters.handled(Rpc::Snapshot, Code::Unimplemented), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_member() {
    let served = Served::start();
    let mut health = HealthClient::new(served.channel.clone());
    let mut updates = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut until = async |wanted: ServingStatus| {
        while updates.message().await.unwrap().unwrap().status != wanted as i32 {}
    };
    until(ServingStatus::Serving).await;
    served.fake.serving.send_replace(false);
    until(ServingStatus::NotServing).await;
    served.fake.serving.send_replace(true);
    until(ServingStatus::Serving).await;
    served.fake.stopping.send_replace(true);
    until(ServingStatus::NotServing).await;
    let check = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(check.status, ServingStatus::NotServing as i32);
}

async fn http(served: &Served, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_is_served_on_the_same_port() {
    let served = Served::start();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let health = http(&served, &get("/health")).await;
    assert!(
        health.starts_with("HTTP/1.1 200") && health.ends_with("{\"health\":\"true\"}"),
        "{health}"
    );
    let nothing = http(&served, &get("/nothing")).await;
    assert!(
        nothing.starts_with("HTTP/1.1 404") && nothing.ends_with("404 page not found\n"),
        "{nothing}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_not_reset_under_a_client_that_still_writes() {
    let served = Served::start();
    let mut stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let request = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains("{\"health\":\"true\"}"), "{reply}");
    // The server's half is closed. A reset would answer the first of these, and the second would fail.
    for _ in 0..2 {
        stream.write_all(b"more").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // But it does not wait for ever.
    let closed = async {
        while stream.write_all(b"more").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_the_deadline_and_not_longer() {
    let mut served = Served::start();
    let mut kv = KvClient::new(served.channel.clone());
    kv.put(PutRequest {
        key: "a".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    // A stream that nobody ends is cut.
    let (requests, receive) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut watch = WatchClient::new(served.channel.clone())
        .watch(stream)
        .await
        .unwrap()
        .into_inner();
    let start = std::time::Instant::now();
    served.stop(Duration::from_millis(200));
    assert!(start.elapsed() >= Duration::from_millis(200) && start.elapsed() < Duration::from_secs(5));
    assert!(watch.message().await.is_err());
    assert!(tokio::net::TcpStream::connect(served.address).await.is_err());
    drop(requests);
}

/// etcdctl 3.4 sends a URL as authority when it asks one member; without the repair these four fail.
#[tokio::test(flavor = "multi_thread")]
async fn old_clients_may_call_a_url_an_authority() {
    let served = Served::start();
    for (command, answer) in [
        ("endpoint status", "3.7.1"),
        ("endpoint hashkv", "http://"),
        ("defrag", "Finished defragmenting"),
        ("move-leader b2", "Leadership transferred from a1 to b2"),
    ] {
        let mut etcdctl = std::process::Command::new("etcdctl");
        etcdctl
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=http://{}", served.address))
            .args(command.split(' '));
        let Ok(output) = tokio::task::block_in_place(|| etcdctl.output()) else {
            println!("skipped: etcdctl is not installed");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains(answer),
            "{command}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
