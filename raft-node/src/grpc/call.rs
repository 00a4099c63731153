//! What every RPC does before and behind its own work: metadata checks, the deadline, the counters, and the
//! translation of an error to a status.
//!
//! A helper that each handler calls, not a tower layer: a layer costs an allocation a request.

use super::{
    counters::{Rpc, RpcCounters, Started},
    member::Member,
};
use crate::limits::ANSWER_BEFORE_DEADLINE;
use proto::Error;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tonic::{
    Code, Response, Status,
    metadata::{MetadataMap, MetadataValue},
};

/// Where an error that another member could have avoided names the leader's client URL; our client follows it.
const LEADER_KEY: &str = "dipper-leader";

/// No request waits longer than this, whatever deadline it brings.
const DEADLINE_MAX: Duration = Duration::from_hours(24);

/// What every service holds.
pub struct Context<M> {
    /// The member that is served.
    pub member: Arc<M>,
    /// The counts of its RPCs.
    pub counters: Arc<RpcCounters>,
}

impl<M> Clone for Context<M> {
    fn clone(&self) -> Self {
        Self {
            member: Arc::clone(&self.member),
            counters: Arc::clone(&self.counters),
        }
    }
}

/// One admitted call.
pub struct Call<'a, M> {
    context: &'a Context<M>,
    started: Started,
    /// When its answer is of no use any more.
    pub deadline: Instant,
}

impl<M: Member> Context<M> {
    /// Counts and admits a call.
    pub fn begin(&self, rpc: Rpc, metadata: &MetadataMap) -> Result<Call<'_, M>, Status> {
        let started = self.counters.start(rpc);
        let call = Call {
            context: self,
            started,
            deadline: self.deadline(client_timeout(metadata)),
        };
        match self.admit(metadata) {
            Ok(()) => Ok(call),
            Err(error) => Err(call.refuse(&error)),
        }
    }

    /// When the answer to a client that waits for so long is of no use any more.
    pub fn deadline(&self, timeout: Option<Duration>) -> Instant {
        let timeout = timeout.map_or(self.member.limits().request_timeout, in_time);
        Instant::now() + timeout.min(DEADLINE_MAX)
    }

    /// The status that tells a client of `error`.
    pub fn status(&self, error: &Error) -> Status {
        let mut status = Status::new(Code::from_i32(error.code() as i32), error.text());
        if let Some(url) = self.hint(error) {
            // A URL that cannot be a header value cannot be followed either.
            if let Ok(url) = MetadataValue::try_from(url) {
                status.metadata_mut().insert(LEADER_KEY, url);
            }
        }
        status
    }

    fn admit(&self, metadata: &MetadataMap) -> Result<(), Error> {
        if !client_api_version_is_served(metadata) {
            return Err(Error::InvalidClientAPIVersion);
        }
        if requires_leader(metadata) && self.member.standing().leader == 0 {
            return Err(Error::NoLeader);
        }
        Ok(())
    }

    /// The leader's client URL, if the leader could have done better.
    pub fn hint(&self, error: &Error) -> Option<String> {
        let leader_would_help = Code::from_i32(error.code() as i32) == Code::Unavailable || *error == Error::NotLeader;
        leader_would_help.then(|| self.leader_url()).flatten()
    }

    fn leader_url(&self) -> Option<String> {
        let leader = self.member.standing().leader;
        let view = self.member.view();
        let member = view.membership().members.iter().find(|member| member.id == leader)?;
        member.client_urls.first().cloned()
    }
}

impl<M: Member> Call<'_, M> {
    /// Counts the end of a unary call and makes its reply.
    pub fn end<R>(mut self, result: Result<R, Error>) -> Result<Response<R>, Status> {
        match result {
            Ok(reply) => {
                self.started.end(Code::Ok);
                Ok(Response::new(reply))
            }
            Err(error) => Err(self.refuse(&error)),
        }
    }

    /// Counts the end of a call that failed and makes its status.
    pub fn refuse(mut self, error: &Error) -> Status {
        let status = self.context.status(error);
        self.started.end(status.code());
        status
    }

    /// The counter of a call that lives on as a stream.
    pub fn into_stream(self) -> Started {
        self.started
    }
}

/// Whether the client wants an error rather than an answer from a member that has no leader.
pub fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata
        .get("hasleader")
        .is_some_and(|value| value.as_encoded_bytes() == b"true")
}

/// Refuses what is not text, and API versions before 3.0. What cannot be read as a version is let through:
/// etcd only counts it.
fn client_api_version_is_served(metadata: &MetadataMap) -> bool {
    let Some(value) = metadata.get("client-api-version") else {
        return true;
    };
    let Ok(version) = std::str::from_utf8(value.as_encoded_bytes()) else {
        return false;
    };
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_none_or(|major| major >= 3)
}

/// How long a request may wait so that its client hears the named error before its own deadline passes.
fn in_time(timeout: Duration) -> Duration {
    timeout.saturating_sub((timeout / 10).min(ANSWER_BEFORE_DEADLINE))
}

/// The `grpc-timeout` header: at most eight digits and a unit.
fn client_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(key: &'static str, value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(key, value.parse().expect("test values are ascii"));
        metadata
    }

    #[test]
    fn reads_grpc_timeouts() {
        for (text, timeout) in [
            ("7S", Some(Duration::from_secs(7))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("999999999H", None),
            ("S", None),
            ("-1S", None),
            ("1", None),
        ] {
            assert_eq!(client_timeout(&metadata("grpc-timeout", text)), timeout, "{text}");
        }
        assert_eq!(client_timeout(&MetadataMap::new()), None);
    }

    #[test]
    fn reads_client_api_versions() {
        for (text, served) in [
            ("3.5", true),
            ("3", true),
            ("2.9", false),
            ("unknown", true),
            ("10.0", true),
        ] {
            assert_eq!(
                client_api_version_is_served(&metadata("client-api-version", text)),
                served,
                "{text}"
            );
        }
    }

    #[test]
    fn only_the_word_true_requires_a_leader() {
        assert!(requires_leader(&metadata("hasleader", "true")));
        assert!(!requires_leader(&metadata("hasleader", "1")));
    }
}
