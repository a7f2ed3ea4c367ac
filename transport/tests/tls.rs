//! The admin listener's TLS: who may come with which certificate, and which servers its clients believe. Handshakes run in
//! memory.

mod common;

use std::sync::Arc;

use common::{ca, member};
use protocol::{Identity, Role};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConnection};
use transport::identity::identity_of;
use transport::tls::{admin_server_config, client_config_admin, client_config_pinned};
use transport::{ClusterCa, NodeIdentity};

/// Both sides of a handshake with the admin listener of `server`; who the client is to it.
fn handshake(client: ClientConfig, server: &NodeIdentity) -> Result<Option<Identity>, rustls::Error> {
    let name = ServerName::try_from("any-host").expect("a DNS name");
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(admin_server_config(server).expect("a sound identity"))?;
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("into memory");
        }
        server.read_tls(&mut bytes.as_slice()).expect("from memory");
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("into memory");
        }
        client.read_tls(&mut bytes.as_slice()).expect("from memory");
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let peer = server.peer_certificates().and_then(|certs| certs.first());
    Ok(peer.map(|cert| identity_of(cert).expect("the verifier has let it pass")))
}

fn coordinator(ca: &ClusterCa) -> NodeIdentity {
    member(ca, Role::Coordinator, "c1")
}

#[test]
fn a_joining_host_believes_the_pinned_ca_and_no_other() {
    let (ours, other) = (ca(1), ca(2));
    let pinned = || client_config_pinned(&ours.fingerprint()).expect("configured");
    assert_eq!(handshake(pinned(), &coordinator(&ours)), Ok(None), "it shows no certificate");
    let e = handshake(pinned(), &coordinator(&other)).expect_err("another cluster");
    assert!(e.to_string().contains(&ours.fingerprint()), "{e}");
    let e = handshake(pinned(), &member(&ours, Role::Node, "n1")).expect_err("a node is no coordinator");
    assert!(e.to_string().contains("node n1"), "{e}");
}

#[test]
fn an_admin_is_known_by_its_certificate() {
    let ours = ca(1);
    let root = member(&ours, Role::Admin, "root");
    let seen = handshake(client_config_admin(&root).expect("configured"), &coordinator(&ours)).expect("both hold");
    assert_eq!(seen.as_ref(), Some(root.identity()));
}

#[test]
fn a_node_or_a_stranger_is_no_admin() {
    let (ours, other) = (ca(1), ca(1));
    let node = member(&ours, Role::Node, "n1");
    let e = handshake(client_config_admin(&node).expect("configured"), &coordinator(&ours)).expect_err("a node");
    assert!(e.to_string().contains("node n1"), "{e}");
    let foreign = member(&other, Role::Admin, "root");
    handshake(client_config_admin(&foreign).expect("configured"), &coordinator(&ours)).expect_err("a foreign CA");
}
