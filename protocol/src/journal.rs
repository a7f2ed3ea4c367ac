//! What one coordinator keeps for another, so that a stream outlives the gateway that tells it.
//!
//! ```text
//!  gateway that tells a stream           one other coordinator          any gateway, later
//!   │ ── Begin(entry) ───────────────────▶ │                              │
//!   │ ── Take(ids since then, …)* ───────▶ │                              │
//!   │ ✗ dead, or its client gone           │ ◀── Claim(id) ────────────── │
//!                                          │ ── Found(entry) ───────────▶ │
//! ```
//! Not here: how it is kept, how a stream goes on from it (coordinator). Invariant: what an entry lacks of the ids can be
//! computed again from the rest of it.
#![expect(missing_docs, reason = "rkyv's derive repeats the fields of enum variants without their docs")]

use rkyv::{Archive, Deserialize, Serialize};

use crate::frame::message;
use crate::generate::{CHOICES_MAX, CONTEXT_TOKENS_MAX, Priority};
use crate::picture::PICTURES_MAX;
use crate::{Dtype, RequestId};

/// Largest body of a request that is kept, bytes.
pub const JOURNAL_BODY_BYTES_MAX: usize = 16 << 20;
/// Most streams that one [`JournalRequest::Take`] tells of.
pub const JOURNAL_BATCH_MAX: usize = 1024;

/// How an answer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum AnswerFormat {
    /// As `/v1/chat/completions` does.
    Chat,
    /// As `/v1/completions` does.
    Completions,
}

/// A streamed request, and what has been answered so far.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The request.
    pub id: RequestId,
    /// Of two entries of one id the higher one counts: µs since 1970 when it was begun.
    pub version: u64,
    /// How it is told.
    pub format: AnswerFormat,
    /// Whose it is; empty while clients are not told apart.
    pub principal: String,
    /// As the client sent it.
    pub body: Vec<u8>,
    /// Who goes first, header and body read.
    pub priority: Priority,
    /// How long it may take in all, ms.
    pub timeout_ms: u32,
    /// How much of that is left, ms.
    pub left_ms: u32,
    /// When the answer began, s since 1970.
    pub created: u64,
    /// As the client sent it, or as it was drawn.
    pub seed: u64,
    /// Digest of the model version.
    pub digest: String,
    /// Precision of its weights.
    pub dtype: Dtype,
    /// Ids of each prompt, a picture being one token.
    pub prompts: Vec<Vec<u32>>,
    /// SHA-256 of the levels of each picture.
    pub pictures: Vec<[u8; 32]>,
    /// Ids that were taken, by choice over all prompts.
    pub taken: Vec<Vec<u32>>,
    /// By prompt, tokens that were found in the prefix cache, where that is known.
    pub cached: Vec<Option<u32>>,
}

impl JournalEntry {
    /// What it takes in memory, bytes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let ids = self.prompts.iter().chain(&self.taken).map(|ids| size_of::<Vec<u32>>() + size_of_val(ids.as_slice()));
        let texts = self.body.len() + self.principal.len() + self.digest.len();
        size_of::<Self>() + texts + ids.sum::<usize>() + size_of_val(self.pictures.as_slice())
    }

    fn validate(&self) -> Result<(), String> {
        if self.body.len() > JOURNAL_BODY_BYTES_MAX {
            return Err(format!("a body of {} bytes, at most {JOURNAL_BODY_BYTES_MAX}", self.body.len()));
        }
        let (prompts, choices, pictures) = (self.prompts.len(), self.taken.len(), self.pictures.len());
        if !(1..=CHOICES_MAX).contains(&prompts) || !(prompts..=CHOICES_MAX).contains(&choices) {
            return Err(format!("{choices} choices of {prompts} prompts, at most {CHOICES_MAX}"));
        }
        if self.cached.len() != prompts || pictures > PICTURES_MAX {
            return Err(format!("{} cached of {prompts} prompts, {pictures} pictures", self.cached.len()));
        }
        match self.prompts.iter().chain(&self.taken).map(Vec::len).max() {
            Some(tokens) if tokens > CONTEXT_TOKENS_MAX => {
                Err(format!("{tokens} tokens, at most {CONTEXT_TOKENS_MAX}"))
            }
            _ => Ok(()),
        }
    }
}

/// Ids of one choice.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TakenIds {
    /// Which, over all prompts.
    pub choice: u16,
    /// How many came before.
    pub from: u32,
    /// The ids.
    pub ids: Vec<u32>,
}

/// What is new of one stream. Nothing new is news too: it is still told.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Taken {
    /// The stream.
    pub id: RequestId,
    /// Its entry's.
    pub version: u64,
    /// By prompt, as in the entry.
    pub cached: Vec<Option<u32>>,
    /// What was taken.
    pub choices: Vec<TakenIds>,
    /// Whether all of it has been told.
    pub ended: bool,
}

/// Coordinator to coordinator.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub enum JournalRequest {
    /// Keep this. Answered by [`JournalResponse::Kept`] or [`JournalResponse::Full`].
    Begin(Box<JournalEntry>),
    /// Keep that too. Answered by [`JournalResponse::Kept`] or [`JournalResponse::Unknown`].
    Take(Vec<Taken>),
    /// Somebody goes on with it: end it where it is still told. Answered by [`JournalResponse::Found`].
    Claim {
        /// Which.
        id: RequestId,
        /// Who wants it.
        principal: String,
    },
}
message!(JournalRequest, JournalRequest, |r| match r {
    JournalRequest::Begin(entry) => entry.validate(),
    JournalRequest::Take(taken) if taken.len() > JOURNAL_BATCH_MAX =>
        Err(format!("{} streams, at most {JOURNAL_BATCH_MAX}", taken.len())),
    JournalRequest::Take(_) | JournalRequest::Claim { .. } => Ok(()),
});

/// The answer.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub enum JournalResponse {
    /// Done.
    Kept,
    /// There is no room for it.
    Full,
    /// Done, but for these, of which nothing is kept here.
    Unknown(Vec<RequestId>),
    /// What is known here, if anything.
    Found(Option<Box<JournalEntry>>),
}
message!(JournalResponse, JournalResponse, |r| match r {
    JournalResponse::Found(Some(entry)) => entry.validate(),
    _ => Ok(()),
});
