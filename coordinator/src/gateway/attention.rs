//! Which replicas this gateway can serve through right now: it asks each rank 0 twice a second, and remembers how the streams
//! to each went.
//!
//! Not here: what is committed (the view), who is told (`health`). Invariants: what is asked does not depend on how often
//! anybody asks for health; one question a replica is under way; what is remembered is bounded by the view.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::dispatch::{Dispatch, DispatchError};
use crate::runtime;
use crate::view::{ClusterView, Group, ReadyReplica};

/// How often each replica is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// How long its answer may take. With the interval: less than the two seconds within which health must follow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer that is older says nothing.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(2);
/// Streams that were lost one after another, none of which brought an event, before a replica counts as failing.
const LOST_MAX: u32 = 3;
/// For how long after the last of them: a replica that nobody asks any more is given another chance.
const LOST_COUNTS: Duration = Duration::from_secs(10);
/// This task looks around twice a second; when it has not for so long, nothing of this process can be relied on.
const PULSE_AGE_MAX: Duration = Duration::from_secs(10);

/// What one gateway knows of the replicas it may route to.
#[derive(Debug)]
pub(super) struct Attention {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    seen: BTreeMap<Group, Seen>,
    pulse: Instant,
}

#[derive(Debug, Default)]
struct Seen {
    /// When it last answered.
    answered: Option<Instant>,
    /// Why it did not, if it did not answer the last question.
    silent: Option<String>,
    /// Streams lost in a row, and when the last one was.
    lost: u32,
    lost_at: Option<Instant>,
}

impl Attention {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { seen: BTreeMap::new(), pulse: runtime::now() }) })
    }

    /// Asks every replica of `view`, until cancelled.
    pub(super) async fn follow(
        self: Arc<Self>,
        mut view: watch::Receiver<Arc<ClusterView>>,
        dispatch: Arc<dyn Dispatch>,
        cancel: CancellationToken,
    ) {
        let mut ticks = interval(ASK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking = JoinSet::new();
        let mut asked = BTreeSet::new();
        loop {
            let new_only = tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => false,
                // A replica that is new to the view is asked at once.
                changed = view.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                Some(answer) = asking.join_next() => {
                    if let Ok((group, answer)) = answer {
                        asked.remove(&group);
                        self.answered(group, answer, runtime::now());
                    }
                    continue;
                }
            };
            let ready: Vec<ReadyReplica> = {
                let view = view.borrow_and_update();
                view.deployments.iter().flat_map(|d| d.replicas.iter().cloned()).collect()
            };
            let unknown = self.keep(&ready, runtime::now());
            for replica in ready {
                let group = replica.group();
                if (new_only && !unknown.contains(&group)) || !asked.insert(group) {
                    continue;
                }
                let dispatch = Arc::clone(&dispatch);
                asking.spawn(async move {
                    let until = runtime::now() + ANSWER_TIMEOUT;
                    let answer = tokio::time::timeout(ANSWER_TIMEOUT, dispatch.reach(&replica, until)).await;
                    let late = || DispatchError::Unreachable { reason: format!("no answer within {ANSWER_TIMEOUT:?}") };
                    (group, answer.unwrap_or_else(|_| Err(late())))
                });
            }
        }
    }

    /// Why `group` cannot serve at `now`; `None` where it can.
    pub(super) fn wrong(&self, group: Group, now: Instant) -> Option<String> {
        let inner = self.lock();
        let Some(seen) = inner.seen.get(&group) else { return Some("it was not asked yet".to_owned()) };
        seen.wrong(now)
    }

    /// A stream to `group` was lost, or could not be had.
    pub(super) fn lost(&self, group: Group, now: Instant) {
        if let Some(seen) = self.lock().seen.get_mut(&group) {
            (seen.lost, seen.lost_at) = (seen.lost.saturating_add(1), Some(now));
        }
    }

    /// A stream to `group` has brought something.
    pub(super) fn served(&self, group: Group) {
        if let Some(seen) = self.lock().seen.get_mut(&group) {
            (seen.lost, seen.lost_at) = (0, None);
        }
    }

    /// For how long this process has done nothing, where that is too long.
    pub(super) fn stuck(&self, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(self.lock().pulse);
        (age > PULSE_AGE_MAX).then_some(age)
    }

    fn answered(&self, group: Group, answer: Result<(), DispatchError>, now: Instant) {
        if let Some(seen) = self.lock().seen.get_mut(&group) {
            match answer {
                Ok(()) => (seen.answered, seen.silent) = (Some(now), None),
                Err(error) => seen.silent = Some(error.to_string()),
            }
        }
    }

    /// Forgets all groups but `ready`; which of those are new.
    fn keep(&self, ready: &[ReadyReplica], now: Instant) -> BTreeSet<Group> {
        let mut inner = self.lock();
        inner.pulse = now;
        let groups: BTreeSet<Group> = ready.iter().map(ReadyReplica::group).collect();
        inner.seen.retain(|group, _| groups.contains(group));
        let new: BTreeSet<Group> = groups.into_iter().filter(|g| !inner.seen.contains_key(g)).collect();
        inner.seen.extend(new.iter().map(|group| (*group, Seen::default())));
        new
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn wrong(&self, now: Instant) -> Option<String> {
        if let Some(why) = &self.silent {
            return Some(why.clone());
        }
        let age = self.answered.map(|at| now.saturating_duration_since(at));
        match age {
            None => return Some("it has not answered yet".to_owned()),
            Some(age) if age > ANSWER_AGE_MAX => return Some(format!("it has not answered for {} s", age.as_secs())),
            Some(_) => {}
        }
        let lately = self.lost_at.is_some_and(|at| now.saturating_duration_since(at) < LOST_COUNTS);
        (self.lost >= LOST_MAX && lately).then(|| format!("its last {} streams from here were lost", self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn answered(at: Instant) -> Seen {
        Seen { answered: Some(at), ..Seen::default() }
    }

    #[test]
    fn an_answer_counts_until_it_is_old_or_the_next_one_fails() {
        let now = Instant::now();
        assert_eq!(Seen::default().wrong(now).as_deref(), Some("it has not answered yet"));
        assert_eq!(answered(now).wrong(now + ANSWER_AGE_MAX), None);
        let old = answered(now).wrong(now + 3 * SECOND);
        assert_eq!(old.as_deref(), Some("it has not answered for 3 s"));
        let silent = Seen { silent: Some("nobody listens".into()), ..answered(now) };
        assert_eq!(silent.wrong(now).as_deref(), Some("nobody listens"));
    }

    #[test]
    fn lost_streams_count_in_a_row_and_for_a_while() {
        let now = Instant::now();
        let lost = |lost| Seen { lost, lost_at: Some(now), ..answered(now) };
        assert_eq!(lost(LOST_MAX - 1).wrong(now), None);
        assert_eq!(lost(LOST_MAX).wrong(now).as_deref(), Some("its last 3 streams from here were lost"));
        let later = Seen { answered: Some(now + LOST_COUNTS), ..lost(LOST_MAX) };
        assert_eq!(later.wrong(now + LOST_COUNTS), None);
    }
}
