//! When the cluster noticed a fault and when it was whole again, from what its daemons logged. Pure.
//!
//! Not here: what clients saw. A moment is when the leader proposes what it found, which is a commit before it is so.

use std::time::Duration;

use time::OffsetDateTime;

use crate::cluster::Event;
use crate::fault::{Fault, Place, Who};

/// Where a fault shows first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// Another coordinator leads.
    Leadership,
    /// A coordinator is out of reach of another.
    Member,
    /// A replica, or its node, is lost.
    Group,
}

/// Moments after the fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Until the cluster's state, or the leadership, said so.
    pub detect: Option<Duration>,
    /// Until the group was committed Ready again, or all nodes had a lease from the new leader.
    pub reform: Option<Duration>,
}

fn sign(fault: Fault) -> Sign {
    match fault {
        Fault::Kill(Who::Leader) | Fault::Freeze(Who::Leader) => Sign::Leadership,
        Fault::Unplug(Place::Leader) | Fault::Mute(Place::Leader) | Fault::Deaf(Place::Leader) => Sign::Leadership,
        Fault::Kill(Who::Follower) | Fault::Freeze(Who::Follower) => Sign::Member,
        Fault::Unplug(Place::Follower) | Fault::Mute(Place::Follower) | Fault::Deaf(Place::Follower) => Sign::Member,
        Fault::Cut(Place::Leader, Place::Follower) | Fault::Cut(Place::Follower, Place::Leader) => Sign::Member,
        _ => Sign::Group,
    }
}

impl Times {
    /// Whether a fault strikes what coordinators have between each other.
    #[must_use]
    pub fn is_between_coordinators(fault: Fault) -> bool {
        sign(fault) != Sign::Group
    }

    /// Of a fault that was done at `at`.
    #[must_use]
    pub fn of(fault: Fault, at: OffsetDateTime, events: &[Event]) -> Self {
        let mut events: Vec<&Event> = events.iter().filter(|e| e.at > at).collect();
        events.sort_by_key(|e| e.at);
        let told = |e: &Event, words: &[&str]| e.command().is_some_and(|c| words.iter().any(|w| c.contains(w)));
        let noticed: fn(&Event) -> bool = match sign(fault) {
            Sign::Leadership => |e| e.message == "leading",
            Sign::Member => |e| e.message == "coordinator lost" || e.message == "leading",
            Sign::Group => |e| e.command().is_some_and(|c| c.contains("is lost") || c.contains("is down")),
        };
        let Some(detected) = events.iter().find(|e| noticed(e)).map(|e| e.at) else { return Self::default() };
        let whole = events.iter().filter(|e| e.at >= detected).filter(|e| match sign(fault) {
            Sign::Leadership => e.message == "lease granted",
            Sign::Member => false,
            Sign::Group => told(e, &["is ready"]),
        });
        let reformed = whole.map(|e| e.at).next_back();
        let after = |moment: OffsetDateTime| (moment - at).unsigned_abs();
        Self { detect: Some(after(detected)), reform: reformed.map(after) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(second: i64, message: &str, command: &str) -> Event {
        let at = OffsetDateTime::from_unix_timestamp(1_000 + second).expect("a moment");
        Event { at, daemon: "c1".to_owned(), message: message.to_owned(), fields: json!({ "command": command }) }
    }

    fn seconds(detect: Option<u64>, reform: Option<u64>) -> Times {
        Times { detect: detect.map(Duration::from_secs), reform: reform.map(Duration::from_secs) }
    }

    #[test]
    fn what_was_before_the_fault_counts_for_nothing() {
        let events = [
            event(-2, "reconciling", "replica 1, epoch 1 is lost: x"),
            event(3, "reconciling", "node n1 is down: silence"),
            event(4, "reconciling", "replica 1, epoch 2 is lost: its node"),
            event(7, "reconciling", "replica 1 is ready, epoch 3"),
            event(2, "leading", ""),
            event(5, "lease granted", ""),
        ];
        let at = OffsetDateTime::from_unix_timestamp(1_000).expect("a moment");
        let of = |fault, events: &[Event]| Times::of(fault, at, events);
        assert_eq!(of(Fault::Kill(Who::Agent(0)), &events), seconds(Some(3), Some(7)));
        assert_eq!(of(Fault::Kill(Who::Leader), &events), seconds(Some(2), Some(5)));
        assert_eq!(of(Fault::Freeze(Who::Follower), &events[..1]), seconds(None, None));
    }
}
