//! What a run of writes under faults came to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::figures::Durations;
use crate::history::{Explained, Moment, Operation, What};
use crate::streams::Tally;

/// The loss of a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failover {
    /// When it was struck.
    pub at: Moment,
    /// Until a write that was asked for afterwards was acknowledged.
    pub took: Option<Duration>,
}

impl Failover {
    /// By what admins saw.
    #[must_use]
    pub fn of<'a>(at: Moment, operations: impl IntoIterator<Item = &'a Operation>) -> Self {
        let acknowledged = operations.into_iter().filter(|o| matches!(o.what, What::Wrote { .. }) && o.called > at);
        let first = acknowledged.map(|o| o.returned).min();
        Self { at, took: first.map(|returned| Duration::from_nanos(returned.0 - at.0)) }
    }
}

/// One register's history.
#[derive(Debug, Clone, Default)]
pub struct RegisterReport {
    /// Which.
    pub register: String,
    /// Reads that were answered.
    pub reads: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Those of them that were planned against a revision.
    pub compared: u64,
    /// Writes that were refused for the revision.
    pub refused: u64,
    /// Why every answer is as it must be; `None`: it is not, see what broke.
    pub explained: Option<Explained>,
}

impl RegisterReport {
    pub(super) fn of(register: String, operations: &[Operation]) -> Self {
        let mut report = Self { register, ..Self::default() };
        for operation in operations {
            match operation.what {
                What::Read(_) => report.reads += 1,
                What::Wrote { expected, .. } => {
                    report.acknowledged += 1;
                    report.compared += u64::from(expected.is_some());
                }
                What::Refused { .. } => report.refused += 1,
                What::Unknown { .. } => {}
            }
        }
        report
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct WritesReport {
    /// Faults that were done, by their words.
    pub faults: BTreeMap<String, u64>,
    /// Faults that had nobody to aim at.
    pub skipped: u64,
    /// Each register's history.
    pub registers: Vec<RegisterReport>,
    /// Calls that certainly did nothing, by kind and code.
    pub nothing: BTreeMap<String, u64>,
    /// From the strike to the next acknowledged write, by fault of the leader.
    pub failovers: BTreeMap<String, Durations>,
    /// Streams that clients read meanwhile.
    pub streams: Tally,
    /// Those that were not read to their end, in words.
    pub failed_streams: Vec<String>,
    /// What must never be, in words.
    pub broken: Vec<String>,
}

impl WritesReport {
    /// How many faults were done.
    #[must_use]
    pub fn num_faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Writes that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.registers.iter().map(|r| r.acknowledged).sum()
    }
}

impl fmt::Display for WritesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "faults: {} done, {} had nobody to aim at", self.num_faults(), self.skipped)?;
        self.faults.iter().try_for_each(|(fault, count)| writeln!(f, "  {count:4}  {fault}"))?;
        writeln!(f, "acknowledged writes: {}", self.acknowledged())?;
        for r in &self.registers {
            write!(
                f,
                "  {}: {} reads, {} acknowledged writes ({} against a revision), {} refused for the revision",
                r.register, r.reads, r.acknowledged, r.compared, r.refused
            )?;
            match r.explained {
                Some(Explained { last: (revision, _), unknown, unknown_in_effect }) => writeln!(
                    f,
                    ", {unknown} of unknown outcome of which {unknown_in_effect} took effect; linearizable, all found at \
                     revision {}",
                    revision.0
                )?,
                None => writeln!(f, ", NOT LINEARIZABLE")?,
            }
        }
        writeln!(f, "calls that did nothing, and said so:")?;
        self.nothing.iter().try_for_each(|(what, count)| writeln!(f, "  {count:5}  {what}"))?;
        writeln!(f, "from the fault to the next acknowledged write, s:")?;
        for (fault, took) in &self.failovers {
            let seconds = |d: Option<Duration>| d.map_or(f64::NAN, |d| d.as_secs_f64());
            writeln!(
                f,
                "  {fault}: {} times, p50 {:.2}, p99 {:.2}, worst {:.2}",
                took.len(),
                seconds(took.percentile(50)),
                seconds(took.percentile(99)),
                seconds(took.worst())
            )?;
        }
        writeln!(f, "streams meanwhile: {}", self.streams)?;
        self.failed_streams.iter().try_for_each(|what| writeln!(f, "  {what}"))?;
        match self.broken.as_slice() {
            [] => writeln!(f, "nothing broke"),
            broken => broken.iter().try_for_each(|what| writeln!(f, "BROKEN: {what}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Revision, Version};

    #[test]
    fn a_failover_ends_with_a_write_that_was_asked_for_after_it_began() {
        let wrote = |called, returned| Operation {
            client: 0,
            called: Moment(called),
            returned: Moment(returned),
            what: What::Wrote { expected: None, version: Version { revision: Revision(1), value: 0 } },
        };
        let read = Operation { what: What::Read(Version::default()), ..wrote(11, 12) };
        let history = [wrote(5, 14), read, wrote(12, 40), wrote(13, 30)];
        assert_eq!(Failover::of(Moment(10), &history).took, Some(Duration::from_nanos(20)));
        assert_eq!(Failover::of(Moment(13), &history).took, None);
    }
}
