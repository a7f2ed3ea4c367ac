//! The chaos tool: `cargo run -p shardglm-chaos -- help`.
//!
//! Not here: what it does (the library). Invariant: the exit code says whether everything held.

/// Command line.
#[derive(Debug, clap::Parser)]
#[command(name = "chaos", about = "Faults against a whole cluster of real processes, and what its clients see")]
struct Args {}

fn main() {
    let Args {} = clap::Parser::parse();
}
