//! One leader per term: agents fence the orders of earlier leaders by their term alone.

use std::collections::BTreeMap;

use protocol::{CoordinatorId, Term};

use super::Invariant;
use crate::fact::Fact;

/// Who led in which term.
#[derive(Debug, Default)]
pub(super) struct OneLeader {
    leaders: BTreeMap<Term, CoordinatorId>,
}

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "one leader per term"
    }

    fn see(&mut self, fact: &Fact) -> Result<(), String> {
        let Fact::Claims { coordinator, claim } = fact else { return Ok(()) };
        if !claim.leads {
            return Ok(());
        }
        let first = *self.leaders.entry(claim.term).or_insert(*coordinator);
        if first == *coordinator {
            return Ok(());
        }
        Err(format!("coordinator {coordinator} leads in term {}, in which coordinator {first} led", claim.term))
    }
}

#[cfg(test)]
mod tests {
    use coordinator::sim::Claim;

    use super::*;

    fn leads(id: u64, term: u64) -> Fact {
        Fact::Claims { coordinator: CoordinatorId(id), claim: Claim { term: Term(term), leads: true } }
    }

    #[test]
    fn a_second_leader_of_a_term_is_found() {
        let mut invariant = OneLeader::default();
        for fact in [leads(1, 1), leads(2, 2), leads(1, 3), leads(1, 3)] {
            invariant.see(&fact).expect("as it should be");
        }
        invariant.see(&leads(3, 2)).expect_err("2 led in that term");
    }
}
