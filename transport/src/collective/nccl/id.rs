//! What the ranks of one communicator have in common before they know each other.

use std::ffi::c_char;
use std::fmt;

use super::{NcclError, library};

/// Names one communicator. Rank 0 makes it, its caller hands the bytes to the other ranks over an authenticated channel:
/// whoever has them can take part. A new one for each epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct NcclId([u8; Self::BYTES]);

impl NcclId {
    /// Its length.
    pub const BYTES: usize = 128;

    /// A new id. Opens a port on this host, at which NCCL waits for the other ranks (`NCCL_SOCKET_IFNAME` says on which
    /// interface).
    ///
    /// # Errors
    /// [`NcclError`].
    pub fn create() -> Result<Self, NcclError> {
        library::check_nccl()?;
        let id = cudarc::nccl::result::get_uniqueid().map_err(|e| library::nccl_error("making an id", e.0))?;
        Ok(Self(id.internal.map(|c| u8::from_ne_bytes(c.to_ne_bytes()))))
    }

    /// What to hand to the other ranks.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Takes what rank 0 handed over.
    ///
    /// # Errors
    /// [`NcclError::BadId`] for another length than [`Self::BYTES`]; nothing else can be checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NcclError> {
        let bad = |_| NcclError::BadId { found: bytes.len(), expected: Self::BYTES };
        bytes.try_into().map(Self).map_err(bad)
    }

    pub(super) fn to_nccl(&self) -> cudarc::nccl::sys::ncclUniqueId {
        cudarc::nccl::sys::ncclUniqueId { internal: self.0.map(|b| c_char::from_ne_bytes([b])) }
    }
}

impl fmt::Debug for NcclId {
    /// Not its bytes: they let their reader in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NcclId(…)")
    }
}
