//! The control plane in one process, over real QUIC and TLS on loopback: three coordinators, nodes that are test doubles.
//!
//! Not here: workers, models, HTTP clients of the public endpoint.

mod admin;
mod agreement;
mod cluster;
#[path = "../../src/metrics/exposition.rs"]
mod exposition;
mod fake_node;
mod leases;
mod members;
mod metrics;
mod start;
mod writes;
