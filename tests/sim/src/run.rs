//! One run of one seed, on a thread of its own.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use crate::entropy;
use crate::fact::Recorder;
use crate::fault::Kind;
use crate::invariants::Violation;
use crate::world::{Shape, World};

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The first thing that did not hold.
    pub violation: Option<Violation>,
    /// Digest of all its events.
    pub digest: u64,
    /// How many there were.
    pub num_events: u64,
    /// How many faults of each kind.
    pub num_faults: BTreeMap<Kind, u64>,
    /// The last events before the violation, or the end.
    pub tail: Vec<String>,
}

/// Runs `seed`; `aloud`: prints every event as it comes.
///
/// # Panics
/// When no thread can be started.
#[must_use]
pub fn run(seed: u64, shape: Shape, aloud: bool) -> Outcome {
    let simulate = move || {
        entropy::seed_thread(seed);
        let recorder = Recorder::default().aloud(aloud);
        let mut world = World::new(seed, shape, recorder.clone());
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| world.run()));
        let panicked = |_| Err(Violation { invariant: "nothing panics", what: "the run panicked".to_owned() });
        let violation = ran.unwrap_or_else(panicked).err();
        Outcome {
            seed,
            violation,
            digest: recorder.digest(),
            num_events: recorder.num_events(),
            num_faults: world.num_faults().clone(),
            tail: recorder.tail(),
        }
    };
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).spawn(simulate).expect("room for a thread");
    thread.join().expect("panics are caught on the thread")
}

impl Outcome {
    /// What to print of a run that failed; how to see it again.
    #[must_use]
    pub fn report(&self) -> String {
        let violation = self.violation.as_ref().map_or_else(|| "all holds".to_owned(), ToString::to_string);
        let again = format!("cargo run -p shardglm-sim -- --seed {}", self.seed);
        format!("seed {}: {violation}\n{}\nagain with a trace: {again}", self.seed, self.tail.join("\n"))
    }
}
