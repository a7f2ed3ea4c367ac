//! Whether a register's history is linearizable. Pure.
//!
//! What every accepted write says of itself, its revision, leaves only one order: write r, what was seen at revision r, write
//! r + 1, and so on. Three things remain to be checked:
//! - each operation saw what is there at its place: values, and the revisions that writes were planned against;
//! - no operation had returned before one was called that stands earlier (real time);
//! - each revision that nobody was acknowledged for was written by a write of unknown outcome: one each, of the value that was
//!   seen there, planned against the revision before it or none, and called before anything that stands later had returned.
//!   That is a matching of revisions with unknown writes. Unknown writes that are left over never took effect, or do after
//!   everything else.
//!
//! So the verdict is exact, and the work is about n log n with n operations, whatever the number of clients; a search over orders
//! (Wing and Gong) holds every unknown write open for ever and needs 2ⁿ of them. The tests hold this one to such a search.

use std::collections::BTreeMap;

use super::matching;
use super::operation::{Expected, Moment, Operation, Revision, Version, What};

/// What explains a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explained {
    /// The register after everything that must have taken effect; `None` as the value where no one saw what an unknown write
    /// left there.
    pub last: (Revision, Option<u16>),
    /// Writes of unknown outcome.
    pub unknown: usize,
    /// Those of them that must have taken effect.
    pub unknown_in_effect: usize,
}

/// Why no order of the operations explains what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// One revision, two winners.
    #[error("two writes were acknowledged as revision {}: {one}; {other}", revision.0)]
    WonTwice {
        /// The revision.
        revision: Revision,
        /// One winner.
        one: Operation,
        /// The other one.
        other: Operation,
    },
    /// A write that was acknowledged although it was planned against another revision, or refused although it was planned
    /// against the one that is there.
    #[error("the precondition was not kept: {0}")]
    Precondition(Operation),
    /// Something older than what was there at the start.
    #[error("from before the beginning, revision {}: {operation}", began_at.0)]
    BeforeTheBeginning {
        /// Where the history begins.
        began_at: Revision,
        /// Who saw it.
        operation: Operation,
    },
    /// Two values at one revision.
    #[error("revision {} is {value}, but: {operation}", revision.0)]
    OtherValue {
        /// The revision.
        revision: Revision,
        /// What it is by who wrote it, or who read it first.
        value: u16,
        /// Who saw another.
        operation: Operation,
    },
    /// The later place in the order had returned before the earlier one was called: a stale read, or a write that was
    /// acknowledged and lost.
    #[error("out of order: ({earlier}) stands before ({later}), but was called after that had returned")]
    OutOfOrder {
        /// What stands earlier.
        earlier: Operation,
        /// What stands later.
        later: Operation,
    },
    /// Nobody can have written a revision that was seen.
    #[error("nobody can have written revision {}{}: no write of unknown outcome is left that fits", .0.revision.0, seen(.0.value))]
    Unwritten(Gap),
}

fn seen(value: Option<u16>) -> String {
    value.map_or_else(String::new, |v| format!(", seen as {v}"))
}

/// A revision without an acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The revision.
    pub revision: Revision,
    /// Its value, where somebody read it.
    pub value: Option<u16>,
    /// The first return of anything that stands at or after it.
    until: Moment,
}

impl Gap {
    fn fits(&self, asked: Moment, expected: Expected, value: u16) -> bool {
        let planned = expected.is_none_or(|e| e.next() == self.revision);
        asked <= self.until && planned && self.value.is_none_or(|v| v == value)
    }
}

/// What is known of one revision.
#[derive(Debug, Default)]
struct Place {
    write: Option<Operation>,
    value: Option<u16>,
    seen: Vec<Operation>,
}

/// Looks for an order that explains `operations` on a register that was at `start`.
///
/// # Errors
/// [`Violation`]: the first reason why there is none.
pub fn check(start: Version, operations: &[Operation]) -> Result<Explained, Violation> {
    let (places, unknown) = places(start, operations)?;
    let gaps = in_order(&places, unknown.len())?;
    let edges: Vec<Vec<usize>> = gaps
        .iter()
        .map(|gap| {
            let fits =
                |(_, (asked, expected, value)): &(usize, &(Moment, Expected, u16))| gap.fits(*asked, *expected, *value);
            unknown.iter().enumerate().filter(fits).map(|(i, _)| i).collect()
        })
        .collect();
    let matched = matching::largest(&edges, unknown.len());
    if let Some((gap, _)) = gaps.iter().zip(&matched).find(|(_, write)| write.is_none()) {
        return Err(Violation::Unwritten(*gap));
    }
    let (revision, last) = places.last_key_value().expect("the start is a place");
    let last = (*revision, last.value);
    Ok(Explained { last, unknown: unknown.len(), unknown_in_effect: gaps.len() })
}

type UnknownWrite = (Moment, Expected, u16);

/// Puts each operation at its revision, and checks what it saw there.
fn places(
    start: Version,
    operations: &[Operation],
) -> Result<(BTreeMap<Revision, Place>, Vec<UnknownWrite>), Violation> {
    let mut places = BTreeMap::from([(start.revision, Place { value: Some(start.value), ..Place::default() })]);
    let mut unknown = Vec::new();
    for operation in operations {
        match operation.what {
            What::Unknown { expected, value } => unknown.push((operation.called, expected, value)),
            What::Wrote { expected, version } => {
                if expected.is_some_and(|e| e.next() != version.revision) {
                    return Err(Violation::Precondition(*operation));
                }
                if version.revision <= start.revision {
                    let began_at = start.revision;
                    return Err(Violation::BeforeTheBeginning { began_at, operation: *operation });
                }
                let place = places.entry(version.revision).or_default();
                if let Some(one) = place.write.replace(*operation) {
                    return Err(Violation::WonTwice { revision: version.revision, one, other: *operation });
                }
                value(place, version, operation)?;
            }
            What::Read(version) => {
                let place = places.entry(version.revision).or_default();
                place.seen.push(*operation);
                value(place, version, operation)?;
            }
            What::Refused { expected, found } => {
                if expected == found {
                    return Err(Violation::Precondition(*operation));
                }
                places.entry(found).or_default().seen.push(*operation);
            }
        }
    }
    let before = places.range(..start.revision).find_map(|(_, place)| place.seen.first());
    if let Some(operation) = before {
        return Err(Violation::BeforeTheBeginning { began_at: start.revision, operation: *operation });
    }
    Ok((places, unknown))
}

/// A revision has one value.
fn value(place: &mut Place, version: Version, operation: &Operation) -> Result<(), Violation> {
    let value = *place.value.get_or_insert(version.value);
    if value != version.value {
        return Err(Violation::OtherValue { revision: version.revision, value, operation: *operation });
    }
    Ok(())
}

/// Checks real time along the only order, and returns the revisions that nobody was acknowledged for. More than `num_unknown` of
/// them in a row are too many already: the rest is not listed.
fn in_order(places: &BTreeMap<Revision, Place>, num_unknown: usize) -> Result<Vec<Gap>, Violation> {
    // The operation that was called last of all that stand before.
    let mut latest: Option<Operation> = None;
    for place in places.values() {
        let mut seen = place.seen.clone();
        seen.sort_unstable_by_key(|o| o.called);
        for operation in place.write.iter().chain(&seen) {
            if let Some(earlier) = latest.filter(|e| operation.returned < e.called) {
                return Err(Violation::OutOfOrder { earlier, later: *operation });
            }
            if latest.is_none_or(|l| l.called < operation.called) {
                latest = Some(*operation);
            }
        }
    }
    let mut gaps = Vec::new();
    let mut until = Moment::NEVER;
    let start = *places.keys().next().expect("the start is a place");
    let mut above: Option<Revision> = None;
    for (revision, place) in places.iter().rev() {
        // Revisions that nobody speaks of, between two that somebody does.
        let skipped = above.map_or(0..0, |above| revision.0 + 1..above.0);
        gaps.extend(skipped.take(num_unknown + 1).map(|r| Gap { revision: Revision(r), value: None, until }));
        until = place.write.iter().chain(&place.seen).map(|o| o.returned).fold(until, Moment::min);
        if place.write.is_none() && *revision != start {
            gaps.push(Gap { revision: *revision, value: place.value, until });
        }
        above = Some(*revision);
    }
    gaps.reverse();
    Ok(gaps)
}
