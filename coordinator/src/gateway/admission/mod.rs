//! Whether a request is taken, when it is dispatched, and where: decided before any work is done for it but reading it.
//!
//! ```text
//!  arrive ─▶ places (requests, by number) ─▶ read, encode ─▶ policy (KV tokens, deadline) ─▶ waiting ─▶ placed ─▶ gone
//!              │ 429 too_many_requests                          │ 429 queue_full       │ 503 queue_timeout
//!              ▼                                                ▼ 503 deadline_unmeetable
//! ```
//! `policy` decides and is pure; `gate` lets tasks wait for its decisions; `places` counts requests before they are read.

mod average;
mod gate;
mod lane;
mod lengths;
mod pace;
mod places;
mod policy;
mod service;

pub(super) use gate::{Gate, Moved, Place, Waiting};
pub(super) use places::{Permit, Places};
pub(super) use policy::{Bounds, Demand, No};
