//! Ids, epochs and every message that crosses a process of a ShardGLM cluster.
//!
//! Not here: I/O, tensors, clocks. What a peer sends is declared in this crate and nowhere else, so that
//! a change of the wire is a change of this crate, held by the golden bytes of its tests.

pub mod admin;
pub mod atoms;
pub mod deployment;
pub mod frame;
pub mod generate;
pub mod identity;
pub mod ids;
pub mod join;
pub mod journal;
pub mod lease;
pub mod picture;
pub mod plan;
pub mod raft;
pub mod stats;
pub mod step;
pub mod worker;

pub use atoms::{AtomRun, AtomSpace, ReductionTree, Subtree};
pub use deployment::{DeploymentSpec, Dtype, ModelRecord};
pub use frame::{FRAME_BYTES_MAX, Frame, FrameError, FrameHeader, Kind, Message};
pub use identity::{Identity, Role};
pub use ids::{
    ClusterId, CoordinatorId, Epoch, Generation, IdError, NodeId, PictureId, Rank, ReplicaId, RequestId, Revision,
    SeqId, Term, WorldSize,
};
pub use picture::PictureLimits;
pub use plan::{ByteBudget, Plan, RankCut, RankPlan, Span};
