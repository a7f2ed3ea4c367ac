//! Groups over a device in memory: bits, deadlines, lost peers, aborts; and a host without the libraries.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use protocol::plan::RankAddr;
use protocol::step::{GroupHello, StepPlan};
use protocol::{AtomRun, ClusterId, Epoch, Identity, NodeId, Rank, ReductionTree, ReplicaId, Role, WorldSize};

use super::owner::Device;
use super::*;
use crate::collective::QuicGroup;
use crate::{ClusterCa, Collective, CollectiveError, Deadline, LocalCollective, NodeIdentity};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Longer than anything healthy takes on a loaded machine.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

/// What the devices of one group share.
#[derive(Default)]
struct Fabric {
    /// Of each gather, each rank's part once it has come.
    gathers: Mutex<Vec<Vec<Option<Vec<f32>>>>>,
    opened: AtomicUsize,
    closed: AtomicUsize,
    aborted: AtomicUsize,
}

/// A device in memory. It fails at gather `fails_at`.
struct Memory {
    fabric: Arc<Fabric>,
    rank: usize,
    world: usize,
    width: usize,
    /// Gathers begun.
    begun: usize,
    fails_at: Option<usize>,
}

impl Memory {
    fn open(fabric: Arc<Fabric>, rank: usize, world: usize, fails_at: Option<usize>) -> Self {
        fabric.opened.fetch_add(1, Ordering::SeqCst);
        Self { fabric, rank, world, width: 0, begun: 0, fails_at }
    }
}

impl Device for Memory {
    fn poll(&mut self) -> Result<bool, NcclError> {
        match self.begun.checked_sub(1) {
            None => Ok(self.fabric.opened.load(Ordering::SeqCst) == self.world),
            Some(at) => Ok(self.fabric.gathers.lock().expect("whole")[at].iter().all(Option::is_some)),
        }
    }

    fn start(&mut self, mine: &[f32], width: usize) -> Result<(), NcclError> {
        if self.fails_at == Some(self.begun) {
            return Err(broken());
        }
        // What follows a short part is whatever was there.
        let mut part = vec![f32::NAN; width];
        part[..mine.len()].copy_from_slice(mine);
        let mut gathers = self.fabric.gathers.lock().expect("whole");
        if gathers.len() == self.begun {
            gathers.push(vec![None; self.world]);
        }
        gathers[self.begun][self.rank] = Some(part);
        self.width = width;
        self.begun += 1;
        Ok(())
    }

    fn read(&mut self, received: &mut [f32]) -> Result<(), NcclError> {
        assert_eq!(received.len(), self.world * self.width);
        let gathers = self.fabric.gathers.lock().expect("whole");
        for (out, part) in received.chunks_mut(self.width).zip(&gathers[self.begun - 1]) {
            out.copy_from_slice(part.as_deref().expect("polled before"));
        }
        Ok(())
    }

    fn close(self) {
        self.fabric.closed.fetch_add(1, Ordering::SeqCst);
    }

    fn abort(self) {
        self.fabric.aborted.fetch_add(1, Ordering::SeqCst);
    }
}

fn broken() -> NcclError {
    NcclError::Nccl { doing: "gathering", result: "ncclRemoteError".to_owned(), detail: "played".to_owned() }
}

fn name(rank: usize) -> NodeId {
    NodeId::new(format!("node-{rank}")).expect("a label")
}

/// Runs `body` as every rank of a group whose plans' links are formed; the results in rank order.
fn with_links<T: Send>(world: u16, body: impl Fn(&mut NcclGroup) -> T + Sync) -> Vec<T> {
    let ca = ClusterCa::create(ClusterId::from_bytes([1; 16])).expect("keys can be made");
    let size = WorldSize::new(world).expect("small");
    let member = |rank: usize| {
        let issued = ca.issue(&Identity { cluster: ca.cluster(), role: Role::Node, name: name(rank) });
        let identity = NodeIdentity::from_issued(&issued.expect("of this cluster")).expect("just issued");
        QuicGroup::bind(HERE, &identity).expect("a free port")
    };
    let links: Vec<QuicGroup> = (0..usize::from(world)).map(member).collect();
    let addr = |(rank, links): (Rank, &QuicGroup)| {
        RankAddr::new(rank, name(rank.index()), links.local_addr(), links.local_addr())
    };
    let addrs: Vec<RankAddr> = size.ranks().zip(&links).map(addr).collect();
    thread::scope(|scope| {
        let run = |(rank, links): (Rank, QuicGroup)| {
            let (addrs, body) = (&addrs, &body);
            scope.spawn(move || {
                let mut group = NcclGroup::over(links, CudaOrdinal(rank.0));
                let hello =
                    GroupHello { replica: ReplicaId(7), rank, world_size: size, model_digest: "sha256:abc".to_owned() };
                group.plans().form(hello, Epoch(3), addrs, LONG).expect("all ranks are here");
                body(&mut group)
            })
        };
        let threads: Vec<_> = size.ranks().zip(links).map(run).collect();
        threads.into_iter().map(|t| t.join().expect("no rank panics")).collect()
    })
}

/// As [`with_links`], with devices in memory; `body` ends together on all ranks.
fn with_group<T: Send>(
    world: u16,
    fabric: &Arc<Fabric>,
    fails_at: impl Fn(Rank) -> Option<usize> + Sync,
    body: impl Fn(&mut NcclGroup) -> T + Sync,
) -> Vec<T> {
    let together = Barrier::new(usize::from(world));
    with_links(world, |group| {
        let (rank, fabric) = (group.rank(), fabric.clone());
        let fails_at = fails_at(rank);
        let open = move || Ok(Memory::open(fabric, rank.index(), usize::from(world), fails_at));
        group.form_on(open, Deadline::after(LONG)).expect("all devices are here");
        let result = body(group);
        together.wait();
        result
    })
}

/// Eight atoms, cut for `ends.len()` ranks.
fn tree(ends: &[u16]) -> ReductionTree {
    let starts = [0].into_iter().chain(ends.iter().copied());
    let runs: Vec<AtomRun> = starts.zip(ends).map(|(start, end)| AtomRun { start, end: *end }).collect();
    ReductionTree::new(8, &runs).expect("covers")
}

/// Two reductions and a gather of unequal parts: the bits.
fn round(group: &mut dyn Collective, tree: &ReductionTree) -> Vec<u32> {
    let rank = group.rank().index();
    let value = |i: usize| 1.0 / (1 + i + 31 * rank) as f32;
    let mut bits = Vec::new();
    for n in [5, 1500] {
        let mine: Vec<f32> = (0..tree.sent_by(rank).len() * n).map(value).collect();
        let mut out = vec![f32::NAN; n];
        group.all_reduce(tree, &mine, &mut out).expect("all ranks take part");
        bits.extend(out.iter().map(|v| v.to_bits()));
    }
    let counts: Vec<usize> = (0..tree.world_size()).map(|r| 7 * r).collect();
    let mine: Vec<f32> = (0..counts[rank]).map(value).collect();
    let mut out = vec![f32::NAN; counts.iter().sum()];
    group.all_gather(&counts, &mine, &mut out).expect("all ranks take part");
    group.all_gather(&vec![0; counts.len()], &[], &mut []).expect("nothing to do");
    bits.extend(out.iter().map(|v| v.to_bits()));
    bits
}

/// What [`round`] gives to each rank of a group of threads.
fn of_threads(tree: &ReductionTree) -> Vec<Vec<u32>> {
    let world = u16::try_from(tree.world_size()).expect("few");
    let group = LocalCollective::group(WorldSize::new(world).expect("small"));
    thread::scope(|scope| {
        let threads: Vec<_> = group.into_iter().map(|mut m| scope.spawn(move || round(&mut m, tree))).collect();
        threads.into_iter().map(|t| t.join().expect("no rank panics")).collect()
    })
}

#[test]
fn the_bits_are_those_of_threads_for_even_and_uneven_cuts() {
    for ends in [vec![8], vec![4, 8], vec![3, 8], vec![0, 8], vec![3, 6, 8]] {
        let tree = tree(&ends);
        let world = u16::try_from(ends.len()).expect("few");
        let fabric = Arc::new(Fabric::default());
        let found = with_group(world, &fabric, |_| None, |group| round(group, &tree));
        assert_eq!(found, of_threads(&tree), "{ends:?}");
        let ended = (fabric.closed.load(Ordering::SeqCst), fabric.aborted.load(Ordering::SeqCst));
        assert_eq!(ended, (ends.len(), 0), "communicators close in peace");
    }
}

/// Needs two devices; anywhere else it says that it was skipped.
#[test]
fn the_bits_are_those_of_threads_on_devices() {
    if let Err(e) = check_libraries() {
        eprintln!("SKIPPED: {e}");
        return;
    }
    let devices = cudarc::driver::CudaContext::device_count().unwrap_or(0);
    if devices < 2 {
        eprintln!("SKIPPED: {devices} CUDA devices, two are needed");
        return;
    }
    let tree = tree(&[3, 8]);
    let together = Barrier::new(2);
    let ids = [NcclId::create().expect("the library is there"), NcclId::create().expect("the library is there")];
    let found = with_links(2, |group| {
        group.form(&ids[0], LONG).expect("both devices are here");
        let bits = round(group, &tree);
        together.wait();
        bits
    });
    assert_eq!(found, of_threads(&tree));
    let late = with_links(2, |group| {
        group.form(&ids[1], LONG).expect("both devices are here");
        let first = group.rank() == Rank(0);
        group.set_step_deadline(SHORT.into());
        let error = first.then(|| group.all_gather(&[1, 1], &[1.0], &mut [0.0; 2]).expect_err("rank 1 does nothing"));
        together.wait();
        error
    });
    assert!(matches!(late[0], Some(CollectiveError::Deadline { .. })), "{late:?}");
}

#[test]
fn plans_go_over_the_links() {
    let plan = StepPlan::last(1);
    with_group(
        2,
        &Arc::default(),
        |_| None,
        |group| {
            if group.rank() == Rank(0) {
                group.send_plan(&plan).expect("the other rank is here");
            } else {
                let got = group.recv_plan(Deadline::after(LONG)).expect("rank 0 is here");
                assert_eq!(got, Some(plan.clone()));
            }
        },
    );
}

#[test]
fn a_rank_that_does_not_gather_fails_the_others_at_their_deadline() {
    let fabric = Arc::new(Fabric::default());
    let body = |group: &mut NcclGroup| {
        if group.rank() == Rank(1) {
            return None;
        }
        group.set_step_deadline(SHORT.into());
        let begun = Instant::now();
        let error = group.all_gather(&[1, 1], &[1.0], &mut [0.0; 2]).expect_err("rank 1 does nothing");
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < LONG);
        let again = group.all_gather(&[1, 1], &[1.0], &mut [0.0; 2]).expect_err("failed before");
        assert!(matches!(again, CollectiveError::NotFormed), "{again}");
        Some(error)
    };
    let errors = with_group(2, &fabric, |_| None, body);
    assert!(matches!(&errors[0], Some(CollectiveError::Deadline { waiting_for, .. }) if *waiting_for == [1]));
    assert_eq!(fabric.aborted.load(Ordering::SeqCst), 1, "what was under way is aborted");
}

#[test]
fn a_rank_that_never_opens_its_device_fails_the_others_at_their_deadline() {
    let together = Barrier::new(2);
    let errors = with_links(2, |group| {
        let error = (group.rank() == Rank(0)).then(|| {
            let open = || Ok(Memory::open(Arc::default(), 0, 2, None));
            group.form_on(open, Deadline::after(SHORT)).expect_err("rank 1 is not there")
        });
        together.wait();
        error
    });
    assert!(matches!(errors[0], Some(CollectiveError::Deadline { .. })), "{errors:?}");
}

#[test]
fn a_broken_device_fails_its_rank_and_at_once_the_others() {
    let fabric = Arc::new(Fabric::default());
    let body = |group: &mut NcclGroup| {
        let begun = Instant::now();
        let error = group.all_gather(&[1, 1], &[1.0], &mut [0.0; 2]).expect_err("rank 1's device is broken");
        assert!(begun.elapsed() < LONG, "not by the deadline of a step");
        error
    };
    let errors = with_group(2, &fabric, |rank| (rank == Rank(1)).then_some(0), body);
    assert!(matches!(errors[0], CollectiveError::PeerLost { rank: Rank(1), .. }), "{errors:?}");
    assert!(matches!(&errors[1], CollectiveError::Nccl(e) if *e == broken()), "{errors:?}");
    assert_eq!(fabric.aborted.load(Ordering::SeqCst), 2);
}

#[test]
fn an_abort_from_another_thread_ends_a_gather() {
    let fabric = Arc::new(Fabric::default());
    let body = |group: &mut NcclGroup| {
        if group.rank() == Rank(1) {
            return None;
        }
        let handle = group.abort_handle();
        thread::scope(|scope| {
            scope.spawn(move || handle.abort());
            group.all_gather(&[1, 1], &[1.0], &mut [0.0; 2]).err()
        })
    };
    let errors = with_group(2, &fabric, |_| None, body);
    assert!(matches!(errors[0], Some(CollectiveError::Aborted)), "{errors:?}");
}

#[test]
fn a_panic_in_a_library_call_is_an_error_of_the_group() {
    let errors = with_links(1, |group| {
        let open = || -> Result<Memory, NcclError> { panic!("played: a symbol is missing") };
        group.form_on(open, Deadline::after(LONG)).expect_err("its thread has panicked")
    });
    assert!(matches!(errors[0], CollectiveError::Nccl(NcclError::ThreadEnded)), "{errors:?}");
}

#[test]
fn a_host_without_the_libraries_gets_a_typed_error() {
    let Err(missing) = check_libraries() else {
        eprintln!("SKIPPED: this host has the CUDA driver and NCCL");
        return;
    };
    assert!(matches!(missing, NcclError::LibraryMissing { .. } | NcclError::TooOld { .. }), "{missing}");
    let id = NcclId::from_bytes(&[0; NcclId::BYTES]).expect("of the right length");
    let errors = with_links(1, |group| {
        let error = group.form(&id, LONG).expect_err("no library");
        assert!(!group.plans().is_formed(), "its peers are told");
        error
    });
    assert!(matches!(&errors[0], CollectiveError::Nccl(e) if *e == missing), "{errors:?}");
}

#[test]
fn an_id_needs_the_library_and_goes_round_as_bytes() {
    match NcclId::create() {
        Ok(id) => assert_eq!(NcclId::from_bytes(id.as_bytes()), Ok(id)),
        Err(e) => assert!(matches!(e, NcclError::LibraryMissing { library: "NCCL", .. }), "{e}"),
    }
    let short = NcclId::from_bytes(&[0; 5]);
    assert_eq!(short, Err(NcclError::BadId { found: 5, expected: NcclId::BYTES }));
}
