//! A rank's end of a group with devices: the collectives over an [`Owner`], all else over a [`QuicGroup`].

use protocol::step::StepPlan;
use protocol::{Rank, ReductionTree, WorldSize};

use super::cuda::{CudaComm, Seat};
use super::owner::{Device, Gather, Owner};
use super::{CudaOrdinal, NcclError, NcclId, library};
use crate::Deadline;
use crate::collective::{
    AbortHandle, Collective, CollectiveError, QuicGroup, check_gather, check_world, reduce, reduce_width, step_deadline,
};

/// One rank's end of a group whose activations go over NCCL. It belongs to the thread that computes, like the
/// [`QuicGroup`] in it. A rank that leaves ends the group for all, also for one that is still inside its last gather.
///
/// ```text
///   over ──▶ Idle ── plans().form, form ──▶ Formed ── first error ──▶ Idle ── plans().form, form (higher epoch) ──▶ …
/// ```
pub struct NcclGroup {
    // Dropped before the links: a communicator that closes in peace waits for its peers.
    state: State,
    plans: QuicGroup,
    device: CudaOrdinal,
    step_deadline: Option<Deadline>,
    /// The buffers of the last gather.
    spare: Gather,
}

enum State {
    Idle,
    Formed(Owner),
}

impl NcclGroup {
    /// A group that is to use `device` for values and `plans` for everything else. Touches no device yet.
    #[must_use]
    pub fn over(plans: QuicGroup, device: CudaOrdinal) -> Self {
        Self { state: State::Idle, plans, device, step_deadline: None, spare: Gather::default() }
    }

    /// The links for plans: to be formed before [`Self::form`], and to idle on.
    pub fn plans(&mut self) -> &mut QuicGroup {
        &mut self.plans
    }

    /// Makes the communicator of the group that [`Self::plans`] has formed. All ranks give the same `id`, made by rank 0
    /// for this epoch. A communicator that was there before is ended.
    ///
    /// # Errors
    /// [`CollectiveError::Nccl`] when this host lacks a library or its device fails, [`CollectiveError::NotFormed`] when
    /// the plans' links are not, [`CollectiveError::Deadline`] when not all ranks came in time, a lost peer or an abort.
    /// The plans' links are closed then, so that the other ranks fail too.
    pub fn form(&mut self, id: &NcclId, deadline: impl Into<Deadline>) -> Result<(), CollectiveError> {
        if let Err(e) = library::check() {
            return self.note(Err(e.into()));
        }
        let seat = Seat { device: self.device, id: id.clone(), rank: self.rank(), world: self.world_size() };
        self.form_on(move || CudaComm::open(&seat), deadline.into())
    }

    /// As [`Self::form`], on what `open` gives.
    pub(super) fn form_on<D: Device>(
        &mut self,
        open: impl FnOnce() -> Result<D, NcclError> + Send + 'static,
        deadline: Deadline,
    ) -> Result<(), CollectiveError> {
        self.state = State::Idle;
        if !self.plans.is_formed() {
            return Err(CollectiveError::NotFormed);
        }
        let formed = match Owner::spawn(format!("nccl-rank-{}", self.rank().0), open) {
            Ok(owner) => {
                self.state = State::Formed(owner);
                self.settle(deadline)
            }
            Err(e) => Err(e.into()),
        };
        self.note(formed).map(drop)
    }

    /// Waits for the owner's answer, on the links of the plans.
    fn settle(&mut self, deadline: Deadline) -> Result<Gather, CollectiveError> {
        let waited = deadline.remaining();
        let (rank, world) = (self.rank(), self.world_size());
        let State::Formed(owner) = &mut self.state else { return Err(CollectiveError::NotFormed) };
        match self.plans.run_until(deadline.bound(owner.answer()))? {
            Some(answer) => Ok(answer?),
            // NCCL does not tell who is late.
            None => {
                let waiting_for = world.ranks().filter(|r| *r != rank).map(|r| r.0).collect();
                Err(CollectiveError::Deadline { waiting_for, waited })
            }
        }
    }

    /// After an error the group is idle, its peers are told why, and its communicator is aborted.
    fn note<T>(&mut self, result: Result<T, CollectiveError>) -> Result<T, CollectiveError> {
        if let Err(e) = &result {
            self.plans.dissolve(&e.to_string());
            self.state = State::Idle;
        }
        result
    }

    fn check_formed(&self) -> Result<(), CollectiveError> {
        if self.plans.abort_handle().is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        match &self.state {
            State::Formed(_) if self.plans.is_formed() => Ok(()),
            State::Formed(_) | State::Idle => Err(CollectiveError::NotFormed),
        }
    }

    /// Sends `mine` to all; afterwards `spare.received` is `[world, spare.width]`, of which `counts[r]` values count.
    fn exchange(&mut self, counts: &[usize], mine: &[f32]) -> Result<(), CollectiveError> {
        let mut gather = std::mem::take(&mut self.spare);
        let width = counts.iter().copied().max().unwrap_or(0);
        check_total(width, counts.len())?;
        gather.mine.clear();
        gather.mine.extend_from_slice(mine);
        gather.width = width;
        gather.received.resize(width * counts.len(), 0.0);
        // All ranks know the same counts, so all of them skip what is empty.
        if width > 0 {
            let State::Formed(owner) = &mut self.state else { return Err(CollectiveError::NotFormed) };
            let done = match owner.order(gather) {
                Ok(()) => self.settle(step_deadline(self.step_deadline)),
                Err(e) => Err(e.into()),
            };
            gather = self.note(done)?;
        }
        self.spare = gather;
        Ok(())
    }

    fn part(&self, rank: usize, count: usize) -> &[f32] {
        let start = rank * self.spare.width;
        &self.spare.received[start..start + count]
    }
}

/// Bounds the device memory that one gather takes: 16 GiB.
fn check_total(width: usize, world: usize) -> Result<(), CollectiveError> {
    const MAX: usize = u32::MAX as usize;
    let values = width.saturating_mul(world);
    if values > MAX {
        return Err(CollectiveError::WrongLength { what: "values at once", found: values, expected: MAX });
    }
    Ok(())
}

impl Collective for NcclGroup {
    fn rank(&self) -> Rank {
        self.plans.rank()
    }

    fn world_size(&self) -> WorldSize {
        self.plans.world_size()
    }

    fn all_reduce(&mut self, tree: &ReductionTree, mine: &[f32], out: &mut [f32]) -> Result<(), CollectiveError> {
        self.check_formed()?;
        check_world(tree.world_size(), self.world_size())?;
        let n = reduce_width(tree, self.rank(), mine, out)?;
        let counts: Vec<usize> = (0..tree.world_size()).map(|r| tree.sent_by(r).len() * n).collect();
        self.exchange(&counts, mine)?;
        let parts: Vec<&[f32]> = counts.iter().enumerate().map(|(r, count)| self.part(r, *count)).collect();
        reduce::fold_into(tree, &parts, out);
        Ok(())
    }

    fn all_gather(&mut self, counts: &[usize], mine: &[f32], out: &mut [f32]) -> Result<(), CollectiveError> {
        self.check_formed()?;
        check_gather(counts, self.world_size(), self.rank(), mine, out)?;
        self.exchange(counts, mine)?;
        let mut at = 0;
        for (r, count) in counts.iter().enumerate() {
            out[at..at + count].copy_from_slice(self.part(r, *count));
            at += count;
        }
        Ok(())
    }

    fn send_plan(&mut self, plan: &StepPlan) -> Result<(), CollectiveError> {
        self.check_formed()?;
        self.plans.send_plan(plan)
    }

    fn recv_plan(&mut self, deadline: Deadline) -> Result<Option<StepPlan>, CollectiveError> {
        self.check_formed()?;
        self.plans.recv_plan(deadline)
    }

    fn set_step_deadline(&mut self, deadline: Deadline) {
        self.step_deadline = Some(deadline);
        self.plans.set_step_deadline(deadline);
    }

    fn abort_handle(&self) -> AbortHandle {
        self.plans.abort_handle()
    }
}
