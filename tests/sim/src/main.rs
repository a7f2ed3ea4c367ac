//! `shardglm-sim`: one seed with its trace, or many seeds and a table.
#![expect(clippy::print_stdout, reason = "what it is for")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sim::fault::Mix;
use sim::invariants;
use sim::run::{Outcome, run, run_all};
use sim::world::Shape;

#[derive(Debug, Parser)]
#[command(about = "A whole cluster on one thread, in simulated time, by a seed")]
struct Args {
    /// Runs this seed and prints every event
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Runs these seeds: A..B, B not among them
    #[arg(long, value_parser = range, default_value = "0..100")]
    seeds: std::ops::Range<u64>,
    /// Starts no further seed after so many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// How long faults come, s
    #[arg(long, default_value_t = Shape::default().faults_s)]
    faults_s: u64,
    /// No faults but those that take power or a process away
    #[arg(long)]
    power_cuts: bool,
    /// With --seed: no trace, but the outcome as JSON
    #[arg(long, requires = "seed")]
    json: bool,
    /// How many seeds run at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// A bug that is put back: entries-not-synced
    #[arg(long, value_parser = planted)]
    plant: Option<coordinator::sim::Planted>,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let wrong = || format!("`{text}` is no range, expected A..B");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    Ok(from.parse().map_err(|_| wrong())?..to.parse().map_err(|_| wrong())?)
}

fn planted(text: &str) -> Result<coordinator::sim::Planted, String> {
    match text {
        "entries-not-synced" => Ok(coordinator::sim::Planted::EntriesNotSynced),
        other => Err(format!("`{other}` is no bug that can be put back")),
    }
}

/// What many runs come to.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    events: u64,
    faults: BTreeMap<String, u64>,
    failed: Vec<Outcome>,
}

impl Total {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.events += outcome.num_events;
        for (kind, num) in &outcome.num_faults {
            *self.faults.entry(kind.clone()).or_default() += num;
        }
        if outcome.violation.is_some() {
            println!("{}", outcome.report());
            self.failed.push(outcome);
        }
    }
}

/// One seed in this process.
fn one(seed: u64, shape: Shape, json: bool) -> anyhow::Result<ExitCode> {
    let outcome = run(seed, shape, !json);
    if json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        println!("seed {seed}: {} events, digest {:016x}", outcome.num_events, outcome.digest);
        println!("{}", outcome.verdict());
    }
    Ok(if outcome.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mix = if args.power_cuts { Mix::PowerCuts } else { Mix::Every };
    let shape = Shape { planted: args.plant, faults_s: args.faults_s, mix, ..Shape::default() };
    if let Some(seed) = args.seed {
        return one(seed, shape, args.json);
    }
    let (program, started) = (std::env::current_exe()?, Instant::now());
    let until = args.minutes.map(|minutes| started + Duration::from_secs_f64(minutes * 60.0));
    let in_time = || until.is_none_or(|until| Instant::now() < until);
    let mut total = Total::default();
    run_all(&program, args.seeds, shape, args.jobs, in_time, |outcome| total.add(outcome))?;
    println!("seeds {}, events {}, {:.0} s", total.seeds, total.events, started.elapsed().as_secs_f64());
    let faults: Vec<_> = total.faults.iter().map(|(kind, num)| format!("{kind} {num}")).collect();
    println!("faults {}: {}", total.faults.values().sum::<u64>(), faults.join(", "));
    let names: Vec<_> = invariants::all().iter().map(|i| i.name()).collect();
    println!("invariants: {}", names.join("; "));
    let failed: Vec<_> = total.failed.iter().map(|o| o.seed.to_string()).collect();
    println!("failed: {}", if failed.is_empty() { "none".to_owned() } else { failed.join(", ") });
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
