//! The short schedule of `cargo test`: a few seeds, the same each time.
//!
//! Not here: many seeds (`cargo run -p shardglm-sim -- --seeds A..B`).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use coordinator::sim::Planted;
use sim::fault::Mix;
use sim::run::{Outcome, run_apart};
use sim::world::Shape;

/// Seeds of the short schedule.
const SEEDS: std::ops::Range<u64> = 0..8;
/// Shorter than what the tool runs.
const SHAPE: Shape = Shape { coordinators: 3, nodes: 3, writers: 2, faults_s: 20, mix: Mix::Every, planted: None };
/// How many run at once.
const JOBS: usize = 2;

fn run(seed: u64, shape: Shape) -> Outcome {
    run_apart(env!("CARGO_BIN_EXE_shardglm-sim").as_ref(), seed, shape).expect("the simulator runs")
}

/// Runs seeds until one fails or all have run.
fn all(seeds: std::ops::Range<u64>, shape: Shape) -> Vec<Outcome> {
    let (next, outcomes) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed, shape);
                    if outcome.violation.is_some() {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                    outcomes.lock().expect("nothing panics in it").push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().expect("nothing panics in it")
}

#[test]
fn everything_holds_in_the_short_schedule() {
    for outcome in all(SEEDS, SHAPE) {
        assert!(outcome.violation.is_none(), "{}", outcome.report());
        assert!(outcome.num_events > 1_000, "seed {}: {} events", outcome.seed, outcome.num_events);
    }
}

#[test]
fn a_seed_gives_the_same_run_to_the_last_event() {
    let [first, second, other] = [3, 3, 4].map(|seed| run(seed, SHAPE));
    assert_eq!(first, second);
    assert_ne!(first.digest, other.digest);
}

/// A bug that is easy to make in a store: entries are acknowledged before they are on the disk.
#[test]
fn a_bug_that_is_put_back_is_found() {
    let shape = Shape { planted: Some(Planted::EntriesNotSynced), mix: Mix::PowerCuts, ..SHAPE };
    let found = all(0..16, shape).into_iter().find_map(|outcome| outcome.violation);
    let (invariant, what) = found.expect("acknowledged writes are lost");
    let lost = ["one state per index", "no acknowledged write lost", "all comes back by itself"];
    assert!(lost.contains(&invariant.as_str()), "{invariant}: {what}");
}
