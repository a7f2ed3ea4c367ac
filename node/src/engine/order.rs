//! Who goes first: the class of a request, then its arrival; and how long a class can hold back another.
//!
//! A request's rank is its number of arrival plus an allowance of its class. So a normal request is overtaken by at
//! most [`NORMAL_OVERTAKEN_MAX`] later ones of class high, and a low one by at most [`LOW_OVERTAKEN_MAX`] later ones of
//! either: without a clock, nobody waits for ever, and among requests that wait together classes rule.
//!
//! The same order serves admission, chunks and preemption. Were they to differ, a sequence could be let in by one and
//! thrown out by another again and again.

use protocol::SeqId;
use protocol::generate::Priority;

/// Later arrivals of class high that may go before a normal one.
const NORMAL_OVERTAKEN_MAX: u64 = 256;
/// Later arrivals of higher classes that may go before a low one.
const LOW_OVERTAKEN_MAX: u64 = 1024;

/// A sequence's place in line; the smaller goes first. Unique, since a [`SeqId`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    rank: u64,
    seq: SeqId,
}

impl Order {
    /// The place of a sequence whose request came as number `arrival`.
    pub(super) fn new(arrival: u64, priority: Priority, seq: SeqId) -> Self {
        let allowance = match priority {
            Priority::High => 0,
            Priority::Normal => NORMAL_OVERTAKEN_MAX,
            Priority::Low => LOW_OVERTAKEN_MAX,
        };
        Self { rank: arrival + allowance, seq }
    }

    /// The place of another sequence of the same request.
    pub(super) fn of_sibling(self, seq: SeqId) -> Self {
        Self { seq, ..self }
    }

    /// The sequence.
    pub(super) fn seq(self) -> SeqId {
        self.seq
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(arrival: u64, priority: Priority) -> Order {
        Order::new(arrival, priority, SeqId(arrival))
    }

    #[test]
    fn classes_come_first_then_arrival() {
        use Priority::{High, Low, Normal};
        let mut line = [at(1, Low), at(2, Normal), at(3, High), at(4, Normal), at(5, High), at(6, Low)];
        line.sort();
        assert_eq!(line.map(|o| o.seq().0), [3, 5, 2, 4, 1, 6]);
    }

    proptest! {
        #[test]
        fn nobody_is_overtaken_for_ever(arrival in 0u64..1000, later in 1u64..5000) {
            for class in [Priority::High, Priority::Normal, Priority::Low] {
                for other in [Priority::High, Priority::Normal, Priority::Low] {
                    let overtakes = at(arrival + later, other) < at(arrival, class);
                    prop_assert!(!overtakes || (other < class && later <= LOW_OVERTAKEN_MAX));
                    prop_assert!(overtakes || other >= class || later >= NORMAL_OVERTAKEN_MAX);
                }
            }
        }
    }
}
