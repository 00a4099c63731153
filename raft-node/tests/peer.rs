//! Members on loopback talk to each other, to impostors and to noise; ports come from the kernel.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use proto::node::{Hello, Lane, PeerFrame, Refusal, Welcome, peer_frame::Body};
use raft_node::peer::{
    Incarnations, Known, PROTOCOL_VERSION, PeerConfig, PeerNet, PeerSink, ReceivedSnapshot, Sent, SnapshotSource, frame,
};
use tempfile::TempDir;

const CLUSTER: u64 = 0xc1;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
enum Heard {
    Frame(u64, Body),
    Connected(u64),
    Unreachable(u64),
    Amnesia(String),
    Received(ReceivedSnapshot),
    Sent(bool),
}

struct Ear(Mutex<Sender<Heard>>);

impl Ear {
    fn hear(&self, heard: Heard) {
        let _gone = self.0.lock().unwrap().send(heard);
    }
}

/// As the driver does it, one frame a turn.
fn send(net: &PeerNet, to: u64, lane: Lane, frame: PeerFrame) -> Sent {
    let sent = net.send(to, lane, frame);
    net.flush();
    sent
}

impl PeerSink for Ear {
    fn resting(&self) {}

    fn frame(&self, from: u64, frame: PeerFrame) {
        self.hear(Heard::Frame(from, frame.body.unwrap()));
    }
    fn connected(&self, peer: u64) {
        self.hear(Heard::Connected(peer));
    }
    fn unreachable(&self, peer: u64) {
        self.hear(Heard::Unreachable(peer));
    }
    fn amnesia(&self, reason: String) {
        self.hear(Heard::Amnesia(reason));
    }
    fn snapshot_received(&self, _from: u64, snapshot: ReceivedSnapshot) {
        self.hear(Heard::Received(snapshot));
    }
    fn snapshot_sent(&self, _to: u64, ok: bool) {
        self.hear(Heard::Sent(ok));
    }
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<u64, [u8; 16]>>>);

impl Incarnations for Memory {
    fn learn(&mut self, id: u64, incarnation: [u8; 16]) -> Result<(), Known> {
        let known = *self.0.lock().unwrap().entry(id).or_insert(incarnation);
        if known == incarnation {
            Ok(())
        } else {
            Err(Known { known })
        }
    }
}

/// What survives a restart of a member.
struct Seat {
    id: u64,
    address: SocketAddr,
    listener: Option<TcpListener>,
    memory: Memory,
    incarnation: [u8; 16],
    incoming: TempDir,
}

struct Member {
    net: PeerNet,
    heard: Receiver<Heard>,
}

impl Seat {
    fn new(id: u64) -> Seat {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Seat {
            id,
            address: listener.local_addr().unwrap(),
            listener: Some(listener),
            memory: Memory::default(),
            incarnation: [id as u8; 16],
            incoming: tempfile::tempdir().unwrap(),
        }
    }

    fn url(&self) -> Vec<String> {
        vec![format!("http://{}", self.address)]
    }

    fn start(&mut self, peers: &[(u64, Vec<String>)]) -> Member {
        let (sender, heard) = channel();
        let listener = self
            .listener
            .take()
            .unwrap_or_else(|| TcpListener::bind(self.address).unwrap());
        let config = PeerConfig {
            cluster_id: CLUSTER,
            member_id: self.id,
            incarnation: self.incarnation,
            listeners: vec![listener],
            peers: peers.to_vec(),
            known: Box::new(self.memory.clone()),
            frame_bytes_max: 4 << 20,
            urgent_bytes_max: 1 << 20,
            bulk_bytes_max: 8 << 20,
            incoming: self.incoming.path().to_owned(),
            pages: Arc::new(|path| (path == "/version").then(|| r#"{"etcdserver":"3.7.1"}"#.to_owned())),
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        Member {
            net: PeerNet::start(config, logger, Ear(Mutex::new(sender))).unwrap(),
            heard,
        }
    }
}

impl Member {
    /// Skips to the first event that `pick` takes.
    fn wait<T>(&self, mut pick: impl FnMut(Heard) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if let Some(taken) = pick(self.heard.recv_timeout(left).expect("the event comes in time")) {
                return taken;
            }
        }
    }

    fn wait_connected(&self, peer: u64) {
        self.wait(|heard| matches!(heard, Heard::Connected(id) if id == peer).then_some(()));
    }

    fn wait_sent(&self) -> bool {
        self.wait(|heard| if let Heard::Sent(ok) = heard { Some(ok) } else { None })
    }

    fn wait_received(&self) -> ReceivedSnapshot {
        self.wait(|heard| {
            if let Heard::Received(snapshot) = heard {
                Some(snapshot)
            } else {
                None
            }
        })
    }

    fn wait_stats(&self, reached: impl Fn(&raft_node::peer::PeerStats) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !reached(&self.net.stats()) {
            assert!(Instant::now() < until, "{:?}", self.net.stats());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn pair() -> (Seat, Seat, Member, Member) {
    let (mut a, mut b) = (Seat::new(1), Seat::new(2));
    let first = a.start(&[(2, b.url())]);
    let second = b.start(&[(1, a.url())]);
    first.wait_connected(2);
    second.wait_connected(1);
    (a, b, first, second)
}

fn raft(text: String) -> PeerFrame {
    PeerFrame {
        body: Some(Body::Raft(text.into())),
    }
}

fn hello() -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: CLUSTER,
        from: 2,
        to: 1,
        incarnation: vec![2; 16].into(),
        lane: Lane::Urgent.into(),
    }
}

fn say(address: SocketAddr, hello: &Hello) -> (TcpStream, Welcome) {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut bytes = BytesMut::from(&b"DIPP"[..]);
    frame::put(&mut bytes, hello);
    stream.write_all(&bytes).unwrap();
    let welcome = frame::read_blocking(&mut stream, 4096).unwrap();
    (stream, welcome)
}

#[test]
fn frames_of_each_lane_come_in_order() {
    let (_a, _b, first, second) = pair();
    let mut expected = BTreeMap::from([('u', 0), ('b', 0)]);
    for n in 0..5000 {
        assert_eq!(send(&first.net, 2, Lane::Urgent, raft(format!("u{n}"))), Sent::Queued);
        assert_eq!(send(&first.net, 2, Lane::Bulk, raft(format!("b{n}"))), Sent::Queued);
    }
    for _ in 0..10_000 {
        let text = second.wait(|heard| match heard {
            Heard::Frame(1, Body::Raft(text)) => Some(String::from_utf8(text.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        });
        let (lane, n) = text.split_at(1);
        let next = expected.get_mut(&lane.chars().next().unwrap()).unwrap();
        assert_eq!(n, next.to_string());
        *next += 1;
    }
    // Pings are answered, so the round trip is known; and an answer goes the other way.
    first.wait_stats(|stats| stats.peers[&2].round_trips.last.is_some());
    assert_eq!(send(&second.net, 1, Lane::Urgent, raft("back".into())), Sent::Queued);
    first.wait(|heard| matches!(heard, Heard::Frame(2, Body::Raft(text)) if text == "back").then_some(()));
    let stats = first.net.stats().peers[&2].clone();
    assert!(
        stats.connected && stats.drops == 0 && stats.sent_bytes > 100_000,
        "{stats:?}"
    );
    assert!(second.net.stats().peers[&1].received_bytes > 100_000);
}

#[test]
fn three_members_find_each_other_and_a_large_frame_passes() {
    let mut seats = [Seat::new(1), Seat::new(2), Seat::new(3)];
    let urls: Vec<_> = seats.iter().map(|seat| (seat.id, seat.url())).collect();
    // The own id among the peers is left out.
    let members: Vec<_> = seats.iter_mut().map(|seat| seat.start(&urls)).collect();
    for (member, other) in [(0, 2), (1, 3), (2, 1)] {
        members[member].wait_stats(|stats| stats.peers.len() == 2 && stats.peers.values().all(|peer| peer.connected));
        let large = PeerFrame {
            body: Some(Body::Raft(vec![other as u8; 4_000_000].into())),
        };
        assert_eq!(send(&members[member].net, other, Lane::Bulk, large), Sent::Queued);
        let bytes = members[other as usize - 1].wait(|heard| match heard {
            Heard::Frame(_, Body::Raft(bytes)) => Some(bytes),
            _ => None,
        });
        assert!(bytes.len() == 4_000_000 && bytes.iter().all(|byte| *byte == other as u8));
    }
    let too_long = PeerFrame {
        body: Some(Body::Raft(vec![0; 4 << 20].into())),
    };
    assert_eq!(send(&members[0].net, 2, Lane::Bulk, too_long), Sent::Dropped);
    assert_eq!(
        send(&members[0].net, 9, Lane::Bulk, raft("nobody".into())),
        Sent::Dropped
    );
}

#[test]
fn a_member_that_restarts_is_found_again() {
    let (a, mut b, first, second) = pair();
    second.net.stop();
    first.wait(|heard| matches!(heard, Heard::Unreachable(2)).then_some(()));
    first.wait_stats(|stats| stats.peers[&2].disconnects == 2);
    assert_eq!(send(&first.net, 2, Lane::Urgent, raft("lost".into())), Sent::Dropped);
    let second = b.start(&[(1, a.url())]);
    first.wait_connected(2);
    assert_eq!(send(&first.net, 2, Lane::Urgent, raft("again".into())), Sent::Queued);
    second.wait(|heard| matches!(heard, Heard::Frame(1, Body::Raft(text)) if text == "again").then_some(()));
}

#[test]
fn what_was_queued_before_a_stop_still_leaves() {
    let (_a, _b, first, second) = pair();
    for n in 0..200 {
        assert_eq!(
            send(&first.net, 2, Lane::Bulk, raft(format!("{n:01000}"))),
            Sent::Queued
        );
    }
    let began = Instant::now();
    first.net.stop();
    assert!(began.elapsed() < Duration::from_secs(3));
    for _ in 0..200 {
        second.wait(|heard| matches!(heard, Heard::Frame(1, _)).then_some(()));
    }
}

#[test]
fn a_peer_that_does_not_read_costs_a_bounded_queue_and_then_its_connection() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut seat = Seat::new(1);
    let member = seat.start(&[(2, vec![format!("http://{}", deaf.local_addr().unwrap())])]);
    let _silent: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = deaf.accept().unwrap().0;
            stream.read_exact(&mut [0; 4]).unwrap();
            let hello: Hello = frame::read_blocking(&mut stream, 4096).unwrap();
            assert_eq!((hello.from, hello.to, hello.cluster_id), (1, 2, CLUSTER));
            let mut answer = BytesMut::new();
            let incarnation = vec![2; 16].into();
            frame::put(
                &mut answer,
                &Welcome {
                    protocol_version: 1,
                    member_id: 2,
                    incarnation,
                    ..Default::default()
                },
            );
            stream.write_all(&answer).unwrap();
            stream
        })
        .collect();
    member.wait_connected(2);
    let queued = (0..100)
        .filter(|_| {
            let frame = PeerFrame {
                body: Some(Body::Raft(vec![0; 1 << 20].into())),
            };
            send(&member.net, 2, Lane::Bulk, frame) == Sent::Queued
        })
        .count();
    let peer = member.net.stats().peers[&2].clone();
    assert!(
        (7..60).contains(&queued) && peer.drops == 100 - queued as u64,
        "{queued} {peer:?}"
    );
    assert!(peer.queued_bytes <= 8 << 20, "{peer:?}");
    member.wait(|heard| matches!(heard, Heard::Unreachable(2)).then_some(()));
    member.wait_stats(|stats| stats.peers[&2].queued_bytes == 0);
}

#[test]
fn a_peer_that_refuses_at_once_is_not_dialled_in_a_spin() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut seat = Seat::new(1);
    let began = Instant::now();
    let member = seat.start(&[(2, vec![format!("http://{address}")])]);
    // Two lanes: 6 failures are at least two pauses of each.
    for _ in 0..6 {
        member.wait(|heard| matches!(heard, Heard::Unreachable(2)).then_some(()));
    }
    assert!(began.elapsed() >= Duration::from_millis(150));
}

#[test]
fn whoever_is_not_a_member_of_this_cluster_is_refused_with_a_reason() {
    let mut seat = Seat::new(1);
    let member = seat.start(&[(2, vec!["http://127.0.0.1:1".into()])]);
    member.wait_stats(|stats| stats.peers.contains_key(&2));
    let cases = [
        (
            Hello {
                protocol_version: 9,
                ..hello()
            },
            Refusal::OtherProtocol,
            "peer protocol 1 is spoken here, not 9",
        ),
        (
            Hello { lane: 7, ..hello() },
            Refusal::OtherProtocol,
            "there is no lane 7",
        ),
        (
            Hello {
                cluster_id: 0xc2,
                ..hello()
            },
            Refusal::OtherCluster,
            "this is cluster c1, not c2",
        ),
        (
            Hello { to: 3, ..hello() },
            Refusal::OtherMember,
            "this is member 1, not 3",
        ),
        (
            Hello { from: 5, ..hello() },
            Refusal::NotAMember,
            "member 1 knows no other member 5",
        ),
        (
            Hello { from: 1, ..hello() },
            Refusal::NotAMember,
            "member 1 knows no other member 1",
        ),
        (
            Hello {
                incarnation: vec![1].into(),
                ..hello()
            },
            Refusal::Amnesia,
            "an incarnation of 1 bytes, expected 16",
        ),
        (hello(), Refusal::Accepted, ""),
        (
            Hello {
                incarnation: vec![3; 16].into(),
                ..hello()
            },
            Refusal::Amnesia,
            "member 2 is known with incarnation 02020202020202020202020202020202, not 03030303030303030303030303030303",
        ),
    ];
    for (hello, refusal, reason) in cases {
        let (mut stream, welcome) = say(seat.address, &hello);
        assert_eq!((welcome.refusal(), welcome.reason.as_str()), (refusal, reason));
        assert_eq!((welcome.member_id, &welcome.incarnation[..]), (1, &[1; 16][..]));
        if refusal != Refusal::Accepted {
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "refused and closed");
        }
    }
    assert_eq!(member.net.stats().refused, 8);
    assert_eq!(seat.memory.0.lock().unwrap()[&2], [2; 16]);
}

#[test]
fn a_member_with_a_lost_directory_is_told_so_and_never_heard() {
    let (a, b, first, second) = pair();
    second.net.stop();
    let mut reborn = Seat {
        incarnation: [9; 16],
        memory: Memory::default(),
        ..b
    };
    let third = reborn.start(&[(1, a.url())]);
    let text = third.wait(|heard| {
        if let Heard::Amnesia(text) = heard {
            Some(text)
        } else {
            None
        }
    });
    let expected = "this member's data directory does not belong to the member 2 that the cluster knows: member 1 at";
    assert!(text.starts_with(expected), "{text}");
    assert!(!first.net.stats().peers[&2].connected);
    assert!(
        first
            .heard
            .try_iter()
            .all(|heard| !matches!(heard, Heard::Frame(..) | Heard::Connected(_)))
    );
}

#[test]
fn noise_on_the_peer_port_is_counted_and_closed() {
    let (a, _b, first, second) = pair();
    let mut oversized = b"DIPP".to_vec();
    oversized.extend([0xff; 8]);
    let mut damaged = BytesMut::from(&b"DIPP"[..]);
    frame::put(&mut damaged, &hello());
    *damaged.last_mut().unwrap() ^= 1;
    let truncated = damaged[..20].to_vec();
    let noise = [
        vec![0x5a; 1000],
        oversized,
        damaged.to_vec(),
        truncated,
        b"POST / HTTP/1.1\r\n\r\n".to_vec(),
        {
            let mut endless = b"GET /".to_vec();
            endless.extend(vec![b'a'; 20_000]);
            endless
        },
    ];
    for bytes in &noise {
        let mut stream = TcpStream::connect(a.address).unwrap();
        let _closed_early = stream.write_all(bytes);
        let _closed_early = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _reset = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    first.wait_stats(|stats| stats.garbage == noise.len() as u64);
    // Behind a valid Hello a lie about the length ends the stream, too, and nothing is allocated for it.
    let (mut stream, welcome) = say(
        a.address,
        &Hello {
            lane: Lane::Bulk.into(),
            ..hello()
        },
    );
    assert_eq!(welcome.refusal(), Refusal::Accepted);
    stream.write_all(&[0xff; 8]).unwrap();
    let _reset = stream.read_to_end(&mut Vec::new());
    first.wait_stats(|stats| stats.garbage == noise.len() as u64 + 1);
    // The other member still gets through, once it has dialled the lane that was taken from it.
    second.wait_stats(|stats| stats.peers[&1].connected && stats.peers[&1].disconnects > 0);
    assert_eq!(send(&second.net, 1, Lane::Bulk, raft("alive".into())), Sent::Queued);
    first.wait(|heard| matches!(heard, Heard::Frame(2, Body::Raft(text)) if text == "alive").then_some(()));
}

#[test]
fn a_thousand_idle_connections_do_not_lock_a_member_out() {
    let (mut a, mut b) = (Seat::new(1), Seat::new(2));
    let first = a.start(&[(2, b.url())]);
    let idle: Vec<_> = (0..1000).map(|_| TcpStream::connect(a.address).unwrap()).collect();
    let second = b.start(&[(1, a.url())]);
    second.wait_connected(1);
    first.wait_stats(|stats| stats.garbage >= 1000);
    drop(idle);
}

#[test]
fn the_peer_port_serves_two_pages() {
    let mut seat = Seat::new(1);
    let _member = seat.start(&[]);
    let get = |path: &str| {
        let mut stream = TcpStream::connect(seat.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let version = get("/version");
    assert!(version.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 22\r\n"));
    assert!(version.ends_with("\r\n\r\n{\"etcdserver\":\"3.7.1\"}"));
    assert!(get("/raft").starts_with("HTTP/1.1 404 Not Found\r\n"));
}

#[test]
fn a_peer_that_is_removed_is_heard_no_more_and_one_that_is_added_is() {
    let (a, b, first, second) = pair();
    first.net.set_peers(vec![]);
    second.wait(|heard| matches!(heard, Heard::Unreachable(1)).then_some(()));
    second.wait_stats(|stats| stats.peers[&1].disconnects == 2);
    assert_eq!(send(&first.net, 2, Lane::Urgent, raft("no".into())), Sent::Dropped);
    assert_eq!(say(a.address, &hello()).1.refusal(), Refusal::NotAMember);
    first.net.set_peers(vec![(2, b.url())]);
    first.wait_connected(2);
    second.wait_connected(1);
}

fn noise(mut seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        })
        .collect()
}

/// 20 MB: many small files, large ones, an empty one.
fn checkpoint() -> (TempDir, SnapshotSource) {
    let directory = tempfile::tempdir().unwrap();
    for (n, bytes) in [7_000_000, 6_000_001, 0, 262_144, 4_000_000, 524_289, 1, 3_000_000]
        .into_iter()
        .enumerate()
    {
        fs::write(directory.path().join(format!("{n:06}.sst")), noise(n as u64 + 1, bytes)).unwrap();
    }
    fs::write(directory.path().join("CURRENT"), "MANIFEST-000001\n").unwrap();
    let source = SnapshotSource {
        id: 77,
        index: 1000,
        term: 3,
        directory: directory.path().to_owned(),
        install: "install".into(),
    };
    (directory, source)
}

fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap()))
        .collect()
}

/// Stands between two members, counts the bytes of each connection and can cut the first that passes a limit.
struct Cutter {
    url: Vec<String>,
    carried: Arc<Mutex<Vec<u64>>>,
    limit: Arc<AtomicU64>,
}

fn cutter(target: SocketAddr, limit: u64) -> Cutter {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = vec![format!("http://{}", listener.local_addr().unwrap())];
    let (carried, limit) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(limit)));
    let shared = (carried.clone(), limit.clone());
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(target) else { continue };
            let (carried, limit) = (shared.0.clone(), shared.1.clone());
            let (back_from, back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut &back_from, &mut &back_to));
            thread::spawn(move || relay(near, far, &carried, &limit));
        }
    });
    Cutter { url, carried, limit }
}

fn relay(mut near: TcpStream, mut far: TcpStream, carried: &Mutex<Vec<u64>>, limit: &AtomicU64) {
    let (mut buffer, mut total) = ([0; 16384], 0);
    while let Ok(bytes @ 1..) = near.read(&mut buffer) {
        total += bytes as u64;
        if total > limit.load(Ordering::SeqCst) {
            limit.store(u64::MAX, Ordering::SeqCst);
            break;
        }
        if far.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    carried.lock().unwrap().push(total);
    let _gone = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
}

#[test]
fn a_snapshot_resumes_behind_a_cut() {
    let (mut a, mut b) = (Seat::new(1), Seat::new(2));
    let between = cutter(b.address, 12_000_000);
    let first = a.start(&[(2, between.url.clone())]);
    let second = b.start(&[(1, a.url())]);
    first.wait_connected(2);
    let (directory, source) = checkpoint();
    let leftover = b.incoming.path().join("part-0000000000000005");
    fs::create_dir(&leftover).unwrap();
    first.net.send_snapshot(2, source);
    let received = second.wait_received();
    assert!(first.wait_sent());
    assert_eq!(
        (received.index, received.term, &received.install[..]),
        (1000, 3, &b"install"[..])
    );
    assert_eq!(received.directory, b.incoming.path().join("snap-000000000000004d"));
    assert_eq!(contents(&received.directory), contents(directory.path()));
    assert!(!leftover.exists());
    assert_eq!(between.limit.load(Ordering::SeqCst), u64::MAX, "the cut happened");
    // What had arrived before the cut did not travel twice: 20.8 MB in all, less what was in flight.
    let until = Instant::now() + PATIENCE;
    while between.carried.lock().unwrap().len() < 2 && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    let carried = between.carried.lock().unwrap().clone();
    assert!(carried.iter().sum::<u64>() < 28_000_000, "{carried:?}");
    let counts = (
        first.net.stats().peers[&2].snapshots_sent,
        second.net.stats().peers[&1].snapshots_received,
    );
    assert_eq!(counts, (1, 1));
}

#[test]
fn a_snapshot_survives_a_restart_of_its_receiver() {
    let (mut a, mut b) = (Seat::new(1), Seat::new(2));
    let between = cutter(b.address, 9_000_000);
    let first = a.start(&[(2, between.url.clone())]);
    let second = b.start(&[(1, a.url())]);
    first.wait_connected(2);
    // Leftovers of two other snapshots are older than ours.
    for name in ["part-0000000000000001", "snap-0000000000000002"] {
        fs::create_dir(b.incoming.path().join(name)).unwrap();
    }
    let (directory, source) = checkpoint();
    first.net.send_snapshot(2, source);
    let until = Instant::now() + PATIENCE;
    while between.limit.load(Ordering::SeqCst) != u64::MAX {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(1));
    }
    second.net.stop();
    let second = b.start(&[(1, a.url())]);
    assert!(first.wait_sent());
    let early = second.heard.try_iter().find_map(|heard| match heard {
        Heard::Received(snapshot) => Some(snapshot),
        _ => None,
    });
    let complete = early.map_or_else(|| b.incoming.path().join("snap-000000000000004d"), |got| got.directory);
    assert_eq!(contents(&complete), contents(directory.path()));
    assert!(!b.incoming.path().join("part-0000000000000001").exists());
}

#[test]
fn a_snapshot_that_was_complete_but_not_installed_is_not_sent_again() {
    let (a, mut b, first, second) = pair();
    let (directory, source) = checkpoint();
    first.net.send_snapshot(2, source.clone());
    assert!(first.wait_sent());
    second.wait_received();
    // The verdict might have been lost: the same offer again is answered at once and the sink not told twice.
    first.net.send_snapshot(2, source.clone());
    assert!(first.wait_sent());
    second.net.stop();
    assert!(
        second
            .heard
            .try_iter()
            .all(|heard| !matches!(heard, Heard::Received(..)))
    );
    let second = b.start(&[(1, a.url())]);
    first.wait_connected(2);
    let before = first.net.stats().peers[&2].sent_bytes;
    first.net.send_snapshot(2, source);
    let received = second.wait_received();
    assert!(first.wait_sent());
    assert_eq!(contents(&received.directory), contents(directory.path()));
    assert!(first.net.stats().peers[&2].sent_bytes - before < 100_000);
}

#[test]
fn a_snapshot_for_nobody_or_of_nothing_fails() {
    let (_a, _b, first, second) = pair();
    let (directory, source) = checkpoint();
    first.net.send_snapshot(9, source.clone());
    assert!(!first.wait_sent());
    first.net.send_snapshot(
        2,
        SnapshotSource {
            directory: "/nowhere/at/all".into(),
            ..source.clone()
        },
    );
    assert!(!first.wait_sent());
    fs::create_dir(directory.path().join("nested")).unwrap();
    first.net.send_snapshot(2, source.clone());
    assert!(!first.wait_sent());
    fs::remove_dir(directory.path().join("nested")).unwrap();
    fs::write(directory.path().join("odd name"), "").unwrap();
    first.net.send_snapshot(2, source);
    assert!(!first.wait_sent());
    assert!(
        second
            .heard
            .try_iter()
            .all(|heard| !matches!(heard, Heard::Received(..)))
    );
    second.net.stop();
}
