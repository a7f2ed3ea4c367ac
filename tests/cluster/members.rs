//! Coordinators come and go by the command line, while the cluster serves.

use serde_json::Value;

use crate::daemons::{Addrs, Daemons, LONG};
use crate::harness::{exit, json, stderr};

/// The members as the command line lists them: ids with a vote, and the leader.
fn members(cluster: &Daemons) -> (Vec<u64>, Option<u64>) {
    let listed = json(&cluster.shardglm(&["member", "list", "-o", "json"], true));
    let items = listed["items"].as_array().expect("a list");
    let id = |m: &Value| m["id"].as_u64().expect("an id");
    let votes = items.iter().filter(|m| m["votes"] == true).map(id).collect();
    (votes, items.iter().find(|m| m["role"] == "leader").map(id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_is_added_and_the_leader_removed_by_the_command_line_while_answers_go_on() {
    let mut cluster = Daemons::lay_out();
    cluster.start_all();
    cluster.serving(1, "first start").await;
    let (first, leader) = members(&cluster);
    assert_eq!(first, [1, 2, 3]);
    let leader = usize::try_from(leader.expect("it serves, so somebody leads")).expect("small");
    let stays = leader % 3 + 1;
    let whole = cluster.answer(stays, LONG).await.expect("an answer");
    let going_on = tokio::spawn(cluster.answer(stays, LONG));

    // A new one: an identity, a start with an empty disk, and only then a place.
    let (addrs, home) = (Addrs::free(), cluster.home());
    let home = home.to_str().expect("a path of ours");
    let issued = cluster.shardglm(&["ca", "add", "--out", home, "--id", "4"], false);
    assert_eq!(exit(&issued), Some(0), "{}", stderr(&issued));
    assert_eq!(cluster.start_new_coordinator(addrs), 4);
    let [internal, admin, public] = [addrs.internal, addrs.admin, addrs.public].map(|a| a.to_string());
    let add = |id: &str, more: &[&str]| {
        let args = ["member", "add", "--id", id, "--internal", &internal, "--admin", &admin, "--public", &public];
        cluster.shardglm(&[&args, more].concat(), true)
    };
    let added = add("4", &["--wait"]);
    assert_eq!(exit(&added), Some(0), "{}", stderr(&added));
    assert_eq!(members(&cluster).0, [1, 2, 3, 4]);
    let again = add("4", &[]);
    assert_eq!(exit(&again), Some(0), "what is so already is done: {}", stderr(&again));
    let taken = add("5", &[]);
    assert_eq!((exit(&taken), stderr(&taken).contains("is an address of coordinator 4")), (Some(3), true), "{taken:?}");

    // The leader goes: it drains, ends well, and another one leads.
    let removed = cluster.shardglm(&["member", "remove", &leader.to_string(), "--wait"], true);
    assert_eq!(exit(&removed), Some(0), "{}", stderr(&removed));
    let ended = cluster.ends(&format!("coordinator-{leader}"));
    assert!(ended.success(), "{ended}\n{}", cluster.logs());
    let (left, leads) = members(&cluster);
    let expected: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != leader as u64).collect();
    assert!(left == expected && leads.is_some_and(|id| id != leader as u64), "{left:?}, leader {leads:?}");
    let unknown = cluster.shardglm(&["member", "remove", "9"], true);
    assert_eq!(exit(&unknown), Some(3), "{}", stderr(&unknown));

    // Answers went on, and the new coordinator's gateway gives the same ones.
    assert!(going_on.await.expect("no panic").as_ref() == Some(&whole), "an answer that had begun");
    cluster.serving(4, "through the new coordinator").await;
    assert_eq!(cluster.answer(4, LONG).await, Some(whole));

    // Two of the three that are left are a majority: the new one has a vote that counts.
    let other = expected.iter().find(|id| **id != 4 && **id != stays as u64).expect("three are left");
    cluster.kill(&format!("coordinator-{other}"));
    let scaled = cluster.shardglm(&["node", "cordon", "node-1", "-o", "json"], true);
    assert_eq!(json(&scaled)["cordoned"], Value::from(true));
}
