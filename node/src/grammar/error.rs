//! Why there is no constraint, or none any more.

use sharding::CheckpointError;

/// Longest text of llguidance's that is passed on, characters.
const REASON_CHARS_MAX: usize = 400;

/// Why a request's grammar cannot be followed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GrammarError {
    /// The grammar's fault: what is wrong with it, for whoever wrote it.
    #[error("the grammar cannot be used: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// The output tokens of an earlier attempt are none that the grammar allows.
    #[error("the grammar does not allow the resumed token {id} at output position {position}")]
    Resumed {
        /// The token.
        id: u32,
        /// Output tokens before it.
        position: usize,
    },
    /// The grammar grew too complex for the bounds of one mask, or llguidance failed.
    #[error("the grammar cannot be followed: {reason}")]
    Broken {
        /// What llguidance says.
        reason: String,
    },
    /// The model's tokenizer is none that grammars can be compiled against.
    #[error("the model's tokenizer cannot be used for grammars: {reason}")]
    Vocabulary {
        /// What is wrong with it.
        reason: String,
    },
}

impl GrammarError {
    pub(super) fn invalid(error: impl std::fmt::Display) -> Self {
        Self::Invalid { reason: told(&error.to_string()) }
    }

    pub(super) fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken { reason: told(&error.to_string()) }
    }
}

impl From<CheckpointError> for GrammarError {
    fn from(error: CheckpointError) -> Self {
        Self::Vocabulary { reason: error.to_string() }
    }
}

/// llguidance's words without what it says for its own debugging (states and backtraces, each opened by a tag on a line
/// of its own), on one line.
fn told(text: &str) -> String {
    let text = text.split("\n<").next().unwrap_or_default();
    let words = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    words.chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(told("panic: no\n<backtrace>\n  0: /home/x\n</backtrace>"), "panic: no");
        assert_eq!(told("1(2): bad\n  at start\n\n    ^"), "1(2): bad; at start; ^");
        assert_eq!(told(&"é".repeat(1000)).chars().count(), REASON_CHARS_MAX);
    }
}
