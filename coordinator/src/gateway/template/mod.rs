//! A model's chat template: messages to the prompt's text, as transformers renders it.
//!
//! Invariant: a template can neither run nor recurse without end, nor reach anything but what it is given.

mod date;
mod render;
mod source;
mod tojson;

pub use render::{ChatTemplate, Conversation, TemplateError};
pub(in crate::gateway) use source::read_object;
pub use source::{SourceError, TemplateSource};
