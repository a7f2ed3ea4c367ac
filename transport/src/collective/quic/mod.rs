//! A group whose ranks are processes, over QUIC. (The driver is being written; the signatures stand.)

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use protocol::plan::RankAddr;
use protocol::step::{GroupHello, StepPlan};
use protocol::{Epoch, Rank, ReductionTree, WorldSize};

use super::{AbortHandle, Collective, CollectiveError, FormError};
use crate::Deadline;
use crate::identity::NodeIdentity;
use crate::quic::{BindError, bind_udp};

/// Timings of a [`QuicGroup`].
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// How long a wait spins before it sleeps; a sleeping rank takes some 20 µs to wake.
    pub spin: Duration,
}

/// One rank's end of a group of processes.
pub struct QuicGroup {
    local_addr: SocketAddr,
    abort: AbortHandle,
}

impl QuicGroup {
    /// Listens on a free port of `ip`.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(ip: IpAddr, _identity: &NodeIdentity) -> Result<Self, BindError> {
        let addr = SocketAddr::new(ip, 0);
        let local_addr = bind_udp(addr)?.local_addr().map_err(|e| BindError::new(addr, e))?;
        Ok(Self { local_addr, abort: AbortHandle::new(|| {}) })
    }

    /// Where peers reach it.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits for `future` while it serves the connections: the idle state.
    ///
    /// # Errors
    /// [`CollectiveError`] as soon as a peer of a formed group is lost, or the group is aborted.
    pub fn run_until<F: Future>(&mut self, _future: F) -> Result<F::Output, CollectiveError> {
        Err(CollectiveError::NotFormed)
    }

    /// Connects with every other rank and proves that each reaches each.
    ///
    /// # Errors
    /// [`FormError`].
    pub fn form(
        &mut self,
        _hello: GroupHello,
        _epoch: Epoch,
        _peers: &[RankAddr],
        _deadline: impl Into<Deadline>,
    ) -> Result<(), FormError> {
        Err(FormError::Failed(CollectiveError::NotFormed))
    }
}

impl Collective for QuicGroup {
    fn rank(&self) -> Rank {
        Rank(0)
    }
    fn world_size(&self) -> WorldSize {
        WorldSize::ONE
    }
    fn all_reduce(&mut self, _: &ReductionTree, _: &[f32], _: &mut [f32]) -> Result<(), CollectiveError> {
        Err(CollectiveError::NotFormed)
    }
    fn all_gather(&mut self, _: &[usize], _: &[f32], _: &mut [f32]) -> Result<(), CollectiveError> {
        Err(CollectiveError::NotFormed)
    }
    fn send_plan(&mut self, _: &StepPlan) -> Result<(), CollectiveError> {
        Err(CollectiveError::NotFormed)
    }
    fn recv_plan(&mut self, _: Deadline) -> Result<Option<StepPlan>, CollectiveError> {
        Err(CollectiveError::NotFormed)
    }
    fn set_step_timeout(&mut self, _: Duration) {}
    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }
}
