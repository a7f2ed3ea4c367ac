//! What is wrong with a configuration, all of it at once.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No such key.
    UnknownKey {
        /// Where it stands.
        path: String,
        /// The key that may have been meant.
        nearest: Option<&'static str>,
    },
    /// The file must say it and does not.
    Missing {
        /// The key.
        path: String,
        /// What is accepted.
        accepts: String,
    },
    /// The value is not of the key's kind or not in its range.
    BadValue {
        /// The key.
        path: String,
        /// What was found, cut to 80 characters.
        found: String,
        /// What is accepted.
        accepts: String,
    },
    /// Two values that are fine by themselves do not go together.
    Conflict {
        /// The key to change.
        path: String,
        /// Its value.
        found: String,
        /// What it must be, given the other.
        accepts: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { path, nearest: Some(nearest) } => {
                write!(f, "{path}: no such key; did you mean `{nearest}`?")
            }
            Self::UnknownKey { path, nearest: None } => write!(f, "{path}: no such key"),
            Self::Missing { path, accepts } => write!(f, "{path}: missing; accepted: {accepts}"),
            Self::BadValue { path, found, accepts } | Self::Conflict { path, found, accepts } => {
                write!(f, "{path} = {found}: accepted: {accepts}")
            }
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any configuration.
    #[error("{} has {found} bytes, at most {max} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        found: u64,
        /// The bound, bytes.
        max: u64,
    },
    /// The file is not TOML.
    #[error("{origin} is not TOML: {reason}")]
    Syntax {
        /// The file.
        origin: String,
        /// Line, column and what was expected.
        reason: String,
    },
    /// The values are wrong.
    #[error("{origin}: {} fault{}\n{}", faults.len(), if faults.len() == 1 { "" } else { "s" }, lines(faults))]
    Faults {
        /// The file.
        origin: String,
        /// Every fault, in the order of the file.
        faults: Vec<Fault>,
    },
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|f| format!("  {f}")).collect::<Vec<_>>().join("\n")
}
