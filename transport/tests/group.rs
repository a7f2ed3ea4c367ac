//! Groups over QUIC, each rank on a thread of its own: the same bits as in one process, and an end to every wait.

mod common;

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use common::{HERE, LONG, ca, member};
use proptest::prelude::*;
use protocol::plan::RankAddr;
use protocol::step::{GroupHello, LogitsWanted, StepPlan, StepSeq};
use protocol::{AtomRun, Epoch, Rank, ReductionTree, ReplicaId, Role, SeqId, WorldSize};
use transport::collective::{FormError, QuicGroup};
use transport::{ClusterCa, Collective, CollectiveError, Deadline, LocalCollective};

fn hello(rank: u16, world: WorldSize) -> GroupHello {
    GroupHello { replica: ReplicaId(7), rank: Rank(rank), world_size: world, model_digest: "sha256:abc".to_owned() }
}

fn bind(ca: &ClusterCa, world: u16) -> (Vec<QuicGroup>, Vec<RankAddr>) {
    let groups: Vec<QuicGroup> = (0..world)
        .map(|r| QuicGroup::bind(HERE, &member(ca, Role::Node, &format!("node-{r}"))).expect("a free port"))
        .collect();
    let addr = |(r, g): (usize, &QuicGroup)| {
        let rank = Rank(u16::try_from(r).expect("few"));
        RankAddr::new(rank, common::name(&format!("node-{r}")), g.local_addr(), g.local_addr())
    };
    let addrs = groups.iter().enumerate().map(addr).collect();
    (groups, addrs)
}

/// Runs `body` as every rank of a formed QUIC group; the results in rank order.
fn with_group<T: Send>(world: u16, body: impl Fn(&mut QuicGroup) -> T + Sync) -> Vec<T> {
    let ca = ca(1);
    let size = WorldSize::new(world).expect("small");
    let (groups, addrs) = bind(&ca, world);
    thread::scope(|scope| {
        let run = |(rank, mut group): (usize, QuicGroup)| {
            let (addrs, body) = (&addrs, &body);
            scope.spawn(move || {
                let rank = u16::try_from(rank).expect("few");
                group.form(hello(rank, size), Epoch(3), addrs, LONG).expect("all ranks are here");
                body(&mut group)
            })
        };
        let threads: Vec<_> = groups.into_iter().enumerate().map(run).collect();
        threads.into_iter().map(|t| t.join().expect("no rank panics")).collect()
    })
}

fn with_threads<T: Send>(world: u16, body: impl Fn(&mut LocalCollective) -> T + Sync) -> Vec<T> {
    let group = LocalCollective::group(WorldSize::new(world).expect("small"));
    thread::scope(|scope| {
        let run = |mut member: LocalCollective| {
            let body = &body;
            scope.spawn(move || body(&mut member))
        };
        let threads: Vec<_> = group.into_iter().map(run).collect();
        threads.into_iter().map(|t| t.join().expect("no rank panics")).collect()
    })
}

/// A tree over eight atoms, cut for `world` ranks at the given places.
fn tree(world: u16, mut cuts: Vec<u16>) -> ReductionTree {
    cuts.truncate(usize::from(world) - 1);
    cuts.resize(usize::from(world) - 1, 8);
    cuts.sort_unstable();
    cuts.push(8);
    let mut start = 0;
    let runs: Vec<AtomRun> = cuts
        .into_iter()
        .map(|end| {
            let run = AtomRun { start, end };
            start = end;
            run
        })
        .collect();
    ReductionTree::new(8, &runs).expect("sorted cuts cover")
}

fn even_tree(world: u16) -> ReductionTree {
    tree(world, (1..world).map(|r| 8 * r / world).collect())
}

/// Values with many different exponents, so that another order of additions shows.
fn values(rank: u16, round: u64, n: usize) -> Vec<f32> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(rank) + 1).wrapping_add(round * 77);
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mantissa = ((x >> 40) as f32) / (1 << 24) as f32 - 0.5;
            mantissa * (((x >> 33) % 23) as f32 - 11.0).exp2()
        })
        .collect()
}

fn rounds<C: Collective>(c: &mut C, tree: &ReductionTree, widths: &[usize]) -> Vec<u32> {
    let mut bits = Vec::new();
    for (round, n) in widths.iter().enumerate() {
        let rank = c.rank();
        let mine = values(rank.0, round as u64, tree.sent_by(rank.index()).len() * n);
        let mut out = vec![f32::NAN; *n];
        c.all_reduce(tree, &mine, &mut out).expect("nobody fails");
        bits.extend(out.iter().map(|v| v.to_bits()));
        let counts: Vec<usize> = (0..usize::from(c.world_size().get())).map(|r| (n * r * 3) % 101).collect();
        let mine = values(rank.0, 1000 + round as u64, counts[rank.index()]);
        let mut out = vec![f32::NAN; counts.iter().sum()];
        c.all_gather(&counts, &mine, &mut out).expect("nobody fails");
        bits.extend(out.iter().map(|v| v.to_bits()));
    }
    bits
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn quic_and_threads_give_the_same_bits(
        world in 2u16..=4,
        cuts in prop::collection::vec(0u16..=8, 3),
        widths in prop::collection::vec(1usize..5000, 1..4),
    ) {
        let tree = tree(world, cuts);
        let quic = with_group(world, |g| rounds(g, &tree, &widths));
        let local = with_threads(world, |g| rounds(g, &tree, &widths));
        prop_assert_eq!(&quic, &local);
        prop_assert!(quic.iter().all(|bits| *bits == quic[0]), "every rank has the same");
    }
}

#[test]
fn a_sum_does_not_depend_on_the_number_of_ranks() {
    let n = 777;
    let atoms: Vec<Vec<f32>> = (0..8).map(|a| values(a, 0, n)).collect();
    let sum = |world: u16| {
        let tree = even_tree(world);
        let out = with_group(world, |g| {
            let mut mine = Vec::new();
            for subtree in tree.sent_by(g.rank().index()) {
                mine.extend(sum_of(*subtree, &atoms));
            }
            let mut out = vec![0.0; n];
            g.all_reduce(&tree, &mine, &mut out).expect("nobody fails");
            out
        });
        out[0].iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let one = sum(1);
    for world in 2..=4 {
        assert!(one == sum(world), "world size {world}");
    }
}

fn sum_of(s: protocol::Subtree, atoms: &[Vec<f32>]) -> Vec<f32> {
    match s.children() {
        None => atoms[usize::from(s.lo)].clone(),
        Some((l, r)) => sum_of(l, atoms).iter().zip(sum_of(r, atoms)).map(|(a, b)| a + b).collect(),
    }
}

#[test]
fn large_messages_interleave_without_deadlock() {
    let n = 3 << 20;
    let tree = even_tree(2);
    let out = with_group(2, |g| {
        let mine = vec![f32::from(g.rank().0) + 1.0; n];
        let mut out = vec![0.0; n];
        for _ in 0..2 {
            g.all_reduce(&tree, &mine, &mut out).expect("nobody fails");
        }
        out.iter().all(|v| *v == 3.0)
    });
    assert_eq!(out, [true, true]);
}

fn plan(step: u64) -> StepPlan {
    let seq = StepSeq {
        seq: SeqId(1),
        start: 0,
        tokens: vec![1, 2, 3],
        blocks: vec![0],
        pictures: vec![],
        logits: LogitsWanted::Last,
    };
    StepPlan { seqs: vec![seq; 3], ..StepPlan::last(step) }
}

#[test]
fn plans_and_collectives_share_the_link_in_order() {
    let tree = even_tree(3);
    let steps = with_group(3, |g| {
        let mut seen = Vec::new();
        for step in 1..=20 {
            if g.rank() == Rank(0) {
                g.send_plan(&plan(step)).expect("all are here");
            } else {
                let got = g.recv_plan(LONG.into()).expect("all are here").expect("within the deadline");
                assert_eq!(got, plan(step));
                seen.push(got.step);
            }
            let mine = values(g.rank().0, step, tree.sent_by(g.rank().index()).len() * 64);
            g.all_reduce(&tree, &mine, &mut [0.0; 64]).expect("all are here");
        }
        seen
    });
    assert_eq!(steps[1], (1..=20).collect::<Vec<_>>());
    assert_eq!(steps[1], steps[2]);
}

#[test]
fn no_plan_within_the_deadline_is_no_fault() {
    let both = Barrier::new(2);
    with_group(2, |g| {
        if g.rank() == Rank(0) {
            both.wait();
            g.send_plan(&plan(1)).expect("the other rank still waits");
            g.all_gather(&[1, 1], &[0.0], &mut [0.0; 2]).expect("both are here");
        } else {
            let none = g.recv_plan(Duration::from_millis(30).into()).expect("silence is no fault");
            assert_eq!(none, None);
            both.wait();
            assert!(g.recv_plan(LONG.into()).expect("rank 0 is here").is_some());
            g.all_gather(&[1, 1], &[0.0], &mut [0.0; 2]).expect("both are here");
        }
    });
}

/// Processor time of this thread so far, in ticks of 10 ms.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a name in brackets").split(' ').collect();
    // User and system time are fields 14 and 15, the state behind the name being 3 (proc(5)).
    [11, 12].iter().map(|i| fields[*i].parse::<u64>().expect("a number")).sum()
}

#[test]
fn waiting_costs_no_processor_time() {
    let spent = with_group(2, |g| {
        g.all_gather(&[1, 1], &[0.0], &mut [0.0; 2]).expect("both are here");
        let start = ticks();
        if g.rank() == Rank(1) {
            let none = g.recv_plan(Duration::from_secs(1).into()).expect("rank 0 is idle, not gone");
            assert_eq!(none, None);
            g.recv_plan(LONG.into()).expect_err("rank 0 ends");
        } else {
            g.run_until(async { tokio::time::sleep(Duration::from_millis(1200)).await }).expect("rank 1 waits");
        }
        ticks() - start
    });
    assert!(spent.iter().all(|t| *t < 20), "{spent:?} ticks of 100 in a second");
}

#[test]
fn a_rank_that_ends_in_a_collective_fails_the_others_at_once() {
    let tree = even_tree(3);
    let errors = with_group(3, |g| {
        g.set_step_deadline(LONG.into());
        if g.rank() == Rank(2) {
            return None;
        }
        let mine = vec![1.0; tree.sent_by(g.rank().index()).len() * 1000];
        let start = Instant::now();
        let e = g.all_reduce(&tree, &mine, &mut [0.0; 1000]).expect_err("rank 2 is gone");
        assert!(start.elapsed() < LONG / 4, "{:?}", start.elapsed());
        let after = g.all_reduce(&tree, &mine, &mut [0.0; 1000]).expect_err("the group is gone");
        assert!(matches!(after, CollectiveError::NotFormed), "{after}");
        Some(e)
    });
    for e in errors.into_iter().flatten() {
        // Rank 2 itself, or a rank that saw its end first.
        assert!(matches!(e, CollectiveError::PeerLost { .. }), "{e}");
    }
}

#[test]
fn waiting_for_a_plan_ends_when_rank_0_does() {
    with_group(2, |g| {
        if g.rank() == Rank(1) {
            let start = Instant::now();
            let e = g.recv_plan(LONG.into()).expect_err("rank 0 is gone");
            assert!(matches!(e, CollectiveError::PeerLost { rank: Rank(0), .. }), "{e}");
            assert!(start.elapsed() < LONG / 4);
        }
    });
}

#[test]
fn idle_ends_when_a_peer_does() {
    with_group(2, |g| {
        if g.rank() == Rank(0) {
            let e = g.run_until(std::future::pending::<()>()).expect_err("rank 1 is gone");
            assert!(matches!(e, CollectiveError::PeerLost { rank: Rank(1), .. }), "{e}");
            assert_eq!(g.run_until(async { 5 }).expect("idle again"), 5);
        }
    });
}

#[test]
fn an_abort_from_another_thread_ends_a_collective_and_all_after_it() {
    let over = Barrier::new(2);
    with_group(2, |g| {
        g.set_step_deadline(LONG.into());
        if g.rank() == Rank(1) {
            // Takes no part; what rank 0 leaves behind is seen afterwards.
            over.wait();
            let e = g.recv_plan(LONG.into()).expect_err("rank 0 has aborted");
            assert!(matches!(e, CollectiveError::PeerLost { .. } | CollectiveError::BadFrame { .. }), "{e}");
            return;
        }
        let start = Instant::now();
        let e = abort_while(g, |g| g.all_gather(&[1, 1], &[0.0], &mut [0.0; 2]).expect_err("aborted"));
        assert!(matches!(e, CollectiveError::Aborted), "{e}");
        assert!(start.elapsed() < LONG / 4);
        let later = g.send_plan(&plan(1)).expect_err("aborted for good");
        assert!(matches!(later, CollectiveError::Aborted), "{later}");
        assert!(matches!(g.run_until(async {}), Err(CollectiveError::Aborted)));
        over.wait();
    });
}

#[test]
fn an_abort_from_another_thread_ends_a_wait_for_a_plan() {
    with_group(2, |g| {
        if g.rank() == Rank(1) {
            let start = Instant::now();
            let e = abort_while(g, |g| g.recv_plan(LONG.into()).expect_err("aborted"));
            assert!(matches!(e, CollectiveError::Aborted), "{e}");
            assert!(start.elapsed() < LONG / 4);
        } else {
            let e = g.run_until(std::future::pending::<()>()).expect_err("rank 1 has aborted");
            assert!(matches!(e, CollectiveError::PeerLost { rank: Rank(1), .. }), "{e}");
        }
    });
}

/// `wait`, while another thread aborts the rank.
fn abort_while<T>(g: &mut QuicGroup, wait: impl FnOnce(&mut QuicGroup) -> T) -> T {
    let handle = g.abort_handle();
    thread::scope(|s| {
        s.spawn(move || handle.abort());
        wait(g)
    })
}

#[test]
fn an_abort_of_a_sleeping_local_rank_wakes_it() {
    let mut group = LocalCollective::group(WorldSize::new(2).expect("small"));
    let (other, mut one) = (group.pop(), group.remove(0));
    let handle = one.abort_handle();
    thread::scope(|s| {
        s.spawn(move || handle.abort());
        let e = one.all_gather(&[1, 1], &[0.0], &mut [0.0; 2]).expect_err("aborted");
        assert!(matches!(e, CollectiveError::Aborted), "{e}");
    });
    drop(other);
}

#[test]
fn a_silent_peer_is_given_up_at_the_deadline() {
    let done = Barrier::new(2);
    with_group(2, |g| {
        if g.rank() == Rank(0) {
            g.set_step_deadline(Duration::from_millis(100).into());
            let e = g.all_gather(&[1, 1], &[0.0], &mut [0.0; 2]).expect_err("rank 1 does not take part");
            let CollectiveError::Deadline { waiting_for, .. } = &e else { panic!("{e}") };
            assert_eq!(waiting_for, &[1]);
        }
        done.wait();
    });
}

#[test]
fn ranks_that_disagree_get_an_error() {
    let errors = with_group(2, |g| {
        let n = usize::from(g.rank().0) + 1;
        let counts = [n, n];
        g.all_gather(&counts, &vec![0.0; n], &mut vec![0.0; 2 * n]).expect_err("they count differently").to_string()
    });
    assert!(errors.iter().any(|e| e.contains("out of step")), "{errors:?}");
}

#[test]
fn wrong_lengths_are_found_before_anything_is_sent() {
    with_group(2, |g| {
        let tree = even_tree(2);
        let e = g.all_reduce(&tree, &[0.0; 3], &mut [0.0; 4]).expect_err("three are not four");
        assert!(matches!(e, CollectiveError::WrongLength { found: 3, expected: 4, .. }), "{e}");
        let e = g.all_reduce(&even_tree(3), &[0.0; 4], &mut [0.0; 4]).expect_err("a tree of three ranks");
        assert!(matches!(e, CollectiveError::WrongLength { found: 3, expected: 2, .. }), "{e}");
        g.all_reduce(&tree, &[0.0; 4], &mut [0.0; 4]).expect("the group is whole");
    });
}

/// Forms with each rank's own idea of the group; each rank's result.
fn form_each(
    world: u16,
    wait: Duration,
    idea: impl Fn(u16) -> (GroupHello, Epoch) + Sync,
) -> Vec<Result<(), FormError>> {
    let (groups, addrs) = bind(&ca(1), world);
    let all = Barrier::new(usize::from(world));
    thread::scope(|scope| {
        let run = |(rank, mut group): (usize, QuicGroup)| {
            let (idea, addrs, all) = (&idea, &addrs, &all);
            scope.spawn(move || {
                let (hello, epoch) = idea(u16::try_from(rank).expect("few"));
                let done = group.form(hello, epoch, addrs, wait);
                all.wait();
                done
            })
        };
        let threads: Vec<_> = groups.into_iter().enumerate().map(run).collect();
        threads.into_iter().map(|t| t.join().expect("no rank panics")).collect()
    })
}

#[test]
fn another_epoch_forms_no_group() {
    let two = WorldSize::new(2).expect("small");
    let wait = Duration::from_secs(1);
    // The dialling rank is stale: it is refused, and the other goes on waiting for the right one.
    let done = form_each(2, wait, |r| (hello(r, two), Epoch(u64::from(5 - r))));
    assert!(matches!(&done[0], Err(FormError::Deadline { missing, .. }) if missing == &[1]), "{done:?}");
    assert!(matches!(&done[1], Err(FormError::Refused { rank: Rank(0), .. })), "{done:?}");
    // The accepting rank is stale: it learns so and gives up.
    let done = form_each(2, LONG, |r| (hello(r, two), Epoch(u64::from(5 + r))));
    assert!(matches!(&done[0], Err(FormError::Mismatch { what: "epoch", .. })), "{done:?}");
    assert!(done[1].is_err(), "{done:?}");
}

#[test]
fn another_model_or_replica_forms_no_group() {
    let two = WorldSize::new(2).expect("small");
    let done = form_each(2, LONG, |r| {
        let digest = format!("sha256:{r}");
        (GroupHello { model_digest: digest, ..hello(r, two) }, Epoch(1))
    });
    assert!(matches!(&done[0], Err(FormError::Mismatch { what: "model digest", .. })), "{done:?}");
    assert!(done[1].is_err(), "{done:?}");
    let done = form_each(2, LONG, |r| (GroupHello { replica: ReplicaId(u64::from(r)), ..hello(r, two) }, Epoch(1)));
    assert!(done.iter().all(Result::is_err), "{done:?}");
}

#[test]
fn a_rank_on_the_wrong_node_is_refused() {
    let ca = ca(1);
    let two = WorldSize::new(2).expect("small");
    let (mut groups, mut addrs) = bind(&ca, 2);
    // The plan has rank 1 on node-9, but node-1 comes.
    addrs[1] = RankAddr::new(Rank(1), common::name("node-9"), groups[1].local_addr(), groups[1].local_addr());
    let (mut one, mut zero) = (groups.pop().expect("two"), groups.pop().expect("two"));
    thread::scope(|s| {
        let addrs = &addrs;
        let zero = s.spawn(move || zero.form(hello(0, two), Epoch(1), addrs, Duration::from_secs(1)));
        let refused = one.form(hello(1, two), Epoch(1), addrs, LONG);
        assert!(matches!(refused, Err(FormError::Refused { .. })), "{refused:?}");
        let late = zero.join().expect("no panic");
        assert!(matches!(late, Err(FormError::Deadline { .. })), "{late:?}");
    });
}

#[test]
fn a_peer_that_is_not_the_planned_node_is_not_talked_to() {
    let ca = ca(1);
    let two = WorldSize::new(2).expect("small");
    let (mut groups, mut addrs) = bind(&ca, 2);
    addrs[0] = RankAddr::new(Rank(0), common::name("node-9"), groups[0].local_addr(), groups[0].local_addr());
    let (mut one, mut zero) = (groups.pop().expect("two"), groups.pop().expect("two"));
    thread::scope(|s| {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        s.spawn(move || zero.run_until(stopped));
        let e = one.form(hello(1, two), Epoch(1), &addrs, LONG).expect_err("node-0 is not node-9");
        let FormError::Connect { rank: Rank(0), source } = &e else { panic!("{e:?}") };
        assert!(source.to_string().contains("node-9"), "{source}");
        drop(stop);
    });
}

#[test]
fn nobody_there_is_named_at_the_deadline() {
    let two = WorldSize::new(2).expect("small");
    let (mut groups, addrs) = bind(&ca(1), 2);
    drop(groups.remove(0));
    let e = groups[0].form(hello(1, two), Epoch(1), &addrs, Duration::from_millis(300)).expect_err("rank 0 is gone");
    assert!(matches!(&e, FormError::Deadline { missing, .. } if missing == &[0]), "{e}");
}

#[test]
fn a_group_forms_again_under_a_higher_epoch() {
    let two = WorldSize::new(2).expect("small");
    let (groups, addrs) = bind(&ca(1), 2);
    let both = Barrier::new(2);
    thread::scope(|scope| {
        for (rank, mut group) in groups.into_iter().enumerate() {
            let (addrs, both) = (&addrs, &both);
            scope.spawn(move || {
                let rank = u16::try_from(rank).expect("few");
                for epoch in 1..=3 {
                    group.form(hello(rank, two), Epoch(epoch), addrs, LONG).expect("both are here");
                    let mut out = [0.0; 2];
                    group.all_gather(&[1, 1], &[f32::from(rank)], &mut out).expect("both are here");
                    assert_eq!(out, [0.0, 1.0]);
                    both.wait();
                }
            });
        }
    });
}

#[test]
fn a_rank_may_come_late() {
    let two = WorldSize::new(2).expect("small");
    let (mut groups, addrs) = bind(&ca(1), 2);
    let (mut one, mut zero) = (groups.pop().expect("two"), groups.pop().expect("two"));
    thread::scope(|s| {
        let addrs = &addrs;
        let (dialled, wait) = tokio::sync::oneshot::channel::<()>();
        s.spawn(move || {
            drop(dialled);
            one.form(hello(1, two), Epoch(1), addrs, LONG).expect("rank 0 comes in the end");
        });
        // Idle, it serves the handshake of a peer that is earlier.
        let _ = zero.run_until(wait).expect("not aborted");
        zero.form(hello(0, two), Epoch(1), addrs, LONG).expect("rank 1 waits");
    });
}

#[test]
fn a_deadline_in_the_past_is_no_wait() {
    let past = Deadline::after(Duration::ZERO);
    assert!(past.passed(Instant::now()) && past.remaining().is_zero());
}
