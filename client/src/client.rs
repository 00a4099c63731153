//! The connection to a cluster: its endpoints, its timings, and the deadline of every call.
//!
//! Not here: which endpoint is asked (`route`) and when again (`retry`).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Request, metadata::MetadataValue};

use crate::{Error, route::Route};

/// Where writes are sent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// The leader, once it is known; any endpoint until then. Saves one hop. The leader may be a member
    /// that was not among the given endpoints.
    #[default]
    ToLeader,
    /// The given endpoints only, in their order, as etcdctl does.
    ToEndpoints,
}

/// The timings of a [`Client`].
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long one call may take, attempts and waiting included. Default 5 s.
    pub call_deadline: Duration,
    /// How long one attempt to connect to one endpoint may take. Default 500 ms.
    pub connect_timeout: Duration,
    /// An answer to a read later than this is raced against the next endpoint. Default 150 ms.
    pub hedge_after: Duration,
    /// How often a connection with open calls or streams is pinged. Default 6 s: etcd hangs up on clients
    /// that ping more often than every 5 s (`--grpc-keepalive-min-time`). Dipper has no such rule.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered before the connection counts as dead. Default 2 s.
    pub keepalive_timeout: Duration,
    /// Where writes are sent first.
    pub writes: Writes,
    /// Puts, gets, deletes and transactions of one endpoint share one long-lived stream: with many of them at once
    /// each costs a fraction of a call. Default false. An endpoint that does not know such streams, as etcd's, is
    /// called.
    pub streams: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            call_deadline: Duration::from_secs(5),
            connect_timeout: Duration::from_millis(500),
            hedge_after: Duration::from_millis(150),
            keepalive_interval: Duration::from_secs(6),
            keepalive_timeout: Duration::from_secs(2),
            writes: Writes::ToLeader,
            streams: false,
        }
    }
}

impl ConnectOptions {
    /// Notices a member that vanished without a word within 400 ms. Only for Dipper: etcd answers pings
    /// this frequent with `too_many_pings` and closes the connection.
    #[must_use]
    pub fn for_dipper_only(mut self) -> Self {
        self.keepalive_interval = Duration::from_millis(200);
        self.keepalive_timeout = Duration::from_millis(200);
        self
    }
}

/// A handle to a cluster. Clones are cheap and share their connections; all calls may run concurrently.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) route: Arc<Route>,
    pub(crate) options: Arc<ConnectOptions>,
}

impl Client {
    /// Connects to whichever of `endpoints` (`host:port` or `http://host:port`, the preferred one first)
    /// answers first in order, and asks it for the leader.
    ///
    /// Errors: [`Error::BadEndpoint`]; [`Error::Unavailable`] or [`Error::Timeout`] when none answers
    /// within the call deadline.
    pub async fn connect<E>(endpoints: E, options: ConnectOptions) -> Result<Self, Error>
    where
        E: IntoIterator,
        E::Item: AsRef<str>,
    {
        let client = Self::lazy(endpoints, options)?;
        client.any_status().await?;
        client.learn_leader().await;
        Ok(client)
    }

    /// As [`Client::connect`], but connects with the first call. Must be called within a tokio runtime.
    pub fn lazy<E>(endpoints: E, options: ConnectOptions) -> Result<Self, Error>
    where
        E: IntoIterator,
        E::Item: AsRef<str>,
    {
        let route = Route::new(endpoints, &options)?;
        Ok(Self {
            route: Arc::new(route),
            options: Arc::new(options),
        })
    }

    /// The same connections with another deadline for each call.
    #[must_use]
    pub fn with_deadline(&self, call_deadline: Duration) -> Self {
        let options = ConnectOptions {
            call_deadline,
            ..(*self.options).clone()
        };
        Self {
            route: Arc::clone(&self.route),
            options: Arc::new(options),
        }
    }

    /// The endpoints as they were given.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.route.endpoints().iter().map(|endpoint| endpoint.name.as_str())
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.options.call_deadline
    }
}

/// The terms of one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub deadline: Instant,
    /// A member without a leader is to refuse at once: another one may have it.
    pub requires_leader: bool,
}

impl Terms {
    /// What the server is told of the deadline: the extra second lets our own clock decide first.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1)
    }

    pub fn millis_left(&self) -> u32 {
        self.left().as_millis().try_into().unwrap_or(u32::MAX)
    }
}

/// Wraps `message`, telling the server how long its answer is worth anything.
pub(crate) fn request_under<M>(message: M, terms: Terms) -> Request<M> {
    let mut request = Request::new(message);
    // tonic applies this limit itself, too.
    request.set_timeout(terms.left());
    if terms.requires_leader {
        let yes = MetadataValue::from_static("true");
        request.metadata_mut().insert("hasleader", yes);
    }
    request
}
