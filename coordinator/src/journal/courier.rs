//! Carries news of the streams that are told here to their keepers, in batches.
//!
//! Invariants: at most one batch a keeper is on its way; whoever is slow or silent holds up nobody but itself.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use protocol::RequestId;
use protocol::journal::{JournalRequest, JournalResponse};
use tokio_util::sync::CancellationToken;

use super::Journal;
use super::desk::{Batch, Delivery, Keeper};
use crate::runtime;

/// Longest that a keeper may take to answer the opening of a stream, which may be of megabytes.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest that it may take to answer what is new: until then its streams are lost if this gateway dies too, and after it all
/// of them are told anew to others.
const TAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two batches to one keeper: what comes within it goes together.
const BATCH_PAUSE: Duration = Duration::from_millis(10);
/// How often all streams are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl Journal {
    /// Carries until `cancel`, or once it is `draining` until there is nothing to carry.
    pub(crate) async fn carry(self, draining: CancellationToken, cancel: CancellationToken) {
        let mut flights = FuturesUnordered::new();
        let mut busy = BTreeMap::new();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(draining.is_cancelled() && self.desk().is_empty()) {
            let up = self.0.peers.get().map(|peers| peers.up()).unwrap_or_default();
            let now = runtime::now();
            let due = self.desk().due(&up, &busy, now);
            for (keeper, batch) in due {
                busy.insert(keeper, now);
                flights.push(self.deliver(keeper, batch));
            }
            let hedge_at = self.desk().hedge_at(now);
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(keeper) = flights.next() => drop(busy.remove(&keeper)),
                () = self.0.news.notified() => {}
                () = draining.cancelled(), if !draining.is_cancelled() => {}
                () = tokio::time::sleep_until(hedge_at.unwrap_or(now).into()), if hedge_at.is_some() => {}
                _ = look.tick() => self.desk().look(&up, runtime::now()),
            }
        }
    }

    /// What a keeper does not answer is not followed by more that it would not answer either.
    async fn deliver(&self, keeper: Keeper, batch: Batch) -> Keeper {
        let mut silent = false;
        for entry in batch.begins {
            let told = (entry.id, entry.version);
            let begin = JournalRequest::Begin(Box::new(entry));
            let delivery = match self.ask(keeper, begin, BEGIN_TIMEOUT, &mut silent).await {
                None => Delivery::Silent,
                Some(JournalResponse::Kept) => Delivery::Kept,
                Some(_) => Delivery::Refused,
            };
            self.delivered(keeper, told, delivery);
        }
        let named: Vec<(RequestId, u64)> = batch.taken.iter().map(|t| (t.id, t.version)).collect();
        if !named.is_empty() {
            let answer = self.ask(keeper, JournalRequest::Take(batch.taken), TAKE_TIMEOUT, &mut silent).await;
            for told in named {
                let delivery = match &answer {
                    None => Delivery::Silent,
                    Some(JournalResponse::Kept) => Delivery::Kept,
                    Some(JournalResponse::Unknown(ids)) if ids.contains(&told.0) => Delivery::Unknown,
                    Some(JournalResponse::Unknown(_)) => Delivery::Kept,
                    Some(_) => Delivery::Refused,
                };
                self.delivered(keeper, told, delivery);
            }
        }
        tokio::time::sleep(BATCH_PAUSE).await;
        keeper
    }

    fn delivered(&self, keeper: Keeper, told: (RequestId, u64), delivery: Delivery) {
        if matches!(delivery, Delivery::Refused | Delivery::Silent) {
            tracing::debug!(request_id = %told.0, ?keeper, "journal not kept, another keeper is chosen");
        }
        self.desk().delivered(keeper, told, delivery, runtime::now());
        if delivery != Delivery::Kept {
            self.0.news.notify_one();
        }
    }

    /// Asks, unless the keeper was `silent` before; `None` where it is now.
    async fn ask(
        &self,
        keeper: Keeper,
        request: JournalRequest,
        timeout: Duration,
        silent: &mut bool,
    ) -> Option<JournalResponse> {
        if *silent {
            return None;
        }
        let answer = match keeper {
            Keeper::Here => Some(self.serve(request)),
            Keeper::Peer(peer) => match self.0.peers.get() {
                Some(peers) => peers.ask(peer, &request, timeout).await.ok(),
                None => None,
            },
        };
        *silent = answer.is_none();
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use protocol::CoordinatorId;
    use protocol::journal::Taken;

    use super::super::desk::HEDGE_AFTER;
    use super::super::shelf::tests::entry;
    use super::super::{PeerSilent, Peers, Recorder};
    use super::*;

    /// Two others. Whoever is asked first is late by so long, and from then on.
    struct Two {
        journals: BTreeMap<CoordinatorId, Journal>,
        late: Duration,
        first: Mutex<Option<CoordinatorId>>,
    }

    #[async_trait]
    impl Peers for Two {
        fn up(&self) -> BTreeSet<CoordinatorId> {
            self.journals.keys().copied().collect()
        }

        async fn ask(
            &self,
            peer: CoordinatorId,
            request: &JournalRequest,
            timeout: Duration,
        ) -> Result<JournalResponse, PeerSilent> {
            if *self.first.lock().unwrap().get_or_insert(peer) == peer {
                tokio::time::sleep(self.late.min(timeout)).await;
                if self.late > timeout {
                    return Err(PeerSilent { peer });
                }
            }
            Ok(self.journals[&peer].serve(request.clone()))
        }
    }

    struct Told {
        own: Journal,
        two: Arc<Two>,
        recorder: Recorder,
        cancel: CancellationToken,
    }

    /// A stream whose first keeper is late.
    fn told(late: Duration) -> Told {
        let journals = [2, 3].map(|id| (CoordinatorId(id), Journal::default())).into();
        let two = Arc::new(Two { journals, late, first: Mutex::default() });
        let (own, cancel) = (Journal::default(), CancellationToken::new());
        own.connect(two.clone());
        tokio::spawn(own.clone().carry(CancellationToken::new(), cancel.clone()));
        let recorder = own.record(entry(1, 5, 9), runtime::now() + Duration::from_secs(500)).expect("room");
        Told { own, two, recorder, cancel }
    }

    impl Told {
        /// How many entries the late one keeps, and the other one.
        fn entries(&self) -> (u64, u64) {
            let first = self.two.first.lock().unwrap().expect("asked");
            let of = |late| self.two.journals.iter().filter(move |(id, _)| (**id == first) == late);
            let count = |late| of(late).map(|(_, journal)| journal.stats().entries).sum();
            (count(true), count(false))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_keeper_is_silent_is_kept_by_another_one_within_the_hedge() {
        let told = told(Duration::MAX);
        let started = runtime::now();
        tokio::time::sleep(HEDGE_AFTER - Duration::from_millis(1)).await;
        assert_eq!(told.entries(), (0, 0));
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(told.entries(), (0, 1), "after {:?}", started.elapsed());
        // What is told to the one that keeps it does not wait for the silent one.
        told.recorder.took(1, 0, [7, 8].into_iter());
        tokio::time::sleep(2 * BATCH_PAUSE).await;
        told.cancel.cancel();
        let second = told.two.journals.values().find(|journal| journal.stats().entries == 1).expect("one");
        let found = second.claim(entry(1, 5, 9).id, "me").await.expect("kept").entry;
        assert_eq!(found.taken, [vec![], vec![7, 8]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_keeper_that_answers_late_is_not_a_second_one() {
        let told = told(Duration::from_millis(400));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(told.entries(), (1, 1));
        told.recorder.took(1, 0, [7, 8].into_iter());
        for _ in 0..55 {
            assert_eq!(told.own.stats().streams, 1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(told.entries(), (1, 1));
        let (anybody, journals) = (Journal::default(), told.two.journals.clone());
        anybody.connect(Arc::new(Two { journals, late: Duration::ZERO, first: Mutex::default() }));
        let found = anybody.claim(entry(1, 5, 9).id, "me").await.expect("kept twice").entry;
        assert_eq!(found.taken, [vec![], vec![7, 8]], "the longer one counts");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(told.entries(), (0, 1), "the late one is not told again, and forgets");
        told.recorder.ended();
        drop(told.recorder);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(told.own.stats().streams, 0);
        tokio::time::sleep(Duration::from_secs(35)).await;
        assert!(told.two.journals.values().all(|journal| journal.stats().entries == 0));
    }

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
        let later = runtime::now() + Duration::from_secs(600);
        let recorders: Vec<_> = (1..=3).map(|n| journal.record(entry(n, 5, 0), later).expect("room")).collect();
        let batch = || {
            let due = journal.desk().due(&stopped.up(), &BTreeMap::new(), runtime::now());
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
