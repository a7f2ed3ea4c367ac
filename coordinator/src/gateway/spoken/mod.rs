//! What a GLM model says, told apart as it comes: reasoning, content, tool calls.
//!
//! ```text
//!  [<think> reasoning </think>] content [<tool_call> name (<arg_key> k </arg_key> <arg_value> v </arg_value>)* </tool_call>]…
//! ```
//! The markers are those of the GLM-4.1V and GLM-4.5 chat templates. Pure: no clock, no socket. Not here: whether a request wants
//! any of it split; JSON of a reply. Invariant: what comes out does not depend on how the text was cut into parts.

mod arguments;
mod parser;

pub(super) use arguments::ToolTypes;
pub(super) use parser::{Piece, Speech, SpeechRules};

#[cfg(test)]
mod tests;
