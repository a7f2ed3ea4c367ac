//! The engine's pure core: which tokens of which sequences enter the next step, in which KV blocks they land, and which
//! pictures are encoded before.
//!
//! Not here: clocks, sockets, tasks, logits. The worker's step loop feeds it requests and sampled tokens; deadlines
//! and lost clients reach it as [`Scheduler::cancel`].

mod anteroom;
mod block_pool;
mod block_table;
mod budget;
mod gallery;
mod limits;
mod order;
mod picture;
mod prefix_key;
mod request;
mod scheduler;
mod sequence;
mod step;

pub use anteroom::{Anteroom, TooManyPictures};
pub use block_pool::{BlockPool, OutOfBlocks};
pub use block_table::BlockTable;
pub use gallery::{Begin, Gallery, GalleryCounts, GalleryLimits, GalleryWork};
pub use limits::{EngineLimits, LimitsError};
pub use picture::{NewPicture, PictureClaim, PictureDigest, PromptPicture};
pub use prefix_key::PrefixKey;
pub use request::{Admission, AdmitError, Demand, NewRequest, Progress};
pub use scheduler::{Counts, Scheduler};
pub use step::{Draft, PromptRows, Sample, Started, Step};

#[cfg(test)]
mod properties;
