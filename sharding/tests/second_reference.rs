//! Logits against candle-transformers' GLM-4, which shares only tensors with ours: on the fixtures' prompts, and on
//! random ones of lengths that Hugging Face's goldens do not have.
//!
//! Not here: Glm4v, which candle does not have.

mod support;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};
use candle_nn::VarBuilder;
use candle_transformers::models::glm4_new::{Config, ModelForCausalLM};
use support::checkpoint;
use support::golden::{Golden, max_abs};
use support::reference::random;
use support::run::{Answer, Greedy, Setup};

/// As against Hugging Face (`tests/fixtures/README.md`).
const LOGITS: f64 = 1.5e-4;
/// Tokens of each answer that are compared: one after the whole prompt, the others after one token each.
const TOKENS: usize = 6;
/// Around the edges of a KV block, and past the 512 positions after which candle's own cache moves.
const LENGTHS: [usize; 9] = [1, 2, 15, 16, 17, 48, 129, 510, 700];
const SEED: u64 = 20;

/// candle's model of a checkpoint, in f32.
struct Candle(ModelForCausalLM);

impl Candle {
    fn load(dir: &Path) -> Self {
        let config = std::fs::read(dir.join("config.json")).expect("config.json");
        let config: Config = serde_json::from_slice(&config).expect("candle's configuration");
        let mut tensors = HashMap::new();
        for entry in std::fs::read_dir(dir).expect("a checkpoint") {
            let path = entry.expect("entry").path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                tensors.extend(safetensors::load(path, &Device::Cpu).expect("tensors"));
            }
        }
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        Self(ModelForCausalLM::new(&config, weights).expect("a GLM-4 checkpoint"))
    }

    /// Logits after `prompt` and after each of `continuation` but the last, `[continuation, vocab]`.
    fn logits(&mut self, prompt: &[u32], continuation: &[u32]) -> Vec<Vec<f32>> {
        self.0.clear_kv_cache();
        let mut start = 0;
        let mut rows = vec![self.step(prompt, &mut start)];
        let fed = &continuation[..continuation.len() - 1];
        rows.extend(fed.iter().map(|id| self.step(&[*id], &mut start)));
        rows
    }

    fn step(&mut self, tokens: &[u32], start: &mut usize) -> Vec<f32> {
        let input = Tensor::new(tokens, &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("[1, tokens]");
        let logits = self.0.forward(&input, *start).expect("a step");
        *start += tokens.len();
        logits.flatten_all().and_then(|t| t.to_vec1()).expect("f32")
    }
}

/// Any ids of the vocabulary, special ones too.
fn random_prompts(vocab: u32) -> Vec<Vec<u32>> {
    let mut seed = SEED;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in 0..vocab")]
    let mut id = || ((random(&mut seed) + 1.0) / 2.0 * f64::from(vocab)) as u32;
    LENGTHS.iter().map(|length| (0..*length).map(|_| id()).collect()).collect()
}

/// Largest distance of any logit of any answer.
fn distance(candle: &mut Candle, prompts: &[Vec<u32>], answers: &[Answer]) -> f64 {
    let mut worst = 0.0f64;
    for (prompt, answer) in prompts.iter().zip(answers) {
        assert_eq!(answer.ids.len(), TOKENS);
        let expected = candle.logits(prompt, &answer.ids);
        for (ours, theirs) in answer.logits.iter().zip(&expected) {
            worst = worst.max(max_abs(ours, theirs));
        }
    }
    worst
}

/// Compares one checkpoint on one rank and on two. `--nocapture` shows the figures.
fn agrees_with_candle(model: &str) {
    let dir = checkpoint(model);
    let mut candle = Candle::load(&dir);
    for world in [1, 2] {
        let setup = Setup::new(&dir, world);
        let fixtures: Vec<_> = Golden::load(model).text_cases().into_iter().map(|c| c.prompt).collect();
        for (kind, prompts) in [("fixtures", fixtures), ("random", random_prompts(setup.spec.vocab_size))] {
            let run = Greedy::new(TOKENS, &[]);
            let answers: Vec<Answer> =
                setup.run(|lead| prompts.iter().flat_map(|p| lead.greedy(std::slice::from_ref(p), &run)).collect());
            let worst = distance(&mut candle, &prompts, &answers);
            eprintln!(
                "| {model} | {kind} | TP {world} | {} prompts, {TOKENS} rows each | {worst:.2e} |",
                prompts.len()
            );
            assert!(worst <= LOGITS, "{model} TP {world}, {kind}: {worst:e}");
        }
    }
}

#[test]
fn tiny_glm4() {
    agrees_with_candle("tiny-glm4");
}

#[test]
fn tiny_glm4_with_biases_in_three_files() {
    agrees_with_candle("tiny-glm4-bias-f32-sharded");
}
