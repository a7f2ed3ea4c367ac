//! A linear layer that divides its input: each rank multiplies the columns of the weight that it owns by its part of
//! the input, and the partial sums are all-reduced.
//!
//! Not here: the additions between ranks ([`Group`](super::Group)). Invariant: partial sums are over atoms and added
//! in the order of the one [`ReductionTree`], inside a rank by the kernel and between ranks by the group, so the bits
//! do not depend on the cut.

use candle_core::Tensor;
use kernels::{PackedLinear, SumTree};
use protocol::{AtomRun, Rank, ReductionTree, Span, Subtree};

use super::exchange::all_reduce;
use super::loader::Along;
use super::{LoadError, Loader, Step, StepError};

/// `y = Σ over ranks of x_rank · W_rankᵀ`.
#[derive(Debug)]
pub struct RowParallel {
    weight: PackedLinear,
    tree: ReductionTree,
    /// One for each subtree that this rank sends, over its local columns.
    sums: Vec<SumTree>,
}

impl RowParallel {
    /// Loads `{name}.weight`, cut by input columns. `cols_of` gives the columns of a run of atoms, from the whole input's
    /// start; this rank's own begin at `own.start`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        loader: &mut Loader<'_>,
        name: &str,
        rank: Rank,
        tree: ReductionTree,
        own: Span,
        cols_of: impl Fn(AtomRun) -> Span,
    ) -> Result<Self, LoadError> {
        let weight = loader.packed(&format!("{name}.weight"), Along::Cols)?;
        let leaf = |atom: AtomRun| {
            let cols = cols_of(atom).range();
            let first = own.range().start;
            SumTree::Leaf { cols: cols.start - first..cols.end - first }
        };
        let sums = tree.sent_by(rank.index()).iter().map(|subtree| sum_tree(*subtree, &leaf)).collect();
        Ok(Self { weight, tree, sums })
    }

    /// `x` `[tokens, in of this rank]` → `[tokens, out]`, the same on every rank.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn forward(&self, step: &mut Step<'_>, x: &Tensor) -> Result<Tensor, StepError> {
        let partial = kernels::ops::linear_trees(&self.weight, step.pool, x, &self.sums)?;
        all_reduce(step.group, &self.tree, &partial)
    }
}

/// The kernel's tree for a subtree of the reduction: the same splits, with columns at the leaves.
fn sum_tree(subtree: Subtree, leaf: &impl Fn(AtomRun) -> SumTree) -> SumTree {
    match subtree.children() {
        Some((left, right)) => SumTree::node(sum_tree(left, leaf), sum_tree(right, leaf)),
        None => leaf(AtomRun { start: subtree.lo, end: subtree.hi }),
    }
}
