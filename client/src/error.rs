//! What a caller can be told, and how a gRPC status is judged. The judgement is pure and it is the most
//! important code of this crate: it decides whether a write may be sent again.
//!
//! | seen                                                  | a read        | a write          |
//! |-------------------------------------------------------|---------------|------------------|
//! | connection never made, request never left             | next endpoint | next endpoint    |
//! | `no leader`, `not leader`                             | next endpoint | next endpoint    |
//! | another row of etcd's table that decides              | the answer    | the answer       |
//! | `request timed out`, `server stopped`, lost connection| next endpoint | unknown outcome  |
//! | a reply that could not be read                        | the answer    | unknown outcome  |
//!
//! Not here: waiting and choosing endpoints (`retry`, `route`).

use std::{error, fmt, time::Duration};

use tonic::{Code, Status};

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The server decided against the request. `row` is set when the text is one of etcd's own.
    Server {
        code: Code,
        text: String,
        row: Option<proto::Error>,
    },
    /// The revision asked for is gone; history starts at `compact_revision`.
    Compacted { compact_revision: i64 },
    /// No endpoint took the request before the deadline. It was not executed.
    Unavailable { cause: String },
    /// The deadline passed on a read, or on a write that never left this process. It changed nothing.
    Timeout { cause: String },
    /// The write was sent and its answer is not known: it may have happened, or may still happen.
    UnknownOutcome { cause: String },
    /// An endpoint is not `host:port` or `http://host:port`.
    BadEndpoint { endpoint: String, cause: String },
}

impl Error {
    /// The row of etcd's error table, if the server's answer is one.
    pub fn row(&self) -> Option<&proto::Error> {
        match self {
            Self::Server { row, .. } => row.as_ref(),
            Self::Compacted { .. } => Some(&proto::Error::Compacted),
            _ => None,
        }
    }

    /// Whether the write may or may not have happened.
    pub fn is_unknown_outcome(&self) -> bool {
        matches!(self, Self::UnknownOutcome { .. })
    }

    /// Reads a text that etcd sends outside a status, such as a watch's `cancel_reason`.
    pub(crate) fn from_text(code: Code, text: &str) -> Self {
        let row = row_of(text);
        let code = row.as_ref().map_or(code, |row| Code::from_i32(row.code() as i32));
        Self::Server {
            code,
            text: text.to_owned(),
            row,
        }
    }

    pub(crate) fn timeout(after: Duration) -> Self {
        Self::Timeout {
            cause: format!("no answer within {after:?}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { row: Some(row), .. } => f.write_str(row.text()),
            Self::Server { code, text, .. } => write!(f, "rpc error: code = {code:?} desc = {text}"),
            Self::Compacted { .. } => f.write_str(proto::Error::Compacted.text()),
            Self::Unavailable { cause } => write!(f, "no endpoint is available: {cause}"),
            Self::Timeout { cause } => write!(f, "context deadline exceeded: {cause}"),
            Self::UnknownOutcome { cause } => write!(f, "the outcome of the write is unknown: {cause}"),
            Self::BadEndpoint { endpoint, cause } => write!(f, "bad endpoint {endpoint:?}: {cause}"),
        }
    }
}

impl error::Error for Error {}

/// The request was not sent: there was no connection, or its stream ended before.
#[derive(Debug)]
pub(crate) struct NotSent(String);

impl NotSent {
    pub fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for NotSent {}

/// What a failed attempt says about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server decided; asking again gives the same.
    Decided,
    /// It was surely not executed: anyone may be asked.
    NotDone,
    /// It may have been executed.
    Unclear,
}

/// Judges a failed attempt of a write, as the table above says.
pub(crate) fn fate_of_write(status: &Status) -> Fate {
    if never_left(status) {
        return Fate::NotDone;
    }
    match row_of(status.message()) {
        Some(row) => fate_of_row(&row),
        None => match status.code() {
            Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::AlreadyExists => Fate::Decided,
            // The server's refusal to read the request; a reply too large to be sent has the same code.
            Code::ResourceExhausted if status.message().contains("received message larger than max") => Fate::Decided,
            _ => Fate::Unclear,
        },
    }
}

/// Judges a failed attempt of a read: everything that another member may do better is asked again.
pub(crate) fn fate_of_read(status: &Status) -> Fate {
    if never_left(status) {
        return Fate::NotDone;
    }
    match row_of(status.message()) {
        Some(row) => fate_of_row(&row),
        None => match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => Fate::Unclear,
            // Without a server's trailers these codes are made up by our own side of a lost connection.
            Code::Cancelled | Code::Internal | Code::Unknown if error::Error::source(status).is_some() => Fate::Unclear,
            _ => Fate::Decided,
        },
    }
}

fn fate_of_row(row: &proto::Error) -> Fate {
    use proto::Error::{
        Canceled, DeadlineExceeded, LeaderChanged, NoLeader, NotLeader, Stopped, Timeout, TimeoutDueToConnectionLost,
        TimeoutDueToLeaderFail, TimeoutWaitAppliedIndex, Unhealthy,
    };
    match row {
        NoLeader | NotLeader => Fate::NotDone,
        Canceled
        | DeadlineExceeded
        | LeaderChanged
        | Stopped
        | Timeout
        | TimeoutDueToConnectionLost
        | TimeoutDueToLeaderFail
        | TimeoutWaitAppliedIndex
        | Unhealthy => Fate::Unclear,
        _ => Fate::Decided,
    }
}

/// The error a caller sees for `status`, once nothing else is tried.
pub(crate) fn from_status(status: &Status) -> Error {
    let text = status.message();
    match row_of(text) {
        None if never_left(status)
            || (status.code() == Code::Unavailable && error::Error::source(status).is_some()) =>
        {
            Error::Unavailable {
                cause: with_sources(status),
            }
        }
        row => Error::Server {
            code: status.code(),
            text: text.to_owned(),
            row,
        },
    }
}

/// Whether a member has said this, rather than our own side of a connection that is not there.
pub(crate) fn is_from_server(status: &Status) -> bool {
    error::Error::source(status).is_none()
}

/// The last of the causes is the one that names what the operating system said.
pub(crate) fn with_sources(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Whether the request never got onto a connection: the connection was not made, or it closed while the
/// request still waited to be written (hyper's "canceled").
fn never_left(status: &Status) -> bool {
    let mut cause = error::Error::source(status);
    while let Some(error) = cause {
        let unsent = error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled);
        if unsent || error.is::<NotSent>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn row_of(text: &str) -> Option<proto::Error> {
    proto::Error::TABLE.iter().find(|row| row.text() == text).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_not_done_may_be_sent_again() {
        for row in proto::Error::TABLE {
            let status = Status::new(Code::from_i32(row.code() as i32), row.text());
            let again = fate_of_write(&status) == Fate::NotDone;
            assert_eq!(
                again,
                matches!(row, proto::Error::NoLeader | proto::Error::NotLeader),
                "{row:?}"
            );
            if row.text().contains("timed out") {
                assert_eq!(fate_of_write(&status), Fate::Unclear, "{row:?}");
            }
        }
    }

    #[test]
    fn texts_outside_the_table_are_unclear_for_a_write_unless_the_server_refused_to_start() {
        assert_eq!(
            fate_of_write(&Status::unavailable("error reading a body")),
            Fate::Unclear
        );
        assert_eq!(fate_of_write(&Status::unknown("raft proposal dropped")), Fate::Unclear);
        assert_eq!(
            fate_of_write(&Status::resource_exhausted("reply too large")),
            Fate::Unclear
        );
        let too_large = "grpc: received message larger than max (2 vs. 1)";
        assert_eq!(fate_of_write(&Status::resource_exhausted(too_large)), Fate::Decided);
        assert_eq!(fate_of_write(&Status::unimplemented("no")), Fate::Decided);
    }

    #[test]
    fn a_connection_that_was_not_made_is_not_done() {
        let status = Status::from_error(Box::new(NotSent::new("refused")));
        assert_eq!(fate_of_write(&status), Fate::NotDone);
        assert!(matches!(from_status(&status), Error::Unavailable { .. }));
    }

    #[test]
    fn a_row_is_printed_as_etcd_prints_it() {
        let error = from_status(&Status::out_of_range(proto::Error::Compacted.text()));
        assert_eq!(error.row(), Some(&proto::Error::Compacted));
        assert_eq!(
            error.to_string(),
            "etcdserver: mvcc: required revision has been compacted"
        );
        assert_eq!(
            from_status(&Status::unknown("x")).to_string(),
            "rpc error: code = Unknown desc = x"
        );
    }
}
