//! No acknowledged write is lost: not from what is read later, and not from what is there when all is well again.

use std::collections::BTreeMap;

use protocol::Generation;

use super::Invariant;
use crate::fact::Fact;
use crate::writer::find;

/// What was acknowledged of each writer's deployment.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    marks: BTreeMap<String, BTreeMap<Generation, String>>,
}

impl Acknowledged {
    /// Whether `found` can be what there is after everything up to `after` was acknowledged.
    fn holds(&self, name: &str, after: Option<Generation>, found: Option<&(Generation, String)>) -> Result<(), String> {
        let Some((generation, mark)) = found else {
            return after.map_or(Ok(()), |after| Err(format!("{name} is gone, generation {after} was acknowledged")));
        };
        if after.is_some_and(|after| *generation < after) {
            return Err(format!(
                "{name} is at generation {generation}, {} was acknowledged",
                after.unwrap_or_default()
            ));
        }
        match self.marks.get(name).and_then(|marks| marks.get(generation)) {
            Some(acknowledged) if acknowledged != mark => {
                Err(format!("{name} has {mark} as generation {generation}, {acknowledged} was acknowledged as that"))
            }
            _ => Ok(()),
        }
    }
}

impl Invariant for Acknowledged {
    fn name(&self) -> &'static str {
        "no acknowledged write lost"
    }

    fn see(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Acknowledged { name, generation, mark } => {
                let marks = self.marks.entry(name.clone()).or_default();
                if let Some((last, before)) = marks.last_key_value().filter(|(last, _)| *last >= generation) {
                    return Err(format!(
                        "{name}: {mark} is acknowledged as generation {generation} after {before} as {last}"
                    ));
                }
                marks.insert(*generation, mark.clone());
                Ok(())
            }
            Fact::Read { name, after, found } => self.holds(name, *after, found.as_ref()),
            Fact::Settled { coordinator, applied: Some(applied), .. } => {
                for (name, marks) in &self.marks {
                    let after = marks.last_key_value().map(|(generation, _)| *generation);
                    self.holds(name, after, find(applied, name).as_ref())
                        .map_err(|what| format!("coordinator {coordinator}: {what}"))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(generation: u64, mark: &str) -> Fact {
        Fact::Acknowledged { name: "w".into(), generation: Generation(generation), mark: mark.into() }
    }

    fn read(after: u64, found: Option<(u64, &str)>) -> Fact {
        let found = found.map(|(generation, mark)| (Generation(generation), mark.to_owned()));
        Fact::Read { name: "w".into(), after: Some(Generation(after)), found }
    }

    fn after_two() -> Acknowledged {
        let mut invariant = Acknowledged::default();
        for fact in [acknowledged(1, "a"), read(1, Some((1, "a"))), acknowledged(3, "c"), read(3, Some((4, "d")))] {
            invariant.see(&fact).expect("as it should be");
        }
        invariant
    }

    #[test]
    fn writes_that_are_lost_in_any_way_are_found() {
        for lost in [
            acknowledged(3, "another"),
            acknowledged(2, "late"),
            read(3, None),
            read(3, Some((2, "b"))),
            read(3, Some((3, "another"))),
            Fact::Settled {
                coordinator: protocol::CoordinatorId(1),
                applied: Some(Default::default()),
                knows_leader: true,
            },
        ] {
            after_two().see(&lost).expect_err(&lost.to_string());
        }
    }
}
