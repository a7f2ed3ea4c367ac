//! What comes out of a step for the sampler: of each row that was wanted, the whole row or its best candidates.
//!
//! Not here: how ranks exchange it (`lm_head`), how a token is chosen. Invariants: a candidate's logit has the bits that
//! it has in the whole row; candidates hold at least the `k` best of the whole row, and every logit that is not finite
//! comes before all that are, so that a broken row never looks sound.

use std::cmp::Ordering;

/// An id and its logit.
pub type Candidate = (f32, u32);

/// Best logit first; of equal ones, and 0 and -0 are equal, the lowest id. What is not finite comes before everything
/// else, by id.
#[must_use]
pub fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    urgency(b.0).total_cmp(&urgency(a.0)).then(a.1.cmp(&b.1))
}

fn urgency(logit: f32) -> f32 {
    // Adding 0 makes 0 of -0 and changes nothing else.
    if logit.is_finite() { logit + 0.0 } else { f32::INFINITY }
}

/// One row of logits.
#[derive(Debug, Clone, PartialEq)]
pub enum LogitsRow {
    /// `[vocab]`.
    Whole(Vec<f32>),
    /// By ascending id: the `k` best of each rank's part of the vocabulary, or the part as a whole where that is less
    /// to send.
    ///
    /// What the LM head's exchange costs a token with a vocabulary of 151552 at TP 2, bytes that both ranks send
    /// together: a whole row 606,208; `k` candidates of each rank 16 `k`. AutoGLM's own parameters (greedy, a frequency
    /// penalty of 0.2, at most 3000 tokens) want 1 candidate more than the answer has different tokens so far: 219 on
    /// average over autoglm-nano's golden answers (up to 67 tokens), 7,793 over 3000 words and marks of English
    /// technical text (853 different).
    Best(Vec<Candidate>),
}

impl LogitsRow {
    /// The row, where it is whole.
    #[must_use]
    pub fn whole(&self) -> Option<&[f32]> {
        match self {
            Self::Whole(row) => Some(row),
            Self::Best(_) => None,
        }
    }
}

/// The rows that were wanted, in the order of the step plan.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logits {
    /// One a wanted row.
    pub rows: Vec<LogitsRow>,
}

/// Replaces `best` by the `k` best of `part`, whose first id is `first`, by ascending id. `k` is at least 1.
pub(super) fn keep_best(part: &[f32], first: u32, k: usize, best: &mut Vec<Candidate>) {
    best.clear();
    // Whatever is not better than the k-th best so far is out: its id is higher than all that were kept.
    let mut bar = f32::NEG_INFINITY;
    let mut open = true;
    for (id, logit) in (first..).zip(part) {
        let urgency = urgency(*logit);
        if !open && urgency <= bar {
            continue;
        }
        best.push((*logit, id));
        if best.len() >= 2 * k {
            bar = self::urgency(select(best, k));
            open = false;
        }
    }
    if best.len() > k {
        select(best, k);
    }
    best.sort_unstable_by_key(|c| c.1);
}

/// Leaves the `k` best of more, in no order; the worst logit among them.
fn select(best: &mut Vec<Candidate>, k: usize) -> f32 {
    let (_, worst, _) = best.select_nth_unstable_by(k - 1, by_rank);
    let worst = worst.0;
    best.truncate(k);
    worst
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few values, so that there are many ties.
    fn logit() -> impl Strategy<Value = f32> {
        prop_oneof![
            8 => (-4i8..4).prop_map(|x| f32::from(x) / 2.0),
            1 => Just(-0.0f32),
            1 => prop::sample::select(vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        ]
    }

    proptest! {
        #[test]
        fn the_best_are_those_of_a_full_sort(part in prop::collection::vec(logit(), 1..300), k in 1usize..40, first in 0u32..9) {
            let mut expected: Vec<Candidate> = (first..).zip(&part).map(|(id, x)| (*x, id)).collect();
            expected.sort_by(by_rank);
            expected.truncate(k);
            expected.sort_by_key(|c| c.1);
            let mut best = vec![(7.0, 7)];
            keep_best(&part, first, k, &mut best);
            let bits = |c: &[Candidate]| c.iter().map(|(x, id)| (x.to_bits(), *id)).collect::<Vec<_>>();
            prop_assert_eq!(bits(&best), bits(&expected));
        }
    }

    #[test]
    fn what_is_not_finite_is_never_lost() {
        let mut best = Vec::new();
        keep_best(&[3.0, f32::NEG_INFINITY, 9.0, -f32::NAN], 10, 2, &mut best);
        assert_eq!(best.iter().map(|c| c.1).collect::<Vec<_>>(), [11, 13]);
    }
}
