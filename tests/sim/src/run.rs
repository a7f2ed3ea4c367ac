//! One run of one seed, in a process of its own.
//!
//! What a process counts from its start on (tokio hashes such a count into the seed of each runtime) and what it makes when it is
//! first asked for belong to a run as well. So a process makes one run, and whoever wants many starts as many. Invariant: a run
//! among others is the same run as one alone.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::entropy;
use crate::fact::Recorder;
use crate::fault::Mix;
use crate::world::{Shape, World};

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The first invariant that did not hold, and what was seen.
    pub violation: Option<(String, String)>,
    /// Digest of all its events.
    pub digest: u64,
    /// How many there were.
    pub num_events: u64,
    /// How many faults of each kind, by name.
    pub num_faults: BTreeMap<String, u64>,
    /// The last events before the violation, or the end.
    pub tail: Vec<String>,
}

/// Why a run that was started elsewhere came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The process.
    #[error("cannot run the simulator: {0}")]
    Process(#[from] io::Error),
    /// What it said.
    #[error("seed {seed}: the simulator said `{said}`: {source}")]
    Said {
        /// The seed.
        seed: u64,
        /// Its last words, cut to 200 characters.
        said: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Runs `seed` in this process, which makes no other run; `aloud`: prints every event as it comes.
///
/// # Panics
/// When no thread can be started.
#[must_use]
pub fn run(seed: u64, shape: Shape, aloud: bool) -> Outcome {
    let simulate = move || {
        entropy::seed_thread(seed);
        let recorder = Recorder::default().aloud(aloud);
        let mut world = World::new(seed, shape, recorder.clone());
        let violation = match std::panic::catch_unwind(AssertUnwindSafe(|| world.run())) {
            Ok(ran) => ran.err().map(|violation| (violation.invariant.to_owned(), violation.what)),
            Err(_) => Some(("nothing panics".to_owned(), "the run panicked".to_owned())),
        };
        Outcome {
            seed,
            violation,
            digest: recorder.digest(),
            num_events: recorder.num_events(),
            num_faults: world.num_faults().iter().map(|(kind, num)| (kind.name().to_owned(), *num)).collect(),
            tail: recorder.tail(),
        }
    };
    // Fresh: the keys of hash maps that a thread has drawn stay with it.
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).spawn(simulate).expect("room for a thread");
    thread.join().expect("panics are caught on the thread")
}

/// Has the simulator `program` run `seed`, in a process of its own.
///
/// # Errors
/// [`RunError`].
pub fn run_apart(program: &Path, seed: u64, shape: Shape) -> Result<Outcome, RunError> {
    let mut command = Command::new(program);
    command.args(["--seed", &seed.to_string(), "--faults-s", &shape.faults_s.to_string(), "--json"]);
    if shape.mix == Mix::PowerCuts {
        command.arg("--power-cuts");
    }
    if shape.planted.is_some() {
        command.args(["--plant", "entries-not-synced"]);
    }
    let said = command.output()?.stdout;
    serde_json::from_slice(&said).map_err(|source| {
        let said = String::from_utf8_lossy(&said).chars().take(200).collect();
        RunError::Said { seed, said, source }
    })
}

/// Has the simulator `program` run these seeds, `jobs` at once; `take` hears what came of each. No further one is started once
/// `go_on` says so.
///
/// # Errors
/// [`RunError`] of a run that came to nothing; those that are under way are waited for.
///
/// # Panics
/// When `take` does.
pub fn run_all(
    program: &Path,
    seeds: Range<u64>,
    shape: Shape,
    jobs: usize,
    go_on: impl Fn() -> bool + Sync,
    take: impl FnMut(Outcome) + Send,
) -> Result<(), RunError> {
    let (next, take) = (AtomicU64::new(seeds.start), Mutex::new(take));
    let work = || {
        while go_on() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let outcome = run_apart(program, seed, shape)?;
            (take.lock().expect("nothing panics in it"))(outcome);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("runs do not panic here"))
    })
}

impl Outcome {
    /// What did not hold, in a line.
    #[must_use]
    pub fn verdict(&self) -> String {
        self.violation
            .as_ref()
            .map_or_else(|| "all holds".to_owned(), |(invariant, what)| format!("{invariant}: {what}"))
    }

    /// What to print of a run that failed; how to see it again.
    #[must_use]
    pub fn report(&self) -> String {
        let again = format!("cargo run -p shardglm-sim -- --seed {}", self.seed);
        format!("seed {}: {}\n{}\nagain with a trace: {again}", self.seed, self.verdict(), self.tail.join("\n"))
    }
}
