//! The command line: one file a command, parsed by clap, each ending in an [`Exit`].

mod bench;
mod ca;
mod chat;
mod check;
mod completions;
mod coordinator;
mod daemon;
mod deploy;
mod failure;
mod member;
mod node;
mod output;
mod up;
mod worker;

use std::future::Future;

use clap::{Parser, Subcommand};

pub(crate) use failure::{Exit, Failure};
pub(crate) use output::{or_dash, print, print_json, table};

use crate::telemetry::{self, LogArgs};

/// One endpoint for a GLM model, computed by many machines.
#[derive(Debug, Parser)]
#[command(name = "shardglm", version, about, propagate_version = true, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole cluster on this machine and serve a model until Ctrl-C
    Up(up::UpArgs),
    /// Run a coordinator: Raft member, public endpoint and admin API
    Coordinator(coordinator::CoordinatorArgs),
    /// Run a node agent, or list the cluster's nodes
    Node(node::NodeArgs),
    /// Run one rank of one replica; started by the node agent, never by hand
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
    /// Talk to a model in the terminal
    Chat(chat::ChatArgs),
    /// Measure an endpoint under load
    Bench(bench::BenchArgs),
    /// The cluster's coordinators
    Member(member::MemberArgs),
    /// What the cluster should run and how far it is
    Deploy(deploy::DeployArgs),
    /// Validate cluster.toml; print the effective configuration and the memory plan
    Check(check::CheckArgs),
    /// Create a cluster's certificate authority and identities
    Ca(ca::CaArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
}

/// Parses the arguments, runs the command, reports its failure.
pub(crate) fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for: they are not errors, and clap prints them to stdout.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            return error.print().map_or(Exit::Failed, |()| exit);
        }
    };
    match dispatch(cli) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            report(&failure);
            failure.exit()
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one line that says why a command failed")]
fn report(failure: &Failure) {
    eprintln!("shardglm: {failure}");
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let daemon = match &cli.command {
        Command::Coordinator(_) | Command::Worker(_) => true,
        Command::Node(args) => args.is_daemon(),
        _ => false,
    };
    let default = if daemon { "info" } else { "warn" };
    telemetry::init(&cli.log, default).map_err(|e| Failure::usage(anyhow::anyhow!(e)))?;
    install_crypto();
    match cli.command {
        Command::Up(args) => block_on(up::run(args, cli.log)),
        Command::Coordinator(args) => block_on(coordinator::run(args)),
        Command::Node(args) => block_on(node::run(args)),
        Command::Worker(args) => worker::run(&args),
        Command::Chat(args) => block_on(chat::run(args)),
        Command::Bench(args) => block_on(bench::run(args)),
        Command::Member(args) => block_on(member::run(args)),
        Command::Deploy(args) => block_on(deploy::run(args)),
        Command::Check(args) => check::run(&args),
        Command::Ca(args) => ca::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// Two threads: a daemon's I/O must not stand behind one busy task, and compute has threads of its own.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| anyhow::anyhow!("cannot start the runtime: {e}"))?;
    let done = runtime.block_on(command);
    // A read of stdin that a terminal still holds must not keep the process.
    runtime.shutdown_background();
    done
}

/// One crypto provider for the whole process; a second installation is the same one and is ignored.
fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn node_is_a_daemon_and_a_noun() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        let is_daemon = |line: &str| matches!(parse(line), Ok(Command::Node(args)) if args.is_daemon());
        assert!(is_daemon("shardglm node --config cluster.toml --name node-1"));
        assert!(!is_daemon("shardglm node list -o json"));
        assert!(parse("shardglm node --name node-1 list").is_err());
        assert!(parse("shardglm node --name Not_A_Label").is_err());
    }
}
