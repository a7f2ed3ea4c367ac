//! What is healed comes back by itself: a coordinator starts from whatever its disk holds, and follows a leader.

use super::Invariant;
use crate::fact::Fact;

/// Nothing to remember.
#[derive(Debug, Default)]
pub(super) struct Recovery;

impl Invariant for Recovery {
    fn name(&self) -> &'static str {
        "all comes back by itself"
    }

    fn see(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Stopped { coordinator, reason, excused: false } => {
                Err(format!("coordinator {coordinator} cannot go on: {reason}"))
            }
            Fact::Settled { coordinator, applied: None, .. } => Err(format!("coordinator {coordinator} does not run")),
            Fact::Settled { coordinator, knows_leader: false, .. } => {
                Err(format!("coordinator {coordinator} knows no leader"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::CoordinatorId;

    use super::*;

    #[test]
    fn who_does_not_come_back_is_found() {
        let coordinator = CoordinatorId(1);
        let well = Fact::Settled { coordinator, applied: Some(Default::default()), knows_leader: true };
        let full = Fact::Stopped { coordinator, reason: "full".into(), excused: true };
        for fact in [well, full] {
            Recovery.see(&fact).expect("as it should be");
        }
        for fact in [
            Fact::Settled { coordinator, applied: None, knows_leader: false },
            Fact::Settled { coordinator, applied: Some(Default::default()), knows_leader: false },
            Fact::Stopped { coordinator, reason: "a hole in the log".into(), excused: false },
        ] {
            Recovery.see(&fact).expect_err("it should have come back");
        }
    }
}
