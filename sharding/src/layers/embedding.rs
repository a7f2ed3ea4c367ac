//! The embedding, vocabulary-parallel: each rank looks up the tokens whose rows it owns.
//!
//! Not here: whether an id is one at all (checked before the step). Invariant: each row has exactly one owner and is
//! carried as it is, never added to zeros, so that even a `-0.0` is the same at every world size.

use candle_core::{Device, Tensor};
use kernels::ops::{Embedding, embed_rows};
use protocol::{Plan, Rank, Span};

use super::exchange::{all_gather, with_floats};
use super::{Group, LoadError, Loader, StepError};

/// This rank's rows of the embedding, and who owns the others.
#[derive(Debug)]
pub struct VocabParallelEmbedding {
    own: Embedding,
    rank: Rank,
    /// Rows of each rank, in rank order.
    owners: Vec<Span>,
    hidden: usize,
}

impl VocabParallelEmbedding {
    /// Loads this rank's rows of `{name}.weight`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        loader: &mut Loader<'_>,
        name: &str,
        plan: &Plan,
        rank: Rank,
        hidden: usize,
    ) -> Result<Self, LoadError> {
        let owners: Vec<Span> = plan.ranks.iter().map(|r| r.cut.vocab_rows).collect();
        let table = loader.table(&format!("{name}.weight"))?;
        Ok(Self { own: Embedding { table, first: owners[rank.index()].start }, rank, owners, hidden })
    }

    /// Width of a row.
    pub(super) fn hidden(&self) -> usize {
        self.hidden
    }

    /// The rows of `tokens` → `[tokens, hidden]` in f32, the same on every rank.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn forward(&self, group: &mut dyn Group, tokens: &[u32]) -> Result<Tensor, StepError> {
        let owner_of = |token: u32| self.owners.iter().position(|s| (s.start..s.end).contains(&token)).unwrap_or(0);
        let owners: Vec<usize> = tokens.iter().map(|t| owner_of(*t)).collect();
        let mut counts = vec![0; self.owners.len()];
        owners.iter().for_each(|owner| counts[*owner] += self.hidden);
        let pairs = tokens.iter().zip(&owners);
        let mine: Vec<u32> = pairs.filter(|(_, owner)| **owner == self.rank.index()).map(|(t, _)| *t).collect();
        let mine = embed_rows(&self.own, &mine)?;
        let gathered = with_floats(&mine, |mine| all_gather(group, &counts, mine))?;
        // From rank order to the order of the tokens: each owner's rows stand in the order in which it is asked.
        let mut next: Vec<usize> = Vec::with_capacity(counts.len());
        counts.iter().fold(0, |at, count| {
            next.push(at);
            at + count
        });
        let mut rows = Vec::with_capacity(gathered.len());
        for owner in owners {
            let at = next[owner];
            rows.extend_from_slice(&gathered[at..at + self.hidden]);
            next[owner] += self.hidden;
        }
        Ok(Tensor::from_vec(rows, (tokens.len(), self.hidden), &Device::Cpu)?)
    }
}
