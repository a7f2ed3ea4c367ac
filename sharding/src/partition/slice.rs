//! The part of each tensor that one rank holds.
//!
//! Not here: how spans come about (`planner::cut`). Invariant: a span lies inside its tensor whenever the
//! [`RankCut`] lies inside the model.

use protocol::{RankCut, Span};

use super::rules::{Rule, TensorSpec, tensors};
use crate::spec::ModelSpec;

/// Which elements of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// All of them.
    Whole,
    /// Whole rows of the first axis, in this order.
    Rows(Vec<Span>),
    /// A run of columns of the second axis, from every row.
    Cols(Span),
}

/// The part of one tensor that one rank holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSlice {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// Shape of the whole tensor.
    pub shape: Vec<u32>,
    /// The rule that cut it.
    pub rule: Rule,
    /// The part.
    pub cut: Cut,
}

impl TensorSlice {
    /// Elements of one row of the whole tensor.
    #[must_use]
    pub fn row_elements(&self) -> usize {
        self.shape.iter().skip(1).map(|d| *d as usize).product()
    }

    /// Rows of the whole tensor.
    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.shape.first().map_or(1, |d| *d as usize)
    }

    /// Shape of the part.
    #[must_use]
    pub fn local_shape(&self) -> Vec<u32> {
        let mut shape = self.shape.clone();
        match &self.cut {
            Cut::Whole => {}
            Cut::Rows(spans) => shape[0] = spans.iter().map(|s| s.len()).sum(),
            Cut::Cols(span) => shape[1] = span.len(),
        }
        shape
    }

    /// Elements of the part.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.local_shape().into_iter().map(u64::from).product()
    }
}

/// The part of every tensor of the model that a rank with this cut holds, in the order of [`tensors`].
#[must_use]
pub fn slices(spec: &ModelSpec, cut: &RankCut) -> Vec<TensorSlice> {
    tensors(spec).into_iter().map(|tensor| slice(spec, cut, tensor)).collect()
}

fn slice(spec: &ModelSpec, rank: &RankCut, tensor: TensorSpec) -> TensorSlice {
    let in_elements = |heads: Span| Span::from(heads.start * spec.head_dim..heads.end * spec.head_dim);
    let cut = match tensor.rule {
        Rule::QueryHeads => Cut::Rows(vec![in_elements(rank.heads)]),
        Rule::KvHeads => Cut::Rows(vec![in_elements(rank.kv_heads)]),
        Rule::GateUp => {
            let gate = rank.mlp_cols;
            let up = Span::from(gate.start + spec.intermediate_size..gate.end + spec.intermediate_size);
            Cut::Rows(vec![gate, up])
        }
        Rule::HeadInputs => Cut::Cols(in_elements(rank.heads)),
        Rule::MlpInputs => Cut::Cols(rank.mlp_cols),
        Rule::Vocabulary => Cut::Rows(vec![rank.vocab_rows]),
        Rule::Replicated | Rule::Table => Cut::Whole,
    };
    TensorSlice { name: tensor.name, shape: tensor.shape, rule: tensor.rule, cut }
}
