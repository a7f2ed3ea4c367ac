//! The cluster's certificate authority and the certificates of its members.
//!
//! Not here: what a handshake does with them (`tls`), who may have one (the coordinator's join and admin routes).
//! Invariant: a certificate made here carries exactly one DNS name, which is a [`protocol::Identity`].

mod ca;
mod files;
mod join_key;
mod node_identity;
mod read;
#[cfg(test)]
mod tests;

pub use ca::{CaError, ClusterCa, IssuedCert};
pub use files::FileError;
pub use join_key::{JoinKey, JoinKeyError};
pub use node_identity::{IdentityError, NodeIdentity};
pub use read::{NotAnIdentity, identity_of};

/// The cluster CA's certificate, in every identity directory.
pub const CA_FILE: &str = "ca.pem";
/// The cluster CA's key, in the identity directories of coordinators only.
pub const CA_KEY_FILE: &str = "ca.key.pem";
/// The member's certificate.
pub const CERT_FILE: &str = "cert.pem";
/// The member's key.
pub const KEY_FILE: &str = "key.pem";

/// SHA-256 of `der`, 64 lower-case hexadecimal digits.
#[must_use]
pub fn fingerprint(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
