//! Carries news of the streams that are told here to their keepers, in batches.
//!
//! Invariants: at most one batch a keeper is on its way; whoever is slow or silent holds up nobody but itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use protocol::RequestId;
use protocol::journal::{JournalRequest, JournalResponse};
use tokio_util::sync::CancellationToken;

use super::Journal;
use super::desk::{Batch, Delivery, Keeper};

/// Longest that a keeper may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two batches to one keeper: what comes within it goes together.
const BATCH_PAUSE: Duration = Duration::from_millis(10);
/// How often all streams are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

type Delivered = (RequestId, u64, Delivery);

impl Journal {
    /// Carries until `cancel`, or once it is `draining` until there is nothing to carry.
    pub(crate) async fn carry(self, draining: CancellationToken, cancel: CancellationToken) {
        let mut flights = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(draining.is_cancelled() && self.desk().is_empty()) {
            let up = self.0.peers.get().map(|peers| peers.up()).unwrap_or_default();
            let due = self.desk().due(&up, &busy, Instant::now());
            for (keeper, batch) in due {
                busy.insert(keeper);
                flights.push(self.deliver(keeper, batch));
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(keeper) = flights.next() => drop(busy.remove(&keeper)),
                () = self.0.news.notified() => {}
                () = draining.cancelled(), if !draining.is_cancelled() => {}
                _ = look.tick() => self.desk().look(&up, Instant::now()),
            }
        }
    }

    async fn deliver(&self, keeper: Keeper, batch: Batch) -> Keeper {
        let mut deliveries: Vec<Delivered> = Vec::new();
        // Of a keeper that does not answer no more is asked: each stream of the batch would wait for it in turn, kept by nobody.
        let mut silent = false;
        for entry in batch.begins {
            let (id, version) = (entry.id, entry.version);
            let begin = JournalRequest::Begin(Box::new(entry));
            let answer = if silent { None } else { self.ask(keeper, begin).await };
            silent = answer.is_none();
            let delivery = match answer {
                Some(JournalResponse::Kept) => Delivery::Kept,
                _ => Delivery::Refused,
            };
            deliveries.push((id, version, delivery));
        }
        let named: Vec<(RequestId, u64)> = batch.taken.iter().map(|t| (t.id, t.version)).collect();
        if !named.is_empty() {
            let answer = if silent { None } else { self.ask(keeper, JournalRequest::Take(batch.taken)).await };
            deliveries.extend(named.into_iter().map(|(id, version)| {
                let delivery = match &answer {
                    Some(JournalResponse::Kept) => Delivery::Kept,
                    Some(JournalResponse::Unknown(ids)) if !ids.contains(&id) => Delivery::Kept,
                    Some(JournalResponse::Unknown(_)) => Delivery::Unknown,
                    _ => Delivery::Refused,
                };
                (id, version, delivery)
            }));
        }
        if let Some((id, ..)) = deliveries.iter().find(|(.., d)| *d == Delivery::Refused) {
            tracing::debug!(request_id = %id, ?keeper, "journal not kept, another keeper is chosen");
        }
        self.desk().delivered(keeper, &deliveries, Instant::now());
        tokio::time::sleep(BATCH_PAUSE).await;
        keeper
    }

    async fn ask(&self, keeper: Keeper, request: JournalRequest) -> Option<JournalResponse> {
        match keeper {
            Keeper::Here => Some(self.serve(request)),
            Keeper::Peer(peer) => self.0.peers.get()?.ask(peer, &request, ASK_TIMEOUT).await.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use protocol::CoordinatorId;
    use protocol::journal::Taken;

    use super::super::shelf::tests::entry;
    use super::super::{PeerSilent, Peers};
    use super::*;

    const STOPPED: CoordinatorId = CoordinatorId(2);

    /// A coordinator that is connected and does not answer.
    #[derive(Default)]
    struct Stopped {
        asked: AtomicUsize,
    }

    #[async_trait]
    impl Peers for Stopped {
        fn up(&self) -> BTreeSet<CoordinatorId> {
            BTreeSet::from([STOPPED])
        }

        async fn ask(
            &self,
            peer: CoordinatorId,
            _: &JournalRequest,
            _: Duration,
        ) -> Result<JournalResponse, PeerSilent> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Err(PeerSilent { peer })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_wait_once_for_a_keeper_that_is_stopped_and_not_each_in_turn() {
        let (journal, stopped) = (Journal::default(), Arc::new(Stopped::default()));
        journal.connect(stopped.clone());
        let later = Instant::now() + Duration::from_secs(600);
        let recorders: Vec<_> = (1..=3).map(|n| journal.record(entry(n, 5, 0), later).expect("room")).collect();
        let batch = || {
            let due = journal.desk().due(&stopped.up(), &BTreeSet::new(), Instant::now());
            due.into_iter().next().expect("one batch")
        };
        let (keeper, mut begins) = batch();
        assert_eq!((keeper, begins.begins.len()), (Keeper::Peer(STOPPED), 3));
        let taken = Taken { id: entry(4, 5, 0).id, version: 5, cached: Vec::new(), choices: Vec::new(), ended: false };
        begins.taken.push(taken);
        journal.deliver(keeper, begins).await;
        assert_eq!(stopped.asked.load(Ordering::Relaxed), 1);
        let (keeper, begins) = batch();
        assert_eq!((keeper, begins.begins.len()), (Keeper::Here, 3), "all of them have another keeper");
        drop(recorders);
    }
}
