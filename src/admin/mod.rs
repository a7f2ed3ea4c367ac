//! The admin API's client: HTTPS pinned to the cluster CA, with an admin certificate; any coordinator answers.
//!
//! Not here: what is printed. Invariant: each call ends within its deadline, however many coordinators are down.

mod client;

pub(crate) use client::{AdminArgs, AdminClient, AdminError, read};
