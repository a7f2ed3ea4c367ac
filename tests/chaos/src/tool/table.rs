//! Faults one by one, each for many rounds: what clients saw, and how long detecting, forming again and the next token
//! took.
//!
//! In each round one client reads a stream through each gateway when the fault comes; all three count, and the longest gap
//! of the three is the round's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::scene::{Scene, SceneError};
use crate::cluster::{Cluster, Event, Mark, SERVES_WITHIN};
use crate::fault::{Fault, FaultError, Place, Who, heal, inflict};
use crate::figures::Durations;
use crate::streams::{Reading, Tally, Verdict};
use crate::timeline::Times;

/// Tokens that each client has read when the fault comes.
const TOKENS_BEFORE: usize = 10;
/// A fault is healed when all clients have their answers, or after this.
const LASTS_MAX: Duration = Duration::from_secs(20);
/// How long links between coordinators are left to themselves after a fault: one that died in it may be taken for alive for
/// as long as its idle time-out, and a stream that is kept over it meanwhile would suffer two faults.
const SETTLES: Duration = Duration::from_secs(6);
/// Of a longer time without a token it is told whom the client asked in it: the longest that one silence and the work of going
/// on account for.
const SLOW: Duration = Duration::from_secs(6);
/// How long the streams may take to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);

/// The rows: each process killed and stopped, each link cut.
#[must_use]
pub fn rows() -> Vec<Fault> {
    let whos = [Who::Rank(0), Who::Rank(1), Who::Agent(0), Who::Leader, Who::Follower];
    let mut rows: Vec<Fault> = whos.iter().flat_map(|who| [Fault::Kill(*who), Fault::Freeze(*who)]).collect();
    let places = [Place::Rank(0), Place::Rank(1), Place::Leader, Place::Follower];
    rows.extend(places.map(Fault::Unplug));
    rows.extend([
        Fault::Cut(Place::Rank(0), Place::Rank(1)),
        Fault::Cut(Place::Leader, Place::Rank(0)),
        Fault::Cut(Place::Leader, Place::Rank(1)),
        Fault::Cut(Place::Follower, Place::Rank(0)),
        Fault::Cut(Place::Leader, Place::Follower),
        Fault::Mute(Place::Leader),
        Fault::Deaf(Place::Leader),
    ]);
    rows
}

/// One fault's figures.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Rounds that were done.
    pub rounds: u64,
    /// What clients saw.
    pub streams: Tally,
    /// How often one went on at another gateway.
    pub picked_up: u64,
    /// See [`Times::detect`].
    pub detect: Durations,
    /// See [`Times::reform`].
    pub reform: Durations,
    /// Longest time without a token.
    pub next_token: Durations,
    /// From healing until every gateway said ready.
    pub serving: Durations,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// By fault, in the order of [`rows`].
    pub rows: BTreeMap<Fault, Row>,
    /// What must never be, in words.
    pub broken: Vec<String>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| fault | rounds | streams | went on elsewhere | detect | re-form | next token | all ready after healing |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for (fault, row) in &self.rows {
            let Row { rounds, streams, picked_up, detect, reform, next_token, serving } = row;
            writeln!(
                f,
                "| {fault} | {rounds} | {streams} | {picked_up} | {detect} | {reform} | {next_token} | {serving} |"
            )?;
        }
        self.broken.iter().try_for_each(|what| writeln!(f, "\nBROKEN: {what}"))
    }
}

/// Measures `rounds` rounds of each fault, round by round; `say` hears a line a fault, `keep` the table after each round.
///
/// # Errors
/// [`SceneError`].
pub fn table(
    scene: &mut Scene,
    faults: &[Fault],
    rounds: u64,
    say: &mut dyn FnMut(&str),
    keep: &mut dyn FnMut(&Table),
) -> Result<Table, SceneError> {
    let mut table = Table::default();
    for round in 1..=rounds {
        for fault in faults {
            measure(scene, *fault, round, &mut table, say)?;
        }
        keep(&table);
    }
    Ok(table)
}

fn measure(
    scene: &mut Scene,
    fault: Fault,
    round: u64,
    table: &mut Table,
    say: &mut dyn FnMut(&str),
) -> Result<(), SceneError> {
    let clients = scene.cluster.api().coordinators().len();
    let begun: Arc<Vec<AtomicUsize>> = Arc::new((0..clients).map(|_| AtomicUsize::new(0)).collect());
    let which = usize::try_from(round).unwrap_or(0) % scene.expected.len();
    let readings: Vec<_> = (0..clients)
        .map(|gateway| {
            let (reader, expected, begun) = (scene.reader.clone(), Arc::clone(&scene.expected), Arc::clone(&begun));
            let name = format!("table-{round}-{fault:?}-{gateway}").replace(['(', ')', ',', ' '], "-");
            scene.cluster.client().spawn(async move {
                let progress = |tokens| begun[gateway].store(tokens, Ordering::Relaxed);
                reader.read(&expected[which].0, &name, gateway, progress).await
            })
        })
        .collect();
    let all_begun = || begun.iter().all(|tokens| tokens.load(Ordering::Relaxed) >= TOKENS_BEFORE);
    scene.cluster.wait("every stream has begun", BEGINS_WITHIN, async |_| all_begun().then_some(()))?;
    let aims = scene.aims()?;
    let marks = scene.cluster.marks();
    let done = match inflict(&mut scene.cluster, fault, &aims) {
        Ok(done) => done,
        Err(FaultError::Impossible(why)) => {
            say(&format!("round {round}: {fault}: not done, {why}"));
            return Ok(());
        }
        Err(other) => return Err(other.into()),
    };
    let (since, at) = (done.since, done.at);
    while since.elapsed() < LASTS_MAX && !readings.iter().all(tokio::task::JoinHandle::is_finished) {
        std::thread::sleep(crate::cluster::LOOK);
    }
    heal(&mut scene.cluster, done)?;
    let healed = Instant::now();
    let readings = scene.cluster.on_client(futures_util::future::join_all(readings));
    let readings: Vec<Reading> = readings.into_iter().filter_map(Result::ok).collect();
    let serves = scene.cluster.wait("it serves again", SERVES_WITHIN, async |c| c.serves().await.then_some(()));
    let serving = healed.elapsed();
    // The next round is not to suffer from this one.
    let settled = || healed.elapsed() >= SETTLES || !Times::is_between_coordinators(fault);
    let whole = async |c: &Cluster| (settled() && c.is_whole().await).then_some(());
    let whole = scene.cluster.wait("it is whole again", SERVES_WITHIN, whole);
    let events: Vec<Event> = marks.iter().flat_map(Mark::since).collect();
    let times = Times::of(fault, at, &events);

    let row = table.rows.entry(fault).or_default();
    row.rounds += 1;
    for (gateway, reading) in readings.iter().enumerate() {
        let verdict = Verdict::of(&reading.ending, &reading.read, &scene.expected[which].1);
        if verdict.is_broken() {
            table.broken.push(format!("round {round}, {fault}, gateway {gateway}: {verdict:?}, {:?}", reading.ending));
        }
        row.streams.add(verdict);
        row.picked_up += u64::from(reading.picked_up);
    }
    let gap = readings.iter().filter_map(|r| r.longest_gap(since)).max();
    row.detect.add(times.detect);
    row.reform.add(times.reform);
    row.next_token.add(gap);
    row.serving.add(serves.is_ok().then_some(serving));
    let shown = |d: Option<Duration>| d.map_or_else(|| "–".to_owned(), |d| format!("{:.2}", d.as_secs_f64()));
    say(&format!(
        "round {round}: {fault}: detect {}, re-form {}, next token {}, ready {:.2}; so far {}",
        shown(times.detect),
        shown(times.reform),
        shown(gap),
        serving.as_secs_f64(),
        row.streams
    ));
    if gap > Some(SLOW)
        && let Some(slow) = readings.iter().max_by_key(|r| r.longest_gap(since))
        && let Some(first) = slow.asked.first()
    {
        slow.asked.iter().for_each(|a| say(&format!("  after {:.2} s {a}", (a.at - first.at).as_secs_f64())));
    }
    if let Err(late) = serves.and(whole) {
        table.broken.push(format!("round {round}, {fault}: {late}"));
        return Err(late.into());
    }
    Ok(())
}
