//! The ids that may still be drawn: top-k, then top-p over what that leaves, then min-p, then the draw.
//!
//! Invariants: of equal logits the lowest ids are kept; sums run in f64, in order of rank for top-p and of id for the
//! draw, so a filter that removes nothing changes no draw.

use protocol::generate::SamplingParams;
use sharding::layers::{Candidate, by_rank};

use super::math::exp_nonpositive;

/// All ids of `logits` (`[vocab]`) that are not masked.
pub(super) fn fill(candidates: &mut Vec<Candidate>, logits: &[f32]) {
    candidates.clear();
    candidates.extend((0u32..).zip(logits).filter(|(_, x)| **x > f32::NEG_INFINITY).map(|(id, x)| (*x, id)));
}

/// Leaves the `k` best, in no order.
pub(super) fn keep_best(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 {
        candidates.clear();
    } else if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, by_rank);
        candidates.truncate(k);
    }
}

/// Draws one id of `candidates` (never empty) by `uniform` in [0, 1). `params.temperature` > 0.
pub(super) fn draw(candidates: &mut Vec<Candidate>, params: &SamplingParams, uniform: f64) -> u32 {
    let best = candidates.iter().map(|c| c.0).fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| exp_nonpositive(f64::from(logit - best) / f64::from(params.temperature));
    if params.top_k > 0 {
        keep_best(candidates, params.top_k as usize);
    }
    if params.top_p < 1.0 {
        keep_nucleus(candidates, f64::from(params.top_p), weight);
    }
    if params.min_p > 0.0 {
        // The best has weight 1, so a share of the best's probability is a bound on the weight.
        candidates.retain(|c| weight(c.0) >= f64::from(params.min_p));
    }
    candidates.sort_unstable_by_key(|c| c.1);
    let total: f64 = candidates.iter().map(|c| weight(c.0)).sum();
    let mut left = uniform * total;
    for (logit, id) in candidates.iter() {
        left -= weight(*logit);
        if left < 0.0 {
            return *id;
        }
    }
    // Rounding left a crumb over: it belongs to the last id that has any weight.
    candidates.iter().rev().find(|c| weight(c.0) > 0.0).expect("the best has weight 1").1
}

/// Leaves the fewest best ids whose weights reach `top_p` of the total. Only as many are sorted as are needed.
fn keep_nucleus(candidates: &mut Vec<Candidate>, top_p: f64, weight: impl Fn(f32) -> f64) {
    candidates.sort_unstable_by_key(|c| c.1);
    let wanted = top_p * candidates.iter().map(|c| weight(c.0)).sum::<f64>();
    let mut sorted = 0;
    let mut mass = 0.0;
    while sorted < candidates.len() {
        let run = (candidates.len() - sorted).min(256.max(sorted));
        let rest = &mut candidates[sorted..];
        if run < rest.len() {
            rest.select_nth_unstable_by(run - 1, by_rank);
        }
        rest[..run].sort_unstable_by(by_rank);
        for (i, candidate) in rest[..run].iter().enumerate() {
            mass += weight(candidate.0);
            if mass >= wanted {
                candidates.truncate(sorted + i + 1);
                return;
            }
        }
        sorted += run;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(temperature: f32, top_k: u32, top_p: f32, min_p: f32) -> SamplingParams {
        SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::greedy(8) }
    }

    /// Probabilities 0.4, 0.3, 0.2, 0.1 at temperature 1, not in order of id.
    fn row() -> Vec<Candidate> {
        let p = [(0.1f32, 0), (0.4, 1), (0.2, 2), (0.3, 3)];
        p.map(|(p, id)| (p.ln(), id)).to_vec()
    }

    fn drawable(params: &SamplingParams) -> Vec<u32> {
        let ids: std::collections::BTreeSet<u32> =
            (0..1000).map(|i| draw(&mut row(), params, f64::from(i) / 1000.0)).collect();
        ids.into_iter().collect()
    }

    #[test]
    fn the_draw_walks_the_ids_in_order() {
        let at = |u| draw(&mut row(), &params(1.0, 0, 1.0, 0.0), u);
        // Cumulative by id: 0.1, 0.5, 0.7, 1.0.
        assert_eq!([0.05, 0.11, 0.49, 0.51, 0.69, 0.71, 0.999].map(at), [0, 1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn filters_keep_what_they_say() {
        assert_eq!(drawable(&params(1.0, 0, 1.0, 0.0)), [0, 1, 2, 3]);
        assert_eq!(drawable(&params(1.0, 2, 1.0, 0.0)), [1, 3]);
        assert_eq!(drawable(&params(1.0, 0, 0.65, 0.0)), [1, 3]);
        assert_eq!(drawable(&params(1.0, 0, 0.75, 0.0)), [1, 2, 3]);
        // After top-k 2 the shares are 4/7 and 3/7: 0.5 keeps the best alone.
        assert_eq!(drawable(&params(1.0, 2, 0.5, 0.0)), [1]);
        assert_eq!(drawable(&params(1.0, 0, 1.0, 0.4)), [1, 2, 3]);
        assert_eq!(drawable(&params(1e-30, 0, 1.0, 0.0)), [1]);
    }

    #[test]
    fn a_filter_that_removes_nothing_changes_no_draw() {
        for i in 0..200 {
            let u = f64::from(i) / 200.0;
            let plain = draw(&mut row(), &params(0.7, 0, 1.0, 0.0), u);
            assert_eq!(plain, draw(&mut row(), &params(0.7, 4, 0.999_999, 1e-6), u));
        }
    }

    #[test]
    fn ties_at_the_edge_keep_the_lowest_ids() {
        let flat = || (0..600).map(|id| (0.0, id)).collect::<Vec<_>>();
        for u in [0.0, 0.5, 0.999] {
            assert!(draw(&mut flat(), &params(1.0, 3, 1.0, 0.0), u) < 3);
            assert!(draw(&mut flat(), &params(1.0, 0, 0.5, 0.0), u) < 300);
        }
    }
}
