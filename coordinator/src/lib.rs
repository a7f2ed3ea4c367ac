//! Raft member, reconciler, public gateway and admin API
