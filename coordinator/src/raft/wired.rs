//! Several coordinators' Raft over wires in memory, which can be cut: what happens to those who are cut off.
//!
//! Not here: QUIC (the crate's tests), schedules of faults by a seed (the simulator).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;
use openraft::ChangeMembers;
use protocol::raft::{RaftRequest, RaftResponse};
use protocol::{ClusterId, CoordinatorId, Epoch, ReplicaId, Term};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::change::MemberChange;
use super::consensus::{Consensus, ConsensusConfig, LogBounds};
use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::wires::{LinkError, Wires};
use crate::config::{MemberAddrs, RaftTimings};
use crate::state::{Command, ReplicaCommand};

/// How long anything that must happen may take on a loaded machine.
const SOON: Duration = Duration::from_secs(60);
const TIMINGS: RaftTimings = RaftTimings { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1000 };
const FEW: LogBounds = LogBounds { snapshot_entries: 50, kept_entries: 20 };

/// Who is there, and who is cut off.
#[derive(Default)]
struct Net {
    there: Mutex<BTreeMap<CoordinatorId, Consensus>>,
    cut: Mutex<BTreeSet<CoordinatorId>>,
}

impl Net {
    fn there(&self) -> MutexGuard<'_, BTreeMap<CoordinatorId, Consensus>> {
        self.there.lock().expect("nothing panics while it holds it")
    }

    fn way(&self, from: CoordinatorId, to: CoordinatorId) -> Option<Consensus> {
        let cut = self.cut.lock().expect("nothing panics while it holds it");
        self.there().get(&to).filter(|_| !cut.contains(&from) && !cut.contains(&to)).cloned()
    }

    fn cut(&self, id: u64) {
        self.cut.lock().expect("nothing panics while it holds it").insert(CoordinatorId(id));
    }

    fn heal(&self, id: u64) {
        self.cut.lock().expect("nothing panics while it holds it").remove(&CoordinatorId(id));
    }
}

struct Wire {
    own: CoordinatorId,
    net: Weak<Net>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire(coordinator {})", self.own)
    }
}

#[async_trait]
impl Wires for Wire {
    async fn call(
        &self,
        peer: CoordinatorId,
        request: RaftRequest,
        deadline: Duration,
    ) -> Result<RaftResponse, LinkError> {
        let way = || self.net.upgrade().and_then(|net| net.way(self.own, peer));
        let target = way().ok_or(LinkError::Down { peer })?;
        let answer = tokio::time::timeout(deadline, target.serve(request)).await;
        // A cut takes answers that are under way.
        way().ok_or(LinkError::Down { peer })?;
        answer.ok().and_then(Result::ok).ok_or(LinkError::Down { peer })
    }

    fn up(&self) -> BTreeSet<CoordinatorId> {
        let Some(net) = self.net.upgrade() else { return BTreeSet::new() };
        let ids: Vec<_> = net.there().keys().copied().collect();
        ids.into_iter().filter(|id| *id != self.own && net.way(self.own, *id).is_some()).collect()
    }
}

struct Lab {
    net: Arc<Net>,
    dir: TempDir,
    first: Vec<MemberAddrs>,
    stops: BTreeMap<u64, (CancellationToken, TaskTracker)>,
}

fn addrs(id: u64) -> MemberAddrs {
    let at = |port: u64| ([127, 0, 0, 1], (port + id) as u16).into();
    MemberAddrs { id: CoordinatorId(id), internal: at(1000), admin: at(2000), public: at(3000) }
}

impl Lab {
    async fn of(count: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let first = (1..=count).map(addrs).collect();
        let mut lab = Self { net: Arc::default(), dir, first, stops: BTreeMap::new() };
        for id in 1..=count {
            lab.start(id).await;
        }
        lab
    }

    async fn start(&mut self, id: u64) {
        let own = CoordinatorId(id);
        let dir = self.dir.path().join(id.to_string());
        fs::create_dir_all(&dir).expect("made");
        let log = LogStore::open(&dir).expect("whole");
        let state_machine = StateMachine::open(&dir, log.purged().expect("readable")).expect("whole");
        let mut members = self.first.clone();
        members.extend((!self.first.contains(&addrs(id))).then(|| addrs(id)));
        let config = ConsensusConfig { id: own, members: &members, dir: &dir, timings: TIMINGS };
        let wires = Arc::new(Wire { own, net: Arc::downgrade(&self.net) });
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let cluster = ClusterId::from_bytes([7; 16]);
        let started = Consensus::over(config, FEW, (cluster, wires), (log, state_machine), &tasks, &cancel).await;
        self.net.there().insert(own, started.expect("starts"));
        self.stops.insert(id, (cancel, tasks));
    }

    async fn stop(&mut self, id: u64) {
        let raft = self.net.there().remove(&CoordinatorId(id)).expect("there");
        let (cancel, tasks) = self.stops.remove(&id).expect("there");
        cancel.cancel();
        tasks.close();
        tasks.wait().await;
        raft.shutdown().await;
    }

    async fn stop_all(&mut self) {
        for id in self.stops.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }

    fn at(&self, id: u64) -> Consensus {
        self.net.there()[&CoordinatorId(id)].clone()
    }

    /// The leader and its term, once all of `ids` agree on it.
    async fn leader(&self, ids: &[u64]) -> (u64, Term) {
        let agreed = async {
            loop {
                let told: BTreeSet<_> = ids
                    .iter()
                    .map(|id| {
                        let l = *self.at(*id).leadership().borrow();
                        (l.leader, l.term)
                    })
                    .collect();
                if let (1, Some((Some(leader), term))) = (told.len(), told.first().copied()) {
                    return (leader.0, term);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(SOON, agreed).await {
            Ok(leader) => leader,
            Err(_) => {
                let seen: Vec<_> = ids.iter().map(|id| self.at(*id).raft().metrics().borrow().to_string()).collect();
                panic!("no leader of {ids:?}: {seen:#?}");
            }
        }
    }

    async fn write(&self, id: u64, count: u64) {
        for i in 0..count {
            let reason = "x".repeat(400);
            let command = Command::Replica(ReplicaCommand::Lose { replica: ReplicaId(i), epoch: Epoch(1), reason });
            // Refused by the state, and so agreed on.
            assert!(matches!(self.at(id).propose(command, SOON).await, Err(super::ProposeError::Refused(_))));
        }
    }

    async fn catches_up(&self, id: u64, with: u64) {
        let index = self.at(with).read(SOON).await.expect("a majority is there").index;
        let mut applied = self.at(id).applied();
        let caught_up = tokio::time::timeout(SOON, applied.wait_for(|a| a.index >= index)).await;
        caught_up.expect("in time").expect("it runs");
    }

    fn log_bytes(&self, id: u64) -> u64 {
        fs::metadata(self.dir.path().join(id.to_string()).join("raft.redb")).expect("there").len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_was_cut_off_comes_back_without_deposing_the_leader() {
    let mut lab = Lab::of(3).await;
    let (leader, term) = lab.leader(&[1, 2, 3]).await;
    let away = if leader == 3 { 2 } else { 3 };
    lab.net.cut(away);
    let mut told = lab.at(away).leadership();
    tokio::time::timeout(SOON, told.wait_for(|l| l.leader.is_none())).await.expect("it says so").expect("runs");
    // Long enough for many elections that it could begin.
    tokio::time::sleep(Duration::from_millis(4 * u64::from(TIMINGS.election_max_ms))).await;
    assert_eq!(told.borrow().term, term, "it stood for election where nobody could elect it");
    lab.write(leader, 5).await;
    lab.net.heal(away);
    lab.catches_up(away, leader).await;
    assert_eq!(lab.leader(&[1, 2, 3]).await, (leader, term));
    drop(told);
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_says_so_and_another_one_leads() {
    let mut lab = Lab::of(3).await;
    let (leader, term) = lab.leader(&[1, 2, 3]).await;
    let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    lab.net.cut(leader);
    let mut told = lab.at(leader).leadership();
    let silent = told.wait_for(|l| l.leader.is_none() && !l.here);
    tokio::time::timeout(SOON, silent).await.expect("it says so").expect("runs");
    let (next, later) = lab.leader(&rest).await;
    assert!(next != leader && later > term);
    lab.write(next, 5).await;
    lab.net.heal(leader);
    lab.catches_up(leader, next).await;
    assert_eq!(lab.leader(&[1, 2, 3]).await.0, next);
    drop(told);
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_bounded_and_who_is_behind_it_catches_up_by_snapshot_however_often_it_restarts() {
    let mut lab = Lab::of(3).await;
    let (leader, _) = lab.leader(&[1, 2, 3]).await;
    let away = if leader == 3 { 2 } else { 3 };
    lab.write(leader, 200).await;
    lab.stop(away).await;
    let before = lab.log_bytes(leader);
    for round in 0..3 {
        lab.write(leader, 200).await;
        // Brought up and taken down again in the midst of catching up.
        lab.start(away).await;
        tokio::time::sleep(Duration::from_millis(20 * round)).await;
        lab.stop(away).await;
    }
    let raft = lab.at(leader).raft().clone();
    let purged = raft.metrics().borrow().purged.map_or(0, |id| id.index);
    let last = raft.metrics().borrow().last_log_index.unwrap_or(0);
    let kept_max = 2 * (FEW.snapshot_entries + FEW.kept_entries);
    assert!(last - purged <= kept_max, "{} entries are kept, of {last}", last - purged);
    let after = lab.log_bytes(leader);
    assert!(after <= 2 * before, "600 more entries of 400 bytes: from {before} to {after} bytes");
    drop(raft);
    lab.start(away).await;
    lab.catches_up(away, leader).await;
    assert_eq!(lab.at(away).applied().borrow().state, lab.at(leader).applied().borrow().state);
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_leader_goes_away_half_way_is_ended_by_the_next() {
    let mut lab = Lab::of(3).await;
    let (leader, _) = lab.leader(&[1, 2, 3]).await;
    lab.start(4).await;
    let raft = lab.at(leader).raft().clone();
    raft.add_learner(4, super::type_config::Member::from(&addrs(4)), false).await.expect("a majority is there");
    lab.catches_up(4, leader).await;
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let mut seen = lab.at(others[0]).members();
    let change = raft.change_membership(ChangeMembers::AddVoterIds([4].into()), true);
    tokio::select! {
        _ = change => {}
        _ = seen.wait_for(|m| m.is_changing) => {}
    }
    lab.net.cut(leader);
    let rest: Vec<u64> = others.iter().copied().chain([4]).collect();
    lab.leader(&rest).await;
    for id in rest {
        let mut members = lab.at(id).members();
        let ended = members.wait_for(|m| !m.is_changing && m.num_voters() == 4);
        tokio::time::timeout(SOON, ended).await.expect("the change is ended").expect("runs");
    }
    drop((raft, seen));
    lab.net.heal(leader);
    lab.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_coordinator_is_taken_out_where_the_rest_could_agree_on_nothing() {
    let mut lab = Lab::of(3).await;
    let (leader, _) = lab.leader(&[1, 2, 3]).await;
    let away = if leader == 3 { 2 } else { 3 };
    let stays = 6 - leader - away;
    lab.net.cut(away);
    let remove = MemberChange::Remove { id: CoordinatorId(stays) };
    let refused = lab.at(leader).change_members(remove.clone(), SOON).await;
    assert!(matches!(refused, Err(super::ChangeError::NoMajorityLeft { reached: 1, voters: 2, .. })), "{refused:?}");
    lab.net.heal(away);
    lab.catches_up(away, leader).await;
    assert_eq!(lab.at(leader).change_members(remove, SOON).await, Ok(()));
    lab.stop_all().await;
}
