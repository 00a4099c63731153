//! A member settles when a burst of writes is over: its state is flushed without being asked, and the memory that the
//! burst took is given back.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

#[path = "harness/files.rs"]
mod files;
mod harness;

use std::{
    thread,
    time::{Duration, Instant},
};

use files::{metric, resident_bytes};
use harness::{Cluster, Kind, rpc::Rpc};

const VALUE_BYTES: usize = 256 << 10;
/// 48 MiB: above what a member settles after, below what it flushes by itself.
const PUTS: usize = 192;
/// The least of the burst's memory that comes back: the ring and the caches stay, a state's memtables do not.
const GIVEN_BACK_MIN: u64 = 24 << 20;
/// Two silences, a flush, and a second until it is noticed.
const WITHIN: Duration = Duration::from_secs(20);

#[test]
fn silence_after_a_burst_flushes_the_state_and_gives_memory_back() {
    let cluster = Cluster::start(Kind::Dipper, 1, &[]);
    cluster.await_leader(WITHIN);
    let rpc = Rpc::connect(cluster.client_url(0));
    let resident = || resident_bytes(cluster.pid(0));
    let page = || cluster.http(0, "/metrics").unwrap().1;
    let unflushed = |page: &str| {
        metric(page, "etcd_server_proposals_applied_total").unwrap() - metric(page, "dipper_flushed_index").unwrap()
    };
    let before = resident();
    for i in 0..PUTS {
        let key = format!("burst/{i}");
        rpc.put(key.as_bytes(), &vec![i as u8; VALUE_BYTES]).unwrap();
    }
    let during = resident();
    assert!(unflushed(&page()) > 0.0, "it was flushed before it had a reason to be");
    let end = Instant::now() + WITHIN;
    loop {
        let (left, given) = (unflushed(&page()), during.saturating_sub(resident()));
        if left == 0.0 && given >= GIVEN_BACK_MIN {
            println!(
                "resident: {} MiB before, {} at the end of the burst, {} settled",
                before >> 20,
                during >> 20,
                resident() >> 20
            );
            return;
        }
        assert!(
            Instant::now() < end,
            "{left} entries are not flushed, {} MiB were given back",
            given >> 20
        );
        thread::sleep(Duration::from_millis(100));
    }
}
