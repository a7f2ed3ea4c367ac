//! How ranks become a group: each pair proves who it is, that it means the same group, and that bytes go both ways.
//!
//! ```text
//!  rank j                                rank i < j
//!    │ ── QUIC handshake (role node) ─────▶ │  name of i's certificate = node of rank i in the plan
//!    │ ── GroupHello, epoch ──────────────▶ │  name of j's certificate = node of rank j; same replica, world,
//!    │ ◀─ GroupHello, epoch (or Refusal) ── │  model, epoch
//!    │ ── piece of operation 0 ───────────▶ │  the barrier, once a rank has a link with every other
//!    │ ◀─ piece of operation 0 ──────────── │
//! ```
//! A stranger or a rank of an older epoch is refused and the wait goes on; a rank that should belong here but means
//! another group ends it.

use std::time::Instant;

use protocol::frame::{Refusal, RefusalCode};
use protocol::plan::RankAddr;
use protocol::step::GroupHello;
use protocol::{Epoch, Frame, Identity, Message, Rank, Role};
use quinn_proto::crypto::rustls::QuicClientConfig;

use super::driver::{ConnId, Driver};
use super::group::{Mesh, QuicGroup, State};
use super::link::{ArriveError, Arriving, Link};
use crate::Deadline;
use crate::collective::{CollectiveError, FormError};
use crate::quic::{ConnectError, ConnectionLost, Expect};
use crate::tls::{self, TlsError};

/// Largest body of a hello or refusal, bytes.
const HELLO_BYTES_MAX: u32 = 64 << 10;

/// A pair on its way to a link.
///
/// ```text
///   Dialing ─▶ HelloSent ─▶ Linked      (we are the higher rank)
///   Awaited ─────────────▶ Linked       (we are the lower rank)
/// ```
enum Pair {
    Dialing { conn: ConnId, expect: Expect },
    HelloSent { link: Link, arriving: Arriving },
    Awaited,
    Linked(Link),
}

/// A peer that has connected and not said its hello yet, or was refused and may still read why.
struct Guest {
    conn: ConnId,
    link: Option<Link>,
    arriving: Arriving,
    refused: bool,
}

struct Forming<'a> {
    hello: &'a GroupHello,
    epoch: Epoch,
    peers: &'a [RankAddr],
    /// In rank order; `None` in our own place.
    pairs: Vec<Option<Pair>>,
    guests: Vec<Guest>,
}

impl QuicGroup {
    /// Connects with every other rank and proves that each reaches each: the lower rank of a pair accepts, the higher
    /// connects, both say who they are, and a barrier ends it. `peers` are all ranks in rank order, this one among them;
    /// their `node` is the name their certificate must have. A group that was formed before is dissolved.
    ///
    /// # Errors
    /// [`FormError`]. The connections are closed then, so that the other ranks fail too.
    pub fn form(
        &mut self,
        hello: GroupHello,
        epoch: Epoch,
        peers: &[RankAddr],
        deadline: impl Into<Deadline>,
    ) -> Result<(), FormError> {
        if matches!(self.state, State::Formed(_)) {
            self.dissolve("the rank forms another group");
        }
        self.step_deadline = None;
        let deadline = deadline.into();
        let formed = self.form_mesh(&hello, epoch, peers, deadline).and_then(|mesh| {
            self.state = State::Formed(mesh);
            self.exchange(&vec![0; peers.len()], &[], deadline).map_err(FormError::from)
        });
        if let Err(e) = &formed {
            self.dissolve(&e.to_string());
        }
        formed
    }

    fn form_mesh(
        &mut self,
        hello: &GroupHello,
        epoch: Epoch,
        peers: &[RankAddr],
        deadline: Deadline,
    ) -> Result<Mesh, FormError> {
        check_peers(hello, peers)?;
        let waited = deadline.remaining();
        let mut forming = Forming { hello, epoch, peers, pairs: Vec::new(), guests: Vec::new() };
        for peer in peers {
            let pair = match peer.rank.cmp(&hello.rank) {
                std::cmp::Ordering::Less => Some(self.dial(peer, peers.len() - 1)?),
                std::cmp::Ordering::Equal => None,
                std::cmp::Ordering::Greater => Some(Pair::Awaited),
            };
            forming.pairs.push(pair);
        }
        let done = self.wait(deadline, |driver| forming.advance(driver))?;
        if done.is_none() {
            return Err(FormError::Deadline { missing: forming.missing(), waited });
        }
        let now = Instant::now();
        forming.guests.iter().for_each(|g| self.driver.close(g.conn, "the group has formed without you", now));
        let links = forming.pairs.into_iter().map(|p| match p {
            Some(Pair::Linked(link)) => Some(link),
            _ => None,
        });
        Ok(Mesh {
            rank: hello.rank,
            world: hello.world_size,
            epoch,
            links: links.collect(),
            next_op: 0,
            received: vec![Vec::new(); peers.len()],
            plan: Arriving::default(),
        })
    }

    fn dial(&mut self, peer: &RankAddr, num_peers: usize) -> Result<Pair, FormError> {
        let addr = peer.group().map_err(|reason| FormError::BadRequest { reason })?;
        let failed = |source: ConnectError| FormError::Connect { rank: peer.rank, source };
        let expect = Expect::named(Role::Node, peer.node.clone());
        let crypto = tls::internal_client(&self.identity, expect.clone()).map_err(|e| failed(e.into()))?;
        let crypto = QuicClientConfig::try_from(crypto)
            .map_err(|e| failed(TlsError::Config(rustls::Error::General(e.to_string())).into()))?;
        let budget = self.driver.budget_bytes(num_peers);
        let conn = self
            .driver
            .connect(addr, crypto, budget, Instant::now())
            .map_err(|e| failed(ConnectError::Unreachable { addr, reason: e.to_string() }))?;
        Ok(Pair::Dialing { conn, expect })
    }
}

fn check_peers(hello: &GroupHello, peers: &[RankAddr]) -> Result<(), FormError> {
    let bad = |reason: String| Err(FormError::BadRequest { reason });
    if peers.len() != usize::from(hello.world_size.get()) {
        return bad(format!("{} ranks are given for a world size of {}", peers.len(), hello.world_size));
    }
    if let Some((i, peer)) = peers.iter().enumerate().find(|(i, p)| p.rank.index() != *i) {
        return bad(format!("rank {} stands at place {i}", peer.rank));
    }
    if hello.rank.0 >= hello.world_size.get() {
        return bad(format!("rank {} is outside of a world size of {}", hello.rank, hello.world_size));
    }
    Ok(())
}

impl Forming<'_> {
    fn missing(&self) -> Vec<u16> {
        let linked = |p: &Option<Pair>| matches!(p, None | Some(Pair::Linked(_)));
        self.peers.iter().zip(&self.pairs).filter(|(_, pair)| !linked(pair)).map(|(p, _)| p.rank.0).collect()
    }

    fn advance(&mut self, driver: &mut Driver) -> Result<Option<()>, FormError> {
        for i in 0..self.pairs.len() {
            if let Some(pair) = self.pairs[i].take() {
                self.pairs[i] = Some(self.advance_pair(driver, self.peers[i].rank, pair)?);
            }
        }
        self.greet_guests(driver)?;
        Ok((self.missing().is_empty() && !driver.unsent()).then_some(()))
    }

    fn advance_pair(&self, driver: &mut Driver, rank: Rank, pair: Pair) -> Result<Pair, FormError> {
        let lost = |reason| FormError::Failed(CollectiveError::PeerLost { rank, reason });
        match pair {
            Pair::Awaited => Ok(pair),
            Pair::Linked(link) => match driver.lost(link.conn) {
                Some(reason) => Err(lost(reason)),
                None => Ok(pair),
            },
            Pair::Dialing { conn, expect } => {
                let Some(c) = driver.conn(conn) else { return Err(lost(ConnectionLost::ClosedHere)) };
                if let Some(e) = c.lost.clone() {
                    let source = ConnectError::new(c.quic.remote_address(), &expect, e);
                    return Err(FormError::Connect { rank, source });
                }
                if !c.is_connected() {
                    return Ok(Pair::Dialing { conn, expect });
                }
                let Some(link) = Link::open(driver, conn) else { return Ok(Pair::Dialing { conn, expect }) };
                self.say(driver, link, self.hello).map_err(lost)?;
                Ok(Pair::HelloSent { link, arriving: Arriving::default() })
            }
            Pair::HelloSent { link, mut arriving } => {
                let Some(frame) = self.hear(driver, rank, link, &mut arriving)? else {
                    return Ok(Pair::HelloSent { link, arriving });
                };
                let bad = |e: &protocol::FrameError| FormError::Failed(CollectiveError::bad_frame(rank, e));
                if frame.kind == Refusal::KIND {
                    let refusal = frame.read::<Refusal>().map_err(|e| bad(&e))?;
                    return Err(FormError::Refused { rank, refusal });
                }
                let theirs = frame.read::<GroupHello>().map_err(|e| bad(&e))?;
                self.compare(&theirs, frame.epoch)?;
                if theirs.rank != rank {
                    return Err(mismatch(rank, "rank", theirs.rank, rank));
                }
                Ok(Pair::Linked(link))
            }
        }
    }

    /// The next frame of a peer that we dialled.
    fn hear(
        &self,
        driver: &mut Driver,
        rank: Rank,
        link: Link,
        arriving: &mut Arriving,
    ) -> Result<Option<Frame>, FormError> {
        arriving.poll(link, driver, HELLO_BYTES_MAX).map_err(|e| match e {
            // Refused by its handshake after ours was through.
            ArriveError::Lost(ConnectionLost::Refused(reason)) => {
                let here = driver.local_addr();
                let addr = driver.conn(link.conn).map_or(here, |c| c.quic.remote_address());
                FormError::Connect { rank, source: ConnectError::Refused { addr, reason } }
            }
            ArriveError::Lost(reason) => CollectiveError::PeerLost { rank, reason }.into(),
            ArriveError::Frame(e) => CollectiveError::bad_frame(rank, &e).into(),
        })
    }

    /// Whether a hello means our group; what differs otherwise.
    fn compare(&self, theirs: &GroupHello, epoch: Epoch) -> Result<(), FormError> {
        let (rank, ours) = (theirs.rank, self.hello);
        if epoch != self.epoch {
            return Err(mismatch(rank, "epoch", epoch, self.epoch));
        }
        if theirs.replica != ours.replica {
            return Err(mismatch(rank, "replica", theirs.replica, ours.replica));
        }
        if theirs.world_size != ours.world_size {
            return Err(mismatch(rank, "world size", theirs.world_size, ours.world_size));
        }
        if theirs.model_digest != ours.model_digest {
            let cut = |s: &str| s.chars().take(80).collect::<String>();
            return Err(mismatch(rank, "model digest", cut(&theirs.model_digest), cut(&ours.model_digest)));
        }
        Ok(())
    }

    fn greet_guests(&mut self, driver: &mut Driver) -> Result<(), FormError> {
        for conn in driver.accepted() {
            let known = self.guests.iter().any(|g| g.conn == conn)
                || self.pairs.iter().flatten().any(|p| matches!(p, Pair::Linked(l) if l.conn == conn));
            if !known {
                self.guests.push(Guest { conn, link: None, arriving: Arriving::default(), refused: false });
            }
        }
        let mut guests = std::mem::take(&mut self.guests);
        // Whoever leaves again before its hello was nobody.
        guests.retain(|g| driver.lost(g.conn).is_none());
        let mut i = 0;
        while i < guests.len() {
            if self.greet(driver, &mut guests[i])? {
                guests.swap_remove(i);
            } else {
                i += 1;
            }
        }
        self.guests = guests;
        Ok(())
    }

    /// Whether the guest has become a link.
    fn greet(&mut self, driver: &mut Driver, guest: &mut Guest) -> Result<bool, FormError> {
        if guest.refused {
            return Ok(false);
        }
        if guest.link.is_none() {
            guest.link = Link::accept(driver, guest.conn);
        }
        let Some(link) = guest.link else { return Ok(false) };
        let refuse = |driver: &mut Driver, guest: &mut Guest, code, detail: String| {
            tracing::warn!(reason = %detail, "rank refused");
            guest.refused = true;
            // A guest that is gone needs no answer. It goes out now: this rank may be about to give up.
            let _ = self.say(driver, link, &Refusal { code, detail });
            driver.transmit(Instant::now());
        };
        let (theirs, epoch) = match guest.arriving.poll(link, driver, HELLO_BYTES_MAX) {
            Ok(None) | Err(ArriveError::Lost(_)) => return Ok(false),
            Ok(Some(frame)) => (frame.read::<GroupHello>(), frame.epoch),
            Err(ArriveError::Frame(e)) => (Err(e), self.epoch),
        };
        let theirs = match theirs {
            Ok(theirs) => theirs,
            Err(e) => {
                refuse(driver, guest, RefusalCode::BadRequest, e.to_string());
                return Ok(false);
            }
        };
        let peer = driver.conn(guest.conn).and_then(|c| c.peer());
        if let Some(detail) = self.not_ours(&theirs, peer.as_ref()) {
            refuse(driver, guest, RefusalCode::Forbidden, detail);
            return Ok(false);
        }
        if let Err(e) = self.compare(&theirs, epoch) {
            let code = if epoch == self.epoch { RefusalCode::BadRequest } else { RefusalCode::WrongEpoch };
            refuse(driver, guest, code, e.to_string());
            // A rank left over from an older group says nothing about this one.
            return if epoch < self.epoch { Ok(false) } else { Err(e) };
        }
        let rank = theirs.rank;
        self.say(driver, link, self.hello).map_err(|reason| CollectiveError::PeerLost { rank, reason })?;
        self.pairs[rank.index()] = Some(Pair::Linked(link));
        Ok(true)
    }

    /// Why a guest cannot be the rank it says; `None` when it can.
    fn not_ours(&self, theirs: &GroupHello, peer: Option<&Identity>) -> Option<String> {
        let rank = theirs.rank;
        let Some(planned) = self.peers.get(rank.index()) else {
            return Some(format!("rank {rank} does not exist in a world size of {}", self.hello.world_size));
        };
        match peer {
            Some(peer) if peer.name == planned.node => {}
            Some(peer) => return Some(format!("{peer} says it is rank {rank}, which is on node {}", planned.node)),
            None => return Some("the peer has no identity".to_owned()),
        }
        match self.pairs[rank.index()] {
            Some(Pair::Awaited) => None,
            _ => Some(format!("rank {rank} is not awaited here: it is connected, or should be dialled")),
        }
    }

    /// Puts one short frame on a link; a new stream takes it whole.
    fn say<M: Message>(&self, driver: &mut Driver, link: Link, message: &M) -> Result<(), ConnectionLost> {
        let short = |reason: String| ConnectionLost::Transport { reason };
        let bytes = Frame::bytes_of(self.epoch, message).map_err(|e| short(e.to_string()))?;
        match link.write(driver, &bytes)? {
            n if n == bytes.len() => Ok(()),
            n => Err(short(format!("{n} of {} bytes fit", bytes.len()))),
        }
    }
}

fn mismatch(
    rank: Rank,
    what: &'static str,
    found: impl std::fmt::Display,
    expected: impl std::fmt::Display,
) -> FormError {
    FormError::Mismatch { rank, what, found: found.to_string(), expected: expected.to_string() }
}
