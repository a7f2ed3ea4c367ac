//! What can go wrong in a group, and while it forms.

use std::time::Duration;

use protocol::frame::Refusal;
use protocol::step::PieceHead;
use protocol::{Epoch, FrameError, Rank};

use crate::quic::{ConnectError, ConnectionLost};

/// Why a collective or a step plan failed. The group is of no further use, but for [`CollectiveError::WrongLength`] and
/// [`CollectiveError::NotLeader`], which are found before anything is sent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CollectiveError {
    /// A peer is gone.
    #[error("rank {rank} is lost: {reason}")]
    PeerLost {
        /// Which.
        rank: Rank,
        /// How its connection ended.
        reason: ConnectionLost,
    },
    /// A peer takes part in another operation, or in this one with another length.
    #[error("rank {rank} is out of step: it sent {found}, expected {expected}")]
    OutOfStep {
        /// Which.
        rank: Rank,
        /// What it sent.
        found: PieceHead,
        /// What was due.
        expected: PieceHead,
    },
    /// A peer sent what is not a frame, or one of a kind that was not due.
    #[error("rank {rank} sent a bad frame: {reason}")]
    BadFrame {
        /// Which.
        rank: Rank,
        /// What is wrong with it.
        reason: String,
    },
    /// A peer speaks for another epoch.
    #[error("rank {rank} sent a frame of epoch {found}, expected {expected}")]
    WrongEpoch {
        /// Which.
        rank: Rank,
        /// The frame's.
        found: Epoch,
        /// The group's.
        expected: Epoch,
    },
    /// The caller's slices do not fit each other.
    #[error("{found} {what} given, expected {expected}")]
    WrongLength {
        /// What was counted.
        what: &'static str,
        /// How many were given.
        found: usize,
        /// How many are due.
        expected: usize,
    },
    /// A rank other than 0 sent a plan, or rank 0 waited for one.
    #[error("rank {rank} cannot do what is for {} only", if *.rank == Rank(0) { "the other ranks" } else { "rank 0" })]
    NotLeader {
        /// This rank.
        rank: Rank,
    },
    /// Peers did not answer in time.
    #[error("nothing from ranks {waiting_for:?} within {waited:?}")]
    Deadline {
        /// Who had not sent everything, or not taken everything.
        waiting_for: Vec<u16>,
        /// How long we waited.
        waited: Duration,
    },
    /// An [`super::AbortHandle`] was used.
    #[error("the group was aborted")]
    Aborted,
    /// The group is not formed, or has failed before.
    #[error("the group is not formed, or has failed before")]
    NotFormed,
    /// The socket failed.
    #[error("the group's socket failed: {reason}")]
    Socket {
        /// How.
        reason: String,
    },
    /// The device or its communicator failed.
    #[cfg(feature = "nccl")]
    #[error(transparent)]
    Nccl(#[from] super::NcclError),
}

impl CollectiveError {
    pub(super) fn bad_frame(rank: Rank, e: &FrameError) -> Self {
        Self::BadFrame { rank, reason: e.to_string() }
    }
}

/// Why a group did not form.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// The caller's own data do not fit together.
    #[error("cannot form a group: {reason}")]
    BadRequest {
        /// What does not fit.
        reason: String,
    },
    /// A peer could not be reached or did not pass the handshake.
    #[error("rank {rank}: {source}")]
    Connect {
        /// Which.
        rank: Rank,
        /// Why.
        source: ConnectError,
    },
    /// A peer refused our hello.
    #[error("rank {rank} refused to form the group: {refusal}")]
    Refused {
        /// Which.
        rank: Rank,
        /// What it said.
        refusal: Refusal,
    },
    /// A peer's hello does not fit ours.
    #[error("rank {rank} has another {what}: found {found}, expected {expected}")]
    Mismatch {
        /// Which, as it says.
        rank: Rank,
        /// What differs.
        what: &'static str,
        /// The peer's.
        found: String,
        /// Ours.
        expected: String,
    },
    /// Not all ranks were there in time.
    #[error("no connection with ranks {missing:?} within {waited:?}")]
    Deadline {
        /// Who was missing.
        missing: Vec<u16>,
        /// How long we waited.
        waited: Duration,
    },
    /// The group failed while it formed, or was aborted.
    #[error(transparent)]
    Failed(#[from] CollectiveError),
}
