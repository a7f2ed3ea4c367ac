//! How a command ends: its exit code, and the one line that says why. Decided here and nowhere else.

use std::fmt;
use std::process::ExitCode;

use crate::openai::CallError;

/// How a command can end, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// It was tried and did not work.
    Failed = 1,
    /// The command or the configuration is wrong.
    Usage = 2,
    /// Something that must hold before does not.
    Refused = 3,
    /// Nobody answers, or nobody who could decide: nothing was changed.
    Unreachable = 4,
    /// A change was asked for, and nobody knows whether it was made.
    Unknown = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    /// Exit 2.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Usage, error: error.into() }
    }

    /// Exit 3.
    pub(crate) fn refused(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Refused, error: error.into() }
    }

    /// Exit 4.
    pub(crate) fn unreachable(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Unreachable, error: error.into() }
    }

    /// Exit 5.
    pub(crate) fn unknown(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Unknown, error: error.into() }
    }

    /// The code that the process ends with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

/// Exit 1, unless said otherwise.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Exit::Failed, error }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable { .. } => Self::unreachable(error),
            CallError::Api { .. } | CallError::Broken { .. } | CallError::NotACompletion { .. } => {
                anyhow::Error::new(error).into()
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Many of our errors already end in their cause's words; a cause is added only where it says more.
        let mut said = String::new();
        for cause in self.error.chain() {
            let text = cause.to_string();
            if !said.contains(&text) {
                said += if said.is_empty() { "" } else { ": " };
                said += &text;
            }
        }
        f.write_str(&said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read x: {source}")]
        struct Read {
            source: std::io::Error,
        }
        let failure =
            Failure::from(anyhow::Error::new(Read { source: std::io::Error::other("gone") }).context("check"));
        assert_eq!(failure.to_string(), "check: cannot read x: gone");
        assert_eq!(failure.exit(), Exit::Failed);
    }
}
