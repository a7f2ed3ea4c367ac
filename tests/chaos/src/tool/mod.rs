//! What the tool does with a cluster: a storm of faults, the table of faults one by one, power cuts.
//!
//! Not here: the command line (`main`). Invariant: what is printed was measured in this run.

mod power_cut;
mod scene;
mod storm;
mod table;

pub use power_cut::{PowerCuts, power_cuts};
pub use scene::{Asked, Asker, Scene, SceneError};
pub use storm::{Storm, StormReport, storm};
pub use table::{Row, Table, rows, table};
