//! Which token comes out of a row of logits, and how much of the row is needed to say so.
//!
//! The order of effects (DESIGN §5): repetition, frequency and presence penalties → logit bias → masks → temperature →
//! top-k, top-p, min-p → draw. Temperature 0 takes the best after the masks. Ties go to the lowest id everywhere.
//!
//! Not here: where logits come from, when a sequence ends (the engine). No clock and no state of a generator: a draw
//! is a function of (seed, choice, position), and all arithmetic is plain IEEE operations in a fixed order, so a stream that is
//! resumed on another host draws the same tokens.

mod candidates;
mod choose;
mod history;
mod logprobs;
mod math;
mod philox;
#[cfg(test)]
mod properties;
mod row;

pub use choose::{Choice, SampleError, Sampler, Scratch};
pub use logprobs::prompt_logprobs;
