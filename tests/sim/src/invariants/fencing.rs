//! A node obeys no leader of an earlier term, and never runs one rank twice or after a later epoch of it.

use std::collections::BTreeMap;

use node::agent::supervisor::RankKey;
use protocol::{Epoch, Rank, ReplicaId, Term};

use super::Invariant;
use crate::fact::Fact;
use crate::host::HostId;

/// What each node obeyed and ran.
#[derive(Debug, Default)]
pub(super) struct Fencing {
    /// Kept through every start of the agent.
    terms: BTreeMap<HostId, Term>,
    /// The ranks that run, each with its epoch.
    running: BTreeMap<(HostId, ReplicaId, Rank), Epoch>,
    /// The highest epoch of each rank; the agent's disk remembers it.
    highest: BTreeMap<(HostId, ReplicaId, Rank), Epoch>,
}

impl Fencing {
    fn started(&mut self, host: HostId, key: RankKey) -> Result<(), String> {
        let rank = (host, key.replica, key.rank);
        if let Some(epoch) = self.running.insert(rank, key.epoch) {
            return Err(format!("{host} starts {key} while that of epoch {epoch} runs"));
        }
        match self.highest.insert(rank, key.epoch) {
            Some(before) if before > key.epoch => Err(format!("{host} starts {key} after epoch {before}")),
            _ => Ok(()),
        }
    }
}

impl Invariant for Fencing {
    fn name(&self) -> &'static str {
        "nodes fence what is older"
    }

    fn see(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Obeys { host, term } => match self.terms.insert(*host, *term) {
                Some(before) if before > *term => Err(format!("{host} obeys term {term} after {before}")),
                _ => Ok(()),
            },
            Fact::RankStarted { host, key } => self.started(*host, *key),
            Fact::RankEnded { host, key } => {
                self.running.remove(&(*host, key.replica, key.rank));
                Ok(())
            }
            Fact::HostDown { host } => {
                self.running.retain(|(h, ..), _| h != host);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostId = HostId::Node(1);

    fn key(epoch: u64) -> RankKey {
        RankKey { replica: ReplicaId(1), epoch: Epoch(epoch), rank: Rank(0) }
    }

    fn started(epoch: u64) -> Fact {
        Fact::RankStarted { host: HOST, key: key(epoch) }
    }

    fn ended(epoch: u64) -> Fact {
        Fact::RankEnded { host: HOST, key: key(epoch) }
    }

    #[test]
    fn what_is_older_or_twice_there_is_found() {
        let obeys = |term| Fact::Obeys { host: HOST, term: Term(term) };
        let down = Fact::HostDown { host: HOST };
        let good: [&[Fact]; 3] =
            [&[obeys(1), obeys(3)], &[started(1), ended(1), started(2)], &[started(2), down, started(2)]];
        for facts in good {
            let mut invariant = Fencing::default();
            facts.iter().try_for_each(|fact| invariant.see(fact)).expect("as it should be");
        }
        let bad: [&[Fact]; 3] = [&[obeys(3), obeys(2)], &[started(1), started(2)], &[started(2), ended(2), started(1)]];
        for facts in bad {
            let mut invariant = Fencing::default();
            facts.iter().try_for_each(|fact| invariant.see(fact)).expect_err("it is older, or there");
        }
    }
}
