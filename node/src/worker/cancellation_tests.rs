//! Clients that go away at any moment leave no block behind: thousands over a model that counts, hundreds over a real
//! one, while others run out of blocks and are preempted.

use protocol::generate::{Choice, GenerateRequest, SamplingParams};

use super::real_models::NANO;
use super::rig::{Counting, Rig, Stream};
use super::submission::Reply;
use crate::engine::EngineLimits;

/// Requests that are open at any time.
const OPEN: usize = 24;

/// Numbers that a seed reproduces (Steele, Lea, Flood: SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % n
    }
}

/// A request and the choices that nobody has ended yet.
struct Open {
    stream: Stream,
    choices: Vec<u16>,
}

fn submit(rig: &mut Rig, random: &mut Random, max_tokens: u32) -> Open {
    // One of three texts, cut anywhere: most requests share blocks with others.
    let (text, len) = (random.below(3), 1 + random.below(120));
    let prompt: Vec<u32> = (0..len).map(|at| u32::try_from((text * 7 + at * 13) % 60).expect("below 60")).collect();
    let choices: Vec<u16> = (0..[1, 1, 2, 5][random.below(4) as usize]).collect();
    let request = GenerateRequest {
        choices: choices.iter().map(|index| Choice { index: *index, resume: Vec::new() }).collect(),
        ..rig.request(
            &prompt,
            SamplingParams { temperature: 1.0, seed: random.below(1000), ..SamplingParams::greedy(max_tokens) },
        )
    };
    Open { stream: rig.send(request), choices }
}

/// Cancels `times` choices or whole requests; the engine's load must come back to nothing.
fn cancel(mut rig: Rig, seed: u64, times: usize, max_tokens: u32) {
    let random = &mut Random(seed);
    let mut open: Vec<Open> = Vec::new();
    let mut cancelled = 0;
    while cancelled < times {
        if open.len() < OPEN {
            open.push(submit(&mut rig, random, max_tokens));
            continue;
        }
        let at = random.below(open.len() as u64) as usize;
        match random.below(4) {
            0 => {
                // To somewhere in its answer, or to its end.
                let ended = (0..random.below(4)).any(|_| match open[at].stream.try_next() {
                    Some(Reply::Token { .. } | Reply::Finished { .. }) => false,
                    None => true,
                    Some(other) => panic!("{other:?}"),
                });
                if ended {
                    drop(open.swap_remove(at));
                }
            }
            1 if open[at].choices.len() > 1 => {
                let which = random.below(open[at].choices.len() as u64) as usize;
                let choice = open[at].choices.swap_remove(which);
                open[at].stream.end(choice);
                cancelled += 1;
            }
            _ => {
                drop(open.swap_remove(at));
                cancelled += 1;
            }
        }
    }
    drop(open);
    let used = rig.settle();
    let stats = rig.gauge.stats();
    eprintln!(
        "{cancelled} cancellations (seed {seed}): blocks in use afterwards {used}; {} choices aborted, {} ended, {} \
         preemptions, {} evictions",
        stats.finished_abort, stats.finished_stop, stats.preemptions, stats.prefix_cache_evictions
    );
    assert_eq!(used, 0);
    assert_eq!(stats.finished_error, 0);
    // What is served afterwards is served as ever.
    let (ids, _) = rig.submit(&[1, 2, 3], &[], SamplingParams::greedy(5)).finish();
    assert_eq!(ids.len(), 5);
    rig.drain();
}

#[test]
fn ten_thousand_cancellations_leave_no_block_in_use() {
    let limits = EngineLimits::new(64, 16, 64, 256, 640).expect("workable").with_waiting_tokens(1 << 20);
    cancel(Rig::start(vec![Counting::default(), Counting::default()], limits), 1, 5_000, 40);
    cancel(Rig::start_planning_ahead(vec![Counting::default(), Counting::default()], limits), 2, 5_000, 40);
}

#[test]
fn cancellations_leave_no_block_of_a_real_model_in_use() {
    let limits = EngineLimits::new(64, 16, 64, 1024, 1024).expect("workable").with_waiting_tokens(1 << 20);
    cancel(NANO.rig_planning_ahead(2, limits), 3, 150, 60);
}
