//! What must hold in every run: one file an invariant, each with a violation that it is shown and must find.

mod acknowledged;
mod agreement;
mod blocks;
mod capacity;
mod epochs;
mod fencing;
#[cfg(test)]
mod fixtures;
mod one_leader;
mod recovery;
mod streams;

use crate::fact::Fact;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

/// Something that must hold. It is told every fact of a run, in order.
pub trait Invariant: std::fmt::Debug {
    /// Its name in tables and errors.
    fn name(&self) -> &'static str;

    /// Takes a fact in.
    ///
    /// # Errors
    /// What it contradicts.
    fn see(&mut self, fact: &Fact) -> Result<(), String>;
}

/// Every invariant, as at the start of a run.
#[must_use]
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(one_leader::OneLeader::default()),
        Box::new(agreement::Agreement::default()),
        Box::new(acknowledged::Acknowledged::default()),
        Box::new(epochs::Epochs::default()),
        Box::new(fencing::Fencing::default()),
        Box::new(capacity::Capacity::default()),
        Box::new(streams::Streams::default()),
        Box::new(blocks::Blocks),
        Box::new(recovery::Recovery),
    ]
}

/// Shows `fact` to each of `invariants`.
///
/// # Errors
/// The first [`Violation`].
pub fn see(invariants: &mut [Box<dyn Invariant>], fact: &Fact) -> Result<(), Violation> {
    for invariant in invariants {
        let name = invariant.name();
        invariant.see(fact).map_err(|what| Violation { invariant: name, what })?;
    }
    Ok(())
}
