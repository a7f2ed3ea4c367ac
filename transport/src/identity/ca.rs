//! The cluster's certificate authority: makes the certificates that everybody else checks.
//!
//! Not here: deciding who gets one. Its certificate is constrained to sign leaves (path length 0) under its own
//! cluster's name, so a stolen CA key is of no use against other names on a host that trusts it.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{ClusterId, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::files::{self, FileError, Secrecy};
use super::{CA_FILE, CA_KEY_FILE, CERT_FILE, KEY_FILE, read};

/// How long a CA certificate is valid.
const CA_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a member's certificate is valid.
const LEAF_VALID: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// How far certificates reach back, for hosts whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// Why the CA could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of it.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that is not what it should be.
    #[error("{path} is not a cluster CA's {what}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// `certificate` or `key`.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error("the key in {path} is not the one of the certificate beside it")]
    WrongKey {
        /// The key's file.
        path: String,
    },
    /// The identity is of another cluster.
    #[error("cannot sign for cluster {found}: this is the CA of cluster {expected}")]
    OtherCluster {
        /// The identity's.
        found: ClusterId,
        /// The CA's.
        expected: ClusterId,
    },
    /// A signing request that does not parse, or whose signature does not hold.
    #[error("not a valid certificate signing request: {reason}")]
    BadRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// The signature or random generator failed.
    #[error("cannot make a certificate: {reason}")]
    Crypto {
        /// What the library says.
        reason: String,
    },
}

fn crypto(e: impl std::fmt::Display) -> CaError {
    CaError::Crypto { reason: e.to_string() }
}

/// The certificate authority of one cluster, with its key.
pub struct ClusterCa {
    cluster: ClusterId,
    cert: CertificateDer<'static>,
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ClusterCa {
    /// A new authority with a new key (ECDSA P-256), valid ten years.
    ///
    /// # Errors
    /// [`CaError::Crypto`].
    pub fn create(cluster: ClusterId) -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(crypto)?;
        let mut params = CertificateParams::new(vec![ca_name(cluster)]).map_err(crypto)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("shardglm cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(ca_name(cluster))],
            excluded_subtrees: Vec::new(),
        });
        set_validity(&mut params, CA_VALID)?;
        let cert = params.self_signed(&key).map_err(crypto)?;
        Ok(Self {
            cluster,
            cert: cert.der().clone(),
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads `ca.pem` and `ca.key.pem` of an identity directory.
    ///
    /// # Errors
    /// [`CaError::File`], [`CaError::Malformed`], [`CaError::WrongKey`].
    pub fn load(dir: &Path) -> Result<Self, CaError> {
        let (cert_path, key_path) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
        let cert_pem = files::read(&cert_path)?;
        let key_pem = files::read(&key_path)?;
        let bad_cert =
            |reason: String| CaError::Malformed { path: cert_path.display().to_string(), what: "certificate", reason };
        let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|e| bad_cert(e.to_string()))?;
        let cluster = cluster_of(&cert).map_err(bad_cert)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|e| CaError::Malformed {
            path: key_path.display().to_string(),
            what: "key",
            reason: e.to_string(),
        })?;
        let parsed = webpki::EndEntityCert::try_from(&cert).map_err(|e| bad_cert(e.to_string()))?;
        if parsed.subject_public_key_info().as_ref() != key.subject_public_key_info() {
            return Err(CaError::WrongKey { path: key_path.display().to_string() });
        }
        let issuer = Issuer::from_ca_cert_der(&cert, key).map_err(|e| bad_cert(e.to_string()))?;
        Ok(Self { cluster, cert, cert_pem, key_pem, issuer })
    }

    /// Writes `ca.pem` and `ca.key.pem` (mode 0600) into `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// [`CaError::File`].
    pub fn save(&self, dir: &Path) -> Result<(), CaError> {
        files::write(&dir.join(CA_KEY_FILE), &self.key_pem, Secrecy::Secret)?;
        files::write(&dir.join(CA_FILE), &self.cert_pem, Secrecy::Public)?;
        Ok(())
    }

    /// The cluster that it signs for.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// SHA-256 of its certificate (DER), 64 lower-case hexadecimal digits: what a join token pins.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        super::fingerprint(&self.cert)
    }

    /// A new key and a certificate for it, valid two years as client and as server.
    ///
    /// # Errors
    /// [`CaError::OtherCluster`], [`CaError::Crypto`].
    pub fn issue(&self, identity: &Identity) -> Result<IssuedCert, CaError> {
        let key = KeyPair::generate().map_err(crypto)?;
        let cert = self.leaf(identity)?.signed_by(&key, &self.issuer).map_err(crypto)?;
        Ok(IssuedCert { cert_pem: cert.pem(), key_pem: key.serialize_pem(), ca_pem: self.cert_pem.clone() })
    }

    /// A certificate (PEM) for the key of a signing request. Nothing but the key is taken from the request: who the
    /// holder is, the caller has decided.
    ///
    /// # Errors
    /// [`CaError::BadRequest`], [`CaError::OtherCluster`], [`CaError::Crypto`].
    pub fn sign_csr(&self, csr_pem: &str, identity: &Identity) -> Result<String, CaError> {
        if csr_pem.len() > super::join_key::CSR_BYTES_MAX {
            return Err(CaError::BadRequest { reason: format!("{} bytes are too many", csr_pem.len()) });
        }
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| CaError::BadRequest { reason: e.to_string() })?;
        request.params = self.leaf(identity)?;
        Ok(request.signed_by(&self.issuer).map_err(crypto)?.pem())
    }

    fn leaf(&self, identity: &Identity) -> Result<CertificateParams, CaError> {
        if identity.cluster != self.cluster {
            return Err(CaError::OtherCluster { found: identity.cluster, expected: self.cluster });
        }
        let mut params = CertificateParams::new(vec![identity.dns_name()]).map_err(crypto)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity.name.to_string());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, LEAF_VALID)?;
        Ok(params)
    }

    /// As [`Self::issue`], but valid until a day ago.
    #[cfg(test)]
    pub(crate) fn issue_expired(&self, identity: &Identity) -> IssuedCert {
        let key = KeyPair::generate().expect("test");
        let mut params = self.leaf(identity).expect("test");
        params.not_after = params.not_before + Duration::from_secs(60);
        let cert = params.signed_by(&key, &self.issuer).expect("test");
        IssuedCert { cert_pem: cert.pem(), key_pem: key.serialize_pem(), ca_pem: self.cert_pem.clone() }
    }
}

impl std::fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterCa({})", self.cluster)
    }
}

/// A member's key and certificate as issued. Its `Debug` hides the key.
#[derive(Clone)]
pub struct IssuedCert {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its key, PEM.
    pub key_pem: String,
    /// The cluster CA, PEM.
    pub ca_pem: String,
}

impl IssuedCert {
    /// Writes `ca.pem`, `cert.pem` and `key.pem` (mode 0600) into `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save(&self, dir: &Path) -> Result<(), FileError> {
        files::write(&dir.join(KEY_FILE), &self.key_pem, Secrecy::Secret)?;
        files::write(&dir.join(CA_FILE), &self.ca_pem, Secrecy::Public)?;
        files::write(&dir.join(CERT_FILE), &self.cert_pem, Secrecy::Public)
    }
}

impl std::fmt::Debug for IssuedCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IssuedCert(…)")
    }
}

/// The CA's own DNS name, which is also the subtree that it may sign in.
fn ca_name(cluster: ClusterId) -> String {
    format!("{cluster}.shardglm.internal")
}

/// The cluster that a CA certificate is for.
pub(super) fn cluster_of(ca: &CertificateDer<'_>) -> Result<ClusterId, String> {
    let names = read::dns_names(ca).map_err(|e| e.to_string())?;
    match names.as_slice() {
        [one] => one
            .strip_suffix(".shardglm.internal")
            .and_then(|id| ClusterId::parse(id).ok())
            .ok_or_else(|| format!("it names `{one}`, expected `<cluster id>.shardglm.internal`")),
        _ => Err(format!("it names {names:?}, expected one `<cluster id>.shardglm.internal`")),
    }
}

fn set_validity(params: &mut CertificateParams, valid: Duration) -> Result<(), CaError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(crypto)?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + valid;
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(crypto)?;
    // A serial number is a positive integer (RFC 5280, 4.1.2.2).
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}
