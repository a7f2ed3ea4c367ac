//! The envelope of everything that crosses a QUIC stream or a worker's pipe: a fixed header and one body.
//!
//! ```text
//!  0        4         6      8             16          20         24
//!  ┌────────┬─────────┬──────┬─────────────┬───────────┬──────────┬──────────────┐
//!  │ "SGLM" │ version │ kind │ epoch       │ body len  │ reserved │ body         │  little endian
//!  │ 4 × u8 │ u16     │ u16  │ u64         │ u32       │ u32 = 0  │ len bytes    │
//!  └────────┴─────────┴──────┴─────────────┴───────────┴──────────┴──────────────┘
//! ```
//! A body is the rkyv archive of the kind's [`Message`], checked (`bytecheck`, then [`Message::validate`]) before it
//! is believed; [`Kind::Collective`] bodies alone are a [`crate::step::PieceHead`] and raw little-endian f32. Epoch is 0
//! where none applies.
//!
//! Not here: reading and writing (transport).

#![expect(missing_docs, reason = "rkyv's derive repeats the fields of enum variants without their docs")]

use rkyv::util::AlignedVec;

/// Version of the wire. 1: first.
pub const WIRE_VERSION: u16 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 24;
/// Largest body that is read from a peer, bytes (64 MiB).
pub const FRAME_BYTES_MAX: u32 = 64 << 20;

const MAGIC: [u8; 4] = *b"SGLM";

/// What a frame's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// [`crate::raft::RaftRequest`], coordinator to coordinator.
    RaftRequest = 1,
    /// [`crate::raft::RaftResponse`].
    RaftResponse = 2,
    /// [`crate::journal::JournalRequest`], coordinator to coordinator.
    JournalRequest = 5,
    /// [`crate::journal::JournalResponse`].
    JournalResponse = 6,
    /// [`crate::lease::NodeReport`], node to coordinator, repeated on one stream.
    NodeReport = 10,
    /// [`crate::lease::NodeOrders`], coordinator to node, repeated on the same stream.
    NodeOrders = 11,
    /// [`crate::lease::StoredOrders`], on a node's disk; on no wire.
    StoredOrders = 12,
    /// [`crate::generate::GenerateRequest`], coordinator to rank 0.
    GenerateRequest = 20,
    /// [`crate::generate::GenerateEvent`], rank 0 to coordinator, repeated.
    GenerateEvent = 21,
    /// [`crate::generate::EndChoice`], coordinator to rank 0, after a request.
    EndChoice = 22,
    /// [`crate::picture::Picture`], coordinator to rank 0, after a request that has pictures.
    Picture = 23,
    /// [`crate::step::GroupHello`], rank to rank, first on every stream of a group.
    GroupHello = 30,
    /// [`crate::step::StepPlan`], rank 0 to every other rank.
    StepPlan = 31,
    /// A piece of one collective: [`crate::step::PieceHead`], then raw little-endian f32.
    Collective = 32,
    /// [`crate::worker::ToWorker`], agent to worker, over the pipe.
    ToWorker = 40,
    /// [`crate::worker::FromWorker`], worker to agent, over the pipe.
    FromWorker = 41,
    /// [`Ping`], answered by the same bytes.
    Ping = 50,
    /// [`Refusal`], in place of any answer.
    Refusal = 60,
}

impl Kind {
    fn from_u16(n: u16) -> Option<Self> {
        Some(match n {
            1 => Self::RaftRequest,
            2 => Self::RaftResponse,
            5 => Self::JournalRequest,
            6 => Self::JournalResponse,
            10 => Self::NodeReport,
            11 => Self::NodeOrders,
            12 => Self::StoredOrders,
            20 => Self::GenerateRequest,
            21 => Self::GenerateEvent,
            22 => Self::EndChoice,
            23 => Self::Picture,
            30 => Self::GroupHello,
            31 => Self::StepPlan,
            32 => Self::Collective,
            40 => Self::ToWorker,
            41 => Self::FromWorker,
            50 => Self::Ping,
            60 => Self::Refusal,
            _ => return None,
        })
    }
}

/// Why bytes are not the frame or message they claim to be.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not our protocol at all.
    #[error("frame starts with {found:02x?}, expected {MAGIC:02x?}")]
    Magic {
        /// The four bytes found.
        found: [u8; 4],
    },
    /// A peer of another, not adjacent, version.
    #[error("frame is of wire version {found}, expected {WIRE_VERSION}")]
    Version {
        /// The peer's version.
        found: u16,
    },
    /// A kind that this version does not know.
    #[error("frame kind {found} is unknown")]
    UnknownKind {
        /// The number found.
        found: u16,
    },
    /// A body over the bound.
    #[error("frame body of {found} bytes is above the limit of {max}")]
    TooLong {
        /// Its length, bytes.
        found: u64,
        /// The limit, bytes.
        max: u32,
    },
    /// Reserved bytes that are not zero.
    #[error("reserved header bytes are {found:#x}, expected 0")]
    Reserved {
        /// Their value.
        found: u32,
    },
    /// A known kind where another was due.
    #[error("got a frame of kind {found:?}, expected {expected:?}")]
    UnexpectedKind {
        /// What came.
        found: Kind,
        /// What was due.
        expected: Kind,
    },
    /// A body that fails its check.
    #[error("body of a {kind:?} frame is malformed: {reason}")]
    Malformed {
        /// The frame's kind.
        kind: Kind,
        /// What the check says.
        reason: String,
    },
}

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: Kind,
    /// The epoch it speaks for; 0 where none applies.
    pub epoch: crate::Epoch,
    /// Length of the body, bytes.
    pub body_len: u32,
}

impl FrameHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&WIRE_VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        out[8..16].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_len.to_le_bytes());
        out
    }

    /// Checks and reads a header.
    ///
    /// # Errors
    /// Each [`FrameError`] but the two about bodies.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let u16_at = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        let u32_at = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        if u16_at(4) != WIRE_VERSION {
            return Err(FrameError::Version { found: u16_at(4) });
        }
        let kind = Kind::from_u16(u16_at(6)).ok_or(FrameError::UnknownKind { found: u16_at(6) })?;
        let body_len = u32_at(16);
        if body_len > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { found: u64::from(body_len), max: FRAME_BYTES_MAX });
        }
        if u32_at(20) != 0 {
            return Err(FrameError::Reserved { found: u32_at(20) });
        }
        let epoch = crate::Epoch(u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32);
        Ok(Self { kind, epoch, body_len })
    }
}

/// A whole frame as received: header and unchecked body, aligned for rkyv.
#[derive(Debug, Clone)]
pub struct Frame {
    /// What it claims to be.
    pub kind: Kind,
    /// The epoch it speaks for.
    pub epoch: crate::Epoch,
    /// The body's bytes.
    pub body: AlignedVec,
}

impl Frame {
    /// Checks the body as an `M`.
    ///
    /// # Errors
    /// [`FrameError::UnexpectedKind`] or [`FrameError::Malformed`].
    pub fn read<M: Message>(&self) -> Result<M, FrameError> {
        if self.kind != M::KIND {
            return Err(FrameError::UnexpectedKind { found: self.kind, expected: M::KIND });
        }
        M::from_body(&self.body)
    }

    /// The bytes of a frame that carries `message`.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub fn bytes_of<M: Message>(epoch: crate::Epoch, message: &M) -> Result<Vec<u8>, FrameError> {
        let body = message.to_body();
        let body_len = match u32::try_from(body.len()) {
            Ok(n) if n <= FRAME_BYTES_MAX => n,
            _ => return Err(FrameError::TooLong { found: body.len() as u64, max: FRAME_BYTES_MAX }),
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
        out.extend_from_slice(&FrameHeader { kind: M::KIND, epoch, body_len }.encode());
        out.extend_from_slice(&body);
        Ok(out)
    }
}

/// A type that is the body of one kind of frame.
pub trait Message: Sized {
    /// Its kind.
    const KIND: Kind;

    /// The rkyv archive of `self`.
    fn to_body(&self) -> AlignedVec;

    /// Checks `body` and reads it. `body` must be aligned to 16 bytes, as an [`AlignedVec`] is.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    fn from_body(body: &[u8]) -> Result<Self, FrameError>;

    /// Limits that the archive's own check cannot know; the reason when one is broken.
    ///
    /// # Errors
    /// What is wrong, for a log line.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Implements [`Message`] for rkyv types.
macro_rules! message {
    ($type:ty, $kind:ident $(, $validate:expr)?) => {
        impl $crate::frame::Message for $type {
            const KIND: $crate::frame::Kind = $crate::frame::Kind::$kind;

            fn to_body(&self) -> rkyv::util::AlignedVec {
                rkyv::to_bytes::<rkyv::rancor::Error>(self).expect("archiving into memory cannot fail")
            }

            fn from_body(body: &[u8]) -> Result<Self, $crate::frame::FrameError> {
                let malformed =
                    |reason: String| $crate::frame::FrameError::Malformed { kind: <Self as $crate::frame::Message>::KIND, reason };
                let value: Self =
                    rkyv::from_bytes::<Self, rkyv::rancor::Error>(body).map_err(|e| malformed(e.to_string()))?;
                $crate::frame::Message::validate(&value).map_err(malformed)?;
                Ok(value)
            }

            $(fn validate(&self) -> Result<(), String> {
                let check: fn(&Self) -> Result<(), String> = $validate;
                check(self)
            })?
        }
    };
}
pub(crate) use message;

/// Asks a peer whether it is there; it answers with the same nonce.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Ping {
    /// Echoed.
    pub nonce: u64,
}
message!(Ping, Ping);

/// A peer's answer when it will not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, thiserror::Error)]
#[error("refused ({code:?}): {detail}")]
pub struct Refusal {
    /// What kind of no it is; decides whether to try elsewhere.
    pub code: RefusalCode,
    /// One line for a log or an admin.
    pub detail: String,
}
message!(Refusal, Refusal);

/// Kinds of no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum RefusalCode {
    /// The peer is a coordinator but not the leader; `leader_addr` in the detail where it knows one.
    NotLeader,
    /// The frame's epoch is not the one the peer serves.
    WrongEpoch,
    /// The peer's role or identity may not ask this.
    Forbidden,
    /// The frame was malformed or out of bounds.
    BadRequest,
    /// The peer is full: try another or later.
    Overloaded {
        /// When it expects to have room, ms from now; 0 where it cannot say.
        retry_after_ms: u32,
    },
    /// The peer is draining and takes nothing new.
    Draining,
    /// The peer failed inside.
    Internal,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Epoch;

    #[test]
    fn golden_bytes_of_a_ping() {
        let bytes = Frame::bytes_of(Epoch(3), &Ping { nonce: 0x0102_0304_0506_0708 }).expect("short");
        let expected = [
            b'S', b'G', b'L', b'M', 1, 0, 50, 0, 3, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn each_broken_header_field_is_named() {
        let good = FrameHeader { kind: Kind::Ping, epoch: Epoch(1), body_len: 8 }.encode();
        let with = |i: usize, b: u8| {
            let mut h = good;
            h[i] = b;
            FrameHeader::decode(&h)
        };
        assert!(FrameHeader::decode(&good).is_ok());
        assert!(matches!(with(0, b'X'), Err(FrameError::Magic { .. })));
        assert!(matches!(with(4, 9), Err(FrameError::Version { found: 9 })));
        assert!(matches!(with(7, 9), Err(FrameError::UnknownKind { .. })));
        assert!(matches!(with(19, 255), Err(FrameError::TooLong { .. })));
        assert!(matches!(with(20, 1), Err(FrameError::Reserved { found: 1 })));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_check_panic(body in prop::collection::vec(any::<u8>(), 0..256)) {
            let mut aligned = AlignedVec::new();
            aligned.extend_from_slice(&body);
            let frame = |kind| Frame { kind, epoch: Epoch(0), body: aligned.clone() };
            let _ = frame(Kind::Refusal).read::<Refusal>();
            let _ = frame(Kind::GenerateRequest).read::<crate::generate::GenerateRequest>();
            let _ = frame(Kind::StepPlan).read::<crate::step::StepPlan>();
            let _ = frame(Kind::NodeReport).read::<crate::lease::NodeReport>();
            let _ = frame(Kind::JournalRequest).read::<crate::journal::JournalRequest>();
            let _ = frame(Kind::NodeOrders).read::<crate::lease::NodeOrders>();
        }
    }
}
