//! The chaos tool: `cargo run -p shardglm-chaos -- help`.
//!
//! Not here: what it does (the library). Invariant: the exit code says whether everything held.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use chaos::cluster::{Options, clocks_possible};
use chaos::tool::{Scene, Storm, Table, power_cuts, rows, storm, table};
use chaos::writes::{ROOM_FOR_ONE_REPLICA, WritesAsked, writes};
use clap::{Args, Parser, Subcommand};

/// Command line.
#[derive(Debug, Parser)]
#[command(name = "chaos", about = "Faults against a whole cluster of real processes, and what its clients see")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The `shardglm` to run; else it is built, or stands beside this program
    #[arg(long, global = true, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the daemons' logs go and stay; else they are gone with the cluster
    #[arg(long, global = true, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// What the daemons log
    #[arg(long, global = true, value_name = "FILTER", default_value = "info")]
    filter: String,
    /// Replicas
    #[arg(long, global = true, default_value_t = 1)]
    replicas: u16,
    /// Nodes
    #[arg(long, global = true, default_value_t = 3)]
    nodes: u16,
    /// Only requests of this kind, or one of these
    #[arg(long, global = true)]
    kind: Vec<String>,
    /// Tokens of each answer
    #[arg(long, global = true, default_value_t = 150)]
    tokens: u32,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A schedule of faults while clients read streams
    Chaos {
        /// Reproduces the schedule; else the time of day
        #[arg(long)]
        seed: Option<u64>,
        /// How long
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// Ends after so many faults
        #[arg(long, default_value_t = u64::MAX)]
        faults: u64,
        /// Streams at the same time
        #[arg(long, default_value_t = 4)]
        clients: u64,
        /// Full disks too: each host's state is on a small disk of its own
        #[arg(long)]
        disks: bool,
        /// Clock steps too (needs faketime)
        #[arg(long)]
        clocks: bool,
    },
    /// Faults one by one: what clients saw, time to detect, to re-form, to the next token
    Table {
        /// Rounds of each
        #[arg(long, default_value_t = 20)]
        rounds: u64,
        /// Only faults whose words contain this, or one of these
        #[arg(long)]
        only: Vec<String>,
        /// Where the table is written after each round
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Admins that write while coordinators are struck: what was acknowledged stays, in one order that explains everything
    Writes {
        /// Reproduces the faults and what admins ask for; else the time of day
        #[arg(long)]
        seed: Option<u64>,
        /// How many faults
        #[arg(long, default_value_t = 500)]
        faults: u64,
        /// Nor any after so long
        #[arg(long, default_value_t = 60.0)]
        minutes: f64,
        /// Admins at the same time
        #[arg(long, default_value_t = 6)]
        admins: u32,
    },
    /// Everything killed and started again
    PowerCut {
        /// How often
        #[arg(long, default_value_t = 5)]
        rounds: u64,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether everything held.
fn run(cli: &Cli) -> anyhow::Result<bool> {
    let common = &cli.common;
    let mut options = Options::new(binary(common.binary.as_deref())?);
    options.logs.clone_from(&common.logs);
    options.log_filter.clone_from(&common.filter);
    (options.replicas, options.nodes) = (common.replicas, common.nodes);
    match &cli.verb {
        Verb::Chaos { seed, minutes, faults, clients, disks, clocks } => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let seed = seed.unwrap_or(now.as_secs());
            (options.seed, options.small_disks, options.own_clocks) = (seed, *disks, *clocks);
            if *clocks && !clocks_possible() {
                bail!("--clocks needs libfaketime (apt-get install faketime)");
            }
            say(&format!("seed {seed}"));
            let mut scene = Scene::set(options, common.tokens, &[1, 2], &common.kind)?;
            let lasts = Duration::from_secs_f64(minutes * 60.0);
            let asked = Storm { seed, lasts, faults_max: *faults, clients: *clients };
            let report = storm(&mut scene, &asked, &mut say)?;
            print(&format!("seed {seed}\n{report}"))?;
            Ok(report.broken.is_empty() && report.all_streams().broken() == 0)
        }
        Verb::Table { rounds, only, out } => {
            let wanted = |words: String| only.is_empty() || only.iter().any(|only| words.contains(only));
            let faults: Vec<_> = rows().into_iter().filter(|fault| wanted(fault.to_string())).collect();
            if faults.is_empty() {
                let all: Vec<String> = rows().iter().map(ToString::to_string).collect();
                bail!("--only {}: there is none like it among\n  {}", only.join(", "), all.join("\n  "));
            }
            let mut scene = Scene::set(options, common.tokens, &[1], &common.kind)?;
            let mut keep = |table: &Table| {
                if let Some(Err(error)) = out.as_ref().map(|out| std::fs::write(out, table.to_string())) {
                    say(&format!("the table cannot be written: {error}"));
                }
            };
            let table = table(&mut scene, &faults, *rounds, &mut say, &mut keep)?;
            print(&table.to_string())?;
            Ok(table.broken.is_empty())
        }
        Verb::Writes { seed, faults, minutes, admins } => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let seed = seed.unwrap_or(now.as_secs());
            options.seed = seed;
            options.more_config += ROOM_FOR_ONE_REPLICA;
            say(&format!("seed {seed}"));
            let mut scene = Scene::set(options, common.tokens, &[1], &common.kind)?;
            let lasts = Duration::from_secs_f64(minutes * 60.0);
            let asked = WritesAsked { seed, faults: *faults, lasts, admins: *admins };
            let report = writes(&mut scene, &asked, &mut say)?;
            print(&format!("seed {seed}\n{report}"))?;
            Ok(report.broken.is_empty())
        }
        Verb::PowerCut { rounds } => {
            let mut scene = Scene::set(options, common.tokens, &[1], &common.kind)?;
            let cuts = power_cuts(&mut scene, *rounds, &mut say)?;
            print(&format!("{cuts}\n"))?;
            Ok(cuts.streams.broken() == 0)
        }
    }
}

/// Under `cargo run` the binary is built first, so that it is never an old one.
fn binary(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return given.canonicalize().with_context(|| format!("cannot find {}", given.display()));
    }
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--package", "shardglm", "--bin", "shardglm"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        if !build.status().context("cannot run cargo")?.success() {
            bail!("the binary does not build");
        }
    }
    let beside = std::env::current_exe().context("cannot find this program's file")?.with_file_name("shardglm");
    beside.canonicalize().with_context(|| format!("no --binary, and no {}", beside.display()))
}

/// Progress, which is not a result.
fn say(line: &str) {
    // A terminal that is gone is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}
