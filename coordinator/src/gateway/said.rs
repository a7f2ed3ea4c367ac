//! The pieces of an answer as the members of a chat's `message` or `delta`.
//!
//! Not here: how an answer is told apart (`spoken`).

use serde::Serialize;

use super::spoken::Piece;

/// A part of one tool call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ToolCall {
    /// Its number in the answer; in chunks only.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

/// What some pieces say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) reasoning: String,
    pub(super) content: String,
    /// One entry a piece.
    calls: Vec<ToolCall>,
}

impl Said {
    /// Text that nobody wants split.
    pub(super) fn content(text: &str) -> Self {
        Self { content: text.to_owned(), ..Self::default() }
    }

    /// Sorts pieces; `call_id` names a call by its number.
    pub(super) fn of(pieces: Vec<Piece>, call_id: impl Fn(usize) -> String) -> Self {
        let mut said = Self::default();
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => said.reasoning.push_str(&text),
                Piece::Content(text) => said.content.push_str(&text),
                Piece::Call { index, name } => said.calls.push(ToolCall {
                    index: Some(index),
                    id: Some(call_id(index)),
                    kind: Some("function"),
                    function: Function { name: Some(name), arguments: String::new() },
                }),
                Piece::Arguments { index, json } => said.calls.push(ToolCall {
                    index: Some(index),
                    id: None,
                    kind: None,
                    function: Function { name: None, arguments: json },
                }),
            }
        }
        said
    }

    /// Whether nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.reasoning.is_empty() && self.content.is_empty() && self.calls.is_empty()
    }

    /// The calls part by part, for a chunk; `None` where there are none.
    pub(super) fn call_parts(&mut self) -> Option<Vec<ToolCall>> {
        Some(std::mem::take(&mut self.calls)).filter(|calls| !calls.is_empty())
    }

    /// The calls whole, for a message; `None` where there are none.
    pub(super) fn whole_calls(&mut self) -> Option<Vec<ToolCall>> {
        let mut whole: Vec<ToolCall> = Vec::new();
        for part in self.call_parts()? {
            match whole.last_mut() {
                Some(call) if part.id.is_none() => call.function.arguments.push_str(&part.function.arguments),
                _ => whole.push(ToolCall { index: None, ..part }),
            }
        }
        Some(whole)
    }
}
