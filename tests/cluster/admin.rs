//! Admins' changes by the command line: made, refused, and left open when coordinators stop in their tracks.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Cluster, exit, json, stderr, until};
use crate::processes::Seen;

/// How long coordinators that go on may take to agree on a change.
const DECIDED_WITHIN: Duration = Duration::from_secs(60);

fn signal(process: &Seen, signal: Signal) {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("it runs");
}

#[test]
fn changes_are_made_refused_or_left_open_and_the_exit_code_says_which() {
    let cluster = Cluster::start(&["--nodes", "1", "--tp", "1"]);
    let cordoned = json(&cluster.shardglm(&["node", "cordon", "node-1", "-o", "json"], true));
    assert_eq!((&cordoned["cordoned"], &cordoned["revision"]), (&Value::from(true), &Value::from(1)));
    let listed = json(&cluster.shardglm(&["node", "list", "-o", "json"], true));
    assert_eq!(listed["items"][0]["cordoned"], Value::from(true));
    let late = cluster.shardglm(&["node", "uncordon", "node-1", "--revision", "0"], true);
    assert_eq!(exit(&late), Some(3), "{}", stderr(&late));
    let unknown = cluster.shardglm(&["node", "cordon", "node-7"], true);
    assert_eq!(exit(&unknown), Some(3), "{}", stderr(&unknown));

    // Nothing new goes to the only node until it is open again.
    let blocked = ["deploy", "scale", "default", "--replicas", "2", "--wait", "--timeout", "2"];
    let blocked = cluster.shardglm(&blocked, true);
    assert_eq!(exit(&blocked), Some(1), "{}", stderr(&blocked));
    assert!(stderr(&blocked).contains("cordoned"), "{}", stderr(&blocked));
    json(&cluster.shardglm(&["node", "uncordon", "node-1", "--revision", "1", "-o", "json"], true));
    let scaled = ["deploy", "scale", "default", "--replicas", "2", "--generation", "2", "--wait", "-o", "json"];
    let scaled = json(&cluster.shardglm(&scaled, true));
    assert_eq!((&scaled["replicas"], &scaled["generation"]), (&Value::from(2), &Value::from(3)));
    let status = cluster.shardglm(&["deploy", "status"], true);
    assert!(String::from_utf8_lossy(&status.stdout).contains("2/2"), "{status:?}");

    // Two of three coordinators stop in their tracks, the leader perhaps among them: either nothing was proposed, or nobody
    // knows. Neither is a plain failure.
    let mut coordinators = cluster.processes();
    coordinators.retain(|p| p.args.starts_with("shardglm coordinator"));
    coordinators[1..].iter().for_each(|p| signal(p, Signal::STOP));
    let scale = ["deploy", "scale", "default", "--replicas", "1", "--generation", "3"];
    let stuck = cluster.shardglm(&scale, true);
    coordinators[1..].iter().for_each(|p| signal(p, Signal::CONT));
    let said = stderr(&stuck);
    match exit(&stuck) {
        Some(4) => assert!(said.contains("nothing was written") || said.contains("no coordinator answers"), "{said}"),
        Some(5) => assert!(said.contains("outcome unknown"), "{said}"),
        other => panic!("{other:?}: {said}"),
    }
    assert_eq!(said.lines().count(), 1, "{said}");
    // The same change against the same generation: made now, or refused because it was made before. Once, in any case.
    until("the change is made", DECIDED_WITHIN, || {
        let again = cluster.shardglm(&scale, true);
        matches!(exit(&again), Some(0 | 3)).then_some(())
    });
    let status = json(&cluster.shardglm(&["deploy", "status", "-o", "json"], true));
    let deployment = &status["items"][0];
    let now = (&deployment["replicas_wanted"], &deployment["generation"]);
    assert_eq!(now, (&Value::from(1), &Value::from(4)));
    cluster.interrupt_and_check_nothing_is_left();
}
