//! What `GET /metrics` tells, on every coordinator, of the whole cluster.
//!
//! ```text
//!  worker ─Alive─▶ agent ─NodeReport─▶ leader ─Heard─▶ follow ─Picture─▶ render ─text─▶ gateway's route
//!  (EngineStats)   (rides along with   (every coordinator asks           (names)
//!                   the heartbeat)      once a second)
//! ```
//! Not here: the route (`gateway`), what an engine counts (`protocol::stats`). Invariants: a scrape asks nobody, it reads
//! the last [`Picture`]; what a picture is made of carries its age; labels are bounded by the cluster's size.

#[cfg(test)]
mod exposition;
mod families;
mod follow;
pub mod names;
mod picture;
mod render;
#[cfg(test)]
mod tests;

pub use picture::Picture;

pub(crate) use families::{Families, TEXT_FORMAT};
pub(crate) use follow::follow;
pub(crate) use render::{cluster, gateway};
