//! Refusals to start: what is wrong, in one sentence that names the flag, the file or the limit.
//!
//! Each cause has a phrase that never changes: operators search for it, the README's runbook has a line for it and a
//! test holds text, phrase and runbook together. This is not the place of answers to clients (`proto::Error`) nor of
//! broken promises (those panic).

use std::fmt;
use std::io;
use std::path::Path;

use crate::ids::MemberId;

macro_rules! causes {
    ($($name:ident $phrase:literal),* $(,)?) => {
        /// Why a member does not start.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause {
            $(#[doc = $phrase] $name,)*
        }

        impl Cause {
            /// Every cause, for the tests that compare them with the runbook.
            pub const ALL: &'static [Cause] = &[$(Cause::$name),*];

            /// The words that every text of this cause contains.
            pub fn phrase(self) -> &'static str {
                match self {
                    $(Cause::$name => $phrase,)*
                }
            }
        }
    };
}

causes! {
    // The command line as such.
    UnknownArgument "unexpected argument",
    MissingValue "flag needs an argument",
    BadValue "invalid value",
    Shadowed "is shadowed by corresponding command-line flag",
    // URLs and the initial cluster.
    BadUrl "invalid URL in",
    Tls "TLS is not served yet",
    UnixSocket "unix sockets are not served yet",
    BindHost "expected IP in URL for binding",
    PortZero "port 0 cannot be advertised",
    AdvertiseMissing "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    BadName "cannot be a member's name",
    NotInCluster "couldn't find local name",
    AdvertiseDiffers "missing from --initial-advertise-peer-urls",
    DuplicateUrl "has duplicate url",
    // Numbers that do not go together.
    ElectionTooShort "should be at least as 5 times as --heartbeat-interval",
    ElectionTooLong "is too long, and should be set less than",
    HeartbeatTooShort "is shorter than one tick",
    OutOfBounds "is out of bounds",
    CompactionMode "only periodic exists yet",
    // Directories.
    WalDirOverlaps "must be a directory apart from --data-dir",
    Joining "joining a running cluster is not served yet",
    OpenToOthers "can be written by others",
    InUse "is in use by another process",
    Foreign "is not a data directory of dipper",
    Newer "written by a newer dipper",
    OtherMember "belongs to another member",
    WalDirMoved "keeps its log elsewhere",
    WalDirOrphan "holds the log of a member whose data directory is gone",
    DamagedFile "is damaged",
    MissingPart "has lost",
    Unusable "cannot use",
    // What is found later, on the way to serving.
    DamagedLog "the log is damaged",
    Amnesia "was in this cluster before with another data directory",
    OpenFiles "too few file descriptors",
    Listen "cannot listen on",
}

/// A refusal to start; printed once, then the process ends with `exit_code`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    cause: Cause,
    text: String,
}

impl StartError {
    /// A refusal with a text that contains the phrase of its cause.
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        let text = text.into();
        debug_assert!(text.contains(cause.phrase()), "{cause:?} without its phrase: {text}");
        Self { cause, text }
    }

    /// Why.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// etcd's exit codes: 2 for a command line that cannot be read, 1 for all the rest.
    pub fn exit_code(&self) -> i32 {
        match self.cause {
            Cause::UnknownArgument | Cause::MissingValue => 2,
            _ => 1,
        }
    }

    /// A file or directory that the operating system refuses us.
    pub fn unusable(path: &Path, doing: &str, error: &io::Error) -> Self {
        Self::new(
            Cause::Unusable,
            format!("cannot use {}: {doing}: {error}", path.display()),
        )
    }

    /// A log that lacks what its MARK says was synced, or a broken record at or below it.
    pub fn damaged_log(file: &Path, found: &str) -> Self {
        let file = file.display();
        Self::new(
            Cause::DamagedLog,
            format!(
                "the log is damaged: {file}: {found}. This member cannot vouch for what it acknowledged; keep a copy of \
                 the directory, then replace the member"
            ),
        )
    }

    /// An empty directory under an identity that the other members know with another incarnation.
    pub fn amnesia(member: MemberId, told_by: &str) -> Self {
        Self::new(
            Cause::Amnesia,
            format!(
                "member {member} was in this cluster before with another data directory (says {told_by}); it may have \
                 voted and acknowledged writes that it no longer has. Bring the old directory back (--data-dir, \
                 --wal-dir), or replace the member under a new identity"
            ),
        )
    }

    /// An address of a listen flag that cannot be bound.
    pub fn cannot_listen(flag: &str, url: &str, error: &io::Error) -> Self {
        Self::new(Cause::Listen, format!("cannot listen on {url} (--{flag}): {error}"))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StartError {}
