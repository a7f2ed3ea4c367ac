//! The arithmetic of an all-reduce: adding what all ranks sent, in tree order, a cache-sized piece at a time.

use protocol::ReductionTree;

/// Values that are folded at once: four buffers of it fit the first-level cache.
const FOLD_VALUES: usize = 1024;

/// One node of the tree while it is folded: a rank's own bytes, or a sum so far.
enum Part<'a> {
    Sent(&'a [f32]),
    Sum(Vec<f32>),
}

/// `out[i]` = the tree's sum over `parts`, where `parts[r]` is `[tree.sent_by(r).len(), n]` and `out` is `[n]`. Zeros
/// where the tree has no atoms.
pub(super) fn fold_into(tree: &ReductionTree, parts: &[&[f32]], out: &mut [f32]) {
    let n = out.len();
    let mut spare: Vec<Vec<f32>> = Vec::new();
    for start in (0..n).step_by(FOLD_VALUES) {
        let end = (start + FOLD_VALUES).min(n);
        let leaf = |rank: usize, i: usize| Part::Sent(&parts[rank][i * n + start..i * n + end]);
        match tree.fold(leaf, |left, right| add(left, right, &mut spare)) {
            Some(Part::Sent(sent)) => out[start..end].copy_from_slice(sent),
            Some(Part::Sum(sum)) => {
                out[start..end].copy_from_slice(&sum);
                spare.push(sum);
            }
            None => out[start..end].fill(0.0),
        }
    }
}

fn add<'a>(left: Part<'a>, right: Part<'a>, spare: &mut Vec<Vec<f32>>) -> Part<'a> {
    match (left, right) {
        (Part::Sum(mut sum), Part::Sent(b)) => {
            sum.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            Part::Sum(sum)
        }
        (Part::Sum(mut sum), Part::Sum(b)) => {
            sum.iter_mut().zip(&b).for_each(|(a, b)| *a += b);
            spare.push(b);
            Part::Sum(sum)
        }
        (Part::Sent(a), Part::Sum(mut sum)) => {
            // Addition is commutative to the bit; only its grouping matters.
            sum.iter_mut().zip(a).for_each(|(b, a)| *b += a);
            Part::Sum(sum)
        }
        (Part::Sent(a), Part::Sent(b)) => {
            let mut sum = spare.pop().unwrap_or_default();
            sum.clear();
            sum.extend(a.iter().zip(b).map(|(a, b)| a + b));
            Part::Sum(sum)
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::AtomRun;

    use super::*;

    #[test]
    fn eight_ranks_of_one_atom_equal_the_tree_written_out() {
        let n = FOLD_VALUES + 37;
        let runs: Vec<_> = (0..8).map(|i| AtomRun { start: i, end: i + 1 }).collect();
        let tree = ReductionTree::new(8, &runs).expect("covers");
        let parts: Vec<Vec<f32>> = (0..8).map(|r| (0..n).map(|i| 1.0 / (1 + i + 7 * r) as f32).collect()).collect();
        let mut out = vec![f32::NAN; n];
        fold_into(&tree, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut out);
        for i in 0..n {
            let p = |r: usize| parts[r][i];
            let expected = ((p(0) + p(1)) + (p(2) + p(3))) + ((p(4) + p(5)) + (p(6) + p(7)));
            assert_eq!(out[i].to_bits(), expected.to_bits());
        }
    }

    #[test]
    fn no_atoms_sum_to_zero() {
        let tree = ReductionTree::new(0, &[AtomRun { start: 0, end: 0 }]).expect("covers nothing");
        let mut out = [1.0; 3];
        fold_into(&tree, &[&[]], &mut out);
        assert_eq!(out, [0.0; 3]);
    }
}
