//! `bench serve` against a real cluster: every mode, counts that must add up, and the endpoint's own refusals.

use serde_json::{Value, json};

use crate::harness::Cluster;

fn bench(cluster: &Cluster, args: &[&str]) -> (Option<i32>, Value) {
    let url = cluster.url();
    let fixed = ["bench", "serve", "--url", &url, "--ignore-eos", "-o", "json"];
    let output = cluster.shardglm(&[&fixed, args].concat(), false);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

#[test]
fn every_mode_counts_what_a_cluster_did() {
    let cluster = Cluster::start(&["--coordinators", "1"]);

    let (code, loops) =
        bench(&cluster, &["--concurrency", "4", "--requests", "12", "--max-tokens", "6", "--warmup", "2"]);
    assert_eq!(code, Some(0));
    assert_eq!((&loops["requests"]["done"], &loops["tokens"]["output"]), (&json!(12), &json!(72)), "{loops}");
    assert_eq!(loops["model"], "autoglm-nano");
    assert!(loops["server"]["started"].as_u64() >= Some(12), "the server's own queue is told: {loops}");

    let ids =
        ["--api", "completions", "--rate", "20", "--requests", "10", "--prompt-tokens", "40", "--max-tokens", "4"];
    let (_, open) = bench(&cluster, &ids);
    assert_eq!(open["dialect"]["prompt_ids"], true);
    assert_eq!((&open["tokens"]["prompt"], &open["tokens"]["output"]), (&json!(400), &json!(40)), "{open}");
    assert_eq!(open["figures"][0]["e2e_ms"]["count"], 10);

    let agents = ["--trace", "agent", "--conversations", "2", "--turns", "3", "--think-time", "0.01"];
    let (_, agents) = bench(&cluster, &[&agents[..], &["--prompt-tokens", "12", "--max-tokens", "4"]].concat());
    assert_eq!((&agents["requests"]["done"], &agents["tokens"]["output"]), (&json!(6), &json!(24)), "{agents}");
    let classes: Vec<&Value> = agents["figures"].as_array().expect("figures").iter().map(|f| &f["class"]).collect();
    assert_eq!(classes, [&json!("all"), &json!("first_turn"), &json!("later_turn")]);

    let (_, cut) =
        bench(&cluster, &["--requests", "6", "--concurrency", "2", "--max-tokens", "8..40", "--cancel-share", "1"]);
    let counts = &cut["requests"];
    assert!(counts["hung_up"].as_u64() >= Some(4), "a token at random is seldom the last: {cut}");
    assert_eq!((counts["failed"].as_u64(), counts["refused"].as_u64()), (Some(0), Some(0)), "{cut}");

    let (code, long) = bench(&cluster, &["--requests", "3", "--prompt-tokens", "9000"]);
    assert_eq!(code, Some(1), "no request was answered");
    let error = &long["errors"][0];
    assert_eq!((&error["status"], &error["code"]), (&json!("400"), &json!("context_length_exceeded")), "{long}");

    cluster.interrupt_and_check_nothing_is_left();
}
