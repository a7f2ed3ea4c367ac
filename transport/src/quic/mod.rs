//! Endpoints, connections and framed streams over QUIC with mutual TLS.
//!
//! Not here: what a handshake checks (`tls`), collectives (`collective`, which drive their own endpoint). quinn is used
//! nowhere outside of this crate.

mod config;
mod connection;
mod endpoint;
mod error;
mod rebirth;
mod recv_stream;
mod send_stream;
mod socket;

pub use config::EndpointConfig;
pub use connection::Connection;
pub use endpoint::Endpoint;
pub use error::{BindError, CallError, ConnectError, ConnectionLost, HandshakeRefusal, StreamError};
pub use recv_stream::RecvStream;
pub use send_stream::SendStream;

pub use crate::tls::Expect;

pub(crate) use config::MTU_MIN;
pub(crate) use rebirth::endpoint_config;
pub(crate) use socket::bind_udp;
