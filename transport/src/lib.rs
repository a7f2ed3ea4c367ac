//! Identity, QUIC endpoints, RPC and collectives between the processes of one cluster.
//!
//! Not here: what the messages mean (protocol), models (sharding), who should connect to whom (coordinator, node).
//! Invariants: no byte is read from a peer before the handshake has proved its identity; every wait has a deadline;
//! no length from a peer is trusted with memory before its bytes arrive.

pub mod collective;
pub mod deadline;
pub mod identity;
pub mod quic;
pub mod tls;

pub use collective::{AbortHandle, Collective, CollectiveError, LocalCollective};
pub use deadline::Deadline;
pub use identity::{ClusterCa, IssuedCert, JoinKey, NodeIdentity};
pub use quic::{
    BindError, CallError, ConnectError, Connection, ConnectionLost, Endpoint, EndpointConfig, Expect, RecvStream,
    SendStream, StreamError,
};
