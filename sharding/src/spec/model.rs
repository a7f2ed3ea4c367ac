//! The spec of one model version.
//!
//! Not here: looking values up (`raw`). Invariant: heads are a multiple of KV heads, the rotary part is even and its
//! three sections add up to half of it.

use serde_json::Value;

use super::raw::{Section, object};
use super::{SpecError, VisionSpec};

/// Architectures that are served, for messages.
const SERVED: &str = "Glm4ForCausalLM, Glm4vForConditionalGeneration";
/// The file, for messages.
const FILE: &str = "config.json";
/// What `partial_rotary_factor` means where it is missing: this family's own value, not transformers' general 1.0.
const PARTIAL_ROTARY_DEFAULT: f64 = 0.5;
/// `mrope_section` where a Glm4v configuration has none (GLM-4.1V's own).
const MROPE_SECTIONS_DEFAULT: [u32; 3] = [8, 12, 12];

const VOCAB_MAX: u32 = 1 << 22;
pub(super) const HIDDEN_MAX: u32 = 1 << 17;
pub(super) const FFN_MAX: u32 = 1 << 20;
pub(super) const LAYERS_MAX: u32 = 1 << 10;
pub(super) const HEADS_MAX: u32 = 1 << 12;
const HEAD_DIM_MAX: u32 = 1 << 11;
const POSITIONS_MAX: u32 = 1 << 24;
const EOS_IDS_MAX: usize = 64;

/// Which graph the model has and how its tensors are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// GLM-4-0414, dense text (`Glm4ForCausalLM`).
    Glm4,
    /// GLM-4.1V and AutoGLM-Phone (`Glm4vForConditionalGeneration`).
    Glm4v,
}

impl Family {
    /// What stands before `embed_tokens`, `layers.N` and `norm` in tensor names.
    #[must_use]
    pub fn text_prefix(self) -> &'static str {
        match self {
            Self::Glm4 => "model",
            Self::Glm4v => "model.language_model",
        }
    }
}

/// Rotary position embedding: interleaved pairs over the first `dim` elements of a head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// Elements of a head that rotate; even, at most `head_dim`.
    pub dim: u32,
    /// How many of the `dim / 2` frequencies follow the temporal, the height and the width position (M-RoPE). A model
    /// with one axis has them all on the first.
    pub sections: [u32; 3],
}

/// A dense GLM text model, and its vision tower where it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Graph and names.
    pub family: Family,
    /// Rows of the embedding and of the LM head; at least the tokenizer's size.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the MLP.
    pub intermediate_size: u32,
    /// Decoder layers.
    pub num_layers: u32,
    /// Query heads; a multiple of `num_kv_heads`.
    pub num_heads: u32,
    /// Key and value heads.
    pub num_kv_heads: u32,
    /// Elements of a head; `num_heads * head_dim` need not be `hidden_size`.
    pub head_dim: u32,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the LM head is the embedding.
    pub tie_word_embeddings: bool,
    /// Added to the variance in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Positions.
    pub rope: RopeSpec,
    /// Longest sequence the model was made for, tokens.
    pub max_position_embeddings: u32,
    /// Ids that end a text by `config.json`; `generation_config.json` goes before them.
    pub eos_token_ids: Vec<u32>,
    /// The vision tower. A Glm4v configuration without `vision_config` is of a model that reads text alone; with one,
    /// every tensor of the tower must be in the checkpoint.
    pub vision: Option<VisionSpec>,
}

impl ModelSpec {
    /// Reads the text of a `config.json`, as transformers 4 or 5 writes it.
    ///
    /// # Errors
    /// [`SpecError`] naming the key, what was expected and what was found.
    pub fn from_config_json(text: &str) -> Result<Self, SpecError> {
        let map = object(FILE, text)?;
        let root = Section::root(FILE, &map);
        let family = family(root)?;
        let text = match family {
            Family::Glm4 => root,
            Family::Glm4v => root.child("text_config")?.ok_or_else(|| SpecError::Missing {
                file: FILE,
                key: "text_config".to_owned(),
                expected: "an object".to_owned(),
            })?,
        };
        Self::from_sections(family, root, text)
    }

    fn from_sections(family: Family, root: Section<'_>, text: Section<'_>) -> Result<Self, SpecError> {
        if let Some(act) = text.text("hidden_act")?
            && act != "silu"
        {
            return Err(text.invalid("hidden_act", "silu", act));
        }
        let hidden_size = text.required("hidden_size", 1..=HIDDEN_MAX)?;
        let num_heads = text.required("num_attention_heads", 1..=HEADS_MAX)?;
        let num_kv_heads = text.required("num_key_value_heads", 1..=HEADS_MAX)?;
        if !num_heads.is_multiple_of(num_kv_heads) {
            let expected = format!("a divisor of num_attention_heads ({num_heads})");
            return Err(text.invalid("num_key_value_heads", expected, num_kv_heads));
        }
        let vocab_size = text.required("vocab_size", 1..=VOCAB_MAX)?;
        let head_dim = head_dim(family, text, hidden_size, num_heads)?;
        let tied = match text.flag("tie_word_embeddings")? {
            Some(tied) => tied,
            None => root.flag("tie_word_embeddings")?.unwrap_or(false),
        };
        let vision = match (family, root.child("vision_config")?) {
            (Family::Glm4v, Some(vision)) => Some(VisionSpec::from_sections(root, vision, hidden_size, vocab_size)?),
            _ => None,
        };
        let bias = text.flag("attention_bias")?.unwrap_or(false);
        Ok(Self {
            family,
            vocab_size,
            hidden_size,
            intermediate_size: text.required("intermediate_size", 1..=FFN_MAX)?,
            num_layers: text.required("num_hidden_layers", 1..=LAYERS_MAX)?,
            num_heads,
            num_kv_heads,
            head_dim,
            // The Glm4v text model has these biases whatever `attention_bias` says.
            qkv_bias: bias || family == Family::Glm4v,
            tie_word_embeddings: tied,
            rms_norm_eps: text.float("rms_norm_eps", 1e-12..=1e-1)?.unwrap_or(match family {
                Family::Glm4 => 1.5625e-7,
                Family::Glm4v => 1e-5,
            }),
            rope: rope(family, text, head_dim)?,
            max_position_embeddings: text.number("max_position_embeddings", 1..=POSITIONS_MAX)?.unwrap_or(
                match family {
                    Family::Glm4 => 131_072,
                    Family::Glm4v => 32_768,
                },
            ),
            eos_token_ids: eos_token_ids(root, text, vocab_size)?,
            vision,
        })
    }

    /// Query heads that read one KV head.
    #[must_use]
    pub fn heads_per_kv_head(&self) -> u32 {
        self.num_heads / self.num_kv_heads
    }
}

fn family(root: Section<'_>) -> Result<Family, SpecError> {
    let unknown = |found: String| SpecError::UnknownArchitecture { expected: SERVED, found };
    let name = match root.get("architectures") {
        Some(Value::Array(list)) if !list.is_empty() => list.first().and_then(Value::as_str),
        Some(other) => return Err(unknown(other.to_string().chars().take(80).collect())),
        None => root.text("model_type")?,
    };
    match name {
        Some("Glm4ForCausalLM" | "glm4") => Ok(Family::Glm4),
        Some("Glm4vForConditionalGeneration" | "glm4v") => Ok(Family::Glm4v),
        Some("Glm4MoeForCausalLM" | "glm4_moe") => {
            Err(SpecError::NotServed { architecture: "Glm4MoeForCausalLM", expected: SERVED })
        }
        Some(other) => Err(unknown(other.chars().take(80).collect())),
        None => Err(unknown("nothing".to_owned())),
    }
}

fn head_dim(family: Family, text: Section<'_>, hidden: u32, heads: u32) -> Result<u32, SpecError> {
    if let Some(dim) = text.number("head_dim", 2..=HEAD_DIM_MAX)? {
        return Ok(dim);
    }
    // Defaults of transformers' configuration classes: Glm4 has one, Glm4v's text model divides.
    if family == Family::Glm4 {
        return Ok(128);
    }
    let dim = hidden / heads;
    if !hidden.is_multiple_of(heads) || !(2..=HEAD_DIM_MAX).contains(&dim) {
        let expected = format!("a divisor of hidden_size ({hidden}) where head_dim is missing");
        return Err(text.invalid("num_attention_heads", expected, heads));
    }
    Ok(dim)
}

/// The rotary part from `rope_parameters` (transformers 5), or `rope_scaling` and top-level keys (transformers 4).
fn rope(family: Family, text: Section<'_>, head_dim: u32) -> Result<RopeSpec, SpecError> {
    let nested = match text.child("rope_parameters")? {
        Some(section) => Some(section),
        None => text.child("rope_scaling")?,
    };
    if let Some(section) = nested {
        for key in ["rope_type", "type"] {
            if let Some(kind) = section.text(key)?
                && !matches!(kind, "default" | "mrope")
            {
                return Err(section.invalid(key, "default", kind));
            }
        }
    }
    let float = |key: &str, range: std::ops::RangeInclusive<f64>, default: f64| {
        for section in nested.into_iter().chain([text]) {
            if let Some(x) = section.float(key, range.clone())? {
                return Ok(x);
            }
        }
        Ok(default)
    };
    let theta = float("rope_theta", 1.0..=1e12, 10_000.0)?;
    let factor = float("partial_rotary_factor", 1e-3..=1.0, PARTIAL_ROTARY_DEFAULT)?;
    // As Python's int(head_dim * factor); head_dim is at most 2048, so the cast neither rounds nor saturates.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 < factor <= 1")]
    let dim = (f64::from(head_dim) * factor) as u32;
    if dim < 2 || !dim.is_multiple_of(2) {
        let expected = format!("a share of head_dim ({head_dim}) that is an even number of elements");
        return Err(text.invalid("partial_rotary_factor", expected, factor));
    }
    let sections = match family {
        Family::Glm4 => [dim / 2, 0, 0],
        Family::Glm4v => mrope_sections(nested.unwrap_or(text), dim)?,
    };
    Ok(RopeSpec { theta, dim, sections })
}

fn mrope_sections(section: Section<'_>, rotary_dim: u32) -> Result<[u32; 3], SpecError> {
    let key = "mrope_section";
    let found = section.numbers(key, 3, HEAD_DIM_MAX)?;
    let sections = match (section.get(key), <[u32; 3]>::try_from(found.as_slice())) {
        (None, _) => MROPE_SECTIONS_DEFAULT,
        (Some(_), Ok(sections)) => sections,
        (Some(value), Err(_)) => return Err(section.invalid(key, "three whole numbers", value)),
    };
    if sections.iter().sum::<u32>() != rotary_dim / 2 {
        let expected = format!("three numbers that add up to half the rotary part ({})", rotary_dim / 2);
        return Err(section.invalid(key, expected, format_args!("{sections:?}")));
    }
    Ok(sections)
}

fn eos_token_ids(root: Section<'_>, text: Section<'_>, vocab_size: u32) -> Result<Vec<u32>, SpecError> {
    let ids = text.numbers("eos_token_id", EOS_IDS_MAX, vocab_size)?;
    if ids.is_empty() { root.numbers("eos_token_id", EOS_IDS_MAX, vocab_size) } else { Ok(ids) }
}
