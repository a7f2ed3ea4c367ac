//! The run: admins write, a client reads streams, coordinators are struck one after the other; at the end everything is looked at.
//!
//! Invariant: it fails where a history has no explanation, where no write is acknowledged after everything was healed, or where
//! an answer says what no answer may say.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::admin::{Admin, Shared};
use super::caller::{Caller, CallerError, Ended};
use super::menu::{Strike, Strikes};
use super::register::Register;
use super::report::{Failover, RegisterReport, WritesReport};
use crate::fault::{Aims, Fault, FaultError, Place, Who, heal, inflict};
use crate::history::{self, Moment, Operation, Version, What};
use crate::streams::{Tally, Verdict};
use crate::tool::{Asked, Scene, SceneError};

/// How long after everything is healed a write may take to be acknowledged.
const WRITES_AGAIN: Duration = Duration::from_secs(60);
/// How long the last reads may take, and admins and readers to come to an end.
const ENDS_WITHIN: Duration = Duration::from_secs(90);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Pause before a read that was not answered is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// Streams that failed and are told in words.
const TOLD_MAX: usize = 20;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritesAsked {
    /// Of the faults, and of what admins ask for where.
    pub seed: u64,
    /// How many faults.
    pub faults: u64,
    /// Nor any after so long.
    pub lasts: Duration,
    /// Admins at the same time.
    pub admins: u32,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum WritesError {
    /// A cluster that can no longer be managed at all.
    #[error(transparent)]
    Scene(#[from] SceneError),
    /// No admin.
    #[error(transparent)]
    Caller(#[from] CallerError),
}

/// A fault that was done to a leader, and that another term followed.
struct Struck {
    fault: Fault,
    at: Moment,
}

/// Does it; `say` hears one line a fault.
///
/// # Errors
/// [`WritesError`]; what broke is in the report.
pub fn writes(scene: &mut Scene, asked: &WritesAsked, say: &mut dyn FnMut(&str)) -> Result<WritesReport, WritesError> {
    let caller = Caller::new(&scene.cluster.admin_identity_dir())?;
    let coordinators: Vec<_> = scene.cluster.api().coordinators().iter().map(|c| c.admin).collect();
    let mut registers: Vec<_> = scene.cluster.node_names().map(Register::Cordon).collect();
    registers.push(Register::Replicas("default".to_owned()));
    let (coordinators, registers) = (Arc::new(coordinators), Arc::new(registers));
    let shared = Arc::new(Shared::new(registers.len()));
    let mut report = WritesReport::default();

    let mut start = Vec::new();
    for register in registers.iter() {
        let read = scene.cluster.on_client(until_read(&caller, coordinators[0], register));
        match read {
            Some(version) => start.push(version),
            None => {
                report.broken.push(format!("{register}: cannot be read before any fault"));
                return Ok(report);
            }
        }
    }
    let admins = (0..asked.admins).map(|number| Admin {
        number,
        caller: caller.clone(),
        coordinators: Arc::clone(&coordinators),
        registers: Arc::clone(&registers),
        draws: fastrand::Rng::with_seed(asked.seed.wrapping_mul(1_000).wrapping_add(number.into())),
        shared: Arc::clone(&shared),
    });
    let admins: Vec<_> = admins.map(|admin| scene.cluster.client().spawn(admin.run())).collect();
    let streams = Arc::new(Streams::default());
    let reading =
        scene.cluster.client().spawn(read_streams(scene, asked.seed, Arc::clone(&streams), Arc::clone(&shared)));

    let mut struck = Vec::new();
    let done = strike(scene, asked, &shared, &mut report, &mut struck, say);
    shared.stop.store(true, Ordering::Relaxed);
    let ended = scene.cluster.on_client(async {
        tokio::time::timeout(ENDS_WITHIN, async { (join_all(admins).await, reading.await) }).await
    });
    if ended.is_err() {
        report.broken.push(format!("an admin or a reader did not end within {ENDS_WITHIN:?} of the last fault"));
    }
    done?;

    // Everything that was acknowledged is to be found, at every coordinator.
    for (number, at) in coordinators.iter().enumerate() {
        for (register, name) in registers.iter().enumerate() {
            let called = shared.now();
            let Some(version) = scene.cluster.on_client(until_read(&caller, *at, name)) else {
                report.broken.push(format!("{name}: not to be read at {at} within {ENDS_WITHIN:?} of the end"));
                continue;
            };
            let client = asked.admins + u32::try_from(number).unwrap_or(u32::MAX);
            let operation = Operation { client, called, returned: shared.now(), what: What::Read(version) };
            shared.remember(register, operation);
        }
    }
    conclude(&mut report, &registers, &start, &shared, &struck);
    let mut told = streams.told.lock().unwrap_or_else(PoisonError::into_inner);
    (report.streams, report.failed_streams) = std::mem::take(&mut *told);
    if report.streams.broken() > 0 {
        report.broken.push(format!("{} streams ended in silence or with other tokens", report.streams.broken()));
    }
    Ok(report)
}

/// One fault after the other.
fn strike(
    scene: &mut Scene,
    asked: &WritesAsked,
    shared: &Shared,
    report: &mut WritesReport,
    struck: &mut Vec<Struck>,
    say: &mut dyn FnMut(&str),
) -> Result<(), WritesError> {
    let started = Instant::now();
    for (number, Strike { fault, lasts, calm }) in Strikes::new(asked.seed).enumerate() {
        if report.num_faults() >= asked.faults || started.elapsed() >= asked.lasts {
            break;
        }
        std::thread::sleep(calm);
        let Some((term, aims)) = look(scene) else {
            report.skipped += 1;
            continue;
        };
        let inflicted = match inflict(&mut scene.cluster, fault, &aims) {
            Ok(inflicted) => inflicted,
            Err(FaultError::NoAim(_) | FaultError::Impossible(_)) => {
                report.skipped += 1;
                continue;
            }
            Err(other) => return Err(SceneError::from(other).into()),
        };
        *report.faults.entry(fault.to_string()).or_default() += 1;
        let at = shared.moment(inflicted.since);
        std::thread::sleep(lasts);
        heal(&mut scene.cluster, inflicted).map_err(SceneError::from)?;
        let healed = shared.now();
        let until = Instant::now() + WRITES_AGAIN;
        while !shared.acknowledged_since(healed) {
            if Instant::now() > until {
                report
                    .broken
                    .push(format!("fault {number} ({fault}): no write is acknowledged {WRITES_AGAIN:?} after it"));
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        // A fault that was over before anybody stood for election took no leader.
        if takes_the_leader(fault) && look(scene).is_some_and(|(now, _)| now > term) {
            struck.push(Struck { fault, at });
        }
        say(&format!(
            "{:6.1} s  fault {}: {fault} at {} for {:.1} s; writes again {:.2} s after it was healed",
            started.elapsed().as_secs_f64(),
            report.num_faults(),
            aims.leader,
            lasts.as_secs_f64(),
            Duration::from_nanos(shared.now().0 - healed.0).as_secs_f64()
        ));
    }
    Ok(())
}

/// The term, and who has which role in it.
fn look(scene: &Scene) -> Option<(u64, Aims)> {
    let outlook = scene.cluster.on_client(scene.cluster.api().look())?;
    let aims = Aims::of(&outlook, scene.cluster.options().coordinators).ok()?;
    Some((outlook.term, aims))
}

/// Checks every history, and takes the figures from them.
fn conclude(report: &mut WritesReport, registers: &[Register], start: &[Version], shared: &Shared, struck: &[Struck]) {
    let mut told = shared.told();
    let told = std::mem::take(&mut *told);
    for ((register, start), operations) in registers.iter().zip(start).zip(&told.histories) {
        let mut of = RegisterReport::of(register.to_string(), operations);
        match history::check(*start, operations) {
            Ok(explained) => of.explained = Some(explained),
            Err(violation) => report.broken.push(format!("{register}: {violation}")),
        }
        report.registers.push(of);
    }
    for Struck { fault, at } in struck {
        let Failover { took, .. } = Failover::of(*at, told.histories.iter().flatten());
        report.failovers.entry(fault.to_string()).or_default().add(took);
    }
    report.broken.extend(told.surprises);
    report.nothing = told.nothing;
}

fn takes_the_leader(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::Kill(Who::Leader)
            | Fault::Freeze(Who::Leader)
            | Fault::Unplug(Place::Leader)
            | Fault::Mute(Place::Leader)
            | Fault::Deaf(Place::Leader)
    )
}

/// A read, tried until it is answered.
async fn until_read(caller: &Caller, at: std::net::SocketAddr, register: &Register) -> Option<Version> {
    let tried = async {
        loop {
            if let Ended::Done(version) = caller.read(at, register).await {
                return version;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(ENDS_WITHIN, tried).await.ok()
}

#[derive(Debug, Default)]
struct Streams {
    num_asked: AtomicU64,
    told: Mutex<(Tally, Vec<String>)>,
}

/// A client of the endpoint that reads one stream after the other, each at any gateway.
fn read_streams(
    scene: &Scene,
    seed: u64,
    streams: Arc<Streams>,
    shared: Arc<Shared>,
) -> impl Future<Output = ()> + use<> {
    let mut asker = scene.asker(seed);
    async move {
        while !shared.stop.load(Ordering::Relaxed) {
            let number = streams.num_asked.fetch_add(1, Ordering::Relaxed);
            let name = format!("writes-{seed}-{number}");
            let began = shared.now();
            let Asked { kind, reading, verdict, .. } = asker.next(&name).await;
            let mut told = streams.told.lock().unwrap_or_else(PoisonError::into_inner);
            let (tally, failed) = &mut *told;
            if verdict != Verdict::Identical && failed.len() < TOLD_MAX {
                let at = Duration::from_nanos(began.0).as_secs_f64();
                failed.push(format!("stream {name} ({}) at {at:.1} s: {verdict:?}, {:?}", kind.name, reading.ending));
            }
            tally.add(verdict);
        }
    }
}
