//! Every bound of a member, with its reason. No queue is without one: full means refuse (clients) or drop
//! (peers), never wait unseen.

use std::time::Duration;

/// Raft's tick. Heartbeats and elections are counted in it, so it is the resolution of their flags.
pub const TICK: Duration = Duration::from_millis(10);

/// One Raft entry: large enough that its cost is spread over hundreds of small writes, small enough that a
/// write of a mebibyte does not make a thousand small ones wait.
pub const ENTRY_BYTES_MAX: usize = 128 << 10;
/// Entries of one MsgAppend; etcd and TiKV use the same.
pub const APPEND_BYTES_MAX: u64 = 1 << 20;
/// MsgAppends to one peer without an acknowledgement.
pub const APPENDS_IN_FLIGHT_MAX: usize = 256;
/// Uncommitted bytes at a leader; beyond it proposals wait.
pub const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// What one turn proposes at most, so that a turn stays short.
pub const PROPOSED_BYTES_PER_TURN_MAX: usize = 4 << 20;
/// What one Ready hands to the apply thread.
pub const COMMITTED_BYTES_PER_TURN_MAX: u64 = 16 << 20;
/// Committed but not applied bytes, beyond which a member takes no further appends.
pub const UNAPPLIED_BYTES_MAX: usize = 256 << 20;
/// Recent entries kept in memory for followers and for the apply thread.
pub const LOG_CACHE_BYTES: usize = 8 << 20;
/// Entries between two truncations of the log.
pub const TRUNCATE_STEP: u64 = 1_000;

/// After a snapshot has arrived the log is kept this long for its receiver to install it and catch up: opening
/// 100 GB takes seconds, and half a minute of log is no burden.
pub const SNAPSHOT_SETTLES_IN: Duration = Duration::from_secs(30);

/// Writes that wait for a leader. An election at full load stays far below it.
pub const PROPOSALS_WAITING_MAX: usize = 20_000;
pub const PROPOSALS_WAITING_BYTES_MAX: usize = 64 << 20;
/// etcd's maxGapBetweenApplyAndCommitIndex: entries committed and not yet applied.
pub const APPLY_GAP_MAX: u64 = 5_000;
/// Reads without an answer.
pub const READS_WAITING_MAX: usize = 50_000;
/// Rounds of ReadIndex at once: the second one keeps a read from waiting for the whole first one.
pub const READ_ROUNDS_MAX: usize = 2;
/// Forwarded requests at once; each carries what arrived while the ones before were on their way.
pub const FORWARDS_MAX: usize = 2;
/// A forwarded request without a word keeps its place this long; its writes wait on for their deadlines.
pub const FORWARD_PATIENCE: Duration = Duration::from_millis(500);
/// Batches that a leader writes at once: one is synced while the next one gathers.
pub const WRITES_IN_FLIGHT_MAX: usize = 1;
/// A batch of this many writes is good: its cost for all is spread thin enough not to wait for more.
pub const GATHER_WRITES: usize = 48;
/// A leader gathers when batches have been this large: with fewer clients, waiting for more of them would only be
/// waiting.
pub const GATHER_FROM_WRITES: usize = 8;
/// While it gathers, silence of this length ends it: everybody who was expected is there.
pub const GATHER_GAP: Duration = Duration::from_millis(1);
/// A batch follows the one before after this time at the latest: below what a busy machine adds by itself.
pub const GATHER_MAX: Duration = Duration::from_millis(3);
/// Questions to the leader at once; each stands for all reads that waited.
pub const READS_ASKED_MAX: usize = 4;
/// A question to the leader without a word is asked again, with a new id.
pub const READ_RETRY: Duration = Duration::from_millis(200);
/// A forwarded write whose leader leads no more waits this long for that member's word. A living one says what
/// became of it within a round trip; a silent one never does, and with the election before it this must stay below
/// a second: its clients are without service for so long.
pub const FORMER_LEADER_SILENCE: Duration = Duration::from_millis(400);
/// A member that has lost its leader for this long, or for three election timeouts where those are longer, tells its
/// clients that what it has sent may or may not be done, and sends reads elsewhere: the others have had an election
/// by then (418 ms at most in simulations), so this member cannot hear them. Clients move on within a second.
pub const LEADERLESS_MAX: Duration = Duration::from_millis(500);
/// Leases that one entry ends.
pub const LEASES_EXPIRED_PER_TURN_MAX: usize = 1_000;

/// A leader whose oldest write is not durable after this long, while the others commit without it, hands leadership
/// over.
pub const SLOW_SYNC: Duration = Duration::from_millis(300);
/// How long it tries to; then it steps down, and the others elect whom they like.
pub const HAND_OVER_SLOW_DISK: Duration = Duration::from_millis(150);
/// When the same sync still hangs after this long, the former leader tells its clients that it does not know what
/// became of what was sent: it may be committed, but nothing is applied here before it is durable here, and a hung
/// disk may stay so. In between the others have had time to elect a leader.
pub const HUNG_SYNC: Duration = Duration::from_millis(600);

/// Inputs that wait for the raft thread: some turns' worth at full load.
pub const RAFT_INBOX_MAX: usize = 100_000;
/// What the state machine applies between two publications.
pub const APPLY_SLICE_BYTES: usize = 1 << 20;
/// Applied bytes between two flushes of the state: what a restart replays at most, about.
pub const FLUSH_BYTES: usize = 64 << 20;
/// After a burst of writes at least this large, and silence for so long, the log's memtables are flushed, then the
/// state is, and the memory of both is given back.
pub const SETTLE_BYTES: usize = 4 << 20;
pub const SETTLE_LOG_AFTER: Duration = Duration::from_secs(1);
pub const SETTLE_AFTER: Duration = Duration::from_secs(4);
/// How often the state machine is asked what of it is durable.
pub const FLUSHED_ASK_EVERY: Duration = Duration::from_secs(1);
/// An apply of a slice that is worth a line in the log; etcd's warning starts there too.
pub const SLOW_APPLY: Duration = Duration::from_millis(100);
/// A request that is worth a line in the log with its phases; etcd warns of unary requests from there on.
pub const SLOW_REQUEST: Duration = Duration::from_millis(300);
/// How long the files of a replaced state stay for readers that still hold it.
pub const SUPERSEDED_KEPT: Duration = Duration::from_mins(1);

/// What a request's answer may take from the raft thread back to its connection.
pub const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// A request with a deadline ends this much earlier, or a tenth of its time: its client must hear why.
pub const ANSWER_BEFORE_DEADLINE: Duration = Duration::from_millis(100);
/// A graceful stop takes no longer, whatever hangs.
pub const STOP_MAX: Duration = Duration::from_secs(5);
/// Of that, what requests get to end well; then they end with an error. The rest is for syncs and flushes.
pub const STOP_DRAIN: Duration = Duration::from_secs(3);
/// How long a stopping leader waits for another one.
pub const HAND_OVER_MAX: Duration = Duration::from_secs(1);
/// A leader that has handed over listens for so long at least before it stops: writes that members had sent it before
/// they heard of the next leader must be told that they were not done.
pub const LATE_FORWARDS: Duration = Duration::from_millis(150);
/// Threads for reads that may touch the disk.
pub const BLOCKING_THREADS: usize = 8;
/// Reads that wait for such a thread or run on it.
pub const BLOCKING_WAITING_MAX: usize = 4096;
/// gRPC runtimes: one for two cores, since raft, log, apply and RocksDB need some too, and at most this many.
pub const GRPC_THREADS_MAX: usize = 8;
/// A frame between members holds one MsgAppend, beside the largest single request.
pub const PEER_FRAME_BYTES_MAX: usize = 8 << 20;
/// Heartbeats, votes and questions that wait for one peer.
pub const PEER_URGENT_BYTES_MAX: usize = 4 << 20;
/// Appends and forwarded writes that wait for one peer.
pub const PEER_BULK_BYTES_MAX: usize = 64 << 20;
/// Growing writes are refused while the state's file system has less free space.
pub const FREE_DISK_BYTES_MIN: u64 = 256 << 20;
/// Sizes of memtables among the members of a cluster.
pub const MEMTABLE_SIZES: usize = 3;
/// Steps in which a start makes a write-ahead log to be written over, so that no entry's sync waits for much of it.
pub const SPARE_WAL_STEPS: usize = 128;
/// Together as much as a memtable of the log.
pub const SPARE_WAL_STEP_BYTES: usize = 256 << 10;
/// Between two steps; RocksDB finds that a file is spare within this time.
pub const SPARE_WAL_PAUSE: Duration = Duration::from_millis(2);
/// A disk that takes longer for a step is left alone.
pub const SPARE_WAL_STEP_MAX: Duration = Duration::from_millis(100);
/// None is made with less free space.
pub const SPARE_WAL_FREE_DISK_BYTES_MIN: u64 = 1 << 30;
/// The first check of all files' checksums comes this long after the start, when clients have been served.
pub const SCRUB_AFTER: Duration = Duration::from_secs(30);
/// Files are checked again this often: the time a flipped bit in a cold block may stay unseen.
pub const SCRUB_EVERY: Duration = Duration::from_hours(6);

// Configuration and data directory.
/// etcd's own upper bound: beyond it a cluster without a leader looks dead to every client.
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(50);
/// A request travels in one Raft entry, which is held in memory by every member several times over.
pub const REQUEST_BYTES_MAX: u64 = 512 << 20;
/// A transaction is applied in one piece between two reads: this many operations take about a second.
pub const TXN_OPS_MAX: u64 = 1 << 20;
/// The log between two snapshots is replayed at start: 100 million entries are minutes of replay.
pub const SNAPSHOT_COUNT_MAX: u64 = 100_000_000;
/// etcd's floor: below it progress notices alone would keep a member busy.
pub const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// What `--quota-backend-bytes 0` means, in etcd and here.
pub const QUOTA_DEFAULT_BYTES: u64 = 2 << 30;
/// RocksDB's tables and logs, peers, and a thousand clients' connections at the least.
pub const OPEN_FILES_MIN: u64 = 1024;
/// FORMAT and PEERS are a few lines; a larger file is not ours and is not read into memory.
pub const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;
/// Peers of which an incarnation is kept; a cluster has at most a handful, replaced ones included.
pub const KNOWN_PEERS_MAX: usize = 512;
/// Log lines that wait for a slow stderr; more are dropped and counted, so that no thread waits for a terminal.
pub const LOG_LINES_QUEUED_MAX: usize = 4096;

// Peers.
/// How long a dial may take: members are near each other, and an unanswered SYN tells nothing for seconds.
pub const PEER_DIAL: Duration = Duration::from_millis(300);
/// How long a new connection may take to say who it is: an idle stranger must not hold a file descriptor.
pub const PEER_HANDSHAKE: Duration = Duration::from_secs(2);
/// The pause after the first failed dial: a peer that refuses at once must not make us spin.
pub const PEER_REDIAL_MIN: Duration = Duration::from_millis(50);
/// The longest pause between dials: a member that comes back is heard within one election.
pub const PEER_REDIAL_MAX: Duration = Duration::from_millis(500);
/// The pause after a refusal: only an operator changes the answer.
pub const PEER_REFUSED: Duration = Duration::from_secs(2);
/// A Hello, a Welcome and a Pong are below 200 bytes: whoever sends more is no member.
pub const PEER_HANDSHAKE_BYTES_MAX: usize = 4 << 10;
/// Connections that have not yet said who they are; the oldest goes when one more comes.
pub const PEER_GREETINGS_MAX: usize = 256;
/// The request of `GET /version` with its headers.
pub const PEER_HTTP_BYTES_MAX: usize = 8 << 10;
/// Between two pings of one connection: fine enough for a round-trip time, far below the silences.
pub const PEER_PING: Duration = Duration::from_secs(1);
/// No byte left for this long on the urgent lane: dial again rather than pile up stale heartbeats.
pub const PEER_STALL_URGENT: Duration = Duration::from_secs(1);
/// The same on the bulk lane, where a mebibyte may wait for a slow network.
pub const PEER_STALL_BULK: Duration = Duration::from_secs(3);
/// The same for a snapshot, whose receiver syncs tens of mebibytes between two reads.
pub const PEER_STALL_SNAPSHOT: Duration = Duration::from_secs(30);
/// No pong for this long on the urgent lane: the peer is frozen or gone without a word.
pub const PEER_SILENCE_URGENT: Duration = Duration::from_secs(3);
/// No pong on the bulk lane, and no ping on any accepted connection, for this long.
pub const PEER_SILENCE: Duration = Duration::from_secs(10);
/// What one write to a peer holds at most, one frame aside: bounds the buffer, not the batch.
pub const PEER_WRITE_BYTES: usize = 1 << 20;
/// What the raft thread writes to a peer by itself; encoding and checksumming more would keep it from its work.
pub const PEER_WRITE_AT_ONCE_BYTES: usize = 64 << 10;
/// How long a stop waits for queued frames to leave: the hand-over of leadership is among them.
pub const PEER_FLUSH: Duration = Duration::from_millis(200);
/// How long a stop waits for the threads that read or write a snapshot's files.
pub const PEER_STOP: Duration = Duration::from_secs(2);
/// Orders to send a snapshot that wait for the peer thread: more than a cluster has members.
pub const PEER_ORDERS_MAX: usize = 64;
/// One part of a snapshot: large enough for the disk, small enough to be two copies in memory.
pub const SNAPSHOT_PART_BYTES: usize = 256 << 10;
/// A frame of the snapshot lane; the largest is an offer of `SNAPSHOT_FILES_MAX` names.
pub const SNAPSHOT_FRAME_BYTES_MAX: usize = 16 << 20;
/// Files of one snapshot: 100 GB in files of 64 MiB are 1,600.
pub const SNAPSHOT_FILES_MAX: usize = 65_536;
/// Received bytes after which a file is synced: no burst of dirty pages in front of the log's syncs.
pub const SNAPSHOT_SYNC_BYTES: usize = 16 << 20;
/// Dials in a row without one more byte received, after which a snapshot counts as failed.
pub const SNAPSHOT_ATTEMPTS_MAX: u32 = 10;

// gRPC.
/// Watches that one member serves at a time. One costs about 500 bytes, so this is at most half a gigabyte;
/// it is there so that a client in a loop cannot take all memory. Full: the watch is created and canceled.
pub const WATCHES_MAX: usize = 1_000_000;
/// Bytes of events that one watch pulls from the ring at a time. A stream whose client does not read keeps at
/// most one page (references to encoded events, which all streams share), times 10,000 such streams.
pub const WATCH_PAGE_BYTES: usize = 16 << 10;
/// Bytes of events that one watch pulls at a time when they must be read from disk: larger, because each page
/// costs a hop to the blocking pool, and bounded in number by that pool's width.
pub const WATCH_CATCH_UP_BYTES: usize = 128 << 10;
/// Pages that one turn of a stream takes: a request behind it waits some hundred microseconds at most.
pub const WATCH_PAGES_PER_TURN: usize = 128;
/// Responses that one turn gathers: what a stream whose client does not read refers to, one response aside.
pub const WATCH_TURN_BYTES: usize = 16 << 10;
/// What a stream copies into one chunk for HTTP/2: the largest frame that clients take by default. An event of that
/// size is not copied.
pub const WATCH_CHUNK_BYTES: usize = 16 << 10;
/// The same when the chunks of all streams that are not sent have grown to `WATCH_COPIED_BYTES`: two chunks of 10,000
/// clients that do not read are then 20 MB more.
pub const WATCH_CHUNK_BYTES_MIN: usize = 1 << 10;
pub const WATCH_COPIED_BYTES: usize = 32 << 20;
/// Encoded events that are kept for the next stream that is told of them, beyond those that streams still hold. Many
/// pages, because streams that tail, or catch up together, are within some pages of each other.
pub const WATCH_RECENT_BYTES: usize = 4 << 20;
pub const WATCH_RECENT_EVENTS: usize = 8 << 10;
/// Bytes of events that one apply's matching reads from the ring at a time.
pub const WATCH_MATCH_BYTES: usize = 1 << 20;
/// Client connections at a time. Each takes a file descriptor, and RocksDB must never find none left; more
/// are accepted and closed at once.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Connections that wait for a runtime to take them. Full: closed at once.
pub const CONNECTIONS_WAITING_MAX: usize = 256;
/// Concurrent requests on one connection. etcd has no bound; 10,000 watches on one must work.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 100_000;
/// Requests that a client may reset before they were looked at: more is an attack on HTTP/2 (rapid reset), fewer
/// would cut off a client that cancels its watches.
pub const RESET_STREAMS_MAX: usize = 1_000;
/// Operations of one stream at once: what a client needs to keep a member busy over a few milliseconds, and few
/// enough for five such clients to stay within `PROPOSALS_WAITING_MAX`.
pub const OPERATIONS_IN_FLIGHT_MAX: usize = 4_096;
/// Their bytes; one operation may be larger. The stream reads no further request above it.
pub const OPERATIONS_BYTES_MAX: usize = 4 << 20;
/// Bytes of outcomes in one response of such a stream, the last one aside.
pub const OUTCOMES_CHUNK_BYTES: usize = 64 << 10;
/// What a request may be larger on the wire than max-request-bytes: etcd's allowance for gRPC's own framing.
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;
/// Bytes in one message of a RangeStream: large enough to be cheap, small enough for 1,000 slow readers.
pub const RANGE_CHUNK_BYTES: usize = 128 << 10;
/// HTTP/2 receive window of one request: the largest common request in one round trip.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// HTTP/2 receive window of one connection: requests in flight that nobody has read yet.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Largest HTTP/2 frame that is accepted: fewer frames for large requests.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;
/// Server pings on an idle connection, as etcd's.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_hours(2);
/// How long a ping's answer may take, as etcd's.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection whose every request is answered waits for its client to close it, too.
pub const LINGER_MAX: Duration = Duration::from_millis(200);
/// The accept loop's pause after an error such as "too many open files": it would spin otherwise.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A watch whose catch-up read found the blocking pool full asks again after this.
pub const BLOCKING_RETRY: Duration = Duration::from_millis(10);
/// The shortest lease, in seconds. etcd derives it from its election timeout (ceil(1.5 x 1 s)); ours is
/// shorter, and the floor stays, because clients' keep-alive intervals rely on it.
pub const LEASE_TTL_MIN: i64 = 2;
/// The longest lease, in seconds, as etcd's.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;
