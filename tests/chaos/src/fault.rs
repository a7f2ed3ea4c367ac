//! What can go wrong, said by role, and done to a cluster.
//!
//! A fault names roles (`leader`, the node of rank 0) and is aimed when it is done, so that a schedule is the same whoever
//! leads at the moment. Not here: when (`schedule`). Invariant: each fault that was done gives back what heals it.

use std::fmt;
use std::time::{Duration, Instant};

use protocol::Rank;
use rustix::process::Signal;
use time::OffsetDateTime;

use crate::cluster::{CLIENT, Cluster, ClusterError, Outlook};
use crate::net::Port;
use crate::processes::Seen;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The worker of that rank.
    Rank(u16),
    /// The agent of the node with that rank.
    Agent(u16),
    /// The coordinator that leads.
    Leader,
    /// A coordinator that does not.
    Follower,
}

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// That of the rank's node.
    Rank(u16),
    /// The leader's.
    Leader,
    /// A follower's.
    Follower,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// SIGKILL. Healed by a supervisor's restart, where it is a daemon.
    Kill(Who),
    /// SIGSTOP: the process is there and does nothing. Healed by SIGCONT.
    Freeze(Who),
    /// The host's cable is out.
    Unplug(Place),
    /// Nothing passes between two hosts.
    Cut(Place, Place),
    /// What the host sends is lost; it hears everything.
    Mute(Place),
    /// What is sent to the host is lost; it is heard.
    Deaf(Place),
    /// That share of all frames between the cluster's hosts is lost, per mille.
    Loss(u16),
    /// Every frame between the cluster's hosts takes so many milliseconds longer, and up to a tenth more.
    Delay(u16),
    /// The disk with the host's state has no room left.
    FullDisk(Place),
    /// The host's clock jumps by so many seconds.
    ClockStep(Place, i32),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank(rank) => write!(f, "rank {rank}"),
            Self::Agent(rank) => write!(f, "the agent of rank {rank}"),
            Self::Leader => f.write_str("the leader"),
            Self::Follower => f.write_str("a follower"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank(rank) => write!(f, "rank {rank}'s host"),
            Self::Leader => f.write_str("the leader's host"),
            Self::Follower => f.write_str("a follower's host"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(who) => write!(f, "kill -9 of {who}"),
            Self::Freeze(who) => write!(f, "SIGSTOP of {who}"),
            Self::Unplug(place) => write!(f, "link of {place} down"),
            Self::Cut(one, other) => write!(f, "cut between {one} and {other}"),
            Self::Mute(place) => write!(f, "one-way: {place} is not heard"),
            Self::Deaf(place) => write!(f, "one-way: {place} hears nothing"),
            Self::Loss(permille) => write!(f, "{} % loss", f64::from(*permille) / 10.0),
            Self::Delay(ms) => write!(f, "{ms} ms delay"),
            Self::FullDisk(place) => write!(f, "disk of {place} full"),
            Self::ClockStep(place, seconds) => write!(f, "clock of {place} jumps {seconds:+} s"),
        }
    }
}

/// Why a fault was not done.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Nobody has the role at the moment.
    #[error("nobody to aim at: {0}")]
    NoAim(String),
    /// The process or disk is not there, or is not of that kind.
    #[error("cannot be done: {0}")]
    Impossible(String),
    /// Healing failed.
    #[error(transparent)]
    Heal(#[from] ClusterError),
}

/// Who has which role at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aims {
    /// The host of the leader.
    pub leader: String,
    /// The host of the follower with the lowest id.
    pub follower: String,
    /// The replica.
    pub replica: u64,
    /// Its nodes, by rank.
    pub nodes: Vec<String>,
}

impl Aims {
    /// Reads them off an outlook.
    ///
    /// # Errors
    /// [`FaultError::NoAim`] without a leader or a ready replica.
    pub fn of(outlook: &Outlook, coordinators: u16) -> Result<Self, FaultError> {
        let missing = |what: &str| FaultError::NoAim(what.to_owned());
        let leader = outlook.leader.ok_or_else(|| missing("no leader"))?;
        let follower = (1..=u64::from(coordinators)).find(|id| *id != leader.0);
        let replica = outlook.ready().ok_or_else(|| missing("no replica is ready"))?;
        let mut ranks: Vec<(Rank, String)> = replica.ranks.iter().map(|r| (r.rank, r.node.to_string())).collect();
        ranks.sort();
        Ok(Self {
            leader: Cluster::coordinator_name(leader),
            follower: format!("c{}", follower.unwrap_or(leader.0)),
            replica: replica.replica.0,
            nodes: ranks.into_iter().map(|(_, node)| node).collect(),
        })
    }

    fn node(&self, rank: u16) -> Result<&str, FaultError> {
        let node = self.nodes.get(usize::from(rank));
        node.map(String::as_str).ok_or_else(|| FaultError::NoAim(format!("no rank {rank}")))
    }

    fn host(&self, place: Place) -> Result<&str, FaultError> {
        match place {
            Place::Rank(rank) => self.node(rank),
            Place::Leader => Ok(&self.leader),
            Place::Follower => Ok(&self.follower),
        }
    }
}

/// A fault that was done, and how it is healed.
#[derive(Debug)]
pub struct Done {
    /// Which.
    pub fault: Fault,
    /// Just before it was done.
    pub since: Instant,
    /// The same by the clock that logs tell.
    pub at: OffsetDateTime,
    heal: Heal,
}

#[derive(Debug)]
enum Heal {
    Nothing,
    Start(String),
    Continue(Seen),
    Links(Vec<(Port, Port)>),
    Disk(String),
    Clock(String),
}

/// Does a fault.
///
/// # Errors
/// [`FaultError`]; then nothing was done.
pub fn inflict(cluster: &mut Cluster, fault: Fault, aims: &Aims) -> Result<Done, FaultError> {
    let (since, at) = (Instant::now(), OffsetDateTime::now_utc());
    let heal = match fault {
        Fault::Kill(Who::Rank(rank)) => {
            worker(cluster, aims, rank)?.signal(Signal::KILL);
            Heal::Nothing
        }
        Fault::Freeze(Who::Rank(rank)) => freeze(worker(cluster, aims, rank)?)?,
        Fault::Kill(who) => {
            let name = daemon(aims, who)?.to_owned();
            cluster.kill_daemon(&name);
            Heal::Start(name)
        }
        Fault::Freeze(who) => {
            let name = daemon(aims, who)?;
            let process = cluster.daemon(name).process();
            freeze(process.ok_or_else(|| FaultError::Impossible(format!("{name} does not run")))?)?
        }
        Fault::Unplug(place) => {
            let port = port(cluster, aims.host(place)?);
            cut(cluster, |from, to| from == port || to == port)
        }
        Fault::Mute(place) => {
            let port = port(cluster, aims.host(place)?);
            cut(cluster, |from, _| from == port)
        }
        Fault::Deaf(place) => {
            let port = port(cluster, aims.host(place)?);
            cut(cluster, |_, to| to == port)
        }
        Fault::Cut(one, other) => {
            let (one, other) = (port(cluster, aims.host(one)?), port(cluster, aims.host(other)?));
            cut(cluster, |from, to| (from, to) == (one, other) || (from, to) == (other, one))
        }
        Fault::Loss(permille) => between_hosts(cluster, |link| link.loss_permille = permille),
        Fault::Delay(ms) => between_hosts(cluster, |link| {
            link.delay = Duration::from_millis(ms.into());
            link.jitter = link.delay / 10;
        }),
        Fault::FullDisk(place) => {
            let name = aims.host(place)?;
            if !cluster.fill_disk(name, true) {
                return Err(FaultError::Impossible(format!("{name} has no disk of its own")));
            }
            Heal::Disk(name.to_owned())
        }
        Fault::ClockStep(place, seconds) => {
            let name = aims.host(place)?;
            if !cluster.step_clock(name, seconds) {
                return Err(FaultError::Impossible(format!("{name} has no clock of its own")));
            }
            Heal::Clock(name.to_owned())
        }
    };
    Ok(Done { fault, since, at, heal })
}

/// Heals it: afterwards everything is there again, but perhaps not yet working.
///
/// # Errors
/// [`FaultError::Heal`] for a daemon that does not start.
pub fn heal(cluster: &mut Cluster, done: Done) -> Result<(), FaultError> {
    match done.heal {
        Heal::Nothing => {}
        Heal::Start(name) => cluster.start_daemon(&name)?,
        // It may have been killed meanwhile, which is how a stuck rank is to end.
        Heal::Continue(process) => drop(process.signal(Signal::CONT)),
        Heal::Links(links) => {
            let weather = cluster.weather();
            for (from, to) in links {
                weather.change(from, to, |link| *link = crate::net::LinkState::default());
            }
        }
        Heal::Disk(name) => drop(cluster.fill_disk(&name, false)),
        Heal::Clock(name) => drop(cluster.step_clock(&name, 0)),
    }
    // A full disk or a lost lease may have ended a daemon: its supervisor starts it again.
    for name in cluster.stopped_daemons() {
        cluster.start_daemon(&name)?;
    }
    Ok(())
}

fn worker(cluster: &Cluster, aims: &Aims, rank: u16) -> Result<Seen, FaultError> {
    let node = aims.node(rank)?;
    let worker = cluster.daemon(node).worker(aims.replica, rank);
    worker.ok_or_else(|| FaultError::Impossible(format!("no worker of rank {rank} on {node}")))
}

fn daemon(aims: &Aims, who: Who) -> Result<&str, FaultError> {
    match who {
        Who::Rank(rank) | Who::Agent(rank) => aims.node(rank),
        Who::Leader => Ok(&aims.leader),
        Who::Follower => Ok(&aims.follower),
    }
}

fn freeze(process: Seen) -> Result<Heal, FaultError> {
    if process.signal(Signal::STOP) {
        return Ok(Heal::Continue(process));
    }
    Err(FaultError::Impossible(format!("process {} is gone", process.pid)))
}

fn port(cluster: &Cluster, host: &str) -> Port {
    cluster.host(host).port()
}

fn cut(cluster: &Cluster, which: impl Fn(Port, Port) -> bool) -> Heal {
    change(cluster, which, |link| link.cut = true)
}

/// Clients are near: what they see is the cluster's doing.
fn between_hosts(cluster: &Cluster, how: impl Fn(&mut crate::net::LinkState)) -> Heal {
    let client = port(cluster, CLIENT);
    change(cluster, |from, to| from != client && to != client, how)
}

fn change(cluster: &Cluster, which: impl Fn(Port, Port) -> bool, how: impl Fn(&mut crate::net::LinkState)) -> Heal {
    let ports = || cluster.hosts().iter().map(crate::net::Host::port);
    let all = ports().flat_map(|from| ports().map(move |to| (from, to)));
    let links: Vec<(Port, Port)> = all.filter(|(from, to)| from != to && which(*from, *to)).collect();
    cluster.weather().change_all(|from, to| links.contains(&(from, to)), how);
    Heal::Links(links)
}
