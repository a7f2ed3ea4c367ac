//! The same state at the same index, on every coordinator, always.

use std::collections::BTreeMap;
use std::sync::Arc;

use coordinator::state::ClusterState;
use protocol::CoordinatorId;

use super::Invariant;
use crate::fact::Fact;

/// Which state was first seen at each index, and where.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    states: BTreeMap<u64, (CoordinatorId, Arc<ClusterState>)>,
}

impl Invariant for Agreement {
    fn name(&self) -> &'static str {
        "one state per index"
    }

    fn see(&mut self, fact: &Fact) -> Result<(), String> {
        let Fact::Applied { coordinator, applied } = fact else { return Ok(()) };
        let first = || (*coordinator, Arc::clone(&applied.state));
        let (there, state) = self.states.entry(applied.index).or_insert_with(first);
        if Arc::ptr_eq(state, &applied.state) || **state == *applied.state {
            return Ok(());
        }
        Err(format!("coordinators {coordinator} and {there} differ at index {}", applied.index))
    }
}

#[cfg(test)]
mod tests {
    use coordinator::raft::AppliedState;

    use super::*;

    fn applied(id: u64, index: u64, mark: &str) -> Fact {
        let mut state = ClusterState::default();
        state.unreadable.insert(mark.to_owned(), String::new());
        Fact::Applied { coordinator: CoordinatorId(id), applied: AppliedState { index, state: Arc::new(state) } }
    }

    #[test]
    fn a_state_that_is_another_at_the_same_index_is_found() {
        let mut invariant = Agreement::default();
        for fact in [applied(1, 1, "a"), applied(2, 1, "a"), applied(1, 2, "b"), applied(2, 3, "c")] {
            invariant.see(&fact).expect("as it should be");
        }
        invariant.see(&applied(3, 2, "c")).expect_err("it was b there");
    }
}
