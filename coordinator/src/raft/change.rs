//! Changes of the members, one at a time, by the leader.
//!
//! ```text
//!  add:     addresses, id free? ─▶ learner ─▶ caught up ─▶ id is used from now on ─▶ voter (old and new majority, then new)
//!                                     └─ not in time: taken out again
//!  remove:  a majority of the rest reached? ─▶ id is never used again ─▶ out (old and new majority, then new)
//! ```
//! Not here: who follows the change (`consensus`), what a coordinator does that is out (`entrance`). Invariants: an id
//! never gets a second vote; a change that was begun is ended, by this leader or by the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use protocol::CoordinatorId;
use protocol::raft::RaftCall;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::codec;
use super::consensus::Consensus;
use super::error::{ProposeError, ReadError};
use super::members::{MemberRecord, Members};
use super::type_config::{Member, NodeId};
use super::wires::LinkError;
use crate::config::MemberAddrs;
use crate::state::{Command, MemberCommand, Refused};

/// Most members, learners too: each write waits for a majority of them.
pub(super) const MEMBERS_MAX: usize = 9;
/// How long a new coordinator may take to come up to date in one attempt.
pub(super) const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(6);
/// How long the change itself may take to be agreed on.
const AGREE_TIMEOUT: Duration = Duration::from_secs(3);
/// Entries that a learner may lack when it gets its vote.
const LAG_ENTRIES_MAX: u64 = 32;
/// Pause between two looks at a learner.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a change goes to the next leader.
const FORWARD_PAUSE: Duration = Duration::from_millis(50);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// A coordinator more.
    Add {
        /// Its id.
        id: CoordinatorId,
        /// QUIC.
        internal: SocketAddr,
        /// HTTPS for admins.
        admin: SocketAddr,
        /// HTTP for clients.
        public: SocketAddr,
    },
    /// One less.
    Remove {
        /// Its id.
        id: CoordinatorId,
    },
}

impl MemberChange {
    /// Adds the coordinator at these addresses.
    #[must_use]
    pub fn add(addrs: MemberAddrs) -> Self {
        let MemberAddrs { id, internal, admin, public } = addrs;
        Self::Add { id, internal, admin, public }
    }
}

/// Why the members are not as asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ChangeError {
    /// Not begun, or begun and not known to be agreed on: list the members before trying again.
    #[error(transparent)]
    NotAgreed(ProposeError),
    /// Perhaps begun, and this coordinator leads no more, or has stopped: the next leader is asked.
    #[error("the leader went away while the members changed")]
    Interrupted,
    /// Another change is under way.
    #[error("another change of the members is under way: one at a time")]
    Busy,
    /// The id was given before.
    #[error("coordinator id {id} was used before: ids are never given twice, take another one")]
    IdUsed {
        /// The id.
        id: CoordinatorId,
    },
    /// The member has other addresses.
    #[error("coordinator {id} is a member already, at {internal}")]
    IsMember {
        /// The id.
        id: CoordinatorId,
        /// Its internal address.
        internal: SocketAddr,
    },
    /// The address is another's.
    #[error("{addr} is an address of coordinator {by}")]
    AddrInUse {
        /// The address.
        addr: SocketAddr,
        /// Whose.
        by: CoordinatorId,
    },
    /// There is no room.
    #[error("there are {MEMBERS_MAX} coordinators already: more make changes slower and nothing safer")]
    TooMany,
    /// No such member.
    #[error("coordinator {id} is no member")]
    NoMember {
        /// The id.
        id: CoordinatorId,
    },
    /// Somebody must be left.
    #[error("coordinator {id} is the only one with a vote: a cluster cannot be without")]
    Last {
        /// The id.
        id: CoordinatorId,
    },
    /// Those that are left could agree on nothing.
    #[error(
        "without coordinator {id}, {reached} of the {voters} that are left are reached, no majority: bring the others back first"
    )]
    NoMajorityLeft {
        /// Who would be removed.
        id: CoordinatorId,
        /// How many of the rest are connected.
        reached: usize,
        /// How many the rest are.
        voters: usize,
    },
    /// The new coordinator did not come up to date; it was taken out again.
    #[error(
        "coordinator {id} at {internal} did not come up to date within {waited_ms} ms and was taken out again: does it run, \
         with an empty state directory, and is it reached at that address?"
    )]
    NotCaughtUp {
        /// Which.
        id: CoordinatorId,
        /// Where it should be.
        internal: SocketAddr,
        /// How long was waited, ms.
        waited_ms: u64,
    },
}

impl From<ProposeError> for ChangeError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Refused(Refused::MemberIdUsed { id }) => Self::IdUsed { id },
            other => Self::NotAgreed(other),
        }
    }
}

impl ChangeError {
    /// The same, of a change of which a step may have been made.
    fn of_begun(self) -> Self {
        match self {
            Self::NotAgreed(ProposeError::NotLeader { .. } | ProposeError::Stopped { .. }) => Self::Interrupted,
            other => other,
        }
    }
}

/// What must be done for a change; `None`: nothing, it is as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Make it a learner, then a voter.
    Learn(MemberAddrs),
    /// It is a learner: make it a voter.
    Promote(MemberAddrs),
    /// Take the voter out.
    Retire(CoordinatorId),
    /// Take the learner out.
    Drop(CoordinatorId),
}

/// What `change` means for `members`, of which `up` are connected and `used` were members once. Pure.
fn plan(
    change: &MemberChange,
    members: &Members,
    used: &BTreeSet<CoordinatorId>,
    up: &BTreeSet<CoordinatorId>,
) -> Result<Option<Step>, ChangeError> {
    if members.is_changing {
        return Err(ChangeError::Busy);
    }
    match *change {
        MemberChange::Add { id, internal, admin, public } => {
            plan_add(MemberAddrs { id, internal, admin, public }, members, used)
        }
        MemberChange::Remove { id } => plan_remove(id, members, used, up),
    }
}

fn plan_add(
    addrs: MemberAddrs,
    members: &Members,
    used: &BTreeSet<CoordinatorId>,
) -> Result<Option<Step>, ChangeError> {
    match members.get(addrs.id) {
        Some(known) if known.addrs != addrs => {
            return Err(ChangeError::IsMember { id: addrs.id, internal: known.addrs.internal });
        }
        Some(MemberRecord { votes: true, .. }) => return Ok(None),
        Some(_) => return Ok(Some(Step::Promote(addrs))),
        None => {}
    }
    if used.contains(&addrs.id) {
        return Err(ChangeError::IdUsed { id: addrs.id });
    }
    if members.list.len() >= MEMBERS_MAX {
        return Err(ChangeError::TooMany);
    }
    for other in members.list.iter().map(|m| m.addrs) {
        if other.internal == addrs.internal {
            return Err(ChangeError::AddrInUse { addr: addrs.internal, by: other.id });
        }
        for addr in [addrs.admin, addrs.public] {
            if addr == other.admin || addr == other.public {
                return Err(ChangeError::AddrInUse { addr, by: other.id });
            }
        }
    }
    Ok(Some(Step::Learn(addrs)))
}

fn plan_remove(
    id: CoordinatorId,
    members: &Members,
    used: &BTreeSet<CoordinatorId>,
    up: &BTreeSet<CoordinatorId>,
) -> Result<Option<Step>, ChangeError> {
    match members.get(id) {
        None if used.contains(&id) => return Ok(None),
        None => return Err(ChangeError::NoMember { id }),
        Some(MemberRecord { votes: false, .. }) => return Ok(Some(Step::Drop(id))),
        Some(_) if members.num_voters() == 1 => return Err(ChangeError::Last { id }),
        Some(_) => {}
    }
    let rest: Vec<_> = members.list.iter().filter(|m| m.votes && m.addrs.id != id).map(|m| m.addrs.id).collect();
    let reached = rest.iter().filter(|other| up.contains(other)).count();
    if reached * 2 <= rest.len() {
        return Err(ChangeError::NoMajorityLeft { id, reached, voters: rest.len() });
    }
    Ok(Some(Step::Retire(id)))
}

impl Consensus {
    /// Changes the members, here or through the leader, within `timeout` and what the change itself may take. Asking again for
    /// what is so already changes nothing.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn change_members(&self, change: MemberChange, timeout: Duration) -> Result<(), ChangeError> {
        let started = Instant::now();
        let mut leadership = self.leadership();
        let mut begun = false;
        let given_up = |begun| match begun {
            true => ProposeError::Unknown { waited_ms: started.elapsed().as_millis() as u64 },
            false => self.without_majority(started),
        };
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            let known = leadership.wait_for(|l| l.leader.is_some());
            let leader = match tokio::time::timeout(left, known).await {
                Ok(Ok(l)) => l.leader.unwrap_or(self.id()),
                Ok(Err(_)) if !begun => {
                    let reason = "shutting down".to_owned();
                    return Err(ProposeError::Stopped { reason }.into());
                }
                _ => return Err(given_up(begun).into()),
            };
            let answer = if leader == self.id() {
                self.change_members_here(change.clone()).await
            } else {
                self.change_members_at(leader, &change).await
            };
            match answer {
                Err(ChangeError::NotAgreed(ProposeError::NotLeader { .. })) => {}
                Err(ChangeError::Interrupted) => begun = true,
                // Of this attempt alone nothing was made; and a change that is under way is the one that was begun.
                Err(_) if begun => return Err(given_up(begun).into()),
                other => return other,
            }
            if started.elapsed() >= timeout {
                return Err(given_up(begun).into());
            }
            tokio::time::sleep(FORWARD_PAUSE).await;
        }
    }

    async fn change_members_at(&self, leader: CoordinatorId, change: &MemberChange) -> Result<(), ChangeError> {
        let timeout = CATCH_UP_TIMEOUT + AGREE_TIMEOUT;
        let unknown = ChangeError::from(ProposeError::Unknown { waited_ms: timeout.as_millis() as u64 });
        match self.call(leader, RaftCall::ChangeMembers, codec::encode(change), timeout).await {
            Ok(body) => codec::decode(&body).unwrap_or(Err(unknown)),
            Err(LinkError::Down { .. }) => Err(ProposeError::NotLeader { leader: None }.into()),
            Err(LinkError::Call { .. }) => Err(unknown),
        }
    }

    /// Changes the members if this coordinator leads. Whoever asks may go away: what was begun is ended.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub(super) async fn change_members_here(&self, change: MemberChange) -> Result<(), ChangeError> {
        let Ok(turn) = self.change_turn().try_lock_owned() else { return Err(ChangeError::Busy) };
        let this = self.clone();
        let changed = self.tasks().spawn(async move {
            let changed = this.change_members_now(&change).await;
            match &changed {
                Ok(()) => tracing::info!(?change, "members changed"),
                Err(reason) => tracing::warn!(?change, %reason, "members not changed"),
            }
            drop(turn);
            changed
        });
        changed.await.unwrap_or(Err(ChangeError::Interrupted))
    }

    async fn change_members_now(&self, change: &MemberChange) -> Result<(), ChangeError> {
        // Ours is the newest membership, and the state knows every id that was used.
        let unread = |error| match error {
            ReadError::NotLeader { leader } => ProposeError::NotLeader { leader },
            ReadError::NoQuorum { waited_ms } => ProposeError::NoQuorum { leader: self.id(), waited_ms },
            ReadError::Stopped { reason } => ProposeError::Stopped { reason },
        };
        let index = self.read_index_here(AGREE_TIMEOUT).await.map_err(unread)?;
        let state = self.applied_at(index, AGREE_TIMEOUT).await.map_err(unread)?;
        let members = self.newest_members();
        let mut up = self.reached();
        up.insert(self.id());
        match plan(change, &members, &state.used_members, &up)? {
            None => Ok(()),
            Some(step) => self.make(step, &state.used_members).await.map_err(ChangeError::of_begun),
        }
    }

    async fn make(&self, step: Step, used: &BTreeSet<CoordinatorId>) -> Result<(), ChangeError> {
        match step {
            Step::Learn(addrs) => {
                let node = BTreeMap::from([(addrs.id.0, Member::from(&addrs))]);
                self.agree(ChangeMembers::AddNodes(node), true).await?;
                self.promote(addrs, false).await
            }
            // One that was admitted and is a learner still is the same one: a learner that is taken out is never admitted.
            Step::Promote(addrs) => self.promote(addrs, used.contains(&addrs.id)).await,
            Step::Drop(id) => self.agree(ChangeMembers::RemoveNodes(BTreeSet::from([id.0])), false).await,
            Step::Retire(id) => {
                self.propose_here(Command::Member(MemberCommand::Retire { id }), AGREE_TIMEOUT).await?;
                self.agree(ChangeMembers::RemoveVoters(BTreeSet::from([id.0])), false).await
            }
        }
    }

    /// Waits until the learner is up to date and gives it its vote; takes it out again where that does not come.
    async fn promote(&self, addrs: MemberAddrs, is_admitted: bool) -> Result<(), ChangeError> {
        let id = addrs.id;
        let promoted = match self.catches_up(id).await {
            Ok(()) => {
                if !is_admitted {
                    self.propose_here(Command::Member(MemberCommand::Admit { id }), AGREE_TIMEOUT).await?;
                }
                return self.agree(ChangeMembers::AddVoterIds(BTreeSet::from([id.0])), true).await;
            }
            Err(CatchUp::Late { waited_ms }) => {
                Err(ChangeError::NotCaughtUp { id, internal: addrs.internal, waited_ms })
            }
            Err(CatchUp::Deposed) => return Err(ChangeError::Interrupted),
        };
        if let Err(reason) = self.agree(ChangeMembers::RemoveNodes(BTreeSet::from([id.0])), false).await {
            tracing::warn!(coordinator = id.0, %reason, "a learner that did not come up to date is still a member");
        }
        promoted
    }

    async fn catches_up(&self, id: CoordinatorId) -> Result<(), CatchUp> {
        let metrics = self.raft().metrics();
        let started = Instant::now();
        loop {
            {
                let now = metrics.borrow();
                let Some(replication) = now.replication.as_ref() else { return Err(CatchUp::Deposed) };
                let matched = replication.get(&id.0).and_then(|at| at.as_ref()).map(|at| at.index);
                let wanted = now.last_log_index.unwrap_or(0).saturating_sub(LAG_ENTRIES_MAX);
                if matched.is_some_and(|index| index >= wanted) {
                    return Ok(());
                }
            }
            if started.elapsed() >= CATCH_UP_TIMEOUT {
                return Err(CatchUp::Late { waited_ms: started.elapsed().as_millis() as u64 });
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn agree(&self, change: ChangeMembers<NodeId, Member>, retain: bool) -> Result<(), ChangeError> {
        match tokio::time::timeout(AGREE_TIMEOUT, self.raft().change_membership(change, retain)).await {
            Ok(Ok(_)) => Ok(()),
            Err(_) => Err(ProposeError::Unknown { waited_ms: AGREE_TIMEOUT.as_millis() as u64 }.into()),
            // It says so of an entry too that it took, and that the next leader may have.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(ChangeError::Interrupted),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            )))) => Err(ChangeError::Busy),
            Ok(Err(other)) => {
                tracing::warn!(reason = %other, "raft does not take a change of the members");
                Err(ProposeError::Stopped { reason: other.to_string() }.into())
            }
        }
    }

    /// Ends a change whose leader went away between its two steps; nothing where none is half done, or another is under way.
    pub(super) async fn end_half_change(&self) {
        if !self.leads() || !self.newest_members().is_changing {
            return;
        }
        let Ok(_turn) = self.change_turn().try_lock_owned() else { return };
        // Towards the newer of the two configurations, whatever it is.
        match self.agree(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await {
            Ok(()) => tracing::info!("a change of the members that was half done is done"),
            Err(reason) => tracing::warn!(%reason, "a change of the members is half done"),
        }
    }
}

/// Why a learner is not up to date.
enum CatchUp {
    Late { waited_ms: u64 },
    Deposed,
}
