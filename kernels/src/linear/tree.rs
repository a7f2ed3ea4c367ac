//! The tree in which partial sums over ranges of the input are added. Which ranges and which tree: the caller's.

use std::ops::Range;

use crate::error::KernelError;

/// Deepest [`SumTree`] that is taken.
pub const SUM_TREE_DEPTH_MAX: usize = 32;

/// An order of summation: each leaf sums its columns in ascending order from zero, each node adds its right sum to its
/// left one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SumTree {
    /// The sum over these columns of the local input.
    Leaf {
        /// Local input columns; empty gives zero.
        cols: Range<usize>,
    },
    /// Left plus right.
    Node(Box<SumTree>, Box<SumTree>),
}

impl SumTree {
    /// One leaf over all of an input of `in_features`: what a plain product does.
    #[must_use]
    pub fn whole(in_features: usize) -> Self {
        Self::Leaf { cols: 0..in_features }
    }

    /// A node over two trees.
    #[must_use]
    pub fn node(left: Self, right: Self) -> Self {
        Self::Node(Box::new(left), Box::new(right))
    }

    /// How many partial sums are alive at once while it is evaluated left to right.
    pub(crate) fn levels(&self) -> usize {
        match self {
            Self::Leaf { .. } => 1,
            Self::Node(left, right) => left.levels().max(right.levels() + 1),
        }
    }

    /// Checks every leaf against the input and the depth against its bound.
    pub(crate) fn check(&self, in_features: usize) -> Result<(), KernelError> {
        self.check_below(in_features, 0)
    }

    fn check_below(&self, in_features: usize, depth: usize) -> Result<(), KernelError> {
        if depth > SUM_TREE_DEPTH_MAX {
            return Err(KernelError::TreeDepth { depth, max: SUM_TREE_DEPTH_MAX });
        }
        match self {
            Self::Leaf { cols } if cols.start > cols.end || cols.end > in_features => {
                Err(KernelError::Columns { cols: cols.clone(), in_features })
            }
            Self::Leaf { .. } => Ok(()),
            Self::Node(left, right) => {
                left.check_below(in_features, depth + 1)?;
                right.check_below(in_features, depth + 1)
            }
        }
    }
}
