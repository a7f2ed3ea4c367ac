//! Desired state: which model, cut how, how often; and what is known of a model version.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{Generation, PictureLimits, WorldSize};

/// In which precision weights are held. Arithmetic and activations are f32 on the CPU backend either way.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Every weight at its stored value: bf16 weights stay two bytes wide, since widening them is exact; f16 and f32
    /// are held as f32.
    #[default]
    F32,
    /// Every matrix rounded to bf16.
    Bf16,
}

impl Dtype {
    /// As it stands in `cluster.toml`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// An immutable model version as registered with the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct ModelRecord {
    /// Its name: the checkpoint directory's.
    pub name: String,
    /// SHA-256, hex, over the configuration and tokenizer files and every tensor's name, dtype, shape and place.
    pub digest: String,
    /// The checkpoint's directory, the same path on every host.
    pub dir: String,
    /// The text of its `config.json`.
    pub config_json: String,
    /// Whether [`Dtype::F32`] holds any of its matrices in four bytes an element (stored as f32 or f16, else bf16 in
    /// two): decides the byte budget.
    pub stored_f32: bool,
    /// Size of its weight files, bytes.
    pub weight_bytes: u64,
}

/// What should run.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
pub struct DeploymentSpec {
    /// Its name.
    pub name: String,
    /// The version of this desired state; given by the state machine.
    pub generation: Generation,
    /// The model version.
    pub model: ModelRecord,
    /// Names that clients may use for it; the first is its own, the rest are aliases.
    pub served_names: Vec<String>,
    /// Degree of tensor parallelism.
    pub tp: WorldSize,
    /// How many replicas.
    pub replicas: u16,
    /// Precision of the weights.
    pub dtype: Dtype,
    /// Compute threads of each worker.
    pub threads_per_worker: u16,
    /// KV cache of each replica, tokens; `None`: as much as one context of the model, at most a default.
    pub kv_tokens: Option<u32>,
    /// Longest context, tokens; `None`: the model's own.
    pub context_tokens: Option<u32>,
    /// Most sequences that decode together.
    pub max_seqs: u16,
    /// Most tokens in one step.
    pub step_tokens: u32,
    /// What pictures are taken; `None`: the model reads text alone.
    pub pictures: Option<PictureLimits>,
}
