//! Numbers that look random and follow from the seed: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
//! number generators", 2014), one independent generator for each purpose and index, so that no draw depends on what
//! else was drawn.

/// What is drawn for; each purpose has numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Time between arrivals.
    Arrival = 1,
    /// Lengths of a request, and whether its client hangs up.
    Shape = 2,
    /// A prompt's words.
    Words = 3,
    /// The words of the shared system prompt.
    System = 4,
    /// A conversation's turns and pauses.
    Conversation = 5,
    /// Prompts that are not measured.
    Rehearsal = 6,
}

/// A generator.
#[derive(Debug, Clone)]
pub(super) struct Draw {
    state: u64,
}

/// SplitMix64's step: 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Draw {
    /// The generator of one purpose and index under a seed.
    pub(super) fn of(seed: u64, purpose: Purpose, index: u64) -> Self {
        let mut state = seed;
        for part in [purpose as u64, index] {
            state = mix(state.wrapping_add(GOLDEN)) ^ mix(part.wrapping_mul(GOLDEN));
        }
        Self { state }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform below `bound`, which is above 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        // Lemire's multiplication; its bias of at most bound / 2^64 is far below what any run could show.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u32
    }

    /// Exponential with this mean.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_splitmix64() {
        // The published generator's first output from state 0.
        assert_eq!(Draw { state: 0 }.next(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn purposes_indexes_and_seeds_differ_and_repeat() {
        let first = |seed, purpose, index| Draw::of(seed, purpose, index).next();
        let all = [
            first(1, Purpose::Shape, 0),
            first(1, Purpose::Shape, 1),
            first(1, Purpose::Words, 0),
            first(2, Purpose::Shape, 0),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        assert_eq!(first(1, Purpose::Shape, 1), all[1]);
    }

    #[test]
    fn draws_are_uniform_enough() {
        let mut draw = Draw::of(7, Purpose::Shape, 0);
        let mut counts = [0u32; 10];
        (0..100_000).for_each(|_| counts[draw.below(10) as usize] += 1);
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
        let mean = (0..100_000).map(|_| draw.unit()).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
    }
}
