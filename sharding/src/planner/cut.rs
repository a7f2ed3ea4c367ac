//! Who owns which run of atoms and which rows of the vocabulary.
//!
//! Not here: bytes and nodes. Invariant: the runs of all ranks cover the atoms, and the rows the vocabulary, exactly
//! once in rank order, for any world size; a rank may own nothing where there are more ranks than units.

use protocol::{AtomRun, AtomSpace, Plan, Rank, RankCut, Span, WorldSize};

use crate::partition::{MLP_BLOCK_COLS, VOCAB_BLOCK_ROWS};
use crate::spec::ModelSpec;

/// How much of the model each rank takes, relative to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares(Vec<u32>);

impl Shares {
    /// The same for every rank.
    #[must_use]
    pub fn even(world_size: WorldSize) -> Self {
        Self(vec![1; usize::from(world_size.get())])
    }

    /// One weight a rank, in rank order (device speed or memory); a weight of 0 owns nothing. `None` where all are 0 or
    /// there are not 1 to [`WorldSize::MAX`] of them.
    #[must_use]
    pub fn new(weights: Vec<u32>) -> Option<Self> {
        let count = u16::try_from(weights.len()).ok()?;
        WorldSize::new(count).ok()?;
        weights.iter().any(|w| *w > 0).then_some(Self(weights))
    }

    /// Splits `units` among the ranks in order, each bound rounded to the nearest unit.
    fn split(&self, units: u32) -> Vec<Span> {
        let total: u64 = self.0.iter().map(|w| u64::from(*w)).sum();
        let mut before = 0u64;
        let mut start = 0;
        let mut spans = Vec::with_capacity(self.0.len());
        for weight in &self.0 {
            before += u64::from(*weight);
            let bound = (2 * before * u64::from(units) + total) / (2 * total);
            let end = u32::try_from(bound).expect("at most `units`, since `before` is at most `total`");
            spans.push(Span { start, end });
            start = end;
        }
        spans
    }
}

/// What each rank owns, in rank order.
#[must_use]
pub fn cuts(spec: &ModelSpec, shares: &Shares) -> Vec<RankCut> {
    let run = |s: Span| AtomRun { start: atom(s.start), end: atom(s.end) };
    let head_runs = shares.split(u32::from(AtomSpace::new(spec.num_heads).atoms()));
    let mlp_runs = shares.split(u32::from(mlp_atoms(spec).atoms()));
    let vocab = shares.split(spec.vocab_size.div_ceil(VOCAB_BLOCK_ROWS));
    let parts = head_runs.into_iter().zip(mlp_runs).zip(vocab);
    parts.map(|((heads, mlp), vocab)| rank_cut(spec, run(heads), run(mlp), vocab_rows(spec, vocab))).collect()
}

fn atom(n: u32) -> u16 {
    u16::try_from(n).expect("there are at most ATOMS_MAX atoms")
}

/// The atoms of the MLP's down product: units are 32-column blocks, the last of which may be short.
#[must_use]
pub fn mlp_atoms(spec: &ModelSpec) -> AtomSpace {
    AtomSpace::new(spec.intermediate_size.div_ceil(MLP_BLOCK_COLS))
}

/// The columns that a run of the MLP's atoms covers.
#[must_use]
pub fn mlp_cols(spec: &ModelSpec, run: AtomRun) -> Span {
    let blocks = mlp_atoms(spec).units_of(run);
    let col = |block: u32| (block * MLP_BLOCK_COLS).min(spec.intermediate_size);
    Span::from(col(blocks.start)..col(blocks.end))
}

/// The input columns of the attention output product that a run of its atoms covers.
#[must_use]
pub fn head_cols(spec: &ModelSpec, run: AtomRun) -> Span {
    let heads = AtomSpace::new(spec.num_heads).units_of(run);
    Span::from(heads.start * spec.head_dim..heads.end * spec.head_dim)
}

fn vocab_rows(spec: &ModelSpec, blocks: Span) -> Span {
    let row = |block: u32| (block * VOCAB_BLOCK_ROWS).min(spec.vocab_size);
    Span::from(row(blocks.start)..row(blocks.end))
}

fn rank_cut(spec: &ModelSpec, head_atoms: AtomRun, mlp_run: AtomRun, vocab_rows: Span) -> RankCut {
    let heads = AtomSpace::new(spec.num_heads).units_of(head_atoms);
    let group = spec.heads_per_kv_head();
    let kv_heads = if heads.is_empty() { 0..0 } else { heads.start / group..heads.end.div_ceil(group) };
    RankCut {
        head_atoms,
        heads: heads.into(),
        kv_heads: kv_heads.into(),
        mlp_atoms: mlp_run,
        mlp_cols: mlp_cols(spec, mlp_run),
        vocab_rows,
    }
}

/// A plan that is not one of this model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// Its runs or rows do not cover the model exactly once in rank order.
    #[error("plan: expected {what} of all ranks to cover 0..{expected} once in rank order, found {found:?}")]
    Cover {
        /// Which part.
        what: &'static str,
        /// How many there are.
        expected: u32,
        /// What the ranks own.
        found: Vec<Span>,
    },
    /// A rank's spans do not follow from its runs.
    #[error("plan: rank {rank}: expected {expected:?}, found {found:?}")]
    Rank {
        /// The rank.
        rank: Rank,
        /// What its runs come to.
        expected: Box<RankCut>,
        /// What the plan says.
        found: Box<RankCut>,
    },
}

/// Whether a plan, which may have come off the wire, is one of this model: covers it once, and every span follows from
/// its run.
///
/// # Errors
/// [`CutError`] naming the part or the rank.
pub fn check_plan(spec: &ModelSpec, plan: &Plan) -> Result<(), CutError> {
    let span = |run: AtomRun| Span { start: run.start.into(), end: run.end.into() };
    let parts: [(&'static str, u32, Vec<Span>); 3] = [
        ("head atoms", AtomSpace::new(spec.num_heads).atoms().into(), plan.head_runs().into_iter().map(span).collect()),
        ("MLP atoms", mlp_atoms(spec).atoms().into(), plan.mlp_runs().into_iter().map(span).collect()),
        ("vocabulary rows", spec.vocab_size, plan.ranks.iter().map(|r| r.cut.vocab_rows).collect()),
    ];
    for (what, expected, found) in parts {
        let end = found.iter().try_fold(0, |at, s| (s.start == at && s.end >= at).then_some(s.end));
        if end != Some(expected) {
            return Err(CutError::Cover { what, expected, found });
        }
    }
    for rank in &plan.ranks {
        let expected = rank_cut(spec, rank.cut.head_atoms, rank.cut.mlp_atoms, rank.cut.vocab_rows);
        if expected != rank.cut {
            let found = Box::new(rank.cut.clone());
            return Err(CutError::Rank { rank: rank.rank, expected: Box::new(expected), found });
        }
    }
    Ok(())
}
