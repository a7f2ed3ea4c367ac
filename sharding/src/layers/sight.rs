//! What a sequence of a step sees besides the ids of its tokens: pictures, and the positions that they bring.
//!
//! Not here: encoding. Invariant: which row takes an embedding and where it stands follow from the sequence's own prompt
//! and the row's index in it, so a prompt may be cut into steps anywhere.

use candle_core::{Device, Tensor};
use protocol::step::StepPlan;

use super::exchange::with_floats;
use super::{Group, Positions, StepError, VocabParallelEmbedding};
use crate::picture::PromptPositions;

/// The pictures of one sequence of a step. Every rank brings the same ones.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// The sequence's place in the plan.
    pub index: usize,
    /// Where the tokens of its prompt stand.
    pub positions: &'a PromptPositions,
    /// Each picture of the prompt, `[tokens, hidden]`. Once the step starts past the last picture, there need be none.
    pub embeddings: &'a [Tensor],
}

/// All sequences of a step that see something; the others are text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sights<'a>(&'a [Sight<'a>]);

impl<'a> Sights<'a> {
    /// Whether every picture row of the step is there, in the width of the model. Costs nothing for text.
    pub(super) fn check(sights: &'a [Sight<'a>], plan: &StepPlan, hidden: usize) -> Result<Self, StepError> {
        let ascending = sights.is_sorted_by(|a, b| a.index < b.index);
        if !ascending || sights.last().is_some_and(|s| s.index >= plan.seqs.len()) {
            let found = sights.iter().map(|s| s.index).take(8).collect();
            return Err(StepError::Sights { step: plan.step, seqs: plan.seqs.len(), found });
        }
        for sight in sights {
            let seq = &plan.seqs[sight.index];
            for index in (seq.start..).take(seq.tokens.len()) {
                let Some(row) = sight.positions.picture_row(index) else { continue };
                let expected = [sight.positions.grids()[row.picture].tokens() as usize, hidden];
                let found = sight.embeddings.get(row.picture).map_or(&[][..], Tensor::dims);
                if found != expected {
                    return Err(StepError::Picture {
                        step: plan.step,
                        seq: seq.seq.0,
                        picture: row.picture,
                        expected,
                        found: found.to_vec(),
                    });
                }
            }
        }
        Ok(Self(sights))
    }

    fn of(self, index: usize) -> Option<&'a Sight<'a>> {
        self.0.binary_search_by_key(&index, |s| s.index).ok().map(|at| &self.0[at])
    }

    /// Positions of every row.
    pub(super) fn positions(self, plan: &StepPlan) -> Positions {
        let mut positions = Positions::default();
        for (i, seq) in plan.seqs.iter().enumerate() {
            match self.of(i) {
                None => positions.push_text(seq.start, seq.tokens.len()),
                Some(sight) => {
                    let rows = (seq.start..).take(seq.tokens.len());
                    rows.for_each(|index| positions.push(sight.positions.at(index)));
                }
            }
        }
        positions
    }

    /// The row that each token enters as, `[tokens, hidden]`: its embedding, or its picture's. A token that a picture
    /// stands in for is not looked up, nor exchanged.
    pub(super) fn embed(
        self,
        embedding: &VocabParallelEmbedding,
        group: &mut dyn Group,
        plan: &StepPlan,
    ) -> Result<Tensor, StepError> {
        let tokens = || plan.seqs.iter().flat_map(|s| s.tokens.iter().copied());
        if self.0.is_empty() {
            return embedding.forward(group, &tokens().collect::<Vec<_>>());
        }
        let pictures: Vec<Option<(&Tensor, usize)>> = self.picture_rows(plan);
        let text: Vec<u32> = tokens().zip(&pictures).filter(|(_, p)| p.is_none()).map(|(t, _)| t).collect();
        let text = if text.is_empty() { None } else { Some(embedding.forward(group, &text)?) };
        let hidden = embedding.hidden();
        let mut rows: Vec<f32> = Vec::with_capacity(pictures.len() * hidden);
        let mut next_text = 0;
        for picture in &pictures {
            let (from, row) = match (picture, &text) {
                (Some((picture, row)), _) => (*picture, *row),
                (None, Some(text)) => {
                    next_text += 1;
                    (text, next_text - 1)
                }
                (None, None) => unreachable!("a row without a picture is text"),
            };
            with_floats(from, |all| {
                rows.extend_from_slice(&all[row * hidden..][..hidden]);
                Ok(())
            })?;
        }
        Ok(Tensor::from_vec(rows, (pictures.len(), hidden), &Device::Cpu)?)
    }

    /// For every row of the step, the picture and its row that stand there.
    fn picture_rows(self, plan: &StepPlan) -> Vec<Option<(&'a Tensor, usize)>> {
        let mut rows = Vec::new();
        for (i, seq) in plan.seqs.iter().enumerate() {
            let sight = self.of(i);
            rows.extend((seq.start..).take(seq.tokens.len()).map(|index| {
                let sight = sight?;
                let row = sight.positions.picture_row(index)?;
                Some((&sight.embeddings[row.picture], row.row as usize))
            }));
        }
        rows
    }
}
