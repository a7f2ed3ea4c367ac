//! The LM head, vocabulary-parallel: each rank computes the logits of its rows of the vocabulary, and sends of each
//! wanted row either its part or, where the sampler needs no more, its best candidates.
//!
//! Not here: sampling. Invariants: a logit is one sum in one order, so a row is the same at every world size; a step
//! takes one exchange whatever mix of rows is wanted, and how long each rank's part of it is follows from the plan.

use candle_core::Tensor;
use kernels::{PackedLinear, Pool};
use protocol::step::LogitsWanted;
use protocol::{Plan, Rank, Span};

use super::exchange::{all_gather, with_floats};
use super::loader::Along;
use super::logits::{LogitsRow, keep_best};
use super::{Group, LoadError, Loader, StepError};

/// This rank's rows of the LM head.
#[derive(Debug)]
pub struct LmHead {
    weight: PackedLinear,
    /// Rows of each rank, in rank order.
    owners: Vec<Span>,
}

/// What one rank sends of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    /// The logits of all its ids.
    Part(usize),
    /// `k` logits, then their ids, both by ascending id. An id is below 2^22 and so exact as an f32.
    Best(usize),
}

impl Share {
    /// Of a row of which the plan wants `wanted`, from a rank with `width` ids.
    fn of(wanted: LogitsWanted, width: usize) -> Self {
        match wanted {
            LogitsWanted::Best { k } if 2 * usize::from(k) < width => Self::Best(usize::from(k)),
            _ => Self::Part(width),
        }
    }

    /// Values on the wire.
    fn len(self) -> usize {
        match self {
            Self::Part(width) => width,
            Self::Best(k) => 2 * k,
        }
    }
}

impl LmHead {
    /// Loads this rank's rows of `{name}.weight`, which is the embedding's where the two are tied.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(loader: &mut Loader<'_>, name: &str, plan: &Plan) -> Result<Self, LoadError> {
        let weight = loader.packed(&format!("{name}.weight"), Along::Rows)?;
        Ok(Self { weight, owners: plan.ranks.iter().map(|r| r.cut.vocab_rows).collect() })
    }

    /// `x` `[rows, hidden]`, of each of which `wanted` is wanted → the rows, on rank 0; no rows on the others.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn forward(
        &self,
        pool: &Pool,
        group: &mut dyn Group,
        x: &Tensor,
        wanted: &[LogitsWanted],
    ) -> Result<Vec<LogitsRow>, StepError> {
        let rank = group.rank();
        let mine = kernels::ops::linear(&self.weight, pool, x, None)?;
        let own = self.owners[rank.index()];
        let mine = with_floats(&mine, |mine| Ok(shares(mine, own, wanted)))?;
        let counts: Vec<usize> = self.owners.iter().map(|owner| shares_len(*owner, wanted)).collect();
        let gathered = all_gather(group, &counts, &mine)?;
        if rank == Rank(0) { self.rows(&gathered, &counts, wanted) } else { Ok(Vec::new()) }
    }

    /// Puts together what every rank sent.
    fn rows(&self, gathered: &[f32], counts: &[usize], wanted: &[LogitsWanted]) -> Result<Vec<LogitsRow>, StepError> {
        let mut parts = Vec::with_capacity(counts.len());
        let mut rest = gathered;
        for (owner, count) in self.owners.iter().zip(counts) {
            let (part, after) = rest.split_at(*count);
            parts.push((*owner, part));
            rest = after;
        }
        wanted.iter().map(|wanted| row(&mut parts, *wanted)).collect()
    }
}

/// Values that the owner of `owner` sends.
fn shares_len(owner: Span, wanted: &[LogitsWanted]) -> usize {
    wanted.iter().map(|wanted| Share::of(*wanted, owner.range().len()).len()).sum()
}

/// What a rank sends: its share of each row, one after the other. `logits` is `[rows, own ids]`.
fn shares(logits: &[f32], own: Span, wanted: &[LogitsWanted]) -> Vec<f32> {
    let width = own.range().len();
    let mut out = Vec::with_capacity(shares_len(own, wanted));
    let mut best = Vec::new();
    for (row, wanted) in wanted.iter().enumerate() {
        let logits = &logits[row * width..(row + 1) * width];
        match Share::of(*wanted, width) {
            Share::Part(_) => out.extend_from_slice(logits),
            Share::Best(k) => {
                keep_best(logits, own.start, k, &mut best);
                out.extend(best.iter().map(|c| c.0));
                out.extend(best.iter().map(|c| c.1 as f32));
            }
        }
    }
    out
}

/// Takes one row off the front of every rank's part.
fn row(parts: &mut [(Span, &[f32])], wanted: LogitsWanted) -> Result<LogitsRow, StepError> {
    let candidates = matches!(wanted, LogitsWanted::Best { .. });
    let (mut whole, mut best) = (Vec::new(), Vec::new());
    for (owner, part) in parts {
        let share = Share::of(wanted, owner.range().len());
        let (head, rest) = part.split_at(share.len());
        *part = rest;
        match share {
            Share::Part(_) if candidates => best.extend((owner.start..).zip(head).map(|(id, logit)| (*logit, id))),
            Share::Part(_) => whole.extend_from_slice(head),
            Share::Best(k) => {
                let (logits, ids) = head.split_at(k);
                for (logit, id) in logits.iter().zip(ids) {
                    best.push((*logit, id_of(*id, *owner)?));
                }
            }
        }
    }
    Ok(if candidates { LogitsRow::Best(best) } else { LogitsRow::Whole(whole) })
}

/// The id that a rank sent, which must be one of its own.
fn id_of(value: f32, owner: Span) -> Result<u32, StepError> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "compared with what it came from")]
    let id = value as u32;
    let own = (owner.start..owner.end).contains(&id) && id as f32 == value;
    if own { Ok(id) } else { Err(StepError::Candidate { value, first: owner.start, end: owner.end }) }
}
