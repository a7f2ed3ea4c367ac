//! A prompt whose replica was lost in the middle of its answers: where it goes on, and when it is given up.
//!
//! ```text
//!  answering ──replica lost──▶ searching ──a token, or an end──▶ answering
//!                               │    ▲ │
//!              nobody has room, │    │ └─ given up: budget, deadline, shutdown, or the model is served no more
//!              or nobody is left└────┘ a pause, or a new view
//! ```
//! Not here: the tokens (`generation` holds them, and says what it has when it asks again). Invariants: while it searches it
//! holds no stream to any replica; a choice that has ended is not asked for again; each search asks a bounded number of times,
//! so that a request that breaks whoever computes it ends.

use std::time::{Duration, Instant};

use super::admission::{Moved, Place};
use super::errors::ApiError;
use super::generation::{Asked, Elsewhere, First, Generation, first_event, unfinished};
use super::wait::Wait;
use crate::runtime;
use crate::view::Group;

/// Most replicas in a row that may be lost over a prompt without a token between: what they have in common is the prompt.
const LOST_MAX: u32 = 3;
/// Most times in a row that a prompt may be turned away, by replicas that are full, not there yet, or not to be reached.
const TURNED_AWAY_MAX: u32 = 12;
/// Shortest pause before the same group is asked again; it doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The most that a replica's own word for when it has room is followed.
const ROOM_IN_MAX: Duration = Duration::from_secs(10);

impl Generation {
    /// Has another replica go on with the choices that have not ended, or the same one when it is there again.
    ///
    /// # Errors
    /// `error` itself where that is no loss of a replica; else what ended the search.
    ///
    /// # Cancel safety
    /// Not safe: drop the generation too.
    pub(super) async fn resume(&mut self, error: ApiError) -> Result<(), ApiError> {
        if !matches!(error, ApiError::ReplicaLost { .. } | ApiError::ReplicaFull { .. }) {
            return Err(error);
        }
        // Where it still runs, nobody needs it any more.
        self.events = None;
        let lost = runtime::now();
        self.app.counters.interrupted();
        let replica = self.place.replica();
        tracing::warn!(request_id = %self.id, replica_id = %replica.replica, epoch = %replica.epoch, %error,
            "replica lost in mid-answer");
        let (request, app) = (self.request.clone(), self.app.clone());
        let asked = Asked { id: self.id, request: &request, prompt: &request.prompts[self.prompt], fresh: false };
        let mut search = Search::after(replica.group(), error);
        let First { events, event, .. } = loop {
            search.place(&mut self.place, &mut self.wait, &asked).await?;
            let (choices, replica) = (unfinished(&self.outputs), self.place.replica());
            match first_event(&*app.dispatch, &asked, choices, replica, &mut self.wait).await {
                Ok(first) => break first,
                Err((error, Elsewhere::No)) => return Err(error),
                Err((error, Elsewhere::Untouched)) => search.turned_away(replica.group(), error)?,
                Err((error, Elsewhere::Lost)) => search.lost(replica.group(), error)?,
            }
        };
        (self.events, self.first) = (Some(events), Some(event));
        self.app.counters.resumed(runtime::now().saturating_duration_since(lost));
        let replica = self.place.replica();
        tracing::debug!(request_id = %self.id, replica_id = %replica.replica, epoch = %replica.epoch,
            ms = runtime::now().saturating_duration_since(lost).as_millis(), "answer goes on");
        Ok(())
    }
}

/// One search for a replica.
struct Search {
    /// What the client is told if it ends without one.
    error: ApiError,
    /// Groups that are not asked before the pause is over.
    avoid: Vec<Group>,
    pause: Duration,
    /// When that is.
    again_at: Instant,
    lost: u32,
    turned_away: u32,
}

impl Search {
    fn after(group: Group, error: ApiError) -> Self {
        let again_at = runtime::now() + PAUSE_MIN;
        Self { error, avoid: vec![group], pause: PAUSE_MIN, again_at, lost: 0, turned_away: 0 }
    }

    /// Waits for a place at a replica that may be asked: another one at once, one that failed after a pause.
    async fn place(&mut self, place: &mut Place, wait: &mut Wait, asked: &Asked<'_>) -> Result<(), ApiError> {
        loop {
            wait.look();
            match place.elsewhere(&asked.request.target.deployment.spec, &self.avoid) {
                Moved::There => return Ok(()),
                Moved::Never => return Err(self.error.clone()),
                Moved::NotNow => wait.for_change(self.again_at).await?,
            }
            if self.again_at <= runtime::now() {
                self.avoid.clear();
                self.again_at = runtime::now() + PAUSE_MAX;
            }
        }
    }

    /// The group has not begun with it.
    fn turned_away(&mut self, group: Group, error: ApiError) -> Result<(), ApiError> {
        self.turned_away += 1;
        self.failed(group, error, self.turned_away == TURNED_AWAY_MAX)
    }

    /// The group was lost over it.
    fn lost(&mut self, group: Group, error: ApiError) -> Result<(), ApiError> {
        self.lost += 1;
        self.failed(group, error, self.lost == LOST_MAX)
    }

    fn failed(&mut self, group: Group, error: ApiError, given_up: bool) -> Result<(), ApiError> {
        if given_up {
            return Err(error);
        }
        let room_in = match &error {
            ApiError::ReplicaFull { retry } => retry.unwrap_or_default().min(ROOM_IN_MAX),
            _ => Duration::ZERO,
        };
        self.avoid.push(group);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.again_at = runtime::now() + self.pause.max(room_in);
        self.error = error;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Epoch, ReplicaId};

    use super::*;

    const GROUP: Group = (ReplicaId(1), Epoch(2));

    fn lost() -> ApiError {
        ApiError::ReplicaLost { reason: "gone".to_owned() }
    }

    #[test]
    fn losses_and_refusals_are_bounded_apart() {
        let mut search = Search::after(GROUP, lost());
        for _ in 1..LOST_MAX {
            assert_eq!(search.lost(GROUP, lost()), Ok(()));
        }
        for _ in 1..TURNED_AWAY_MAX {
            assert_eq!(search.turned_away(GROUP, lost()), Ok(()));
        }
        let full = ApiError::ReplicaFull { retry: None };
        assert_eq!(search.turned_away(GROUP, full.clone()), Err(full), "the last one is told");
        assert_eq!(search.lost(GROUP, lost()), Err(lost()));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_follow_a_replica_that_says_when_it_has_room() {
        let mut search = Search::after(GROUP, lost());
        let mut pauses = Vec::new();
        for _ in 1..TURNED_AWAY_MAX {
            let before = Instant::now();
            search.turned_away(GROUP, lost()).expect("within the budget");
            assert!(search.again_at >= before + search.pause);
            pauses.push(search.pause);
        }
        assert!(pauses[0] == 2 * PAUSE_MIN && pauses.is_sorted() && pauses.last() == Some(&PAUSE_MAX), "{pauses:?}");
        for (said, followed) in [(Duration::from_secs(5), Duration::from_secs(5)), (Duration::MAX, ROOM_IN_MAX)] {
            let (mut search, before) = (Search::after(GROUP, lost()), Instant::now());
            search.turned_away(GROUP, ApiError::ReplicaFull { retry: Some(said) }).expect("within the budget");
            assert!((before + followed..=Instant::now() + followed).contains(&search.again_at));
        }
    }
}
