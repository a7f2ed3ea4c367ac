//! Power cuts: every process is killed at once and started again; how long until the cluster serves, and whether it says
//! the same as before.

use std::fmt;
use std::time::{Duration, Instant};

use super::scene::{Scene, SceneError};
use crate::cluster::SERVES_WITHIN;
use crate::figures::Durations;
use crate::streams::{Tally, Verdict};

/// What came of them.
#[derive(Debug, Clone, Default)]
pub struct PowerCuts {
    /// From the first start until every gateway said ready.
    pub serving: Durations,
    /// Every kind of request, asked afterwards.
    pub streams: Tally,
}

impl fmt::Display for PowerCuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rounds, serving, streams) = (self.serving.len(), &self.serving, &self.streams);
        write!(
            f,
            "power cuts: {rounds}; serving again after, s (median / worst): {serving}; answers afterwards: {streams}"
        )
    }
}

/// Cuts the power so many times.
///
/// # Errors
/// [`SceneError`], also when the cluster does not come back.
pub fn power_cuts(scene: &mut Scene, rounds: u64, say: &mut dyn FnMut(&str)) -> Result<PowerCuts, SceneError> {
    let mut cuts = PowerCuts::default();
    for round in 1..=rounds {
        scene.cluster.cut_power();
        let started = Instant::now();
        for name in scene.cluster.stopped_daemons() {
            scene.cluster.start_daemon(&name)?;
        }
        scene.cluster.wait("it serves again", SERVES_WITHIN, async |c| c.serves().await.then_some(()))?;
        let took: Duration = started.elapsed();
        cuts.serving.add(Some(took));
        for (i, (kind, undisturbed)) in scene.expected.iter().enumerate() {
            let name = format!("power-{round}-{i}");
            let reading = scene.cluster.on_client(scene.reader.read(kind, &name, i, |_| {}));
            cuts.streams.add(Verdict::of(&reading.ending, &reading.read, undisturbed));
        }
        say(&format!("round {round}: serving again after {:.2} s; {}", took.as_secs_f64(), cuts.streams));
    }
    Ok(cuts)
}
