//! The key of a host that joins: made on the host, never sent; only its signing request travels.

use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair};

use super::{FileError, IdentityError, IssuedCert, NodeIdentity};

/// Largest signing request that is read, bytes.
pub(super) const CSR_BYTES_MAX: usize = 16 << 10;

/// Why a joining host has no key, or no identity in the end.
#[derive(Debug, thiserror::Error)]
pub enum JoinKeyError {
    /// The generator failed.
    #[error("cannot make a key: {reason}")]
    Crypto {
        /// What the library says.
        reason: String,
    },
    /// What came back is not a certificate of this key and that CA.
    #[error("the cluster's answer is of no use: {0}")]
    BadAnswer(#[from] IdentityError),
    /// The identity could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A key without a certificate yet. Its `Debug` hides it.
pub struct JoinKey {
    key_pem: String,
    csr_pem: String,
}

impl JoinKey {
    /// A new key (ECDSA P-256) and its signing request.
    ///
    /// # Errors
    /// [`JoinKeyError::Crypto`].
    pub fn generate() -> Result<Self, JoinKeyError> {
        let crypto = |e: rcgen::Error| JoinKeyError::Crypto { reason: e.to_string() };
        let key = KeyPair::generate().map_err(crypto)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "joining host");
        let csr = params.serialize_request(&key).map_err(crypto)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_pem: csr.pem().map_err(crypto)? })
    }

    /// What goes to the cluster, PEM.
    #[must_use]
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// Checks the cluster's answer and writes the identity into `dir`; nothing is written when the check fails.
    ///
    /// # Errors
    /// [`JoinKeyError::BadAnswer`], [`JoinKeyError::File`].
    pub fn install(self, dir: &Path, cert_pem: &str, ca_pem: &str) -> Result<NodeIdentity, JoinKeyError> {
        let issued = IssuedCert { cert_pem: cert_pem.to_owned(), key_pem: self.key_pem, ca_pem: ca_pem.to_owned() };
        let identity = NodeIdentity::from_issued(&issued)?;
        issued.save(dir)?;
        Ok(identity)
    }
}

impl std::fmt::Debug for JoinKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinKey(…)")
    }
}
