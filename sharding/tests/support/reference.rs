//! A second reference: the GLM-4 text model in f64, written from the architecture's description, as plainly as it goes:
//! one sequence, no cache, no cut. And random checkpoints of any dimensions to run it on.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Value, json};
use sharding::ModelSpec;
use sharding::partition::tensors;

/// A random checkpoint's tensors as they read back from its file, `[rows][cols]` flat.
pub(crate) struct Weights(BTreeMap<String, Vec<f64>>);

/// Writes `config.json` and `model.safetensors` with random weights stored as `dtype` into `dir`.
pub(crate) fn write_checkpoint(dir: &Path, config: &Value, dtype: &str, mut seed: u64) -> Weights {
    std::fs::write(dir.join("config.json"), config.to_string()).expect("written");
    let spec = ModelSpec::from_config_json(&config.to_string()).expect("legal");
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    let mut weights = BTreeMap::new();
    for tensor in tensors(&spec) {
        let count: usize = tensor.shape.iter().map(|d| *d as usize).product();
        let norm = tensor.name.contains("norm");
        let fan_in = f64::from(*tensor.shape.last().expect("a shape"));
        let start = data.len();
        let values = (0..count).map(|_| {
            let noise = random(&mut seed);
            let value = if norm { 1.0 + 0.2 * noise } else { 2.0 * noise / fan_in.sqrt() };
            store(&mut data, dtype, value)
        });
        weights.insert(tensor.name.clone(), values.collect());
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name, entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    std::fs::write(dir.join("model.safetensors"), file).expect("written");
    Weights(weights)
}

/// In -1..1 (splitmix64).
pub(crate) fn random(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Appends a value and returns it as it was rounded.
fn store(data: &mut Vec<u8>, dtype: &str, value: f64) -> f64 {
    match dtype {
        "BF16" => {
            let value = bf16::from_f64(value);
            data.extend_from_slice(&value.to_le_bytes());
            value.to_f64()
        }
        "F16" => {
            let value = f16::from_f64(value);
            data.extend_from_slice(&value.to_le_bytes());
            value.to_f64()
        }
        _ => {
            let value = value as f32;
            data.extend_from_slice(&value.to_le_bytes());
            f64::from(value)
        }
    }
}

/// Logits after the last token of `tokens`, `[vocab]`.
pub(crate) fn last_logits(spec: &ModelSpec, weights: &Weights, tokens: &[u32]) -> Vec<f64> {
    let prefix = spec.family.text_prefix();
    let hidden = spec.hidden_size as usize;
    let get = |name: &str| &weights.0[name];
    let embed = get(&format!("{prefix}.embed_tokens.weight"));
    let mut x: Vec<Vec<f64>> = tokens.iter().map(|t| embed[*t as usize * hidden..][..hidden].to_vec()).collect();
    for layer in 0..spec.num_layers {
        let get = |name: &str| &weights.0[&format!("{prefix}.layers.{layer}.{name}.weight")];
        let normed: Vec<_> = x.iter().map(|x| norm(x, get("input_layernorm"), spec.rms_norm_eps)).collect();
        let heads = attend(spec, weights, &format!("{prefix}.layers.{layer}.self_attn"), &normed);
        for (x, heads) in x.iter_mut().zip(&heads) {
            let out =
                norm(&product(get("self_attn.o_proj"), heads), get("post_self_attn_layernorm"), spec.rms_norm_eps);
            x.iter_mut().zip(out).for_each(|(x, o)| *x += o);
            let normed = norm(x, get("post_attention_layernorm"), spec.rms_norm_eps);
            let both = product(get("mlp.gate_up_proj"), &normed);
            let (gate, up) = both.split_at(spec.intermediate_size as usize);
            let gated: Vec<f64> = gate.iter().zip(up).map(|(g, u)| u * g / (1.0 + (-g).exp())).collect();
            let out = norm(&product(get("mlp.down_proj"), &gated), get("post_mlp_layernorm"), spec.rms_norm_eps);
            x.iter_mut().zip(out).for_each(|(x, o)| *x += o);
        }
    }
    let last = norm(x.last().expect("a token"), get(&format!("{prefix}.norm.weight")), spec.rms_norm_eps);
    let head = if spec.tie_word_embeddings { embed } else { get("lm_head.weight") };
    product(head, &last)
}

/// Every row's heads, `[tokens][heads * head_dim]`.
fn attend(spec: &ModelSpec, weights: &Weights, name: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let dim = spec.head_dim as usize;
    let project = |which: &str, x: &[f64]| {
        let mut y = product(&weights.0[&format!("{name}.{which}.weight")], x);
        if let Some(bias) = weights.0.get(&format!("{name}.{which}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    };
    let rotated = |which: &str| -> Vec<Vec<f64>> {
        let rows = x.iter().enumerate();
        rows.map(|(position, x)| rotate(spec, &project(which, x), position)).collect()
    };
    let (q, k) = (rotated("q_proj"), rotated("k_proj"));
    let v: Vec<Vec<f64>> = x.iter().map(|x| project("v_proj", x)).collect();
    let head_of_row = |row: usize, head: usize| {
        let kv = head / spec.heads_per_kv_head() as usize;
        let q = &q[row][head * dim..][..dim];
        let scores: Vec<f64> = (0..=row).map(|t| dot(q, &k[t][kv * dim..][..dim]) / (dim as f64).sqrt()).collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let mut out = vec![0.0; dim];
        for (t, score) in scores.iter().enumerate() {
            let weight = (score - max).exp() / total;
            out.iter_mut().zip(&v[t][kv * dim..][..dim]).for_each(|(o, v)| *o += weight * v);
        }
        out
    };
    (0..x.len()).map(|row| (0..spec.num_heads as usize).flat_map(|h| head_of_row(row, h)).collect()).collect()
}

fn rotate(spec: &ModelSpec, heads: &[f64], position: usize) -> Vec<f64> {
    let mut out = heads.to_vec();
    for head in out.chunks_exact_mut(spec.head_dim as usize) {
        for i in 0..spec.rope.dim as usize / 2 {
            let angle = position as f64 * spec.rope.theta.powf(-((2 * i) as f64) / f64::from(spec.rope.dim));
            let (a, b) = (head[2 * i], head[2 * i + 1]);
            head[2 * i] = a * angle.cos() - b * angle.sin();
            head[2 * i + 1] = b * angle.cos() + a * angle.sin();
        }
    }
    out
}

fn norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

fn product(weight: &[f64], x: &[f64]) -> Vec<f64> {
    weight.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
