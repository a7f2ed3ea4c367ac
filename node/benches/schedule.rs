//! What the scheduler costs a step: `cargo bench -p shardglm-node --bench schedule`. Prints one line a case, the
//! median µs a step, of what stands between two steps and of what is done while a step computes.
#![expect(clippy::print_stdout, reason = "the figures are its output")]

use std::time::{Duration, Instant};

use node::engine::{Admission, Draft, EngineLimits, NewRequest, Scheduler, Step};

/// Sequences that decode, and tokens of each one's context at the start.
const CASES: [(u16, u32); 6] = [(1, 512), (16, 512), (64, 512), (64, 8192), (256, 512), (256, 8192)];
/// Steps of each case.
const STEPS: u32 = 400;

/// The time that each part took, step by step.
#[derive(Default)]
struct Parts {
    /// With a draft, where there is one.
    schedule: Vec<Duration>,
    ahead: Vec<Duration>,
    complete: Vec<Duration>,
}

fn main() {
    println!("              | planned after      | planned ahead");
    println!(
        "{:>5} {:>7} | {:>8} {:>8}  | {:>8} {:>8} {:>8}",
        "seqs", "context", "schedule", "complete", "ahead", "schedule", "complete"
    );
    for (seqs, context) in CASES {
        let plain = run(seqs, context, false);
        let ahead = run(seqs, context, true);
        println!(
            "{seqs:>5} {context:>7} | {:>8.1} {:>8.1}  | {:>8.1} {:>8.1} {:>8.1}",
            median_us(plain.schedule),
            median_us(plain.complete),
            median_us(ahead.ahead),
            median_us(ahead.schedule),
            median_us(ahead.complete),
        );
    }
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
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
            parts.complete.push(began.elapsed());
            parts.ahead.push(drafted);
            parts.schedule.push(scheduled);
            left -= 1;
        }
    }
    parts
}

fn sampled(step: &Step) -> Vec<(protocol::SeqId, u32)> {
    step.samples.iter().map(|sample| (sample.seq, 7)).collect()
}
