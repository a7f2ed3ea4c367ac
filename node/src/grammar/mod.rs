//! Structured output: a request's grammar, compiled against the model's own tokens, says of each position which ids may
//! follow. The Earley parser and the lexer are llguidance's.
//!
//! ```text
//!  front, off the runtime                       step loop
//!   Grammar ─ Grammars::constraint ─▶ Constraint ─ mask ─▶ choose ─ accept ─▶ mask …  until is_ended
//!               │ vocabulary: read once, when the first grammar comes
//!               └ cache of compiled grammars
//! ```
//! Not here: sampling; which of the allowed ids is taken is the sampler's.
//! Invariants: a mask is a function of grammar, vocabulary and the tokens so far, never of other sequences (each has its
//! own copy of the lexer's caches too); whatever a grammar makes llguidance do, at most its own request fails.

mod compiler;
mod constraint;
mod error;
mod source;
mod vocabulary;

pub use compiler::{Grammars, STACK_BYTES};
pub use constraint::Constraint;
pub use error::GrammarError;

#[cfg(test)]
mod tests;
