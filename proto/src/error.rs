//! Everything a client can be told, once: gRPC code and exact text. Clients match on both, so a row is
//! never reworded. The same value travels from the state machine to the wire; nothing else makes a text.

use std::fmt;

/// gRPC's status codes, those that the table uses. (tonic's type is not used: `kv` must not see tonic.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

macro_rules! error_table {
    ($($name:ident $code:ident $text:literal),* $(,)?) => {
        /// An answer that is not a success. Deterministic: part of the result of applying a command.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Error {
            $(#[doc = $text] $name,)*
            /// A request that this build does not serve, with a sentence that says so.
            Unimplemented(&'static str),
            /// A reply or a request beyond a bound of gRPC's own, with the sentence that names the bound.
            ResourceExhausted(String),
        }

        impl Error {
            /// Every row of etcd's table, for tests that provoke or count them.
            pub const TABLE: &'static [Error] = &[$(Error::$name),*];

            /// The name etcd's Go code gives the row, without its `ErrGRPC`.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Error::$name => stringify!($name),)*
                    Error::Unimplemented(_) => "Unimplemented",
                    Error::ResourceExhausted(_) => "ResourceExhausted",
                }
            }

            /// The gRPC status code.
            pub fn code(&self) -> Code {
                match self {
                    $(Error::$name => Code::$code,)*
                    Error::Unimplemented(_) => Code::Unimplemented,
                    Error::ResourceExhausted(_) => Code::ResourceExhausted,
                }
            }

            /// The text, as etcd spells it.
            pub fn text(&self) -> &str {
                match self {
                    $(Error::$name => $text,)*
                    Error::Unimplemented(text) => text,
                    Error::ResourceExhausted(text) => text,
                }
            }
        }
    };
}

error_table! {
    EmptyKey InvalidArgument "etcdserver: key is not provided",
    KeyNotFound InvalidArgument "etcdserver: key not found",
    ValueProvided InvalidArgument "etcdserver: value is provided",
    LeaseProvided InvalidArgument "etcdserver: lease is provided",
    TooManyOps InvalidArgument "etcdserver: too many operations in txn request",
    DuplicateKey InvalidArgument "etcdserver: duplicate key given in txn request",
    InvalidClientAPIVersion InvalidArgument "etcdserver: invalid client api version",
    InvalidSortOption InvalidArgument "etcdserver: invalid sort option",
    Compacted OutOfRange "etcdserver: mvcc: required revision has been compacted",
    FutureRev OutOfRange "etcdserver: mvcc: required revision is a future revision",
    NoSpace ResourceExhausted "etcdserver: mvcc: database space exceeded",
    LeaseNotFound NotFound "etcdserver: requested lease not found",
    LeaseExist FailedPrecondition "etcdserver: lease already exists",
    LeaseTTLTooLarge OutOfRange "etcdserver: too large lease TTL",
    WatchCanceled Canceled "etcdserver: watch canceled",
    MemberExist FailedPrecondition "etcdserver: member ID already exist",
    PeerURLExist FailedPrecondition "etcdserver: Peer URLs already exists",
    // etcd maps this one to its client-side type by mistake: on the wire the code is Unknown.
    MemberNotEnoughStarted Unknown "etcdserver: re-configuration failed due to not enough started members",
    MemberBadURLs InvalidArgument "etcdserver: given member URLs are invalid",
    MemberNotFound NotFound "etcdserver: member not found",
    MemberNotLearner FailedPrecondition "etcdserver: can only promote a learner member",
    LearnerNotReady FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader",
    TooManyLearners FailedPrecondition "etcdserver: too many learner members in cluster",
    ClusterIDMismatch FailedPrecondition "etcdserver: cluster ID mismatch",
    RequestTooLarge InvalidArgument "etcdserver: request is too large",
    // etcd maps this one to its client-side type by mistake: on the wire the code is Unknown.
    RequestTooManyRequests Unknown "etcdserver: too many requests",
    RootUserNotExist FailedPrecondition "etcdserver: root user does not exist",
    RootRoleNotExist FailedPrecondition "etcdserver: root user does not have root role",
    UserAlreadyExist FailedPrecondition "etcdserver: user name already exists",
    UserEmpty InvalidArgument "etcdserver: user name is empty",
    UserNotFound FailedPrecondition "etcdserver: user name not found",
    RoleAlreadyExist FailedPrecondition "etcdserver: role name already exists",
    RoleNotFound FailedPrecondition "etcdserver: role name not found",
    RoleEmpty InvalidArgument "etcdserver: role name is empty",
    AuthFailed InvalidArgument "etcdserver: authentication failed, invalid user ID or password",
    PermissionNotGiven InvalidArgument "etcdserver: permission not given",
    PermissionDenied PermissionDenied "etcdserver: permission denied",
    RoleNotGranted FailedPrecondition "etcdserver: role is not granted to the user",
    PermissionNotGranted FailedPrecondition "etcdserver: permission is not granted to the role",
    AuthNotEnabled FailedPrecondition "etcdserver: authentication is not enabled",
    InvalidAuthToken Unauthenticated "etcdserver: invalid auth token",
    InvalidAuthMgmt InvalidArgument "etcdserver: invalid auth management",
    AuthOldRevision InvalidArgument "etcdserver: revision of auth store is old",
    NoLeader Unavailable "etcdserver: no leader",
    NotLeader FailedPrecondition "etcdserver: not leader",
    LeaderChanged Unavailable "etcdserver: leader changed",
    NotCapable FailedPrecondition "etcdserver: not capable",
    Stopped Unavailable "etcdserver: server stopped",
    Timeout Unavailable "etcdserver: request timed out",
    TimeoutDueToLeaderFail Unavailable "etcdserver: request timed out, possibly due to previous leader failure",
    TimeoutDueToConnectionLost Unavailable "etcdserver: request timed out, possibly due to connection lost",
    TimeoutWaitAppliedIndex Unavailable "etcdserver: request timed out, waiting for the applied index took too long",
    Unhealthy Unavailable "etcdserver: unhealthy cluster",
    Corrupt DataLoss "etcdserver: corrupt cluster",
    NotSupportedForLearner FailedPrecondition "etcdserver: rpc not supported for learner",
    BadLeaderTransferee FailedPrecondition "etcdserver: bad leader transferee",
    WrongDowngradeVersionFormat InvalidArgument "etcdserver: wrong downgrade target version format",
    InvalidDowngradeTargetVersion InvalidArgument "etcdserver: invalid downgrade target version",
    ClusterVersionUnavailable FailedPrecondition "etcdserver: cluster version not found during downgrade",
    DowngradeInProcess FailedPrecondition "etcdserver: cluster has a downgrade job in progress",
    NoInflightDowngrade FailedPrecondition "etcdserver: no inflight downgrade job",
    Canceled Canceled "etcdserver: request canceled",
    DeadlineExceeded DeadlineExceeded "etcdserver: context deadline exceeded",
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unique_and_complete() {
        let mut texts: Vec<_> = Error::TABLE.iter().map(Error::text).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Error::TABLE.len());
        assert_eq!(Error::TABLE.len(), 63, "rows of the table in etcd v3.7");
    }
}
