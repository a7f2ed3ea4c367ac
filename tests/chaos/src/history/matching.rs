//! A largest matching of a bipartite graph, by augmenting paths (Kuhn). Pure.

/// For each left vertex the right one that it is matched with, in a matching that is as large as any.
/// `edges[left]` lists the right vertices below `num_right` that it may have.
pub(super) fn largest(edges: &[Vec<usize>], num_right: usize) -> Vec<Option<usize>> {
    let mut left_of: Vec<Option<usize>> = vec![None; num_right];
    for left in 0..edges.len() {
        let mut seen = vec![false; num_right];
        augment(left, edges, &mut seen, &mut left_of);
    }
    let mut right_of = vec![None; edges.len()];
    for (right, left) in left_of.into_iter().enumerate() {
        if let Some(left) = left {
            right_of[left] = Some(right);
        }
    }
    right_of
}

/// Finds `left` a partner, moving others to another one where that takes it. Depth-first with a stack of its own: a path may be
/// as long as the run was.
fn augment(start: usize, edges: &[Vec<usize>], seen: &mut [bool], left_of: &mut [Option<usize>]) {
    // The path: each left vertex with the place in its edges that is tried.
    let mut path = vec![(start, 0usize)];
    while let Some((left, at)) = path.last().copied() {
        let Some(right) = edges[left].get(at).copied() else {
            path.pop();
            if let Some((_, at)) = path.last_mut() {
                *at += 1;
            }
            continue;
        };
        if std::mem::replace(&mut seen[right], true) {
            if let Some((_, at)) = path.last_mut() {
                *at += 1;
            }
            continue;
        }
        match left_of[right] {
            Some(other) => path.push((other, 0)),
            None => {
                for (left, at) in path {
                    left_of[edges[left][at]] = Some(left);
                }
                return;
            }
        }
    }
}
