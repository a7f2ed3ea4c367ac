//! A storm: clients read streams without pause while one step of a schedule follows the other.
//!
//! Invariant: it fails where a stream ended in silence or with other tokens, or where the cluster does not serve again
//! after everything was healed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::scene::{Asked, Scene, SceneError};
use crate::cluster::ClusterError;
use crate::fault::{FaultError, heal, inflict};
use crate::figures::Durations;
use crate::schedule::{Means, Schedule};
use crate::streams::Tally;

/// How long a cluster whose faults are all healed may take to serve again.
const SERVES_AGAIN: Duration = Duration::from_secs(90);
/// How long clients may take to come to an end with their streams.
const CLIENTS_END: Duration = Duration::from_secs(120);
/// Most broken streams that are told in full.
const TOLD_MAX: usize = 20;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// Of the schedule, and of who asks for what where.
    pub seed: u64,
    /// After so long no fault begins.
    pub lasts: Duration,
    /// Nor after so many.
    pub faults_max: u64,
    /// Streams at the same time.
    pub clients: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct StormReport {
    /// Faults that were done, by their words.
    pub faults: BTreeMap<String, u64>,
    /// Faults that had nobody to aim at.
    pub skipped: u64,
    /// Streams, by kind.
    pub streams: BTreeMap<String, Tally>,
    /// How often a client went on at another gateway.
    pub picked_up: u64,
    /// From the last heal of a step until every gateway said ready.
    pub serving_again: Durations,
    /// What must never be, in words.
    pub broken: Vec<String>,
}

impl StormReport {
    /// How many faults were done.
    #[must_use]
    pub fn num_faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// All streams.
    #[must_use]
    pub fn all_streams(&self) -> Tally {
        let mut all = Tally::default();
        self.streams.values().for_each(|tally| all.merge(tally));
        all
    }
}

impl fmt::Display for StormReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "faults: {} done, {} had nobody to aim at", self.num_faults(), self.skipped)?;
        self.faults.iter().try_for_each(|(fault, count)| writeln!(f, "  {count:4}  {fault}"))?;
        writeln!(f, "streams: {}; gone on with at another gateway {} times", self.all_streams(), self.picked_up)?;
        self.streams.iter().try_for_each(|(kind, tally)| writeln!(f, "  {kind:10}  {tally}"))?;
        writeln!(f, "serving again after everything was healed, s (median / worst): {}", self.serving_again)?;
        match self.broken.as_slice() {
            [] => writeln!(f, "nothing broke"),
            broken => broken.iter().take(TOLD_MAX).try_for_each(|what| writeln!(f, "BROKEN: {what}")),
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    num_asked: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    streams: BTreeMap<String, Tally>,
    picked_up: u64,
    broken: Vec<String>,
}

/// Lets it storm; `say` hears one line a step.
///
/// # Errors
/// [`SceneError`] for a cluster that can no longer be managed at all; what broke is in the report.
pub fn storm(scene: &mut Scene, storm: &Storm, say: &mut dyn FnMut(&str)) -> Result<StormReport, SceneError> {
    let options = scene.cluster.options();
    let means = Means { disks: options.small_disks, clocks: options.own_clocks };
    let schedule = Schedule::new(storm.seed, options.tp, means);
    let shared = Arc::new(Shared::default());
    let clients: Vec<_> = (0..storm.clients)
        .map(|client| scene.cluster.client().spawn(ask_on_and_on(scene, client, storm.seed, Arc::clone(&shared))))
        .collect();
    let mut report = StormReport::default();
    let done = weather(scene, storm, schedule, &mut report, say);
    shared.stop.store(true, Ordering::Relaxed);
    let ended = futures_util::future::join_all(clients);
    let ended = scene.cluster.on_client(async { tokio::time::timeout(CLIENTS_END, ended).await });
    if ended.is_err() {
        report.broken.push(format!("a client did not end within {CLIENTS_END:?} of the last fault"));
    }
    let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = std::mem::take(&mut *seen);
    (report.streams, report.picked_up) = (seen.streams, seen.picked_up);
    report.broken.extend(seen.broken);
    done.map(|()| report)
}

fn weather(
    scene: &mut Scene,
    storm: &Storm,
    schedule: Schedule,
    report: &mut StormReport,
    say: &mut dyn FnMut(&str),
) -> Result<(), SceneError> {
    let started = Instant::now();
    for (number, step) in schedule.enumerate() {
        if started.elapsed() >= storm.lasts || report.num_faults() >= storm.faults_max {
            break;
        }
        std::thread::sleep(step.calm);
        let words: Vec<String> = step.faults.iter().map(ToString::to_string).collect();
        let aims = match scene.aims() {
            Ok(aims) => aims,
            Err(FaultError::NoAim(_)) => {
                report.skipped += 1;
                continue;
            }
            Err(other) => return Err(other.into()),
        };
        let mut inflicted = Vec::new();
        for fault in &step.faults {
            match inflict(&mut scene.cluster, *fault, &aims) {
                Ok(done) => {
                    inflicted.push(done);
                    *report.faults.entry(fault.to_string()).or_default() += 1;
                }
                Err(FaultError::NoAim(_) | FaultError::Impossible(_)) => report.skipped += 1,
                Err(other) => return Err(other.into()),
            }
        }
        std::thread::sleep(step.lasts);
        let mut healed = Ok(());
        for done in inflicted {
            healed = healed.and(heal(&mut scene.cluster, done));
        }
        healed?;
        let since = Instant::now();
        let again = serves_again(scene);
        let took = since.elapsed();
        say(&format!(
            "{:6.1} s  step {number}: {} for {:.1} s, serving again {}",
            started.elapsed().as_secs_f64(),
            words.join(" and "),
            step.lasts.as_secs_f64(),
            if again.is_ok() { format!("after {:.1} s", took.as_secs_f64()) } else { "NEVER".to_owned() }
        ));
        match again {
            Ok(()) => report.serving_again.add(Some(took)),
            Err(ClusterError::Late { .. }) => {
                let words = words.join(" and ");
                report.broken.push(format!("step {number} ({words}): not serving within {SERVES_AGAIN:?} of healing"));
                break;
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

/// Waits until it serves; daemons that end by themselves are started again, as a supervisor would.
fn serves_again(scene: &mut Scene) -> Result<(), ClusterError> {
    const TURN: Duration = Duration::from_secs(2);
    let until = Instant::now() + SERVES_AGAIN;
    loop {
        for name in scene.cluster.stopped_daemons() {
            scene.cluster.start_daemon(&name)?;
        }
        match scene.cluster.wait("it serves again", TURN, async |c| c.serves().await.then_some(())) {
            Err(late) if Instant::now() > until => return Err(late),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

fn ask_on_and_on(scene: &Scene, client: u64, seed: u64, shared: Arc<Shared>) -> impl Future<Output = ()> + use<> {
    let mut asker = scene.asker(seed.wrapping_mul(1_000).wrapping_add(client));
    async move {
        while !shared.stop.load(Ordering::Relaxed) {
            let number = shared.num_asked.fetch_add(1, Ordering::Relaxed);
            let name = format!("storm-{seed}-{client}-{number}");
            let Asked { kind, undisturbed, reading, verdict } = asker.next(&name).await;
            let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.picked_up += u64::from(reading.picked_up);
            if verdict.is_broken() && seen.broken.len() < TOLD_MAX {
                let (tokens, of) = (reading.read.tokens(), undisturbed.tokens());
                let (ending, times) = (&reading.ending, reading.picked_up);
                let what = format!(
                    "stream {name} ({}): {verdict:?}, {ending:?} after {tokens} of {of} tokens, picked up {times} times",
                    kind.name
                );
                seen.broken.push(what);
            }
            let kind = kind.name.split(' ').next().unwrap_or_default();
            seen.streams.entry(kind.to_owned()).or_default().add(verdict);
        }
    }
}
