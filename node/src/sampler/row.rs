//! A row of logits by id, whole or as candidates, so that penalties and bias are written once for both.
//!
//! Invariant: what is done to an id's logit does not depend on which of the two the row is.

use sharding::layers::Candidate;

/// A row whose logits can be changed.
pub(super) trait ById {
    /// The logit of `id`; `None` where the row has none: beyond the vocabulary, or no candidate.
    fn logit_mut(&mut self, id: u32) -> Option<&mut f32>;
}

/// A whole row, `[vocab]`.
impl ById for [f32] {
    fn logit_mut(&mut self, id: u32) -> Option<&mut f32> {
        self.get_mut(id as usize)
    }
}

/// Candidates by ascending id.
impl ById for [Candidate] {
    fn logit_mut(&mut self, id: u32) -> Option<&mut f32> {
        let at = self.binary_search_by_key(&id, |c| c.1).ok()?;
        Some(&mut self[at].0)
    }
}
