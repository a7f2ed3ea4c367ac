//! Speed of linear layers: `cargo bench -p shardglm-kernels -- [threads] [isa]`. Prints one line a shape: best time of many,
//! arithmetic and weight traffic. The autoglm-nano shapes are those of one step; the last one is the 9B's down product.
#![expect(clippy::print_stdout, reason = "the figures are its output")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use kernels::{AttnSeq, Isa, KernelError, KvLayer, PackedLinear, Pool, WeightType, attention};

/// `[in, out]` features.
const SHAPES: [(usize, usize); 4] = [(256, 1408), (704, 256), (256, 4096), (13696, 4096)];
const TOKENS: [usize; 4] = [1, 8, 128, 512];
/// Time spent on each line.
const BUDGET: Duration = Duration::from_millis(500);
/// Best of at least so many runs.
const RUNS_MIN: u32 = 3;

fn main() -> Result<(), KernelError> {
    let threads = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(NonZeroUsize::MIN);
    let wanted = |isa: &Isa| std::env::args().any(|a| a == isa.name());
    let isa = Isa::available().into_iter().find(wanted).unwrap_or(Isa::best());
    let pool = Pool::with_isa(threads, isa)?;
    println!("{} threads, {}", pool.threads(), pool.isa().name());
    println!("{:>6} {:>6} {:>5} {:>5} {:>12} {:>9} {:>7}", "in", "out", "type", "m", "best µs", "GFLOP/s", "GB/s");
    for (columns, out) in SHAPES {
        for weight_type in [WeightType::F32, WeightType::Bf16] {
            let layer = PackedLinear::from_rows(out, columns, weight_type, |row, to| to.fill(row as f32 / out as f32));
            for tokens in TOKENS {
                linear(&pool, &layer, tokens)?;
            }
        }
    }
    attend(&pool)
}

fn linear(pool: &Pool, layer: &PackedLinear, tokens: usize) -> Result<(), KernelError> {
    let (columns, out) = (layer.in_features(), layer.out_features());
    let x: Vec<f32> = (0..tokens * columns).map(|i| (i % 17) as f32 - 8.0).collect();
    let mut y = vec![0.0; tokens * out];
    let best = best_of(|| layer.forward(pool, black_box(&x), None, black_box(&mut y)))?;
    let flops = 2.0 * (tokens * columns * out) as f64;
    let name = match layer.weight_type() {
        WeightType::F32 => "f32",
        WeightType::Bf16 => "bf16",
    };
    let nanos = best.as_secs_f64() * 1e9;
    let (gflops, gbytes) = (flops / nanos, layer.bytes() as f64 / nanos);
    println!("{columns:>6} {out:>6} {name:>5} {tokens:>5} {:>12.1} {gflops:>9.1} {gbytes:>7.1}", nanos / 1e3);
    Ok(())
}

/// One layer of autoglm-nano (half of its heads) and of the 9B, decoding at a context.
fn attend(pool: &Pool) -> Result<(), KernelError> {
    println!("{:>6} {:>8} {:>8} {:>7} {:>12}", "heads", "head_dim", "context", "tokens", "best µs");
    for (heads, head_dim, context, tokens) in [(4, 32, 64, 1), (4, 32, 512, 1), (16, 128, 4096, 1), (16, 128, 512, 512)]
    {
        let blocks: Vec<u32> = (0..context as u32 / 16).collect();
        let mut kv = KvLayer::new(blocks.len(), 1, head_dim);
        let whole = vec![0.1; context * head_dim];
        kv.write(&[AttnSeq { rows: 0..context, start: 0, blocks: &blocks }], &whole, &whole)?;
        let seqs = [AttnSeq { rows: 0..tokens, start: context - tokens, blocks: &blocks }];
        let (q, mut out) = (vec![0.5; tokens * heads * head_dim], vec![0.0; tokens * heads * head_dim]);
        let best = best_of(|| attention(pool, &kv, &seqs, black_box(&q), &vec![0; heads], 0.1, black_box(&mut out)))?;
        println!("{heads:>6} {head_dim:>8} {context:>8} {tokens:>7} {:>12.1}", best.as_secs_f64() * 1e6);
    }
    Ok(())
}

fn best_of(mut run: impl FnMut() -> Result<(), KernelError>) -> Result<Duration, KernelError> {
    let (begin, mut best, mut runs) = (Instant::now(), Duration::MAX, 0);
    while runs < RUNS_MIN || begin.elapsed() < BUDGET {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
        runs += 1;
    }
    Ok(best)
}
