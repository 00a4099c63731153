//! Who may talk to whom: the first two frames of every stream between members.
//!
//! ```text
//!   dialler                                     acceptor
//!   "DIPP" Hello{cluster, from, to, incarnation} -> protocol? cluster? addressed to me? a member?
//!                                                   incarnation as known, or learnt durably?
//!          is it `to`? incarnation known/learnt  <- Welcome{accepted | refusal, reason}
//! ```
//! An incarnation is random and made with a data directory. It is durable on the other side before the
//! first vote or acknowledgement of that directory is heard, so a voter whose directory was lost cannot come
//! back empty under the same id and vote a second time in a term: it is refused, told so, and stops.
//!
//! Not here: authentication. Whoever reaches the peer port can claim to be a member until TLS is served.

use std::{
    fmt, io,
    net::{SocketAddr, TcpStream as StdTcpStream},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use proto::node::{Hello, Lane, Refusal, Welcome};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::{Local, frame, link::Link};
use crate::limits;

/// The first bytes of every stream of ours.
pub(super) const MAGIC: [u8; 4] = *b"DIPP";

/// The version of the peer protocol that this build speaks; streams of another one are refused.
pub const PROTOCOL_VERSION: u32 = 1;

/// A member id that is known with another incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The one that was learnt first.
    pub known: [u8; 16],
}

/// The durable memory of which data directory belongs to which member.
pub trait Incarnations: Send + 'static {
    /// Returns `Ok` once `incarnation` is durably the one of member `id`, or refuses another one.
    fn learn(&mut self, id: u64, incarnation: [u8; 16]) -> Result<(), Known>;
}

/// Why a dial brought no stream.
#[derive(Debug)]
pub(super) enum DialError {
    /// Nobody answered, or not in time, or not in our protocol.
    Unreachable(String),
    /// The peer answered and will not talk to us.
    Refused(Refusal, String),
    /// We will not talk to what answered.
    Stranger(String),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Unreachable(why) => write!(f, "{why}"),
            DialError::Refused(refusal, reason) => write!(f, "refused ({}): {reason}", refusal.as_str_name()),
            DialError::Stranger(why) => write!(f, "not the member that was dialled: {why}"),
        }
    }
}

/// How an incarnation is written in messages.
pub(super) fn hex(incarnation: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*incarnation))
}

/// Dials a member at its URLs in turn and agrees with it on who both are.
pub(super) async fn dial(local: &Local, peer: u64, urls: &[String], lane: Lane) -> Result<TcpStream, DialError> {
    let mut stream = connect(urls).await.map_err(DialError::Unreachable)?;
    prepare(&stream, lane).map_err(|error| DialError::Unreachable(error.to_string()))?;
    let welcome = match timeout(limits::PEER_HANDSHAKE, greet(local, &mut stream, peer, lane)).await {
        Ok(Ok(welcome)) => welcome,
        Ok(Err(error)) => return Err(DialError::Unreachable(format!("no welcome: {error}"))),
        Err(_) => return Err(DialError::Unreachable("no welcome in time".into())),
    };
    let address = stream
        .peer_addr()
        .map_or_else(|_| "?".into(), |address| address.to_string());
    match welcome.refusal() {
        Refusal::Accepted if welcome.member_id != peer => Err(DialError::Stranger(format!(
            "{address} answers as member {:x}, not {peer:x}",
            welcome.member_id
        ))),
        Refusal::Accepted => {
            local.learn(peer, &welcome.incarnation).map_err(DialError::Stranger)?;
            Ok(stream)
        }
        refusal => Err(DialError::Refused(
            refusal,
            format!("member {peer:x} at {address}: {}", welcome.reason),
        )),
    }
}

/// Says Hello and reads the Welcome.
async fn greet(local: &Local, stream: &mut TcpStream, to: u64, lane: Lane) -> Result<Welcome, frame::FrameError> {
    let mut hello = BytesMut::from(&MAGIC[..]);
    frame::put(
        &mut hello,
        &Hello {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: local.cluster_id,
            from: local.member_id,
            to,
            incarnation: local.incarnation.to_vec().into(),
            lane: lane.into(),
        },
    );
    stream.write_all(&hello).await?;
    frame::read_one(stream, limits::PEER_HANDSHAKE_BYTES_MAX).await
}

/// Judges a Hello. The incarnation of an accepted member is durable when this returns.
pub(super) fn judge(local: &Local, hello: &Hello) -> Result<(Arc<Link>, Lane), (Refusal, String)> {
    if hello.protocol_version != PROTOCOL_VERSION {
        let reason = format!(
            "peer protocol {PROTOCOL_VERSION} is spoken here, not {}",
            hello.protocol_version
        );
        return Err((Refusal::OtherProtocol, reason));
    }
    let Ok(lane) = Lane::try_from(hello.lane) else {
        return Err((Refusal::OtherProtocol, format!("there is no lane {}", hello.lane)));
    };
    if hello.cluster_id != local.cluster_id {
        let reason = format!("this is cluster {:x}, not {:x}", local.cluster_id, hello.cluster_id);
        return Err((Refusal::OtherCluster, reason));
    }
    if hello.to != local.member_id {
        let reason = format!("this is member {:x}, not {:x}", local.member_id, hello.to);
        return Err((Refusal::OtherMember, reason));
    }
    let Some(link) = local.link(hello.from) else {
        let reason = format!("member {:x} knows no other member {:x}", local.member_id, hello.from);
        return Err((Refusal::NotAMember, reason));
    };
    local
        .learn(hello.from, &hello.incarnation)
        .map_err(|reason| (Refusal::Amnesia, reason))?;
    Ok((link, lane))
}

/// The answer to a Hello that was judged.
pub(super) fn welcome(local: &Local, refusal: Refusal, reason: &str) -> Welcome {
    Welcome {
        protocol_version: PROTOCOL_VERSION,
        member_id: local.member_id,
        incarnation: local.incarnation.to_vec().into(),
        refusal: refusal.into(),
        reason: reason.into(),
    }
}

/// Sets what every stream needs: no delay for small frames, and an end to one whose bytes nobody confirms.
pub(super) fn prepare(stream: &TcpStream, lane: Lane) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stall_ms = stall(lane).as_millis() as u32;
    rustix::net::sockopt::set_tcp_user_timeout(stream, stall_ms)?;
    Ok(())
}

/// How long a lane may go without one byte leaving.
pub(super) fn stall(lane: Lane) -> Duration {
    match lane {
        Lane::Urgent => limits::PEER_STALL_URGENT,
        Lane::Bulk => limits::PEER_STALL_BULK,
        Lane::Snapshot => limits::PEER_STALL_SNAPSHOT,
    }
}

/// A stream for a thread that reads and writes files: blocking, but not for ever.
pub(super) fn into_blocking(stream: TcpStream) -> io::Result<StdTcpStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(limits::PEER_STALL_SNAPSHOT))?;
    stream.set_write_timeout(Some(limits::PEER_STALL_SNAPSHOT))?;
    Ok(stream)
}

async fn connect(urls: &[String]) -> Result<TcpStream, String> {
    let mut failures = Vec::new();
    for url in urls {
        match connect_url(url).await {
            Ok(stream) => return Ok(stream),
            Err(failure) => failures.push(format!("{url}: {failure}")),
        }
    }
    Err(if failures.is_empty() {
        "no peer URL".into()
    } else {
        failures.join("; ")
    })
}

async fn connect_url(url: &str) -> Result<TcpStream, String> {
    let Some(host) = url.strip_prefix("http://") else {
        return Err("not an http:// URL".into());
    };
    let looked_up = timeout(
        limits::PEER_HANDSHAKE,
        tokio::net::lookup_host(host.trim_end_matches('/')),
    );
    let addresses: Vec<SocketAddr> = match looked_up.await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("its name was not resolved in time".into()),
    };
    let mut failure = String::from("its name has no address");
    for address in addresses {
        match timeout(limits::PEER_DIAL, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error.to_string(),
            Err(_) => failure = "no answer in time".into(),
        }
    }
    Err(failure)
}
