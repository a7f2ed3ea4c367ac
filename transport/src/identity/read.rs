//! From a certificate to the identity it names. Says nothing about whether the certificate is to be trusted.

use protocol::Identity;
use rustls::pki_types::CertificateDer;

/// A certificate that does not name exactly one identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnIdentity {
    /// Not a certificate at all.
    #[error("not an X.509 certificate: {reason}")]
    Malformed {
        /// What the parser says.
        reason: String,
    },
    /// Not one of ours.
    #[error("certificate names {found:?}, expected exactly one `<name>.<role>.<cluster>.shardglm.internal`")]
    Names {
        /// The DNS names found, at most four of them.
        found: Vec<String>,
    },
}

/// The identity in a certificate's one DNS name.
///
/// # Errors
/// [`NotAnIdentity`].
pub fn identity_of(cert: &CertificateDer<'_>) -> Result<Identity, NotAnIdentity> {
    let names = dns_names(cert)?;
    match names.as_slice() {
        [one] => Identity::from_dns_name(one).ok_or(NotAnIdentity::Names { found: names }),
        _ => Err(NotAnIdentity::Names { found: names }),
    }
}

/// The first four DNS names of a certificate.
pub(super) fn dns_names(cert: &CertificateDer<'_>) -> Result<Vec<String>, NotAnIdentity> {
    let parsed =
        webpki::EndEntityCert::try_from(cert).map_err(|e| NotAnIdentity::Malformed { reason: e.to_string() })?;
    Ok(parsed.valid_dns_names().take(4).map(str::to_owned).collect())
}
