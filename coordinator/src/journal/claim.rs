//! Finding a stream that somebody wants to go on with, and ending it where it is still told.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use protocol::RequestId;
use protocol::journal::{JournalEntry, JournalRequest, JournalResponse};

use super::{Journal, age};
use crate::runtime;

/// Longest that all coordinators are waited for: one that died a moment ago looks alive until its connection times out.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How much longer the others are waited for once one has found it: they may tell it still, or know more of it.
const FOUND_GRACE: Duration = Duration::from_millis(150);

/// A stream to go on with.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) entry: JournalEntry,
    /// When its time is over.
    pub(crate) deadline: Instant,
}

impl Journal {
    /// The newest entry of this id that this coordinator and those that it can reach know. Where the stream is still told, it
    /// ends.
    ///
    /// # Cancel safety
    /// The stream may have ended elsewhere; its entry is still kept.
    pub(crate) async fn claim(&self, id: RequestId, principal: &str) -> Option<Claimed> {
        let mut best = self.give_up(id, principal, runtime::now());
        let Some(peers) = self.0.peers.get() else { return best.map(Claimed::new) };
        let request = JournalRequest::Claim { id, principal: principal.to_owned() };
        let mut asked: FuturesUnordered<_> =
            peers.up().into_iter().map(|peer| peers.ask(peer, &request, ASK_TIMEOUT)).collect();
        let grace = |found: bool| runtime::now() + if found { FOUND_GRACE } else { ASK_TIMEOUT };
        let mut until = grace(best.is_some());
        while let Ok(Some(answer)) = tokio::time::timeout_at(until.into(), asked.next()).await {
            if let Ok(JournalResponse::Found(Some(found))) = answer
                && found.id == id
            {
                if best.is_none() {
                    until = grace(true);
                }
                best = newer(best, *found);
            }
        }
        best.map(Claimed::new)
    }

    /// What is known here. What is told here is told no more, and kept.
    pub(super) fn give_up(&self, id: RequestId, principal: &str, now: Instant) -> Option<JournalEntry> {
        let told = self.desk().give_up(id, principal, now);
        let mut shelf = self.shelf();
        let kept = shelf.find(id, principal, now);
        let Some(told) = told else { return kept };
        // Whoever claims it may fail to go on: then it must still be there for the next one.
        shelf.begin(told.clone(), now);
        newer(kept, told)
    }
}

impl Claimed {
    fn new(entry: JournalEntry) -> Self {
        let deadline = runtime::now() + Duration::from_millis(u64::from(entry.left_ms));
        Self { entry, deadline }
    }
}

fn newer(known: Option<JournalEntry>, found: JournalEntry) -> Option<JournalEntry> {
    match known {
        Some(known) if age(&known) >= age(&found) => Some(known),
        _ => Some(found),
    }
}
