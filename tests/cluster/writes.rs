//! Admins that write while coordinators are struck, for a short while; `chaos writes` is the long one.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use chaos::cluster::Options;
use chaos::net::Net;
use chaos::tool::Scene;
use chaos::writes::{ROOM_FOR_ONE_REPLICA, WritesAsked, writes};

/// Faults begin within this time.
const LASTS: Duration = Duration::from_secs(30);
const SEED: u64 = 11;

#[test]
fn what_admins_were_told_while_coordinators_were_struck_has_one_order_and_nothing_acknowledged_is_lost() {
    if let Err(why) = Net::possible() {
        // Not `eprintln`, which is shown of failed tests alone.
        let _ = writeln!(std::io::stderr(), "SKIPPED, no hosts here: {why}");
        return;
    }
    let mut options = Options::new(PathBuf::from(env!("CARGO_BIN_EXE_shardglm")));
    options.seed = SEED;
    options.more_config += ROOM_FOR_ONE_REPLICA;
    let mut scene = Scene::set(options, 40, &[1], &[]).expect("a cluster that serves");
    let asked = WritesAsked { seed: SEED, faults: 8, lasts: LASTS, admins: 6 };
    let report = writes(&mut scene, &asked, &mut |line| eprintln!("{line}")).expect("a cluster that can be managed");
    eprintln!("seed {SEED}\n{report}");
    assert!(report.broken.is_empty(), "{report}");
    assert!(report.num_faults() > 0 && report.acknowledged() > 0, "{report}");
}
