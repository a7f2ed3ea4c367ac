//! How the tokens of one step are shared out.
//!
//! Every sequence that lacks one token gets it: decoding never waits for a prompt. What is left goes to the prompts
//! by max-min fairness, so that a short one passes a long one; where there is less than a token for each, the oldest
//! come first, so that none starves.

/// Tokens that each sequence brings into a step of `budget` tokens. `pending[i]` ≥ 1 is what sequence `i` lacks, in
/// order of arrival; `budget` ≥ 1 and at least the number of ones. The result sums to at most `budget`, and entry 0 is ≥ 1.
pub(super) fn share_out(pending: &[usize], budget: usize) -> Vec<usize> {
    let mut shares: Vec<usize> = pending.iter().map(|p| usize::from(*p == 1)).collect();
    let mut left = budget - shares.iter().sum::<usize>();
    let mut prompts: Vec<usize> = (0..pending.len()).filter(|i| pending[*i] > 1).collect();
    if left >= prompts.len() {
        // Shortest first: what it leaves of its share goes to the longer ones. Stable, so equals keep their order.
        prompts.sort_by_key(|i| pending[*i]);
    }
    for (served, i) in prompts.iter().enumerate() {
        let share = left.div_ceil(prompts.len() - served).min(pending[*i]);
        shares[*i] = share;
        left -= share;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes_come_first_and_short_prompts_pass_long_ones() {
        assert_eq!(share_out(&[1, 1, 1], 8), [1, 1, 1]);
        assert_eq!(share_out(&[1, 100, 1, 4], 12), [1, 6, 1, 4]);
        assert_eq!(share_out(&[100, 4, 100], 64), [30, 4, 30]);
        assert_eq!(share_out(&[2, 3, 100], 64), [2, 3, 59]);
        assert_eq!(share_out(&[100, 2, 3], 64), [59, 2, 3]);
        assert_eq!(share_out(&[9, 9, 9], 4), [2, 1, 1]);
        assert_eq!(share_out(&[1, 1, 9, 5], 3), [1, 1, 1, 0]);
    }

    proptest! {
        #[test]
        fn shares_keep_the_budget_and_waste_none(
            pending in prop::collection::vec(prop_oneof![Just(1usize), 1usize..300], 1..16), extra in 0usize..200,
        ) {
            let budget = pending.len() + extra;
            let shares = share_out(&pending, budget);
            let total: usize = shares.iter().sum();
            prop_assert!(total <= budget);
            prop_assert_eq!(total, budget.min(pending.iter().sum()));
            prop_assert!(shares.iter().zip(&pending).all(|(s, p)| s <= p && (*p > 1 || *s == 1)));
            prop_assert!(shares[0] >= 1);
        }
    }
}
