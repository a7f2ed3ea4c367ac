//! A member's own certificate, key and CA, checked against each other when they are read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hmac;
use protocol::{ClusterId, Identity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;

use super::files::{self, FileError};
use super::{CA_FILE, CERT_FILE, IssuedCert, KEY_FILE, NotAnIdentity, ca, identity_of};
use crate::tls;

/// Why an identity directory is of no use. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file that is missing or cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that is not the PEM it should be.
    #[error("{path} is malformed: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// A certificate outside of its validity.
    #[error("the certificate in {path} is not valid now: {reason}")]
    Expired {
        /// The file.
        path: PathBuf,
        /// From when or until when it is valid.
        reason: String,
    },
    /// A certificate that another CA signed.
    #[error("the certificate in {path} was not signed by the CA beside it: {reason}")]
    ForeignCa {
        /// The file.
        path: PathBuf,
        /// What the verifier says.
        reason: String,
    },
    /// A certificate that names no identity of this system.
    #[error("the certificate in {path} is not a member's: {source}")]
    NotAnIdentity {
        /// The file.
        path: PathBuf,
        /// What it names instead.
        source: NotAnIdentity,
    },
    /// A certificate of one cluster beside the CA of another.
    #[error("the certificate in {path} is of cluster {found}, the CA beside it of cluster {expected}")]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// The certificate's.
        found: ClusterId,
        /// The CA's.
        expected: ClusterId,
    },
    /// A key that is not the certificate's.
    #[error("the key in {path} is not the one of the certificate beside it")]
    WrongKey {
        /// The key's file.
        path: PathBuf,
    },
}

/// Who this process is to the others, and how it proves it. Cheap to clone; its `Debug` hides the key.
#[derive(Clone)]
pub struct NodeIdentity {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    ca: CertificateDer<'static>,
    certified: Arc<CertifiedKey>,
    /// For what only this member can derive; not the key itself.
    secret: hmac::Key,
}

impl NodeIdentity {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` of `dir` and checks that they belong together and are valid now.
    ///
    /// # Errors
    /// [`IdentityError`], which names the file and the reason.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let issued = IssuedCert {
            ca_pem: files::read(&dir.join(CA_FILE))?,
            cert_pem: files::read(&dir.join(CERT_FILE))?,
            key_pem: files::read(&dir.join(KEY_FILE))?,
        };
        Self::from_pem(&issued, dir)
    }

    /// The same of what was just issued, without files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_issued(issued: &IssuedCert) -> Result<Self, IdentityError> {
        Self::from_pem(issued, Path::new(""))
    }

    fn from_pem(issued: &IssuedCert, dir: &Path) -> Result<Self, IdentityError> {
        let malformed = |file: &str, reason: String| IdentityError::Malformed { path: dir.join(file), reason };
        let ca =
            CertificateDer::from_pem_slice(issued.ca_pem.as_bytes()).map_err(|e| malformed(CA_FILE, e.to_string()))?;
        let cert = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes())
            .map_err(|e| malformed(CERT_FILE, e.to_string()))?;
        let key =
            PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).map_err(|e| malformed(KEY_FILE, e.to_string()))?;
        let cluster = ca::cluster_of(&ca).map_err(|reason| malformed(CA_FILE, reason))?;
        check_signed(&cert, &ca, dir)?;
        let identity =
            identity_of(&cert).map_err(|source| IdentityError::NotAnIdentity { path: dir.join(CERT_FILE), source })?;
        if identity.cluster != cluster {
            let path = dir.join(CERT_FILE);
            return Err(IdentityError::OtherCluster { path, found: identity.cluster, expected: cluster });
        }
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|e| malformed(KEY_FILE, e.to_string()))?;
        // The CA travels with the leaf: a joining host finds the pinned fingerprint in the chain.
        let certified = CertifiedKey::new(vec![cert, ca.clone()], signer);
        certified.keys_match().map_err(|_| IdentityError::WrongKey { path: dir.join(KEY_FILE) })?;
        let secret = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.secret_der()), b"shardglm derived secrets");
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref());
        Ok(Self { inner: Arc::new(Inner { identity, ca, certified: Arc::new(certified), secret }) })
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The cluster CA's certificate.
    #[must_use]
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.inner.ca
    }

    /// SHA-256 of the cluster CA's certificate (DER), lower-case hex.
    #[must_use]
    pub fn ca_fingerprint(&self) -> String {
        super::fingerprint(&self.inner.ca)
    }

    /// Bytes that this member alone can derive from `label`, the same after each start.
    pub(crate) fn derive(&self, label: &str) -> hmac::Tag {
        hmac::sign(&self.inner.secret, label.as_bytes())
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        self.inner.certified.clone()
    }
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeIdentity({})", self.inner.identity)
    }
}

fn check_signed(cert: &CertificateDer<'_>, ca: &CertificateDer<'_>, dir: &Path) -> Result<(), IdentityError> {
    let path = || dir.join(CERT_FILE);
    let malformed =
        |file: &str, e: webpki::Error| IdentityError::Malformed { path: dir.join(file), reason: e.to_string() };
    let anchor = webpki::anchor_from_trusted_cert(ca).map_err(|e| malformed(CA_FILE, e))?;
    let parsed = webpki::EndEntityCert::try_from(cert).map_err(|e| malformed(CERT_FILE, e))?;
    let algorithms = tls::provider_internal().signature_verification_algorithms.all;
    let usage = webpki::KeyUsage::client_auth();
    match parsed.verify_for_usage(algorithms, &[anchor], &[], UnixTime::now(), usage, None, None) {
        Ok(_) => Ok(()),
        Err(e @ (webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. })) => {
            Err(IdentityError::Expired { path: path(), reason: e.to_string() })
        }
        Err(e) => Err(IdentityError::ForeignCa { path: path(), reason: e.to_string() }),
    }
}
