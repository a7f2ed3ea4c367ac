//! What a handshake must prove: TLS 1.3 configurations of the internal QUIC links and of the admin listener.
//!
//! Not here: certificates themselves (`identity`), sockets (`quic`). Invariant: every verifier first verifies the chain
//! to the cluster CA and then reads the one identity of the leaf; neither alone is ever enough. Nothing is resumed, so
//! each connection passes the whole check.

mod config;
mod verify;

pub use config::{TlsError, admin_server_config, client_config_admin, client_config_pinned};
pub use verify::{Expect, RefusedPeer};

pub(crate) use config::{internal_client, internal_server, provider_internal};
