//! Coordinators that are killed.

use std::time::Duration;

use crate::harness::{Cluster, until};
use crate::processes::Seen;

/// Within which the others must be seen to be gone.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn without_a_majority_admin_reads_say_so_and_stale_ones_show_who_is_missing() {
    let cluster = Cluster::start(&["--nodes", "1", "--tp", "1"]);
    let mut coordinators = cluster.processes();
    coordinators.retain(|p| p.args.starts_with("shardglm coordinator"));
    coordinators[1..].iter().for_each(Seen::kill);
    let refused = cluster.shardglm(&["member", "list"], true);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!((refused.status.code(), said.lines().count()), (Some(4), 1), "{said}");
    assert!(said.contains("no majority") && said.contains("--stale"), "{said}");
    until("the others are seen to be gone", SEEN_WITHIN, || {
        let stale = cluster.shardglm(&["member", "list", "--stale"], true);
        let said = String::from_utf8_lossy(&stale.stdout);
        (stale.status.success() && said.matches("unreachable").count() == 2).then_some(())
    });
}
