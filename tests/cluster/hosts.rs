//! Each process on a host of its own, with a network between them that fails: requests go on.
//!
//! Needs root, for network namespaces; where it cannot have them it says so and passes.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use chaos::cluster::Options;
use chaos::fault::{Fault, Place};
use chaos::net::Net;
use chaos::tool::{Scene, Storm, storm, table};

/// Tokens of each answer: longer than it takes to notice a fault.
const ANSWER: u32 = 100;
/// Of the storm's schedule.
const SEED: u64 = 5;

/// A cluster on hosts; `None` where there can be none.
fn scene(test: &str) -> Option<Scene> {
    if let Err(why) = Net::possible() {
        // Not `eprintln`, which is shown of failed tests alone.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
        return None;
    }
    let options = Options::new(PathBuf::from(env!("CARGO_BIN_EXE_shardglm")));
    Some(Scene::set(options, ANSWER, &[1], &[]).expect("a cluster that serves"))
}

#[test]
fn streams_go_on_while_links_are_down_deaf_lossy_or_slow() {
    let Some(mut scene) = scene("streams_go_on_while_links_are_down_deaf_lossy_or_slow") else { return };
    let faults = [Fault::Unplug(Place::Rank(1)), Fault::Mute(Place::Leader), Fault::Loss(50), Fault::Delay(200)];
    let mut said = |line: &str| eprintln!("{line}");
    let table = table(&mut scene, &faults, 1, &mut said, &mut |_| {}).expect("it serves again after each");
    eprintln!("{table}");
    assert!(table.broken.is_empty(), "{table}");
    for (fault, row) in &table.rows {
        let (identical, all) = (row.streams.of(&chaos::streams::Verdict::Identical), row.streams.all());
        assert_eq!((row.rounds, identical), (1, all), "{fault}: {}", row.streams);
    }
}

#[test]
fn a_short_storm_breaks_no_stream() {
    let Some(mut scene) = scene("a_short_storm_breaks_no_stream") else { return };
    let asked = Storm { seed: SEED, lasts: Duration::from_secs(30), faults_max: 6, clients: 2 };
    let report = storm(&mut scene, &asked, &mut |line| eprintln!("{line}")).expect("a cluster that can be managed");
    eprintln!("seed {SEED}\n{report}");
    assert!(report.num_faults() > 0 && report.all_streams().all() > 0, "{report}");
    assert!(report.broken.is_empty() && report.all_streams().broken() == 0, "{report}");
}
