//! A rank's end of a group: the waits of its thread, and the collectives over its links.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::{Duration, Instant};

use protocol::frame::FRAME_BYTES_MAX;
use protocol::step::StepPlan;
use protocol::{Epoch, Frame, Rank, ReductionTree, Role, WorldSize};
use quinn_proto::crypto::rustls::QuicServerConfig;
use tokio::runtime::{Builder, Runtime};

use super::GroupConfig;
use super::driver::Driver;
use super::exchange::{Operation, Transfer, check_total};
use super::link::{ArriveError, Arriving, Link};
use super::socket::GroupSocket;
use crate::Deadline;
use crate::collective::{
    AbortHandle, Collective, CollectiveError, check_gather, check_world, reduce, reduce_width, step_deadline,
};
use crate::identity::NodeIdentity;
use crate::quic::{BindError, bind_udp, endpoint_config};
use crate::tls::{self, TlsError};

/// One rank's end of a group of processes. It belongs to the thread that computes, which must not be a thread of another
/// tokio runtime. Dropping it tells the peers, whose waits then fail.
///
/// ```text
///   bind ──▶ Idle ── form ──▶ Formed ── first error ──▶ Idle ── form (higher epoch) ──▶ …
/// ```
pub struct QuicGroup {
    pub(super) driver: Driver,
    pub(super) identity: NodeIdentity,
    pub(super) state: State,
    waiter: Waiter,
    pub(super) step_deadline: Option<Deadline>,
}

pub(super) enum State {
    Idle,
    Formed(Mesh),
}

/// How one link does, for metrics and diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStats {
    /// The peer.
    pub rank: Rank,
    /// Smoothed round-trip time; it includes the time for which either rank computes.
    pub rtt: Duration,
    /// QUIC packets sent.
    pub packets_sent: u64,
    /// Those of them that were lost, or came too late.
    pub packets_lost: u64,
    /// UDP payload of the path, bytes.
    pub mtu: u16,
}

/// A formed group.
pub(super) struct Mesh {
    pub(super) rank: Rank,
    pub(super) world: WorldSize,
    pub(super) epoch: Epoch,
    /// In rank order; `None` in this rank's own place.
    pub(super) links: Vec<Option<Link>>,
    pub(super) next_op: u64,
    /// What each rank has sent; kept for its memory.
    pub(super) received: Vec<Vec<f32>>,
    /// The plan that is arriving from rank 0.
    pub(super) plan: Arriving,
}

impl Mesh {
    fn peers(&self) -> impl Iterator<Item = (Rank, Link)> + '_ {
        self.world.ranks().zip(&self.links).filter_map(|(rank, link)| Some((rank, (*link)?)))
    }

    fn check_alive(&self, driver: &Driver) -> Result<(), CollectiveError> {
        match self.peers().find_map(|(rank, link)| Some((rank, driver.lost(link.conn)?))) {
            Some((rank, reason)) => Err(CollectiveError::PeerLost { rank, reason }),
            None => Ok(()),
        }
    }
}

/// How a thread waits: it spins on the socket for a moment, then sleeps on its own runtime.
pub(super) struct Waiter {
    runtime: Runtime,
    abort: AbortHandle,
    spin: Duration,
}

impl Waiter {
    /// Turns `driver` until `ready` gives something; `None` when the deadline passed first.
    pub(super) fn wait<T, E: From<CollectiveError>>(
        &self,
        driver: &mut Driver,
        deadline: Deadline,
        mut ready: impl FnMut(&mut Driver) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        let socket = |e: std::io::Error| CollectiveError::Socket { reason: e.to_string() };
        let mut quiet_since = Instant::now();
        loop {
            if self.abort.is_aborted() {
                return Err(CollectiveError::Aborted.into());
            }
            let got = ready(driver)?;
            let now = Instant::now();
            // What was just written leaves before anything else is looked at.
            let sent = driver.transmit(now);
            if got.is_some() {
                return Ok(got);
            }
            let moved = driver.turn(now).map_err(socket)? || sent;
            if moved {
                quiet_since = now;
            } else if deadline.passed(now) {
                return Ok(None);
            } else if now - quiet_since < self.spin {
                std::thread::yield_now();
            } else {
                self.sleep(driver, deadline).map_err(socket)?;
                quiet_since = Instant::now();
            }
        }
    }

    fn sleep(&self, driver: &mut Driver, deadline: Deadline) -> std::io::Result<()> {
        let timer = driver.next_timeout();
        let until = timer.map_or(deadline.instant(), |t| t.min(deadline.instant()));
        self.runtime.block_on(async {
            tokio::select! {
                ready = driver.ready() => ready,
                () = self.abort.woken() => Ok(()),
                () = tokio::time::sleep_until(until.into()) => Ok(()),
            }
        })
    }
}

impl QuicGroup {
    /// Listens on a free port of `ip` for ranks (role node) of the same cluster.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(ip: IpAddr, identity: &NodeIdentity) -> Result<Self, BindError> {
        Self::bind_with(SocketAddr::new(ip, 0), identity, GroupConfig::default())
    }

    /// As [`Self::bind`], with a port, timings and sizes of the caller's.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_with(addr: SocketAddr, identity: &NodeIdentity, config: GroupConfig) -> Result<Self, BindError> {
        let io = |e| BindError::new(addr, e);
        let server = tls::internal_server(identity, &[Role::Node])?;
        let server =
            QuicServerConfig::try_from(server).map_err(|e| TlsError::Config(rustls::Error::General(e.to_string())))?;
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(io)?;
        let socket = {
            let _entered = runtime.enter();
            GroupSocket::new(bind_udp(addr)?).map_err(io)?
        };
        let waiter = Waiter { runtime, abort: AbortHandle::new(|| {}), spin: config.spin };
        let endpoint_config = endpoint_config(identity, socket.local_addr());
        let driver = Driver::new(socket, server, config, endpoint_config);
        Ok(Self { driver, identity: identity.clone(), state: State::Idle, waiter, step_deadline: None })
    }

    /// Where peers reach it.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.driver.local_addr()
    }

    /// Waits for `future` on this thread's own runtime and serves the connections meanwhile: the idle state, in which
    /// peers that come early get their handshake and keep-alives are answered.
    ///
    /// # Errors
    /// [`CollectiveError`]: as soon as a peer of a formed group is lost (the group is then idle again), or the group is
    /// aborted. `future` is dropped then.
    pub fn run_until<F: Future>(&mut self, future: F) -> Result<F::Output, CollectiveError> {
        let Self { driver, waiter, state, .. } = self;
        let done = waiter.runtime.block_on(async {
            let mut future = pin!(future);
            loop {
                if waiter.abort.is_aborted() {
                    return Err(CollectiveError::Aborted);
                }
                let socket = |e: std::io::Error| CollectiveError::Socket { reason: e.to_string() };
                let moved = driver.turn(Instant::now()).map_err(socket)?;
                if let State::Formed(mesh) = state {
                    mesh.check_alive(driver)?;
                }
                let timer = driver.next_timeout();
                tokio::select! {
                    biased;
                    done = &mut future => return Ok(done),
                    () = std::future::ready(()), if moved => {}
                    ready = driver.ready() => ready.map_err(socket)?,
                    () = waiter.abort.woken() => {}
                    () = sleep_until(timer), if timer.is_some() => {}
                }
            }
        });
        self.note(done)
    }

    /// Whether it is formed and has not failed since.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        matches!(self.state, State::Formed(_))
    }

    /// How each link of a formed group does, in rank order.
    #[must_use]
    pub fn link_stats(&mut self) -> Vec<LinkStats> {
        let State::Formed(mesh) = &self.state else { return Vec::new() };
        let driver = &mut self.driver;
        let stats = mesh.peers().filter_map(|(rank, link)| {
            let path = driver.conn(link.conn)?.quic.stats().path;
            let mtu = path.current_mtu;
            Some(LinkStats {
                rank,
                rtt: path.rtt,
                packets_sent: path.sent_packets,
                packets_lost: path.lost_packets,
                mtu,
            })
        });
        stats.collect()
    }

    /// Splits into what a wait needs and the rest.
    pub(super) fn wait<T, E: From<CollectiveError>>(
        &mut self,
        deadline: Deadline,
        ready: impl FnMut(&mut Driver) -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        self.waiter.wait(&mut self.driver, deadline, ready)
    }

    /// After an error the group is idle, and its peers are told why.
    pub(super) fn note<T>(&mut self, result: Result<T, CollectiveError>) -> Result<T, CollectiveError> {
        if let Err(e) = &result {
            self.dissolve(&e.to_string());
        }
        result
    }

    pub(in crate::collective) fn dissolve(&mut self, reason: &str) {
        if matches!(std::mem::replace(&mut self.state, State::Idle), State::Formed(_)) {
            tracing::warn!(reason, "group dissolved");
        }
        self.driver.close_all(reason);
    }

    fn mesh(&mut self) -> Result<(&mut Mesh, &mut Driver, &Waiter), CollectiveError> {
        if self.waiter.abort.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        match &mut self.state {
            State::Formed(mesh) => Ok((mesh, &mut self.driver, &self.waiter)),
            State::Idle => Err(CollectiveError::NotFormed),
        }
    }

    /// Sends `mine` to all and takes `counts[r]` values of each other rank into `mesh.received[r]`.
    pub(super) fn exchange(
        &mut self,
        counts: &[usize],
        mine: &[f32],
        deadline: Deadline,
    ) -> Result<(), CollectiveError> {
        let waited = deadline.remaining();
        let (mesh, driver, waiter) = self.mesh()?;
        counts.iter().try_for_each(|n| check_total(*n))?;
        if mesh.plan.is_partial() {
            let reason = "half a step plan came before the values of a collective".to_owned();
            return Err(CollectiveError::BadFrame { rank: Rank(0), reason });
        }
        let operation = Operation { epoch: mesh.epoch, op: mesh.next_op };
        mesh.next_op += 1;
        let mut received = std::mem::take(&mut mesh.received);
        for (values, count) in received.iter_mut().zip(counts) {
            values.resize(*count, 0.0);
        }
        let mut transfers: Vec<Transfer> = mesh.peers().map(|(rank, link)| Transfer::new(rank, link)).collect();
        let done = waiter.wait(driver, deadline, |driver| {
            for t in &mut transfers {
                let theirs = &mut received[t.rank().index()];
                t.advance(driver, operation, mine, theirs)?;
            }
            // A peer whose part is done may leave; one whose part is not has failed in `advance`.
            let done = transfers.iter().all(Transfer::is_done);
            Ok::<_, CollectiveError>((done && !driver.unsent()).then_some(()))
        })?;
        mesh.received = received;
        let late = || transfers.iter().filter(|t| !t.is_done()).map(|t| t.rank().0).collect();
        done.ok_or_else(|| CollectiveError::Deadline { waiting_for: late(), waited })
    }

    fn write_plan(&mut self, bytes: &[u8]) -> Result<(), CollectiveError> {
        let deadline = step_deadline(self.step_deadline);
        let waited = deadline.remaining();
        let (mesh, driver, waiter) = self.mesh()?;
        let mut left: Vec<(Rank, Link, usize)> = mesh.peers().map(|(rank, link)| (rank, link, 0)).collect();
        let done = waiter.wait(driver, deadline, |driver| {
            for (rank, link, at) in &mut left {
                let rank = *rank;
                *at +=
                    link.write(driver, &bytes[*at..]).map_err(|reason| CollectiveError::PeerLost { rank, reason })?;
            }
            mesh.check_alive(driver)?;
            let written = left.iter().all(|(_, _, at)| *at == bytes.len());
            Ok::<_, CollectiveError>((written && !driver.unsent()).then_some(()))
        })?;
        let late = || left.iter().filter(|(_, _, at)| *at < bytes.len()).map(|(rank, _, _)| rank.0).collect();
        done.ok_or_else(|| CollectiveError::Deadline { waiting_for: late(), waited })
    }

    fn read_plan(&mut self, deadline: Deadline) -> Result<Option<StepPlan>, CollectiveError> {
        let (mesh, driver, waiter) = self.mesh()?;
        let rank = Rank(0);
        let Some(link) = mesh.links.first().copied().flatten() else { return Err(CollectiveError::NotFormed) };
        let mut arriving = std::mem::take(&mut mesh.plan);
        let frame = waiter.wait(driver, deadline, |driver| {
            let frame = arriving.poll(link, driver, FRAME_BYTES_MAX).map_err(|e| match e {
                ArriveError::Lost(reason) => CollectiveError::PeerLost { rank, reason },
                ArriveError::Frame(e) => CollectiveError::bad_frame(rank, &e),
            })?;
            if frame.is_none() {
                mesh.check_alive(driver)?;
            }
            Ok::<_, CollectiveError>(frame)
        })?;
        mesh.plan = arriving;
        let Some(frame) = frame else { return Ok(None) };
        plan_of(&frame, mesh.epoch).map(Some)
    }
}

/// Rank 0's plan, if it is one of this epoch.
fn plan_of(frame: &Frame, epoch: Epoch) -> Result<StepPlan, CollectiveError> {
    let rank = Rank(0);
    if frame.epoch != epoch {
        return Err(CollectiveError::WrongEpoch { rank, found: frame.epoch, expected: epoch });
    }
    frame.read::<StepPlan>().map_err(|e| CollectiveError::bad_frame(rank, &e))
}

async fn sleep_until(timer: Option<Instant>) {
    match timer {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Collective for QuicGroup {
    fn rank(&self) -> Rank {
        match &self.state {
            State::Formed(mesh) => mesh.rank,
            State::Idle => Rank(0),
        }
    }

    fn world_size(&self) -> WorldSize {
        match &self.state {
            State::Formed(mesh) => mesh.world,
            State::Idle => WorldSize::ONE,
        }
    }

    fn all_reduce(&mut self, tree: &ReductionTree, mine: &[f32], out: &mut [f32]) -> Result<(), CollectiveError> {
        let (mesh, _, _) = self.mesh()?;
        let rank = mesh.rank;
        check_world(tree.world_size(), mesh.world)?;
        let n = reduce_width(tree, rank, mine, out)?;
        let counts: Vec<usize> = (0..tree.world_size()).map(|r| tree.sent_by(r).len() * n).collect();
        let done = self.exchange(&counts, mine, step_deadline(self.step_deadline));
        self.note(done)?;
        let (mesh, _, _) = self.mesh()?;
        let mut parts: Vec<&[f32]> = mesh.received.iter().map(Vec::as_slice).collect();
        parts[rank.index()] = mine;
        reduce::fold_into(tree, &parts, out);
        Ok(())
    }

    fn all_gather(&mut self, counts: &[usize], mine: &[f32], out: &mut [f32]) -> Result<(), CollectiveError> {
        let (mesh, _, _) = self.mesh()?;
        let rank = mesh.rank;
        check_gather(counts, mesh.world, rank, mine, out)?;
        let done = self.exchange(counts, mine, step_deadline(self.step_deadline));
        self.note(done)?;
        let (mesh, _, _) = self.mesh()?;
        let mut at = 0;
        for (r, count) in counts.iter().enumerate() {
            let part = if r == rank.index() { mine } else { &mesh.received[r] };
            out[at..at + count].copy_from_slice(part);
            at += count;
        }
        Ok(())
    }

    fn send_plan(&mut self, plan: &StepPlan) -> Result<(), CollectiveError> {
        let (mesh, _, _) = self.mesh()?;
        let (rank, epoch) = (mesh.rank, mesh.epoch);
        if rank != Rank(0) {
            return Err(CollectiveError::NotLeader { rank });
        }
        let bytes = Frame::bytes_of(epoch, plan).map_err(|e| CollectiveError::bad_frame(rank, &e))?;
        let done = self.write_plan(&bytes);
        self.note(done)
    }

    fn recv_plan(&mut self, deadline: Deadline) -> Result<Option<StepPlan>, CollectiveError> {
        let (mesh, _, _) = self.mesh()?;
        if mesh.rank == Rank(0) {
            return Err(CollectiveError::NotLeader { rank: mesh.rank });
        }
        let done = self.read_plan(deadline);
        self.note(done)
    }

    fn set_step_deadline(&mut self, deadline: Deadline) {
        self.step_deadline = Some(deadline);
    }

    fn abort_handle(&self) -> AbortHandle {
        self.waiter.abort.clone()
    }
}

impl Drop for QuicGroup {
    fn drop(&mut self) {
        self.driver.close_all("the rank has ended");
    }
}

#[cfg(test)]
mod tests {
    use protocol::Message;

    use super::*;

    #[test]
    fn a_step_plan_of_another_epoch_is_not_believed() {
        let plan = StepPlan::last(7);
        for (found, believed) in [(4, false), (5, true), (6, false)] {
            let mut body = rkyv::util::AlignedVec::new();
            body.extend_from_slice(&plan.to_body());
            let frame = Frame { kind: StepPlan::KIND, epoch: Epoch(found), body };
            let outcome = plan_of(&frame, Epoch(5));
            assert_eq!(outcome.is_ok(), believed, "{outcome:?}");
            if !believed {
                assert!(matches!(outcome, Err(CollectiveError::WrongEpoch { expected: Epoch(5), .. })), "{outcome:?}");
            }
        }
    }
}
