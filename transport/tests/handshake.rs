//! Who is let in: real endpoints on loopback, each wrong peer refused during the handshake, with the reason.

mod common;

use common::{ANY_PORT, LONG, ca, cluster, identity_in, member, name};
use protocol::Role;
use protocol::{Epoch, frame::Ping};
use transport::quic::HandshakeRefusal;
use transport::{BindError, ConnectError, Connection, Endpoint, Expect, NodeIdentity};

/// Connects `client` with a listener that accepts `roles`; what the client sees, and that the listener returned nobody
/// who was refused.
async fn try_connect(
    server: &NodeIdentity,
    roles: &[Role],
    client: &NodeIdentity,
    expect: Expect,
) -> Result<Connection, ConnectError> {
    let listener = Endpoint::bind(ANY_PORT, server, roles).expect("a free port");
    let dialler = Endpoint::bind(ANY_PORT, client, &[]).expect("a free port");
    let addr = listener.local_addr();
    let result = tokio::select! {
        result = dialler.connect(addr, expect, LONG) => result,
        Some(peer) = async {
            let peer = listener.accept().await;
            // Hands over to the other branch, which waits for the welcome that has just been sent.
            if let Some(peer) = &peer { let _ = peer.closed().await; }
            peer
        } => panic!("{peer:?} was accepted and is gone"),
    };
    if result.is_err() {
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), listener.accept()).await.is_err());
    }
    result
}

#[tokio::test]
async fn a_peer_of_the_right_role_and_name_is_let_in() {
    let ca = ca(1);
    let (server, client) = (member(&ca, Role::Coordinator, "c1"), member(&ca, Role::Node, "n1"));
    let expect = Expect::named(Role::Coordinator, name("c1"));
    let connection = try_connect(&server, &[Role::Node], &client, expect).await.expect("the right one");
    assert_eq!(connection.peer(), server.identity());
}

#[tokio::test]
async fn the_wrong_role_is_refused_by_the_listener() {
    let ca = ca(1);
    let (server, client) = (member(&ca, Role::Node, "n1"), member(&ca, Role::Admin, "root"));
    let e = try_connect(&server, &[Role::Node, Role::Coordinator], &client, Expect::role(Role::Node)).await;
    let e = e.expect_err("an admin is no node");
    let ConnectError::Refused { reason: HandshakeRefusal::WrongIdentity { detail }, .. } = &e else { panic!("{e:?}") };
    assert!(detail.contains("admin root") && detail.contains("node, coordinator"), "{detail}");
}

#[tokio::test]
async fn the_wrong_role_or_name_is_refused_by_the_dialler() {
    let ca = ca(1);
    let (server, client) = (member(&ca, Role::Node, "n1"), member(&ca, Role::Node, "n2"));
    for expect in [Expect::role(Role::Coordinator), Expect::named(Role::Node, name("n3"))] {
        let e = try_connect(&server, &[Role::Node], &client, expect).await.expect_err("not the one meant");
        let ConnectError::PeerNotAccepted { reason: HandshakeRefusal::WrongIdentity { detail }, .. } = &e else {
            panic!("{e:?}")
        };
        assert!(detail.contains("node n1"), "{detail}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_by_both() {
    let (ours, theirs) = (ca(1), ca(2));
    let (server, client) = (member(&ours, Role::Node, "n1"), member(&theirs, Role::Node, "n2"));
    let e = try_connect(&server, &[Role::Node], &client, Expect::role(Role::Node)).await.expect_err("a foreign CA");
    assert!(
        matches!(e, ConnectError::PeerNotAccepted { reason: HandshakeRefusal::OtherAuthority { .. }, .. }),
        "{e:?}"
    );
}

#[tokio::test]
async fn a_ca_of_the_same_cluster_id_with_another_key_is_refused() {
    let (ours, theirs) = (ca(1), ca(1));
    let (server, client) = (member(&ours, Role::Node, "n1"), member(&theirs, Role::Node, "n2"));
    let e = try_connect(&server, &[Role::Node], &client, Expect::role(Role::Node)).await.expect_err("a foreign CA");
    assert!(
        matches!(e, ConnectError::PeerNotAccepted { reason: HandshakeRefusal::OtherAuthority { .. }, .. }),
        "{e:?}"
    );
}

/// A listener and raw quinn clients, whose TLS is not ours: what a stranger can try.
mod strangers {
    use std::sync::Arc;

    use quinn::crypto::rustls::QuicClientConfig;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
    use transport::IssuedCert;

    use super::*;

    #[derive(Debug)]
    struct TrustsAnybody;

    impl ServerCertVerifier for TrustsAnybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    fn config(cert: Option<&IssuedCert>, kx: Option<&'static dyn rustls::crypto::SupportedKxGroup>) -> ClientConfig {
        let mut provider = aws_lc_rs::default_provider();
        if let Some(only) = kx {
            provider.kx_groups = vec![only];
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAnybody));
        let mut config = match cert {
            None => builder.with_no_client_auth(),
            Some(c) => {
                let chain = vec![CertificateDer::from_pem_slice(c.cert_pem.as_bytes()).expect("PEM")];
                let key = PrivateKeyDer::from_pem_slice(c.key_pem.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("they belong together")
            }
        };
        config.alpn_protocols = vec![b"shardglm/1".to_vec()];
        config
    }

    /// The TLS alert by which a listener for nodes ends the stranger's handshake.
    async fn alert_for(tls: ClientConfig) -> u64 {
        let server = member(&ca(1), Role::Node, "n1");
        let listener = Endpoint::bind(ANY_PORT, &server, &[Role::Node]).expect("a free port");
        let dialler = quinn::Endpoint::client(ANY_PORT).expect("a free port");
        let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3");
        let connecting = dialler
            .connect_with(quinn::ClientConfig::new(Arc::new(crypto)), listener.local_addr(), "anybody")
            .expect("configured");
        let ended = async {
            match connecting.await {
                Ok(connection) => connection.closed().await,
                Err(e) => e,
            }
        };
        tokio::select! {
            ended = ended => match ended {
                quinn::ConnectionError::ConnectionClosed(close) => u64::from(close.error_code) - 0x100,
                other => panic!("{other:?}"),
            },
            peer = listener.accept() => panic!("{peer:?} was accepted"),
        }
    }

    #[tokio::test]
    async fn a_peer_without_a_certificate_is_refused() {
        assert_eq!(alert_for(config(None, None)).await, 116, "certificate_required");
    }

    #[tokio::test]
    async fn a_certificate_of_another_ca_is_refused_by_the_listener_too() {
        let foreign = ca(2).issue(&identity_in(cluster(2), Role::Node, "n2")).expect("of its cluster");
        assert_eq!(alert_for(config(Some(&foreign), None)).await, 48, "unknown_ca");
    }

    #[tokio::test]
    async fn a_peer_without_the_hybrid_key_exchange_is_refused() {
        let classic = config(None, Some(aws_lc_rs::kx_group::X25519));
        assert_eq!(alert_for(classic).await, 40, "handshake_failure");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let me = member(&ca(1), Role::Node, "n1");
    let first = Endpoint::bind(ANY_PORT, &me, &[Role::Node]).expect("a free port");
    let e = Endpoint::bind(first.local_addr(), &me, &[Role::Node]).expect_err("taken");
    assert!(matches!(e, BindError::InUse { addr } if addr == first.local_addr()), "{e}");
    assert!(e.to_string().contains(&first.local_addr().to_string()), "{e}");
}

#[tokio::test]
async fn nobody_there_is_a_passed_deadline() {
    let me = member(&ca(1), Role::Node, "n1");
    let silent = std::net::UdpSocket::bind(ANY_PORT).expect("a free port");
    let dialler = Endpoint::bind(ANY_PORT, &me, &[]).expect("a free port");
    let addr = silent.local_addr().expect("bound");
    let wait = std::time::Duration::from_millis(200);
    let e = dialler.connect(addr, Expect::role(Role::Node), wait).await.expect_err("silence");
    assert!(matches!(e, ConnectError::Deadline { addr: a, .. } if a == addr), "{e}");
}

#[tokio::test]
async fn a_closed_endpoint_accepts_nobody_and_tells_its_peers() {
    let ca = ca(1);
    let (server, client) = (member(&ca, Role::Node, "n1"), member(&ca, Role::Node, "n2"));
    let listener = Endpoint::bind(ANY_PORT, &server, &[Role::Node]).expect("a free port");
    let dialler = Endpoint::bind(ANY_PORT, &client, &[]).expect("a free port");
    let (there, here) =
        tokio::join!(dialler.connect(listener.local_addr(), Expect::role(Role::Node), LONG), listener.accept());
    let (there, here) = (there.expect("let in"), here.expect("let in"));
    assert_eq!(here.peer(), client.identity());
    listener.close("shutting down", LONG).await;
    assert!(listener.accept().await.is_none());
    assert!(there.closed().await.to_string().contains("shutting down"));
    assert!(there.is_closed());
    let e = there.call::<Ping, Ping>(Epoch(0), &Ping { nonce: 1 }, LONG).await.expect_err("closed");
    assert!(e.to_string().contains("shutting down"), "{e}");
}
