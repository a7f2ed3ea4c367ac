//! Models of other dimensions than the tiny ones, random weights: logits against a plain f64 model, and the same bits
//! at every world size. Heads that do not make up the hidden size, atoms fewer than ranks, blocks cut short.

mod support;

use proptest::prelude::*;
use serde_json::{Value, json};
use support::reference::{last_logits, write_checkpoint};
use support::run::{Setup, seq};

/// Distance to the f64 model, logits of standard deviation about 1.
const LOGITS: f64 = 5e-5;

fn config(architecture: &str, keys: &Value) -> Value {
    let mut text = json!({"rms_norm_eps": 1e-5, "max_position_embeddings": 4096});
    text.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
    if architecture == "Glm4v" {
        return json!({"architectures": ["Glm4vForConditionalGeneration"], "text_config": text});
    }
    text["architectures"] = json!(["Glm4ForCausalLM"]);
    text
}

fn check(config: &Value, dtype: &str, worlds: &[u16], tokens: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let weights = write_checkpoint(dir.path(), config, dtype, 7);
    let alone = Setup::new(dir.path(), 1);
    let vocab = alone.spec.vocab_size;
    let prompt: Vec<u32> = (0..tokens as u32).map(|i| (i * 37 + 11) % vocab).collect();
    let run = |setup: &Setup| {
        setup.run(|lead| {
            let blocks = lead.blocks(0, tokens);
            lead.step(vec![seq(0, 0, prompt.clone(), &blocks, true)]).rows
        })
    };
    let logits = run(&alone);
    let expected = last_logits(&alone.spec, &weights, &prompt);
    let distance = logits.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(distance <= LOGITS, "{config}: {distance:e}");
    for world in worlds {
        let cut = run(&Setup::new(dir.path(), *world));
        let same = cut.iter().map(|x| x.to_bits()).eq(logits.iter().map(|x| x.to_bits()));
        assert!(same, "{config}: TP {world} has other bits");
    }
}

#[test]
fn four_heads_of_32_over_two_kv_heads() {
    let keys = json!({"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512, "attention_bias": true});
    check(&config("Glm4", &keys), "F32", &[2, 3, 4, 8], 40);
}

#[test]
fn a_tied_glm4v_with_three_axes() {
    let keys = json!({"hidden_size": 64, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 2000, "tie_word_embeddings": true,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]}, "rope_theta": 10000.0});
    check(&config("Glm4v", &keys), "BF16", &[2, 3, 4, 8], 33);
}

#[test]
fn odd_sizes_in_half_precision() {
    let keys = json!({"hidden_size": 50, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 3, "head_dim": 24, "vocab_size": 100});
    check(&config("Glm4", &keys), "F16", &[2, 3, 5], 20);
}

#[test]
fn one_kv_head_and_one_block() {
    let keys = json!({"hidden_size": 17, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 10});
    check(&config("Glm4", &keys), "F32", &[2, 3], 5);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn any_dimensions(
        (kv_heads, group, head_dim) in (1u32..4, 1u32..5, prop::sample::select(vec![8u32, 12, 16, 40])),
        (ffn, vocab, hidden) in (1u32..300, 2u32..400, 16u32..80),
        (bias, tied, dtype) in (any::<bool>(), any::<bool>(), prop::sample::select(vec!["F32", "F16", "BF16"])),
        world in 2u16..10,
    ) {
        let keys = json!({"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": 2,
            "num_attention_heads": kv_heads * group, "num_key_value_heads": kv_heads, "head_dim": head_dim,
            "partial_rotary_factor": 0.5, "vocab_size": vocab, "attention_bias": bias, "tie_word_embeddings": tied});
        check(&config("Glm4", &keys), dtype, &[world], 18);
    }
}
