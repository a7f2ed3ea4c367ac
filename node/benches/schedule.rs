//! What the scheduler costs a step: `cargo bench -p shardglm-node --bench schedule`. Prints one line a case, µs a step, of
//! the part that must stand between two steps and of the part that may be done while a step computes.
#![expect(clippy::print_stdout, reason = "the figures are its output")]

use std::time::{Duration, Instant};

use node::engine::{Admission, Draft, EngineLimits, NewRequest, Scheduler, Step};

/// Sequences that decode, and tokens of each one's context at the start.
const CASES: [(u16, u32); 6] = [(1, 512), (16, 512), (64, 512), (64, 8192), (256, 512), (256, 8192)];
/// Steps of each case.
const STEPS: u32 = 400;

/// The time that each part took, over all steps.
#[derive(Default)]
struct Parts {
    schedule: Duration,
    ahead: Duration,
    by_draft: Duration,
    complete: Duration,
}

fn main() {
    println!("{:>5} {:>7} | {:>9} {:>9} | {:>9} {:>9}", "seqs", "context", "schedule", "complete", "ahead", "by draft");
    for (seqs, context) in CASES {
        let plain = run(seqs, context, false);
        let ahead = run(seqs, context, true);
        let us = |d: Duration| d.as_secs_f64() * 1e6 / f64::from(STEPS);
        println!(
            "{seqs:>5} {context:>7} | {:>9.1} {:>9.1} | {:>9.1} {:>9.1}",
            us(plain.schedule),
            us(plain.complete),
            us(ahead.ahead),
            us(ahead.by_draft),
        );
    }
}

fn run(seqs: u16, context: u32, ahead: bool) -> Parts {
    let tokens = u32::from(seqs) * (context + 2 * STEPS);
    let limits = EngineLimits::new(1 << 16, seqs, u32::from(seqs), context + 2 * STEPS, tokens).expect("workable");
    let mut scheduler = Scheduler::new(limits, "a digest");
    for seq in 0..u32::from(seqs) {
        let request = NewRequest::new((0..context).map(|at| at ^ seq).collect(), 2 * STEPS);
        let taken = scheduler.add(&request).expect("there is room");
        assert!(matches!(taken[..], [Admission::Queued(_)]));
    }
    let (mut parts, mut draft, mut left) = (Parts::default(), Draft::default(), STEPS);
    while left > 0 {
        let timed = scheduler.num_waiting() == 0;
        let began = Instant::now();
        let step = scheduler.schedule(draft).expect("there are sequences");
        let scheduled = began.elapsed();
        let decoding = timed && step.plan.num_tokens() == usize::from(seqs);
        let began = Instant::now();
        draft = if ahead { scheduler.schedule_ahead() } else { Draft::default() };
        let drafted = began.elapsed();
        let began = Instant::now();
        scheduler.complete(&sampled(&step));
        if decoding {
            parts.complete += began.elapsed();
            parts.ahead += drafted;
            *if ahead { &mut parts.by_draft } else { &mut parts.schedule } += scheduled;
            left -= 1;
        }
    }
    parts
}

fn sampled(step: &Step) -> Vec<(protocol::SeqId, u32)> {
    step.samples.iter().map(|sample| (sample.seq, 7)).collect()
}
