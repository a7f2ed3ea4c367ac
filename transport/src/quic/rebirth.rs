//! What lets a process that was started anew at an address speak for the connections of the one before: it answers their packets
//! with stateless resets (RFC 9000, 10.3), so that a peer knows at once, and not after an idle timeout, that all is lost.
//!
//! Not here: connections. Invariant: the keys follow from the member's own key and the address alone, so that nobody else can reset
//! a connection, and no other endpoint of the same member can be made to (RFC 9000, 21.11).

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::hmac;
use quinn_proto::{EndpointConfig, HashedConnectionIdGenerator};

use crate::identity::NodeIdentity;

/// quinn's configuration of an endpoint of `identity` at `local`.
pub(crate) fn endpoint_config(identity: &NodeIdentity, local: SocketAddr) -> EndpointConfig {
    let derive = |what: &str| identity.derive(&format!("{what} {local}"));
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, derive("stateless reset").as_ref());
    let mut ids = [0; 8];
    ids.copy_from_slice(&derive("connection ids").as_ref()[..8]);
    let ids = u64::from_le_bytes(ids);
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    // A packet whose connection id is not one of ours is dropped before anything else.
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}
