//! Identity, QUIC endpoints, RPC and collectives between processes of one cluster
