//! One sequence's place in its grammar.
//!
//! ```text
//!  open ─ accept(id) ─▶ open … ─ accept(id) ─▶ ended: the output is complete and nothing can follow
//!    └─ an error ─▶ broken: every call after it gives the same error
//! ```

use std::fmt;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::GrammarError;

/// What a grammar allows after the tokens so far.
pub struct Constraint {
    matcher: Matcher,
    /// The id that stands for the end in a mask: one past the vocabulary.
    end: u32,
}

impl Constraint {
    /// At the start of the output.
    ///
    /// # Errors
    /// [`GrammarError::Broken`].
    pub(super) fn new(mut matcher: Matcher, end: u32) -> Result<Self, GrammarError> {
        // Finds out whether the grammar allows nothing but an empty output.
        matcher.consume_tokens(&[]).map_err(GrammarError::broken)?;
        Ok(Self { matcher, end })
    }

    /// Another one at the same place, which shares nothing with this one.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), end: self.end }
    }

    /// Goes over the output tokens of an earlier attempt; a stop id among them ended it.
    ///
    /// # Errors
    /// [`GrammarError::Resumed`], [`GrammarError::Broken`].
    pub fn resume(&mut self, ids: &[u32], stop_ids: &[u32]) -> Result<(), GrammarError> {
        let ids = ids.split(|id| stop_ids.contains(id)).next().unwrap_or_default();
        for (position, id) in ids.iter().enumerate() {
            let taken = self.matcher.try_consume_tokens(&[*id]).map_err(GrammarError::broken)?;
            if taken == 0 {
                return Err(GrammarError::Resumed { id: *id, position });
            }
        }
        Ok(())
    }

    /// Masks every logit of `row` (`[vocab]`) whose id cannot come next; of `stop_ids`, all where the output cannot end
    /// here and none where it can.
    ///
    /// # Errors
    /// [`GrammarError::Broken`].
    pub fn mask(&mut self, row: &mut [f32], stop_ids: &[u32]) -> Result<(), GrammarError> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(GrammarError::broken)?;
        let can_end = allowed.is_allowed(self.end);
        let stops = |id: &&u32| (**id as usize) < row.len();
        let kept: Vec<(u32, f32)> = stop_ids.iter().filter(stops).map(|id| (*id, row[*id as usize])).collect();
        apply(&allowed, row);
        for (id, logit) in kept {
            row[id as usize] = if can_end { logit } else { f32::NEG_INFINITY };
        }
        Ok(())
    }

    /// Takes a token that the mask allowed; no stop id.
    ///
    /// # Errors
    /// [`GrammarError::Broken`].
    pub fn accept(&mut self, id: u32) -> Result<(), GrammarError> {
        self.matcher.consume_token(id).map_err(GrammarError::broken)
    }

    /// Whether the output is complete and nothing can follow it.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("state", &self.matcher.stop_reason()).finish_non_exhaustive()
    }
}

/// Masks what is not allowed, 32 ids at a time.
fn apply(allowed: &SimpleVob, row: &mut [f32]) {
    let words = allowed.as_slice().iter().chain(std::iter::repeat(&0));
    for (word, logits) in words.zip(row.chunks_mut(32)) {
        match *word {
            u32::MAX => {}
            0 => logits.fill(f32::NEG_INFINITY),
            word => {
                let masked = logits.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0);
                masked.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            }
        }
    }
}
