//! The admin listener: HTTPS for admins with a certificate, and for hosts that join with a token.
//!
//! Not here: what a change does (`state`). Invariants: connections, bodies and times are bounded; everything but
//! `POST /v1/join` needs a certificate of role admin.

mod error;
mod join;
mod listings;
mod members;
mod routes;
mod server;
mod writes;

pub(crate) use join::Joins;
pub use server::AdminError;
pub(crate) use server::{Admin, AdminParts};
