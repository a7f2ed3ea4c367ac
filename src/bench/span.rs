//! A length or a range of lengths, `A` or `A..B`, both ends included.

use std::str::FromStr;

use serde::Serialize;

use super::draw::Draw;

/// From the first to the last, uniformly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Span {
    from: u32,
    to: u32,
}

impl Span {
    /// One of them.
    pub(super) fn draw(self, draw: &mut Draw) -> u32 {
        self.from + draw.below(self.to - self.from + 1)
    }
}

/// Longest length that a span may have: that of the longest context.
const LENGTH_MAX: u32 = protocol::generate::CONTEXT_TOKENS_MAX as u32;

impl FromStr for Span {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let number = |s: &str| s.trim().parse::<u32>().ok().filter(|n| (1..=LENGTH_MAX).contains(n));
        let (from, to) = s.split_once("..").unwrap_or((s, s));
        match (number(from), number(to)) {
            (Some(from), Some(to)) if from <= to => Ok(Self { from, to }),
            _ => Err(format!("expected A or A..B with 1 <= A <= B <= {LENGTH_MAX}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::draw::Purpose;
    use super::*;

    #[test]
    fn spans_are_read_and_drawn_with_both_ends() {
        let span: Span = "3..5".parse().expect("a span");
        let mut draw = Draw::of(1, Purpose::Shape, 0);
        let drawn: std::collections::BTreeSet<u32> = (0..200).map(|_| span.draw(&mut draw)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!("7".parse::<Span>().expect("a span").draw(&mut draw), 7);
        for wrong in ["", "0", "5..3", "a..b", "1..", "1...3", "99999999"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }
}
