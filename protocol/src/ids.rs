//! Newtypes for every id and counter of DESIGN's glossary. A bare integer never names one of these.
//!
//! Invariant: a value of one of these types has passed its constructor's check, also when it came off the wire
//! (names are checked again by [`crate::frame::Message::validate`]).

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// Why a string or number is not the id it claims to be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// A name that is not a DNS label: it goes into certificates.
    #[error("`{found}` is not a valid {what}: expected 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'")]
    NotALabel {
        /// Which id it was meant to be.
        what: &'static str,
        /// The offending text, cut to 80 characters.
        found: String,
    },
    /// A world size of zero or above the bound.
    #[error("world size {found} is out of range 1..={max}")]
    WorldSize {
        /// The offending number.
        found: u32,
        /// The largest legal one.
        max: u32,
    },
    /// Not 32 lower-case hexadecimal digits.
    #[error("`{found}` is not a valid {what}: expected 32 hexadecimal digits")]
    NotHex {
        /// Which id it was meant to be.
        what: &'static str,
        /// The offending text, cut to 80 characters.
        found: String,
    },
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// A Raft member; given by the admin in `cluster.toml`, from 1.
    CoordinatorId(u64)
);
counter!(
    /// Incarnation of one replica's group; a frame with a lower one is refused.
    Epoch(u64)
);
counter!(
    /// Version number of a deployment's desired state.
    Generation(u64)
);
counter!(
    /// Version number of one register that admins write, such as a node's cordon; each write gives the next.
    Revision(u64)
);
counter!(
    /// Raft's term, and only Raft's.
    Term(u64)
);
counter!(
    /// Position in a tensor-parallel group, `0..world_size`. Rank 0 leads.
    Rank(u16)
);
counter!(
    /// A sequence inside one engine; never reused within an epoch.
    SeqId(u64)
);
counter!(
    /// A picture whose embeddings a replica holds or will hold; never reused within an epoch.
    PictureId(u64)
);
counter!(
    /// One full sharded copy of a model version. Never reused within a cluster.
    ReplicaId(u64)
);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Rank {
    /// As an index into per-rank tables.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Size of a tensor-parallel group, 1 to [`WorldSize::MAX`].
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(try_from = "u16", into = "u16")]
pub struct WorldSize(u16);

impl WorldSize {
    /// Largest group: above it the mesh of connections is the wrong shape.
    pub const MAX: u16 = 64;
    /// A group of one.
    pub const ONE: Self = Self(1);

    /// # Errors
    /// [`IdError::WorldSize`] when `n` is 0 or above [`WorldSize::MAX`].
    pub fn new(n: u16) -> Result<Self, IdError> {
        if n == 0 || n > Self::MAX {
            return Err(IdError::WorldSize { found: u32::from(n), max: u32::from(Self::MAX) });
        }
        Ok(Self(n))
    }

    /// The number itself.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// Every rank of the group, in order.
    pub fn ranks(self) -> impl Iterator<Item = Rank> {
        (0..self.0).map(Rank)
    }
}

impl TryFrom<u16> for WorldSize {
    type Error = IdError;
    fn try_from(n: u16) -> Result<Self, IdError> {
        Self::new(n)
    }
}

impl From<WorldSize> for u16 {
    fn from(w: WorldSize) -> u16 {
        w.0
    }
}

impl fmt::Display for WorldSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Cuts foreign text before it is quoted in an error.
fn quote(s: &str) -> String {
    s.chars().take(80).collect()
}

fn is_label(s: &str) -> bool {
    (1..=63).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

/// Name of a node: a DNS label, unique in its cluster.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[rkyv(derive(PartialEq, Eq, PartialOrd, Ord, Hash))]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// # Errors
    /// [`IdError::NotALabel`] when `name` is not a DNS label.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        if !is_label(&name) {
            return Err(IdError::NotALabel { what: "node name", found: quote(&name) });
        }
        Ok(Self(name))
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The constructor's check again, for a value that came off the wire.
    ///
    /// # Errors
    /// [`IdError::NotALabel`].
    pub fn validate(&self) -> Result<(), IdError> {
        Self::new(self.0.clone()).map(drop)
    }
}

impl TryFrom<String> for NodeId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        Self::new(s)
    }
}

impl From<NodeId> for String {
    fn from(n: NodeId) -> String {
        n.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u128);

        impl $name {
            /// From 16 random bytes; the caller owns the randomness.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }

            /// Parses 32 hexadecimal digits.
            ///
            /// # Errors
            /// [`IdError::NotHex`] on anything else.
            pub fn parse(s: &str) -> Result<Self, IdError> {
                let bad = || IdError::NotHex { what: $what, found: quote(s) };
                if s.len() != 32 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(bad());
                }
                u128::from_str_radix(s, 16).map(Self).map_err(|_| bad())
            }

            /// The id as a number, for keying counters.
            #[must_use]
            pub fn as_u128(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                Self::parse(&s)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

id128!(
    /// A cluster: all who trust one cluster CA. Written into every certificate and state directory.
    ClusterId,
    "cluster id"
);
id128!(
    /// One client request; the same through gateway, rank 0 and logs.
    RequestId,
    "request id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_dns_labels() {
        for good in ["a", "node-1", "0", &"x".repeat(63)] {
            assert!(NodeId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(NodeId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hex_ids_round_trip() {
        let id = ClusterId::from_bytes(*b"0123456789abcdef");
        assert_eq!(ClusterId::parse(&id.to_string()), Ok(id));
        assert!(ClusterId::parse("xyz").is_err());
        assert!(ClusterId::parse(&"+".repeat(32)).is_err());
    }

    #[test]
    fn world_sizes_are_bounded() {
        assert!(WorldSize::new(0).is_err());
        assert!(WorldSize::new(WorldSize::MAX + 1).is_err());
        assert_eq!(WorldSize::new(3).map(|w| w.ranks().count()), Ok(3));
    }
}
