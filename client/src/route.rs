//! Who is asked: one connection per endpoint; which of them answered last; who leads.
//!
//! ```text
//! given:    a  b  c        calls start at `current`, go on to the next when it fails
//! leader:   ? or (endpoint, term)   forgotten when it fails or an answer carries a newer term
//! silent:   b until 12:00:05        did not answer: asked after all others, even if it is the leader
//! ```
//!
//! The lock is held for a few instructions, never across an await. Not here: when to ask again (`retry`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicBool},
    time::Duration,
};

use proto::etcdserverpb::{
    MemberListRequest, StatusRequest, StatusResponse, cluster_client::ClusterClient,
    maintenance_client::MaintenanceClient,
};
use tokio::time::{Instant, timeout};
use tonic::{Status, codegen::http::Uri};

use crate::{Client, ConnectOptions, Error, Writes, client::request_under, lane::Lane, wire::Wire};

/// The metadata key under which a Dipper member names the leader's client URL beside an error.
pub(crate) const LEADER_HINT: &str = "dipper-leader";

/// A search for the leader that found none is not repeated sooner: an election takes about this long.
const SEARCH_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// One search asks two questions of one member; a member that hangs must not hold up the write for longer.
const SEARCH_TIME_MAX: Duration = Duration::from_millis(150);

/// An endpoint that did not answer is asked after all others for so long. A member that is paused or cut off still
/// takes connections, or keeps us dialling, and each such attempt costs what it takes to notice.
const AVOIDED_FOR: Duration = Duration::from_secs(5);

/// How an endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It said why: it lives, and another one may do better this time.
    Refused,
    /// No connection, a lost one, or no answer.
    Silent,
}

/// One member's client URL and the connection to it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// As the user wrote it.
    pub name: String,
    pub wire: Wire,
    /// For operations that go over a stream.
    pub lane: Lane,
    /// It has said that it does not know such streams.
    pub has_no_streams: AtomicBool,
    authority: String,
}

impl Endpoint {
    fn new(name: &str, options: &ConnectOptions) -> Result<Self, Error> {
        let bad = |cause: String| Error::BadEndpoint {
            endpoint: name.to_owned(),
            cause,
        };
        let url = if name.contains("://") {
            name.to_owned()
        } else {
            format!("http://{name}")
        };
        let uri: Uri = url.parse().map_err(|error| bad(format!("{error}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("only http:// is supported so far".to_owned()));
        }
        let authority = uri.authority().ok_or_else(|| bad("no host".to_owned()))?;
        if uri.port_u16().is_none() {
            return Err(bad("no port".to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            wire: Wire::new(authority.clone(), options),
            lane: Lane::default(),
            has_no_streams: AtomicBool::new(false),
            authority: authority.to_string(),
        })
    }

    /// Whether no request can have left for this endpoint.
    pub fn never_connected(&self) -> bool {
        self.wire.never_connected()
    }
}

#[derive(Debug)]
struct Leader {
    endpoint: Arc<Endpoint>,
    term: u64,
}

#[derive(Debug, Default)]
struct Seen {
    current: usize,
    leader: Option<Leader>,
    searched: Option<Instant>,
    /// Authorities that did not answer, and until when they are avoided.
    silent: BTreeMap<String, Instant>,
}

impl Seen {
    fn avoids(&self, endpoint: &Endpoint) -> bool {
        // Nearly always empty: then this costs nothing.
        self.silent
            .get(&endpoint.authority)
            .is_some_and(|until| Instant::now() < *until)
    }
}

/// The endpoints, and what the answers so far say about them.
#[derive(Debug)]
pub(crate) struct Route {
    endpoints: Vec<Arc<Endpoint>>,
    seen: Mutex<Seen>,
}

impl Route {
    pub fn new<E>(endpoints: E, options: &ConnectOptions) -> Result<Self, Error>
    where
        E: IntoIterator,
        E::Item: AsRef<str>,
    {
        let endpoints = endpoints
            .into_iter()
            .map(|name| Endpoint::new(name.as_ref(), options).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(Error::BadEndpoint {
                endpoint: String::new(),
                cause: "no endpoint given".to_owned(),
            });
        }
        Ok(Self {
            endpoints,
            seen: Mutex::default(),
        })
    }

    /// The given endpoints, never empty.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The endpoints in the order in which a call that anyone can serve should ask them.
    pub fn order(&self) -> Vec<Arc<Endpoint>> {
        let seen = self.seen();
        let (behind, from) = self.endpoints.split_at(seen.current);
        let mut order: Vec<Arc<Endpoint>> = from.iter().chain(behind).cloned().collect();
        // Stable: those that are avoided stay in order too.
        order.sort_by_key(|endpoint| seen.avoids(endpoint));
        order
    }

    /// The first of [`Self::order`].
    pub fn first(&self) -> Arc<Endpoint> {
        let seen = self.seen();
        let (behind, from) = self.endpoints.split_at(seen.current);
        let first = from.iter().chain(behind).find(|endpoint| !seen.avoids(endpoint));
        Arc::clone(first.unwrap_or(&self.endpoints[seen.current]))
    }

    /// The leader, if it is known and answers.
    pub fn leader(&self) -> Option<Arc<Endpoint>> {
        let seen = self.seen();
        let endpoint = &seen.leader.as_ref()?.endpoint;
        (!seen.avoids(endpoint)).then(|| Arc::clone(endpoint))
    }

    /// Notes that `endpoint` failed: the next call starts elsewhere.
    pub fn failed(&self, endpoint: &Arc<Endpoint>, failure: Failure) {
        let mut seen = self.seen();
        if Arc::ptr_eq(endpoint, &self.endpoints[seen.current]) {
            seen.current = (seen.current + 1) % self.endpoints.len();
        }
        if seen
            .leader
            .as_ref()
            .is_some_and(|leader| Arc::ptr_eq(endpoint, &leader.endpoint))
        {
            seen.leader = None;
        }
        if failure == Failure::Silent {
            let now = Instant::now();
            // A leader's URL may change with every restart: what is over is forgotten.
            seen.silent.retain(|_, until| now < *until);
            seen.silent.insert(endpoint.authority.clone(), now + AVOIDED_FOR);
        }
    }

    /// Notes that `endpoint` answered where another had been asked first.
    pub fn answered(&self, endpoint: &Arc<Endpoint>) {
        let mut seen = self.seen();
        seen.silent.remove(&endpoint.authority);
        if let Some(at) = self.endpoints.iter().position(|each| Arc::ptr_eq(each, endpoint)) {
            seen.current = at;
        }
    }

    /// Notes the term of an answer: a newer one than the leader's means a newer leader.
    pub fn note_term(&self, term: u64) {
        let mut seen = self.seen();
        if seen.leader.as_ref().is_some_and(|leader| leader.term < term) {
            seen.leader = None;
        }
    }

    fn set_leader(&self, url: &str, term: u64, options: &ConnectOptions) {
        let Some(endpoint) = self.endpoint_of(url, options) else {
            return;
        };
        self.seen().leader = Some(Leader { endpoint, term });
    }

    /// The given endpoint behind `url`, or a new one: the leader need not be among the given.
    fn endpoint_of(&self, url: &str, options: &ConnectOptions) -> Option<Arc<Endpoint>> {
        let found = Endpoint::new(url, options).ok()?;
        let known = self.endpoints.iter().find(|each| each.authority == found.authority);
        Some(known.map_or_else(|| Arc::new(found), Arc::clone))
    }

    /// Whether a search for the leader is due; notes that it begins.
    fn begin_search(&self) -> bool {
        let mut seen = self.seen();
        let due = seen.leader.is_none() && seen.searched.is_none_or(|at| at.elapsed() >= SEARCH_AGAIN_AFTER);
        if due {
            seen.searched = Some(Instant::now());
        }
        due
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no code that holds this lock can panic")
    }
}

impl Client {
    /// The endpoint for the next attempt of a write.
    pub(crate) async fn for_write(&self) -> Arc<Endpoint> {
        if self.options.writes == Writes::ToEndpoints {
            return self.route.first();
        }
        self.learn_leader().await;
        self.route.leader().unwrap_or_else(|| self.route.first())
    }

    /// Asks one member who leads and where that is. Finding nobody is no error: any member takes a write.
    pub(crate) async fn learn_leader(&self) {
        if self.options.writes == Writes::ToLeader && self.route.begin_search() {
            let asked = self.route.first();
            if let Ok(Ok(Some((url, term)))) = timeout(SEARCH_TIME_MAX, leader_url(&asked.wire)).await {
                self.route.set_leader(&url, term, &self.options);
            }
        }
    }

    /// Follows the hint that a Dipper member puts beside an error.
    pub(crate) fn follow_hint(&self, status: &Status) {
        let hint = status.metadata().get(LEADER_HINT).and_then(|value| value.to_str().ok());
        if let (Some(url), Writes::ToLeader) = (hint, self.options.writes) {
            self.route.set_leader(url, 0, &self.options);
        }
    }

    /// Any member's status: proves that the cluster can be reached.
    pub(crate) async fn any_status(&self) -> Result<StatusResponse, Error> {
        self.read(|endpoint, terms| async move {
            MaintenanceClient::new(endpoint.wire.clone())
                .status(request_under(StatusRequest {}, terms))
                .await
        })
        .await
    }
}

/// Whether the member that said this lost a write to the end of a leader, but has found the next one: there is no
/// better place to go, and the former leader may be the worst.
pub(crate) fn follows_next_leader(status: &Status) -> bool {
    status.message() == proto::Error::TimeoutDueToLeaderFail.text() && status.metadata().contains_key(LEADER_HINT)
}

async fn leader_url(wire: &Wire) -> Result<Option<(String, u64)>, Status> {
    let status = MaintenanceClient::new(wire.clone())
        .status(StatusRequest {})
        .await?
        .into_inner();
    if status.leader == 0 {
        return Ok(None);
    }
    // Any member's own list will do: a stale URL fails to connect and the search starts again.
    let request = MemberListRequest { linearizable: false };
    let list = ClusterClient::new(wire.clone())
        .member_list(request)
        .await?
        .into_inner();
    let leader = list.members.into_iter().find(|member| member.id == status.leader);
    let url = leader.and_then(|member| member.client_ur_ls.into_iter().next());
    Ok(url.map(|url| (url, status.raft_term)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(endpoints: &[&str]) -> Route {
        Route::new(endpoints, &ConnectOptions::default()).unwrap()
    }

    fn names(route: &Route) -> Vec<String> {
        route.order().iter().map(|endpoint| endpoint.name.clone()).collect()
    }

    #[tokio::test]
    async fn a_failed_endpoint_is_left_and_a_failed_leader_forgotten() {
        let route = route(&["127.0.0.1:1", "http://127.0.0.1:2"]);
        let options = ConnectOptions::default();
        route.set_leader("http://127.0.0.1:1", 3, &options);
        let first = route.first();
        assert!(
            Arc::ptr_eq(&route.leader().unwrap(), &first),
            "a given endpoint is recognised"
        );
        route.failed(&first, Failure::Refused);
        assert!(route.leader().is_none());
        assert_eq!(names(&route), ["http://127.0.0.1:2", "127.0.0.1:1"]);
        assert_eq!(route.first().name, "http://127.0.0.1:2");
    }

    #[tokio::test]
    async fn a_silent_endpoint_is_asked_last_until_it_answers_or_time_has_passed() {
        let route = route(&["a:1", "b:2", "c:3"]);
        let options = ConnectOptions::default();
        let [a, b, c] = [0, 1, 2].map(|at| Arc::clone(&route.endpoints()[at]));
        route.failed(&a, Failure::Silent);
        // The others live, and refuse: the turn comes round to the silent one no sooner for that.
        route.failed(&b, Failure::Refused);
        route.failed(&c, Failure::Refused);
        assert_eq!(names(&route), ["b:2", "c:3", "a:1"]);
        route.set_leader("a:1", 3, &options);
        assert!(route.leader().is_none(), "whoever leads, it cannot be reached");
        route.failed(&b, Failure::Silent);
        route.failed(&c, Failure::Silent);
        assert_eq!(names(&route).len(), 3, "when all are silent each is worth asking");
        assert_eq!(route.first().name, "a:1");
        route.answered(&c);
        assert_eq!(names(&route), ["c:3", "a:1", "b:2"]);
        assert_eq!(route.first().name, "c:3");
        // Time passes.
        route
            .seen()
            .silent
            .values_mut()
            .for_each(|until| *until = Instant::now());
        assert!(route.leader().is_some());
        route.failed(&c, Failure::Refused);
        assert_eq!(route.first().name, "a:1");
    }

    #[tokio::test]
    async fn a_newer_term_means_a_newer_leader() {
        let route = route(&["127.0.0.1:1"]);
        route.set_leader("http://127.0.0.1:9", 3, &ConnectOptions::default());
        route.note_term(3);
        assert_eq!(route.leader().unwrap().name, "http://127.0.0.1:9");
        route.note_term(4);
        assert!(route.leader().is_none());
    }

    #[tokio::test]
    async fn endpoints_that_cannot_be_dialled_are_named() {
        for bad in ["", "https://a:1", "a", "http://", "http://a"] {
            let error = Route::new([bad], &ConnectOptions::default()).unwrap_err();
            assert!(
                matches!(&error, Error::BadEndpoint { endpoint, .. } if endpoint == bad),
                "{error}"
            );
        }
    }

    #[test]
    fn a_member_is_stayed_with_when_it_knows_who_leads_after_the_one_that_failed() {
        let mut status = Status::unavailable(proto::Error::TimeoutDueToLeaderFail.text());
        assert!(!follows_next_leader(&status), "it may hear nobody");
        status.metadata_mut().insert(LEADER_HINT, "http://b:1".parse().unwrap());
        assert!(follows_next_leader(&status));
        let mut other = Status::unavailable(proto::Error::Timeout.text());
        other.metadata_mut().insert(LEADER_HINT, "http://b:1".parse().unwrap());
        assert!(!follows_next_leader(&other));
    }
}
