//! rustls configurations, made from an identity. The internal links speak nothing but TLS 1.3 with the hybrid
//! X25519MLKEM768 key exchange; the admin listener also takes the classic groups, for tools that lack the hybrid.

use std::sync::Arc;

use protocol::Role;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::verify::{AcceptRoles, Expect, ExpectPeer, Trust};
use crate::identity::NodeIdentity;

/// Application protocol of the internal links; another wire version would be another name.
const ALPN_INTERNAL: &[u8] = b"shardglm/1";

/// Why no TLS configuration could be made from an identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refused it.
    #[error("cannot configure TLS: {0}")]
    Config(#[from] rustls::Error),
    /// The CA certificate cannot be a trust anchor.
    #[error("cannot verify certificates with the cluster CA: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Provider of the internal links.
pub(crate) fn provider_internal() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768], ..aws_lc_rs::default_provider() })
}

fn provider_admin() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|g| g.name() != aws_lc_rs::kx_group::X25519MLKEM768.name());
    provider.kx_groups.insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
    Arc::new(provider)
}

fn roots(identity: &NodeIdentity) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca().clone())?;
    Ok(roots)
}

fn server(
    identity: &NodeIdentity,
    provider: Arc<CryptoProvider>,
    roles: &[Role],
    mandatory: bool,
) -> Result<ServerConfig, TlsError> {
    let verifier = AcceptRoles {
        chain: AcceptRoles::chain_to(roots(identity)?, provider.clone())?,
        cluster: identity.identity().cluster,
        roles: roles.to_vec(),
        mandatory,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key())));
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    trust: Trust,
    expect: Expect,
    provider: Arc<CryptoProvider>,
    identity: Option<&NodeIdentity>,
) -> Result<ClientConfig, TlsError> {
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExpectPeer { trust, expect, algorithms }));
    let mut config = match identity {
        Some(id) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(id.certified_key()))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn own_ca(identity: &NodeIdentity) -> Result<Trust, TlsError> {
    Ok(Trust::Ca { roots: roots(identity)?, cluster: identity.identity().cluster })
}

/// Listening side of the internal links: a certificate of one of `roles` or no connection.
pub(crate) fn internal_server(identity: &NodeIdentity, roles: &[Role]) -> Result<ServerConfig, TlsError> {
    let mut config = server(identity, provider_internal(), roles, true)?;
    config.alpn_protocols = vec![ALPN_INTERNAL.to_vec()];
    Ok(config)
}

/// Connecting side of the internal links.
pub(crate) fn internal_client(identity: &NodeIdentity, expect: Expect) -> Result<ClientConfig, TlsError> {
    let mut config = client(own_ca(identity)?, expect, provider_internal(), Some(identity))?;
    config.alpn_protocols = vec![ALPN_INTERNAL.to_vec()];
    Ok(config)
}

/// The admin HTTPS listener (ALPN h2 and http/1.1): a client may come without a certificate, to join or with a token;
/// if it brings one, that must be of role admin or coordinator (a follower that forwards) and of this cluster. Read
/// who it is with [`crate::identity::identity_of`] from the connection's first peer certificate.
///
/// # Errors
/// [`TlsError`].
pub fn admin_server_config(identity: &NodeIdentity) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = server(identity, provider_admin(), &[Role::Admin, Role::Coordinator], false)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client of the admin listener that knows only the CA's SHA-256 (64 lower-case hex digits) from a join token. It
/// shows no certificate. The server must be a coordinator; its host name is not looked at.
///
/// # Errors
/// [`TlsError`].
pub fn client_config_pinned(ca_sha256: &str) -> Result<ClientConfig, TlsError> {
    client(Trust::Pinned(ca_sha256.to_owned()), Expect::role(Role::Coordinator), provider_admin(), None)
}

/// A client of the admin listener with a certificate (role admin, or a coordinator that forwards). The server must be a
/// coordinator of the same cluster; its host name is not looked at.
///
/// # Errors
/// [`TlsError`].
pub fn client_config_admin(identity: &NodeIdentity) -> Result<ClientConfig, TlsError> {
    client(own_ca(identity)?, Expect::role(Role::Coordinator), provider_admin(), Some(identity))
}
