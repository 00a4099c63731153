//! How a command ends badly: etcdctl's exit codes and its one line on standard error.

use dipper_client::Error;

/// etcdctl's exit codes (`pkg/cobrautl`): scripts test for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Error = 1,
    BadConnection = 2,
    InvalidInput = 3,
    BadFeature = 4,
    Interrupted = 5,
    Io = 6,
    BadArguments = 128,
}

/// Printed as `Error: <message>`; an empty message prints nothing.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    pub fn arguments(message: impl Into<String>) -> Self {
        Self::new(Exit::BadArguments, message)
    }

    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Exit::InvalidInput, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(Exit::Error, explain(&error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Io, error.to_string())
    }
}

/// The text of an error as etcdctl has it; a deadline is all that etcdctl says about one.
pub fn explain(error: &Error) -> String {
    match error {
        Error::Timeout { .. } | Error::Unavailable { .. } => "context deadline exceeded".to_owned(),
        other => other.to_string(),
    }
}
