//! The verifiers of both sides: chain to the cluster CA, then role, name and cluster of the leaf.

use std::fmt;
use std::sync::Arc;

use protocol::{ClusterId, Identity, NodeId, Role};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};

use crate::identity::{self, NotAnIdentity, identity_of};

/// Whom a connection is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// What the peer must be.
    pub role: Role,
    /// Which one of them; `None` takes any.
    pub name: Option<NodeId>,
}

impl Expect {
    /// Any peer of that role.
    #[must_use]
    pub fn role(role: Role) -> Self {
        Self { role, name: None }
    }

    /// That one peer.
    #[must_use]
    pub fn named(role: Role, name: NodeId) -> Self {
        Self { role, name: Some(name) }
    }
}

/// A peer whose certificate holds, but who is not the one to talk to.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedPeer {
    /// Another role.
    #[error("{found} has not the role that is accepted here ({})", list(accepted))]
    Role {
        /// Who it is.
        found: Box<Identity>,
        /// What is accepted.
        accepted: Vec<Role>,
    },
    /// The right role but another name.
    #[error("{found} answered, expected {expected}")]
    Name {
        /// Who it is.
        found: Box<Identity>,
        /// Who was meant.
        expected: NodeId,
    },
    /// Another cluster.
    #[error("{found} is of cluster {}, expected {expected}", found.cluster)]
    Cluster {
        /// Who it is.
        found: Box<Identity>,
        /// Our cluster.
        expected: ClusterId,
    },
    /// Nobody of ours.
    #[error(transparent)]
    NotAnIdentity(#[from] NotAnIdentity),
    /// The chain holds no certificate with the pinned fingerprint.
    #[error("none of the {found} certificates sent is the cluster CA with SHA-256 {expected}")]
    NotPinned {
        /// How many came.
        found: usize,
        /// The pinned fingerprint.
        expected: String,
    },
}

// rustls prints reasons of this kind by their Debug, and that text is what the peer and the logs get.
impl fmt::Debug for RefusedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<RefusedPeer> for rustls::Error {
    fn from(e: RefusedPeer) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(e))))
    }
}

fn list(roles: &[Role]) -> String {
    roles.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(", ")
}

fn check_role(found: Identity, cluster: ClusterId, accepted: &[Role]) -> Result<Identity, RefusedPeer> {
    if found.cluster != cluster {
        return Err(RefusedPeer::Cluster { found: Box::new(found), expected: cluster });
    }
    if !accepted.contains(&found.role) {
        return Err(RefusedPeer::Role { found: Box::new(found), accepted: accepted.to_vec() });
    }
    Ok(found)
}

/// The listening side: who may connect.
#[derive(Debug)]
pub(super) struct AcceptRoles {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) cluster: ClusterId,
    pub(super) roles: Vec<Role>,
    /// Whether a peer without any certificate is refused.
    pub(super) mandatory: bool,
}

impl AcceptRoles {
    /// The verifier of chains to `roots` that a role check then wraps.
    pub(super) fn chain_to(
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, rustls::server::VerifierBuilderError> {
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()
    }
}

impl ClientCertVerifier for AcceptRoles {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let peer = identity_of(end_entity).map_err(RefusedPeer::from)?;
        check_role(peer, self.cluster, &self.roles)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// What the connecting side trusts.
#[derive(Debug)]
pub(super) enum Trust {
    /// The cluster CA of its own identity.
    Ca {
        /// Its one root.
        roots: RootCertStore,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// Whatever CA in the chain has this SHA-256 (lower-case hex): all that a join token tells.
    Pinned(String),
}

/// The connecting side: whom it meant. The server name is not looked at; the identity is stricter.
#[derive(Debug)]
pub(super) struct ExpectPeer {
    pub(super) trust: Trust,
    pub(super) expect: Expect,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ExpectPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let verify = |roots: &RootCertStore| {
            let algorithms = self.algorithms.all;
            rustls::client::verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)
        };
        let peer = || identity_of(end_entity).map_err(RefusedPeer::from);
        let (peer, cluster) = match &self.trust {
            Trust::Ca { roots, cluster } => {
                verify(roots)?;
                (peer()?, *cluster)
            }
            Trust::Pinned(sha256) => {
                let ca = intermediates.iter().find(|c| identity::fingerprint(c) == *sha256).ok_or_else(|| {
                    RefusedPeer::NotPinned { found: intermediates.len() + 1, expected: sha256.clone() }
                })?;
                let mut roots = RootCertStore::empty();
                roots.add(ca.clone().into_owned())?;
                verify(&roots)?;
                let peer = peer()?;
                let cluster = peer.cluster;
                (peer, cluster)
            }
        };
        let peer = check_role(peer, cluster, &[self.expect.role])?;
        match &self.expect.name {
            Some(name) if *name != peer.name => {
                Err(RefusedPeer::Name { found: Box::new(peer), expected: name.clone() }.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
