//! Fixed-order reduction: how the input of a row-parallel product is cut into *atoms*, and the one tree in
//! which their partial sums are added, whatever the world size (DESIGN §5).
//!
//! An input of `n` units is cut into `A = min(8, n)` atoms; atom `i` covers units `⌊i·n/A⌋..⌊(i+1)·n/A⌋`. The tree
//! over atoms `lo..hi` splits at `(lo + hi) / 2`. A rank owns a run of atoms and sends the sum of each *maximal
//! complete subtree* inside its run; everybody adds those in tree order. Hence the same bits for every cut.
//!
//! Not here: the arithmetic (kernels, collectives) and who owns which run (the planner in `sharding`).

use std::ops::Range;

use rkyv::{Archive, Deserialize, Serialize};

/// Most atoms that an input is cut into.
pub const ATOMS_MAX: u16 = 8;

/// The cut of `units` into atoms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtomSpace {
    units: u32,
    atoms: u16,
}

impl AtomSpace {
    /// The atoms of an input of `units` units (heads, or 32-column blocks).
    #[must_use]
    pub fn new(units: u32) -> Self {
        let atoms = u16::try_from(units.min(u32::from(ATOMS_MAX))).unwrap_or(ATOMS_MAX);
        Self { units, atoms }
    }

    /// How many atoms there are; 0 only for an empty input.
    #[must_use]
    pub fn atoms(self) -> u16 {
        self.atoms
    }

    /// How many units there are.
    #[must_use]
    pub fn units(self) -> u32 {
        self.units
    }

    /// The units that a run of atoms covers.
    #[must_use]
    pub fn units_of(self, run: AtomRun) -> Range<u32> {
        self.bound(run.start)..self.bound(run.end)
    }

    fn bound(self, atom: u16) -> u32 {
        if self.atoms == 0 {
            return 0;
        }
        let bound = u64::from(atom) * u64::from(self.units) / u64::from(self.atoms);
        u32::try_from(bound).expect("at most `units`, which is a u32")
    }
}

/// A run of atoms `start..end`, owned by one rank; may be empty.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
)]
pub struct AtomRun {
    /// First atom.
    pub start: u16,
    /// One past the last.
    pub end: u16,
}

impl AtomRun {
    /// Whether the rank owns nothing of this input.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// A complete subtree of the reduction tree, over atoms `lo..hi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subtree {
    /// First atom.
    pub lo: u16,
    /// One past the last.
    pub hi: u16,
}

impl Subtree {
    /// The two children, or `None` for a single atom.
    #[must_use]
    pub fn children(self) -> Option<(Self, Self)> {
        if self.hi - self.lo < 2 {
            return None;
        }
        let mid = self.lo.midpoint(self.hi);
        Some((Self { lo: self.lo, hi: mid }, Self { lo: mid, hi: self.hi }))
    }
}

/// The tree over all atoms of one input, and which rank owns which run of them.
///
/// ```text
///  8 atoms, 3 ranks:   0 1 2 | 3 4 5 | 6 7        rank 0 sends (0+1) and 2
///                      └┬┘ │   │ └┬┘   └┬┘        rank 1 sends 3 and (4+5)
///                       └┬─┴───┘  └──┬──┘         rank 2 sends (6+7)
///                        └─────┬─────┘            every rank: ((0+1)+(2+3)) + ((4+5)+(6+7))
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReductionTree {
    atoms: u16,
    sent: Vec<Vec<Subtree>>,
}

/// Runs that do not cover the atoms exactly once, in rank order.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("runs {runs:?} do not cover atoms 0..{atoms} exactly once in rank order")]
pub struct RunsError {
    atoms: u16,
    runs: Vec<AtomRun>,
}

impl ReductionTree {
    /// # Errors
    /// [`RunsError`] when the runs, in rank order, do not cover `0..atoms` exactly once.
    pub fn new(atoms: u16, runs: &[AtomRun]) -> Result<Self, RunsError> {
        let mut at = 0;
        for run in runs {
            if run.start != at || run.end < run.start {
                return Err(RunsError { atoms, runs: runs.to_vec() });
            }
            at = run.end;
        }
        if at != atoms || runs.is_empty() {
            return Err(RunsError { atoms, runs: runs.to_vec() });
        }
        let sent = runs.iter().map(|run| maximal_subtrees(atoms, *run)).collect();
        Ok(Self { atoms, sent })
    }

    /// The maximal complete subtrees that `rank` owns and sends, from the lowest atom up.
    ///
    /// # Panics
    /// When `rank` is not below the world size the tree was made for.
    #[must_use]
    pub fn sent_by(&self, rank: usize) -> &[Subtree] {
        &self.sent[rank]
    }

    /// How many ranks share the atoms.
    #[must_use]
    pub fn world_size(&self) -> usize {
        self.sent.len()
    }

    /// Folds what was sent in tree order: `leaf(rank, index)` gives the sum of the subtree that stands at `index` of
    /// [`Self::sent_by`] `(rank)`, `add` adds a right sum to a left one. `None` where there are no atoms.
    pub fn fold<T>(&self, mut leaf: impl FnMut(usize, usize) -> T, mut add: impl FnMut(T, T) -> T) -> Option<T> {
        if self.atoms == 0 {
            return None;
        }
        Some(self.fold_node(Subtree { lo: 0, hi: self.atoms }, &mut leaf, &mut add))
    }

    fn fold_node<T>(
        &self,
        node: Subtree,
        leaf: &mut impl FnMut(usize, usize) -> T,
        add: &mut impl FnMut(T, T) -> T,
    ) -> T {
        for (rank, sent) in self.sent.iter().enumerate() {
            if let Some(index) = sent.iter().position(|s| *s == node) {
                return leaf(rank, index);
            }
        }
        let (left, right) = node.children().expect("every single atom is inside a subtree that some rank sends");
        let left = self.fold_node(left, leaf, add);
        let right = self.fold_node(right, leaf, add);
        add(left, right)
    }
}

fn maximal_subtrees(atoms: u16, run: AtomRun) -> Vec<Subtree> {
    fn walk(node: Subtree, run: AtomRun, out: &mut Vec<Subtree>) {
        if node.lo >= run.start && node.hi <= run.end {
            out.push(node);
        } else if node.lo < run.end
            && run.start < node.hi
            && let Some((left, right)) = node.children()
        {
            walk(left, run, out);
            walk(right, run, out);
        }
    }
    let mut out = Vec::new();
    if !run.is_empty() {
        walk(Subtree { lo: 0, hi: atoms }, run, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs_from_cuts(atoms: u16, mut cuts: Vec<u16>) -> Vec<AtomRun> {
        cuts.iter_mut().for_each(|c| *c %= atoms + 1);
        cuts.sort_unstable();
        cuts.push(atoms);
        let mut start = 0;
        cuts.into_iter()
            .map(|end| {
                let run = AtomRun { start, end };
                start = end;
                run
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_cut_adds_in_the_same_order(atoms in 1u16..=ATOMS_MAX, cuts in prop::collection::vec(0u16..9, 0..9)) {
            // The "sum" is the written-out expression, so equal text means an equal order of additions.
            let expr = |tree: &ReductionTree| {
                fn text(s: Subtree) -> String {
                    s.children().map_or_else(|| s.lo.to_string(), |(l, r)| format!("({}+{})", text(l), text(r)))
                }
                tree.fold(|rank, i| text(tree.sent_by(rank)[i]), |a, b| format!("({a}+{b})"))
            };
            let whole = ReductionTree::new(atoms, &[AtomRun { start: 0, end: atoms }]).expect("one run covers");
            let cut = ReductionTree::new(atoms, &runs_from_cuts(atoms, cuts)).expect("cuts cover");
            prop_assert_eq!(expr(&whole), expr(&cut));
        }

        #[test]
        fn atoms_cover_the_units_once(units in 0u32..20_000) {
            let space = AtomSpace::new(units);
            let mut at = 0;
            for i in 0..space.atoms() {
                let r = space.units_of(AtomRun { start: i, end: i + 1 });
                prop_assert_eq!(r.start, at);
                prop_assert!(r.end > r.start);
                at = r.end;
            }
            prop_assert_eq!(at, units);
        }
    }

    #[test]
    fn three_ranks_send_what_the_drawing_says() {
        let runs = [AtomRun { start: 0, end: 3 }, AtomRun { start: 3, end: 6 }, AtomRun { start: 6, end: 8 }];
        let tree = ReductionTree::new(8, &runs).expect("covers");
        assert_eq!(tree.sent_by(0), [Subtree { lo: 0, hi: 2 }, Subtree { lo: 2, hi: 3 }]);
        assert_eq!(tree.sent_by(1), [Subtree { lo: 3, hi: 4 }, Subtree { lo: 4, hi: 6 }]);
        assert_eq!(tree.sent_by(2), [Subtree { lo: 6, hi: 8 }]);
    }

    #[test]
    fn gaps_overlaps_and_shortfalls_are_refused() {
        let run = |start, end| AtomRun { start, end };
        for runs in [vec![], vec![run(0, 3)], vec![run(0, 3), run(4, 8)], vec![run(0, 5), run(4, 8)]] {
            assert!(ReductionTree::new(8, &runs).is_err(), "{runs:?}");
        }
    }
}
