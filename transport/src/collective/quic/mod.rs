//! A group whose ranks are processes: QUIC with mutual TLS, driven by the compute thread itself.
//!
//! ```text
//!   compute thread ──▶ QuicGroup ── Mesh (one link a peer) ──▶ Driver (QUIC state machines) ──▶ UDP socket
//!                          └ form: who is who        └ a wait spins on the socket, then sleeps on a runtime of its own
//! ```
//! No other thread is woken by an all-reduce, and while the thread computes nobody drives the connections. Hence: what
//! is sent is on its way before a call returns; time-outs of the connections are long; and a peer that dies silently is
//! found by the step's deadline or by its agent, one that ends or fails by its closed connections, at once.
//!
//! Not here: QUIC itself (quinn-proto), the order of additions (`reduce`).

mod budget;
mod config;
mod driver;
mod exchange;
mod form;
mod group;
mod link;
mod socket;

pub use config::GroupConfig;
pub use group::{LinkStats, QuicGroup};
