//! What runs on a host of a ShardGLM cluster: the agent that keeps the lease and starts workers, and the worker that
//! runs one rank of one replica.
//!
//! Not here: Raft, HTTP, the model's layers, sockets. The pure cores are [`engine`] (which tokens enter a step),
//! [`sampler`] (which token comes out) and the agent's supervisor (which workers should run).

pub mod agent;
pub mod engine;
pub mod grammar;
mod pipe;
pub mod sampler;
pub mod worker;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod revival_tests;
