//! `shardglm member list|add|remove`: the coordinators.
//!
//! Not here: how the members change (the coordinators). A change that is asked for again is done already: that is what
//! `--wait` relies on.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::CoordinatorId;
use protocol::admin::AddMember;
use tokio::time::Instant;

use super::output::{Format, OutputArgs};
use super::{Failure, print, print_json, table};
use crate::admin::{AdminArgs, AdminClient, AdminError};

/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

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
    /// Add a coordinator that runs already, with an empty state directory
    Add {
        /// Its id; one that no coordinator of this cluster ever had
        #[arg(long)]
        id: u64,
        /// Its internal address, as the others reach it
        #[arg(long, value_name = "IP:PORT")]
        internal: SocketAddr,
        /// Its admin address
        #[arg(long = "admin", value_name = "IP:PORT")]
        admin_addr: SocketAddr,
        /// Its public address
        #[arg(long, value_name = "IP:PORT")]
        public: SocketAddr,
        #[command(flatten)]
        patience: Patience,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Remove a coordinator; its id is never used again
    Remove {
        /// Its id
        id: u64,
        #[command(flatten)]
        patience: Patience,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// How long to go on.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Patience {
    /// Try again while the cluster has no leader, changes its members otherwise, or the new coordinator is not up to date
    #[arg(long)]
    wait: bool,
    /// How long, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// Runs the verb.
pub(super) async fn run(args: MemberArgs) -> Result<(), Failure> {
    match args.verb {
        MemberVerb::List { admin, output } => list(&admin, output).await,
        MemberVerb::Add { id, internal, admin_addr, public, patience, admin } => {
            let client = AdminClient::new(&admin)?;
            let member = AddMember {
                id: CoordinatorId(id),
                internal_addr: internal.to_string(),
                admin_addr: admin_addr.to_string(),
                public_addr: public.to_string(),
            };
            patiently(patience, async || client.add_member(&member).await).await?;
            print(&format!("coordinator {id} is a member\n"))
        }
        MemberVerb::Remove { id, patience, admin } => {
            let client = AdminClient::new(&admin)?;
            patiently(patience, async || client.remove_member(CoordinatorId(id)).await).await?;
            print(&format!("coordinator {id} is no member any more; it stops by itself\n"))
        }
    }
}

async fn list(admin: &AdminArgs, output: OutputArgs) -> Result<(), Failure> {
    let listing = AdminClient::new(admin)?.members().await?;
    if output.output == Format::Json {
        return print_json(&listing);
    }
    let rows = listing.items.into_iter().map(|m| {
        let votes = if m.votes { "yes" } else { "no" };
        let (id, term) = (m.id.to_string(), m.term.to_string());
        vec![id, m.role, votes.to_owned(), term, m.internal_addr, m.admin_addr, m.public_addr]
    });
    print(&table(&["id", "role", "votes", "term", "internal", "admin", "public"], rows))
}

/// Asks until it is done, refused for good, or time is up.
async fn patiently(patience: Patience, ask: impl AsyncFn() -> Result<(), AdminError>) -> Result<(), AdminError> {
    let until = Instant::now() + Duration::from_secs(patience.timeout);
    loop {
        match ask().await {
            Err(error) if patience.wait && may_heal(&error) && Instant::now() + RETRY_PAUSE < until => {
                tracing::debug!(%error, "trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            done => return done,
        }
    }
}

fn may_heal(error: &AdminError) -> bool {
    match error {
        AdminError::Unreachable { .. } | AdminError::NotWritten { .. } | AdminError::Unknown { .. } => true,
        AdminError::Refused { code, .. } => matches!(code.as_str(), "change_in_progress" | "not_caught_up"),
        AdminError::Malformed { .. } => false,
    }
}
