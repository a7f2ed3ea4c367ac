//! A group of threads of one process. The reference for the other implementations, and what tests of models run on.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::step::{PieceHead, StepPlan};
use protocol::{Rank, ReductionTree, WorldSize};

use super::{AbortHandle, Collective, CollectiveError, check_gather, check_world, reduce, reduce_width, step_deadline};
use crate::Deadline;
use crate::quic::ConnectionLost;

/// Plans that rank 0 may be ahead of another rank.
const PLANS_MAX: usize = 64;

/// What one rank has left for another.
enum Mail {
    Values { op: u64, values: Arc<[f32]> },
    Plan(StepPlan),
}

struct State {
    /// `inbox[to][from]`.
    inbox: Vec<Vec<VecDeque<Mail>>>,
    lost: Vec<bool>,
}

struct Hub {
    state: Mutex<State>,
    changed: Condvar,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panicking rank marks itself lost when it is dropped; the mail itself is never half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's rank. Dropping it is the rank's death: its peers' waits fail.
pub struct LocalCollective {
    rank: Rank,
    world: WorldSize,
    hub: Arc<Hub>,
    abort: AbortHandle,
    step_deadline: Option<Deadline>,
    next_op: u64,
}

impl LocalCollective {
    /// The ranks of one group, in rank order; each goes to a thread of its own.
    #[must_use]
    pub fn group(world: WorldSize) -> Vec<Self> {
        let n = usize::from(world.get());
        let inbox = (0..n).map(|_| (0..n).map(|_| VecDeque::new()).collect()).collect();
        let hub = Arc::new(Hub { state: Mutex::new(State { inbox, lost: vec![false; n] }), changed: Condvar::new() });
        let member = |rank| {
            let waker = Arc::downgrade(&hub);
            let abort = AbortHandle::new(move || {
                if let Some(hub) = waker.upgrade() {
                    // With the lock held no waiter is between its check and its sleep.
                    let _state = hub.lock();
                    hub.changed.notify_all();
                }
            });
            Self { rank, world, hub: hub.clone(), abort, step_deadline: None, next_op: 1 }
        };
        world.ranks().map(member).collect()
    }

    fn peers(&self) -> impl Iterator<Item = Rank> + use<> {
        let me = self.rank;
        self.world.ranks().filter(move |r| *r != me)
    }

    fn post(&self, op: u64, values: &Arc<[f32]>) {
        let mut state = self.hub.lock();
        for peer in self.peers() {
            let mail = Mail::Values { op, values: values.clone() };
            state.inbox[peer.index()][self.rank.index()].push_back(mail);
        }
        self.hub.changed.notify_all();
    }

    /// The next mail of `from`; `None` when the deadline passed first.
    fn take(&self, from: Rank, deadline: Deadline) -> Result<Option<Mail>, CollectiveError> {
        let mut state = self.hub.lock();
        loop {
            if self.abort.is_aborted() {
                return Err(CollectiveError::Aborted);
            }
            if let Some(mail) = state.inbox[self.rank.index()][from.index()].pop_front() {
                self.hub.changed.notify_all();
                return Ok(Some(mail));
            }
            if let Some(rank) = self.peers().find(|r| state.lost[r.index()]) {
                let reason = ConnectionLost::ClosedByPeer { reason: "its thread has ended".to_owned() };
                return Err(CollectiveError::PeerLost { rank, reason });
            }
            let now = Instant::now();
            if deadline.passed(now) {
                return Ok(None);
            }
            let wait = deadline.instant() - now;
            state = self.hub.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Exchanges contributions: every other rank's, in rank order, with an empty one in this rank's place.
    fn exchange(&mut self, mine: &[f32], counts: &[usize]) -> Result<Vec<Arc<[f32]>>, CollectiveError> {
        let op = self.next_op;
        self.next_op += 1;
        self.post(op, &Arc::from(mine));
        let deadline = step_deadline(self.step_deadline);
        let waited = deadline.remaining();
        let mut parts: Vec<Arc<[f32]>> = vec![Arc::from([]); counts.len()];
        for rank in self.peers() {
            let mail = self
                .take(rank, deadline)?
                .ok_or_else(|| CollectiveError::Deadline { waiting_for: vec![rank.0], waited })?;
            let head = |op, total: usize| PieceHead { op, at: 0, total: u32::try_from(total).unwrap_or(u32::MAX) };
            match mail {
                Mail::Values { op: found, values } if found == op && values.len() == counts[rank.index()] => {
                    parts[rank.index()] = values;
                }
                Mail::Values { op: found, values } => {
                    let (found, expected) = (head(found, values.len()), head(op, counts[rank.index()]));
                    return Err(CollectiveError::OutOfStep { rank, found, expected });
                }
                Mail::Plan(_) => {
                    let reason = format!("a step plan came, expected {}", head(op, counts[rank.index()]));
                    return Err(CollectiveError::BadFrame { rank, reason });
                }
            }
        }
        Ok(parts)
    }
}

impl Collective for LocalCollective {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn world_size(&self) -> WorldSize {
        self.world
    }

    fn all_reduce(&mut self, tree: &ReductionTree, mine: &[f32], out: &mut [f32]) -> Result<(), CollectiveError> {
        check_world(tree.world_size(), self.world)?;
        let n = reduce_width(tree, self.rank, mine, out)?;
        let counts: Vec<usize> = (0..tree.world_size()).map(|r| tree.sent_by(r).len() * n).collect();
        let parts = self.exchange(mine, &counts)?;
        let mut slices: Vec<&[f32]> = parts.iter().map(|p| &**p).collect();
        slices[self.rank.index()] = mine;
        reduce::fold_into(tree, &slices, out);
        Ok(())
    }

    fn all_gather(&mut self, counts: &[usize], mine: &[f32], out: &mut [f32]) -> Result<(), CollectiveError> {
        check_gather(counts, self.world, self.rank, mine, out)?;
        let parts = self.exchange(mine, counts)?;
        let mut at = 0;
        for (rank, count) in counts.iter().enumerate() {
            let part = if rank == self.rank.index() { mine } else { &parts[rank] };
            out[at..at + count].copy_from_slice(part);
            at += count;
        }
        Ok(())
    }

    fn send_plan(&mut self, plan: &StepPlan) -> Result<(), CollectiveError> {
        if self.rank != Rank(0) {
            return Err(CollectiveError::NotLeader { rank: self.rank });
        }
        let deadline = step_deadline(self.step_deadline);
        let waited = deadline.remaining();
        let mut state = self.hub.lock();
        loop {
            if self.abort.is_aborted() {
                return Err(CollectiveError::Aborted);
            }
            let full = |r: &Rank| state.inbox[r.index()][0].len() >= PLANS_MAX;
            let waiting_for: Vec<u16> = self.peers().filter(full).map(|r| r.0).collect();
            if waiting_for.is_empty() {
                break;
            }
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                return Err(CollectiveError::Deadline { waiting_for, waited });
            }
            state = self.hub.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        for peer in self.peers() {
            state.inbox[peer.index()][0].push_back(Mail::Plan(plan.clone()));
        }
        self.hub.changed.notify_all();
        Ok(())
    }

    fn recv_plan(&mut self, deadline: Deadline) -> Result<Option<StepPlan>, CollectiveError> {
        if self.rank == Rank(0) {
            return Err(CollectiveError::NotLeader { rank: self.rank });
        }
        match self.take(Rank(0), deadline)? {
            None => Ok(None),
            Some(Mail::Plan(plan)) => Ok(Some(plan)),
            Some(Mail::Values { op, .. }) => {
                let reason = format!("values of operation {op} came, expected a step plan");
                Err(CollectiveError::BadFrame { rank: Rank(0), reason })
            }
        }
    }

    fn set_step_deadline(&mut self, deadline: Deadline) {
        self.step_deadline = Some(deadline);
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }
}

impl Drop for LocalCollective {
    fn drop(&mut self) {
        self.hub.lock().lost[self.rank.index()] = true;
        self.hub.changed.notify_all();
    }
}
