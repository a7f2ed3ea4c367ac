//! `shardglm completions <shell>`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure, print};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "shardglm", &mut script);
    print(&String::from_utf8_lossy(&script))
}
