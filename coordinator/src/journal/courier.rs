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
        for entry in batch.begins {
            let (id, version) = (entry.id, entry.version);
            let delivery = match self.ask(keeper, JournalRequest::Begin(Box::new(entry))).await {
                Some(JournalResponse::Kept) => Delivery::Kept,
                _ => Delivery::Refused,
            };
            deliveries.push((id, version, delivery));
        }
        let named: Vec<(RequestId, u64)> = batch.taken.iter().map(|t| (t.id, t.version)).collect();
        if !named.is_empty() {
            let answer = self.ask(keeper, JournalRequest::Take(batch.taken)).await;
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
