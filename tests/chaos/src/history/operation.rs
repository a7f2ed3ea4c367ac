//! One operation on one register, as its client saw it.
//!
//! A register is what admins write: a node's cordon, a deployment's number of replicas. Each accepted write gives it the
//! next revision (a deployment's is its generation), so every acknowledged write and every read names its place in the
//! register's life.

use std::fmt;

/// Nanoseconds since the run began, by the clock of the process that records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than anything that is recorded.
    pub const NEVER: Self = Self(u64::MAX);
}

/// A register's revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// The one that the next accepted write has.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A register at one place of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// Which place.
    pub revision: Revision,
    /// What it holds there: 0 or 1 for a cordon.
    pub value: u16,
}

/// What a write wants the register to be at; `None`: wherever it is.
pub type Expected = Option<Revision>;

/// What was asked and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A linearizable read, and what it showed.
    Read(Version),
    /// An acknowledged write.
    Wrote {
        /// What the register was to be at.
        expected: Expected,
        /// What it was told to be, at which revision.
        version: Version,
    },
    /// A write that was refused for the register's revision.
    Refused {
        /// What the register was to be at.
        expected: Revision,
        /// What it was at.
        found: Revision,
    },
    /// A write of which nobody knows: it may take effect at any time after it was asked for, or never.
    Unknown {
        /// What the register is to be at.
        expected: Expected,
        /// What it is told to be.
        value: u16,
    },
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Whose.
    pub client: u32,
    /// When it was asked for.
    pub called: Moment,
    /// When the answer was there; of an unknown outcome, when the client gave up, which bounds nothing.
    pub returned: Moment,
    /// What.
    pub what: What,
}

impl Operation {
    /// Until when it must have taken effect, if it did.
    #[must_use]
    pub fn until(&self) -> Moment {
        match self.what {
            What::Unknown { .. } => Moment::NEVER,
            What::Read(_) | What::Wrote { .. } | What::Refused { .. } => self.returned,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |at: Moment| at.0 as f64 / 1e6;
        write!(f, "client {} from {:.3} to {:.3} ms: ", self.client, ms(self.called), ms(self.returned))?;
        let against = |expected: Expected| expected.map_or_else(String::new, |r| format!(" if at revision {}", r.0));
        match self.what {
            What::Read(v) => write!(f, "read {} at revision {}", v.value, v.revision.0),
            What::Wrote { expected, version } => {
                write!(
                    f,
                    "wrote {}{}, acknowledged as revision {}",
                    version.value,
                    against(expected),
                    version.revision.0
                )
            }
            What::Refused { expected, found } => {
                write!(f, "was refused a write if at revision {}: it was at {}", expected.0, found.0)
            }
            What::Unknown { expected, value } => write!(f, "wrote {value}{}, outcome unknown", against(expected)),
        }
    }
}
