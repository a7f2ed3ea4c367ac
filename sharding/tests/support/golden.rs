//! What Hugging Face computed: cases of `golden.json` with their tensors.

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;

use super::fixtures;

/// The goldens of one model.
pub(crate) struct Golden {
    json: Value,
    tensors: Vec<u8>,
}

/// One prompt and what came of it.
#[derive(Clone)]
pub(crate) struct Case {
    /// Its name, which leads its tensors' names.
    pub(crate) name: String,
    pub(crate) prompt: Vec<u32>,
    /// Greedy continuation, with the stop token where one came.
    pub(crate) greedy: Vec<u32>,
    /// Best id after each prompt token.
    pub(crate) prompt_argmax: Vec<u32>,
    /// Hugging Face's own bf16 run against its f32 run, root mean square of all logits, relative.
    pub(crate) bf16_rms: f64,
    /// As `bf16_rms`, mean divergence from f32, nats.
    pub(crate) bf16_kl: f64,
    /// Files of its pictures, in the order of the prompt.
    pub(crate) images: Vec<String>,
    /// Patches of each, rows and columns.
    pub(crate) grids: Vec<(u32, u32)>,
    /// From a generated token's index to its position.
    pub(crate) rope_delta: i64,
}

impl Golden {
    pub(crate) fn load(model: &str) -> Self {
        let dir: PathBuf = fixtures().join("goldens").join(model);
        let json = std::fs::read(dir.join("golden.json")).expect("golden.json");
        let tensors = std::fs::read(dir.join("tensors.safetensors")).expect("tensors.safetensors");
        Self { json: serde_json::from_slice(&json).expect("JSON"), tensors }
    }

    /// The cases without pictures.
    pub(crate) fn text_cases(&self) -> Vec<Case> {
        self.cases().into_iter().filter(|c| c.images.is_empty()).collect()
    }

    /// All cases.
    pub(crate) fn cases(&self) -> Vec<Case> {
        self.json["cases"].as_array().expect("cases").iter().map(case).collect()
    }

    pub(crate) fn stop_ids(&self) -> Vec<u32> {
        ids(&self.json["eos_token_id"])
    }

    /// Positions of a case's prompt, `[3, tokens]` flat, and how many tokens there are.
    pub(crate) fn positions(&self, case: &str) -> (Vec<u32>, usize) {
        let all = SafeTensors::deserialize(&self.tensors).expect("safetensors");
        let tensor = all.tensor(&format!("{case}/position_ids")).expect("position_ids");
        assert_eq!((tensor.dtype(), tensor.shape()[0]), (safetensors::Dtype::I32, 3));
        let (words, _) = tensor.data().as_chunks::<4>();
        (words.iter().map(|w| u32::from_le_bytes(*w)).collect(), tensor.shape()[1])
    }

    /// A tensor as f32 with its shape, where there is one.
    pub(crate) fn tensor(&self, name: &str) -> Option<(Vec<f32>, Vec<usize>)> {
        let all = SafeTensors::deserialize(&self.tensors).expect("safetensors");
        let tensor = all.tensor(name).ok()?;
        let (words, rest) = tensor.data().as_chunks::<4>();
        assert!(rest.is_empty() && tensor.dtype() == safetensors::Dtype::F32, "{name} is f32");
        Some((words.iter().map(|w| f32::from_le_bytes(*w)).collect(), tensor.shape().to_vec()))
    }
}

fn case(c: &Value) -> Case {
    let list = |key: &str| c[key].as_array().cloned().unwrap_or_default();
    let grid = |grid: &Value| match ids(grid).as_slice() {
        [1, rows, columns] => (*rows, *columns),
        other => panic!("a still picture: {other:?}"),
    };
    Case {
        images: list("images").iter().map(|f| f.as_str().expect("a file").to_owned()).collect(),
        grids: list("image_grid_thw").iter().map(grid).collect(),
        rope_delta: c["rope_delta"].as_i64().unwrap_or(0),
        name: c["name"].as_str().expect("name").to_owned(),
        prompt: ids(&c["input_ids"]),
        greedy: ids(&c["f32"]["greedy_ids"]),
        prompt_argmax: ids(&c["f32"]["prompt_argmax"]),
        bf16_rms: c["bf16"]["all_logits_rms_rel"].as_f64().expect("all_logits_rms_rel"),
        bf16_kl: c["bf16"]["kl_f32_bf16_mean"].as_f64().expect("kl_f32_bf16_mean"),
    }
}

/// A list of token ids.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| u32::try_from(v.as_u64().expect("an id")).expect("an id");
    value.as_array().expect("ids").iter().map(id).collect()
}

/// Largest distance of two lists of the same length.
pub(crate) fn max_abs(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// Distance relative to the second list, L2.
pub(crate) fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let distance: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (distance / norm).sqrt()
}

/// Index of the largest, the lowest of equals.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    u32::try_from(kernels::argmax(row).expect("not empty")).expect("an id")
}
