//! What goes wrong, when, and for how long: drawn before a run from its seed.
//!
//! Not here: doing it (`world`). Invariant: every fault ends before the quiet at the end of the run.

use rand::Rng;
use rand::rngs::StdRng;

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL: what was written is there, what was in memory is not.
    Kill,
    /// The host loses its power: of what was not synced, any sector may be gone.
    PowerCut,
    /// Every coordinator's host loses its power at once.
    PowerCutOfAll,
    /// SIGSTOP, later SIGCONT.
    Pause,
    /// Nothing comes in or goes out.
    Isolate,
    /// Two hosts do not reach each other.
    Cut,
    /// One host does not reach another, which reaches it.
    CutOneWay,
    /// Messages are lost.
    Loss,
    /// Messages take long, and overtake each other.
    Delay,
    /// Messages arrive twice.
    Double,
    /// A host's clock is fast or slow.
    Skew,
    /// A coordinator's disk takes no writes.
    DiskFull,
    /// SIGKILL of one worker of a node.
    WorkerKill,
    /// SIGSTOP of one worker of a node, later SIGCONT.
    WorkerHang,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Kill,
        Self::PowerCut,
        Self::PowerCutOfAll,
        Self::Pause,
        Self::Isolate,
        Self::Cut,
        Self::CutOneWay,
        Self::Loss,
        Self::Delay,
        Self::Double,
        Self::Skew,
        Self::DiskFull,
        Self::WorkerKill,
        Self::WorkerHang,
    ];

    /// Whom it can hit.
    #[must_use]
    pub fn hits(self) -> Hits {
        match self {
            Self::DiskFull | Self::PowerCutOfAll => Hits::Coordinators,
            Self::WorkerKill | Self::WorkerHang => Hits::Nodes,
            _ => Hits::Servers,
        }
    }

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerCut => "power cut",
            Self::PowerCutOfAll => "power cut of all",
            Self::Pause => "pause",
            Self::Isolate => "isolate",
            Self::Cut => "cut",
            Self::CutOneWay => "one-way cut",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::Double => "doubled messages",
            Self::Skew => "clock skew",
            Self::DiskFull => "full disk",
            Self::WorkerKill => "worker kill",
            Self::WorkerHang => "worker hang",
        }
    }
}

/// Which kinds of faults a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Every kind.
    Every,
    /// Those that take power or a process away.
    PowerCuts,
}

impl Mix {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Every => &Kind::ALL,
            Self::PowerCuts => &[Kind::Kill, Kind::PowerCut, Kind::PowerCutOfAll],
        }
    }
}

/// Whom a kind of fault can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hits {
    /// Coordinators alone.
    Coordinators,
    /// Nodes alone.
    Nodes,
    /// Both.
    Servers,
}

/// Whom it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Whoever leads then.
    Leader,
    /// The one of this place among all that can be hit.
    Place(usize),
}

/// One fault of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, ms.
    pub at_ms: u64,
    /// When it ends, ms.
    pub until_ms: u64,
    /// What it is.
    pub kind: Kind,
    /// Whom it hits.
    pub target: Target,
    /// The other end of a cut, by place.
    pub other: usize,
    /// How bad it is, per mille of the worst.
    pub strength: u32,
}

/// When faults may begin and end, ms.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The first begins no earlier.
    pub from_ms: u64,
    /// All have ended.
    pub until_ms: u64,
}

/// Pause from one fault's beginning to the next one's, ms.
const GAP_MS: std::ops::Range<u64> = 100..4_000;
/// How long a fault lasts, ms: mostly around a time-out of ours.
const SHORT_MS: std::ops::Range<u64> = 50..1_500;
const LONG_MS: std::ops::Range<u64> = 1_500..9_000;

/// The faults of one run, in the order of their beginnings.
pub fn schedule(rng: &mut StdRng, span: Span, mix: Mix) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at_ms = span.from_ms + rng.gen_range(0..GAP_MS.end);
    while at_ms + LONG_MS.end < span.until_ms {
        let lasts = if rng.gen_bool(0.6) { rng.gen_range(SHORT_MS) } else { rng.gen_range(LONG_MS) };
        faults.push(Fault {
            at_ms,
            until_ms: at_ms + lasts,
            kind: mix.kinds()[rng.gen_range(0..mix.kinds().len())],
            target: if rng.gen_bool(0.4) { Target::Leader } else { Target::Place(rng.gen_range(0..64)) },
            other: rng.gen_range(0..64),
            strength: rng.gen_range(1..=1000),
        });
        at_ms += rng.gen_range(GAP_MS);
    }
    faults
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_fault_ends_in_its_span_and_every_kind_comes() {
        let span = Span { from_ms: 1_000, until_ms: 60_000 };
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..20 {
            for fault in schedule(&mut StdRng::seed_from_u64(seed), span, Mix::Every) {
                assert!(span.from_ms <= fault.at_ms && fault.at_ms < fault.until_ms && fault.until_ms < span.until_ms);
                seen.insert(fault.kind);
            }
        }
        assert_eq!(seen.len(), Kind::ALL.len());
    }
}
