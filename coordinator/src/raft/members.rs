//! Who the coordinators are, as Raft's membership has them: the newest one that is in this coordinator's log.
//!
//! Not here: changing it (`change`). Before a cluster is formed, or before a new coordinator has heard of one, these are
//! the coordinators of the configuration.

use protocol::CoordinatorId;

use super::type_config::{Member, StoredMembership};
use crate::config::MemberAddrs;

/// One coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRecord {
    /// Where it is reached.
    pub addrs: MemberAddrs,
    /// Whether it votes; one that does not is being added.
    pub votes: bool,
}

/// The coordinators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// All of them, in the order of their ids.
    pub list: Vec<MemberRecord>,
    /// Whether a change of them is under way.
    pub is_changing: bool,
}

impl Members {
    /// Those of the configuration.
    pub(super) fn configured(members: &[MemberAddrs]) -> Self {
        let mut list: Vec<_> = members.iter().map(|addrs| MemberRecord { addrs: *addrs, votes: true }).collect();
        list.sort_by_key(|m| m.addrs.id);
        Self { list, is_changing: false }
    }

    /// Those of the membership; `None` where it is empty, as in a log without a first entry.
    pub(super) fn of(stored: &StoredMembership) -> Option<Self> {
        let membership = stored.membership();
        let is_voter = |id: u64| membership.voter_ids().any(|voter| voter == id);
        let record = |(id, member): (&u64, &Member)| {
            let addrs = addrs_of(CoordinatorId(*id), member);
            if addrs.is_none() {
                tracing::error!(coordinator = id, ?member, "a member's addresses cannot be read");
            }
            Some(MemberRecord { addrs: addrs?, votes: is_voter(*id) })
        };
        let list: Vec<_> = membership.nodes().filter_map(record).collect();
        (!list.is_empty()).then(|| Self { list, is_changing: membership.get_joint_config().len() > 1 })
    }

    /// The one of that id.
    #[must_use]
    pub fn get(&self, id: CoordinatorId) -> Option<&MemberRecord> {
        self.list.iter().find(|m| m.addrs.id == id)
    }

    /// How many vote.
    #[must_use]
    pub fn num_voters(&self) -> usize {
        self.list.iter().filter(|m| m.votes).count()
    }
}

fn addrs_of(id: CoordinatorId, member: &Member) -> Option<MemberAddrs> {
    let (internal, admin, public) = (&member.internal, &member.admin, &member.public);
    Some(MemberAddrs { id, internal: internal.parse().ok()?, admin: admin.parse().ok()?, public: public.parse().ok()? })
}

impl From<&MemberAddrs> for Member {
    fn from(addrs: &MemberAddrs) -> Self {
        Self { internal: addrs.internal.to_string(), admin: addrs.admin.to_string(), public: addrs.public.to_string() }
    }
}
