//! `shardglm member list`: the coordinators.

use super::output::{Format, OutputArgs};
use super::{Failure, print, print_json, table};
use crate::admin::{AdminArgs, AdminClient};

/// Arguments of `member`.
#[derive(Debug, clap::Args)]
pub(super) struct MemberArgs {
    #[command(subcommand)]
    verb: MemberVerb,
}

#[derive(Debug, clap::Subcommand)]
enum MemberVerb {
    /// List the coordinators, their roles and addresses
    List {
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Runs the verb.
pub(super) async fn run(args: MemberArgs) -> Result<(), Failure> {
    let MemberVerb::List { admin, output } = args.verb;
    let listing = AdminClient::new(&admin)?.members().await?;
    if output.output == Format::Json {
        return print_json(&listing);
    }
    let rows = listing
        .items
        .into_iter()
        .map(|m| vec![m.id.to_string(), m.role, m.term.to_string(), m.internal_addr, m.admin_addr, m.public_addr]);
    print(&table(&["id", "role", "term", "internal", "admin", "public"], rows))
}
