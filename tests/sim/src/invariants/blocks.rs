//! KV blocks are never leaked: when nobody asks any more, no replica holds any.

use super::Invariant;
use crate::fact::Fact;

/// Nothing to remember.
#[derive(Debug, Default)]
pub(super) struct Blocks;

impl Invariant for Blocks {
    fn name(&self) -> &'static str {
        "no KV block leaked"
    }

    fn see(&mut self, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Blocks { host, key, used } if *used > 0 => {
                Err(format!("{host}: {key} holds {used} blocks for nobody"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use node::agent::supervisor::RankKey;
    use protocol::{Epoch, Rank, ReplicaId};

    use super::*;
    use crate::host::HostId;

    #[test]
    fn a_block_that_is_held_for_nobody_is_found() {
        let key = RankKey { replica: ReplicaId(1), epoch: Epoch(1), rank: Rank(0) };
        let blocks = |used| Fact::Blocks { host: HostId::Node(1), key, used };
        Blocks.see(&blocks(0)).expect("as it should be");
        Blocks.see(&blocks(1)).expect_err("leaked");
    }
}
