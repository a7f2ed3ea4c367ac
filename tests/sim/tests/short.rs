//! The short schedule of `cargo test`: a few seeds, the same each time.
//!
//! Not here: many seeds (`cargo run -p shardglm-sim -- --seeds A..B`).

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use coordinator::sim::Planted;
use sim::fault::Mix;
use sim::run::{Outcome, run_all, run_apart};
use sim::world::Shape;

/// Seeds of the short schedule.
const SEEDS: std::ops::Range<u64> = 0..8;
/// Shorter than what the tool runs.
const SHAPE: Shape = Shape { coordinators: 3, nodes: 3, writers: 2, faults_s: 20, mix: Mix::Every, planted: None };
/// How many run at once.
const JOBS: usize = 2;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_shardglm-sim"))
}

/// Runs seeds until one fails or all have run.
fn all(seeds: std::ops::Range<u64>, shape: Shape) -> Vec<Outcome> {
    let (failed, mut outcomes) = (AtomicBool::new(false), Vec::new());
    let take = |outcome: Outcome| {
        failed.fetch_or(outcome.violation.is_some(), Ordering::Relaxed);
        outcomes.push(outcome);
    };
    run_all(program(), seeds, shape, JOBS, || !failed.load(Ordering::Relaxed), take).expect("the simulator runs");
    outcomes
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
    let [first, second, other] = [3, 3, 4].map(|seed| run_apart(program(), seed, SHAPE).expect("the simulator runs"));
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
