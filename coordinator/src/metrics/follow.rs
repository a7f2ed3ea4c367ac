//! Keeps a coordinator's [`Picture`] fresh.
//!
//! Invariants: at most one question to the leader is under way; the state and who leads are told at once, also while
//! nobody answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Picture;
use crate::raft::Consensus;
use crate::reconcile::Heard;

/// How often the leader is asked: as often as a worker says how it is.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Follows until cancelled.
pub(crate) async fn follow(consensus: Consensus, pictures: watch::Sender<Arc<Picture>>, cancel: CancellationToken) {
    let mut applied = consensus.applied();
    let mut leadership = consensus.leadership();
    let mut picture = Picture::clone(&pictures.borrow());
    let mut asking: JoinSet<Option<Arc<Heard>>> = JoinSet::new();
    let mut ticks = interval(ASK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = applied.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            _ = ticks.tick(), if asking.is_empty() => {
                let consensus = consensus.clone();
                asking.spawn(async move { consensus.heard().await });
            }
            Some(answer) = asking.join_next() => if let Ok(Some(heard)) = answer {
                picture.hear(&heard, Instant::now());
            }
        }
        picture.follow(applied.borrow_and_update().clone(), *leadership.borrow_and_update());
        pictures.send_replace(Arc::new(picture.clone()));
    }
}
