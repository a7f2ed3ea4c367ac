//! How a host without a certificate gets one: `POST /v1/join` on the admin listener, over TLS whose CA the token pins.
//!
//! A token reads `sglm1-<ca sha-256, 64 hex>-<secret, 32 hex>`: the first part authenticates the cluster to the host,
//! the second the host to the cluster.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ClusterId;

/// Why a text is not a join token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a join token: expected `sglm1-<64 hex digits>-<32 hex digits>`, found {found} characters")]
pub struct JoinTokenError {
    /// Length of what was found; the text itself may be a secret.
    pub found: usize,
}

/// A parsed token. Its `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the CA certificate (DER), lower-case hex.
    pub ca_sha256: String,
    /// The shared secret, lower-case hex.
    pub secret: String,
}

impl JoinToken {
    /// # Errors
    /// [`JoinTokenError`] when `text` has not the form of a token.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let bad = || JoinTokenError { found: text.chars().count() };
        let hex =
            |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let (ca, secret) = text.strip_prefix("sglm1-").and_then(|r| r.split_once('-')).ok_or_else(bad)?;
        if !hex(ca, 64) || !hex(secret, 32) {
            return Err(bad());
        }
        Ok(Self { ca_sha256: ca.to_owned(), secret: secret.to_owned() })
    }

    /// The token as an admin passes it on.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("sglm1-{}-{}", self.ca_sha256, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(ca {}…)", &self.ca_sha256[..8])
    }
}

/// Host to coordinator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token's secret.
    pub secret: String,
    /// The name it wants; a DNS label.
    pub name: String,
    /// Certificate signing request, PEM.
    pub csr_pem: String,
}

/// Coordinator to host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinResponse {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The signed certificate, PEM.
    pub cert_pem: String,
    /// The cluster CA, PEM.
    pub ca_pem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_never_print_their_secret() {
        let text = format!("sglm1-{}-{}", "a".repeat(64), "b".repeat(32));
        let token = JoinToken::parse(&text).expect("well-formed");
        assert_eq!(token.expose(), text);
        assert!(!format!("{token:?}").contains(&token.secret));
        for bad in ["", "sglm1", "sglm1-aa-bb", &text.to_uppercase(), &text[..text.len() - 1]] {
            assert!(JoinToken::parse(bad).is_err(), "{bad}");
        }
    }
}
