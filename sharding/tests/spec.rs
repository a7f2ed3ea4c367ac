//! `config.json` in both styles, its defaults, and what is refused.

mod support;

use sharding::{Family, ModelSpec, SpecError};
use support::{TINY, checkpoint, fixtures, nano, real_specs, spec_of};

fn tiny(model: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(checkpoint(model).join("config.json")).expect("config.json");
    serde_json::from_str(&text).expect("JSON")
}

fn parse(config: &serde_json::Value) -> Result<ModelSpec, SpecError> {
    ModelSpec::from_config_json(&config.to_string())
}

#[test]
fn both_styles_read_alike() {
    for model in TINY {
        let v4 = spec_of(checkpoint(model).join("config.json"));
        let v5 = spec_of(fixtures().join("configs_v5").join(model).join("config.json"));
        assert_eq!(v4, v5, "{model}");
    }
}

#[test]
fn the_tiny_models() {
    let glm4 = spec_of(checkpoint("tiny-glm4").join("config.json"));
    assert_eq!((glm4.family, glm4.num_layers, glm4.hidden_size, glm4.intermediate_size), (Family::Glm4, 4, 128, 352));
    assert_eq!((glm4.num_heads, glm4.num_kv_heads, glm4.head_dim, glm4.vocab_size), (8, 2, 16, 2048));
    assert_eq!((glm4.rope.dim, glm4.rope.sections, glm4.qkv_bias), (8, [4, 0, 0], false));
    assert_eq!(glm4.eos_token_ids, [1960, 1967, 1969]);
    assert!(spec_of(checkpoint("tiny-glm4-bias-f32-sharded").join("config.json")).qkv_bias);
    let glm4v = spec_of(checkpoint("tiny-glm4v").join("config.json"));
    assert_eq!((glm4v.family, glm4v.head_dim, glm4v.rope.sections), (Family::Glm4v, 16, [1, 1, 2]));
    assert_eq!((glm4v.qkv_bias, glm4v.max_position_embeddings), (true, 65536));
    assert_eq!(spec_of(nano().join("config.json")).head_dim, 32);
    let vision = glm4v.vision.expect("it sees");
    assert_eq!((vision.depth, vision.hidden_size, vision.num_heads, vision.head_dim()), (3, 64, 4, 16));
    assert_eq!((vision.out_hidden_size, vision.merger_size, vision.table_side), (128, 352, 8));
    assert_eq!((vision.patch_elements(), vision.merged_patches(), vision.image_token_id), (1176, 4, 1974));
    assert_eq!(glm4.vision, None);
}

#[test]
fn the_real_models() {
    let specs = real_specs();
    assert_eq!(specs.len(), 4);
    for (name, spec) in specs {
        assert_eq!((spec.num_kv_heads, spec.head_dim, spec.rope.dim, spec.vocab_size), (2, 128, 64, 151_552), "{name}");
        let vision = spec.vision.map(|v| (v.depth, v.hidden_size, v.head_dim(), v.table_side, v.image_token_id));
        let sees = spec.family == Family::Glm4v;
        assert_eq!(vision, sees.then_some((24, 1536, 128, 24, 151_343)), "{name}");
    }
}

#[test]
fn what_a_vision_configuration_may_leave_out() {
    let mut config = tiny("tiny-glm4v");
    let sound = parse(&config).expect("sound").vision.expect("it sees");
    let vision = config["vision_config"].as_object_mut().expect("an object");
    for key in [
        "patch_size",
        "temporal_patch_size",
        "spatial_merge_size",
        "in_channels",
        "rms_norm_eps",
        "hidden_act",
        "attention_bias",
    ] {
        vision.remove(key);
    }
    assert_eq!(parse(&config).expect("all of these have a default").vision.as_ref(), Some(&sound));
    vision_key(&mut config, "rope_parameters", serde_json::json!({"rope_type": "axial", "rope_theta": 500.0}));
    let theta = parse(&config).expect("legal").vision.expect("it sees").rope_theta;
    assert!((theta - 500.0).abs() < 1e-9);
    config.as_object_mut().expect("an object").remove("vision_config");
    assert_eq!(parse(&config).expect("a model that reads text alone").vision, None);
}

fn vision_key(config: &mut serde_json::Value, key: &str, value: serde_json::Value) {
    config["vision_config"][key] = value;
}

#[test]
fn refusals_inside_the_vision_config() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("depth", "null", &["vision_config.depth", "missing"]),
        ("depth", "0", &["vision_config.depth", "1..=1024", "found 0"]),
        ("hidden_size", "null", &["vision_config.hidden_size", "missing"]),
        ("num_heads", "3", &["vision_config.num_heads", "multiple of 4", "(64)", "found 3"]),
        ("num_heads", "32", &["vision_config.num_heads", "multiple of 4", "found 32"]),
        ("out_hidden_size", "64", &["vision_config.out_hidden_size", "text_config.hidden_size (128)", "found 64"]),
        ("intermediate_size", "-4", &["vision_config.intermediate_size", "found -4"]),
        ("image_size", "13", &["vision_config.image_size", "14..=", "found 13"]),
        ("patch_size", "0", &["vision_config.patch_size", "found 0"]),
        ("spatial_merge_size", "9", &["vision_config.spatial_merge_size", "1..=8", "found 9"]),
        ("in_channels", "1", &["vision_config.in_channels", "3", "found 1"]),
        ("attention_bias", "true", &["vision_config.attention_bias", "false", "found true"]),
        ("hidden_act", r#""gelu""#, &["vision_config.hidden_act", "silu", "gelu"]),
        ("rope_parameters", r#"{"rope_type": "yarn"}"#, &["rope_parameters.rope_type", "axial", "yarn"]),
    ];
    for (key, value, words) in cases {
        let mut config = tiny("tiny-glm4v");
        vision_key(&mut config, key, serde_json::from_str(value).expect("JSON"));
        let error = parse(&config).map(drop).expect_err(key).to_string();
        assert!(words.iter().all(|w| error.contains(w)) && error.lines().count() == 1, "{key} {value}: {error}");
    }
    for (value, words) in [(serde_json::json!(null), "missing"), (serde_json::json!(2048), "0..=2047")] {
        let mut config = tiny("tiny-glm4v");
        config["image_token_id"] = value;
        let error = parse(&config).expect_err("no picture token").to_string();
        assert!(error.contains("image_token_id") && error.contains(words), "{error}");
    }
    let mut config = tiny("tiny-glm4v");
    config["vision_config"] = serde_json::json!([1]);
    assert!(parse(&config).expect_err("a list").to_string().contains("vision_config"));
}

#[test]
fn what_is_missing_means_what_transformers_means() {
    let mut config = tiny("tiny-glm4v");
    let text = config["text_config"].as_object_mut().expect("an object");
    for key in ["partial_rotary_factor", "attention_bias", "rms_norm_eps", "rope_theta", "hidden_act"] {
        text.remove(key);
    }
    let spec = parse(&config).expect("all of these have a default");
    assert_eq!((spec.rope.dim, spec.qkv_bias, spec.tie_word_embeddings), (8, true, false));
    assert!((spec.rms_norm_eps - 1e-5).abs() < 1e-12 && (spec.rope.theta - 1e4).abs() < 1e-6);

    config["text_config"]["attention_bias"] = false.into();
    assert!(parse(&config).expect("legal").qkv_bias, "a Glm4v text model has the bias whatever the key says");

    let mut config = tiny("tiny-glm4");
    let root = config.as_object_mut().expect("an object");
    for key in ["head_dim", "attention_bias", "rms_norm_eps", "partial_rotary_factor", "architectures"] {
        root.remove(key);
    }
    let spec = parse(&config).expect("the model type is enough");
    assert_eq!((spec.head_dim, spec.rope.dim, spec.qkv_bias), (128, 64, false));
    assert!((spec.rms_norm_eps - 1.5625e-7).abs() < 1e-12);

    config["tie_word_embeddings"] = true.into();
    assert!(parse(&config).expect("legal").tie_word_embeddings);
}

#[test]
fn heads_need_not_make_up_the_hidden_size() {
    let mut config = tiny("tiny-glm4v");
    config["text_config"]["num_attention_heads"] = 4.into();
    assert_eq!(parse(&config).map(|s| s.head_dim).expect_err("mrope of 16").to_string().lines().count(), 1);
    config["text_config"]["head_dim"] = 32.into();
    config["text_config"]["rope_scaling"]["mrope_section"] = [2, 3, 3].as_slice().into();
    let spec = parse(&config).expect("legal");
    assert_eq!((spec.num_heads * spec.head_dim, spec.rope.dim, spec.rope.sections), (128, 16, [2, 3, 3]));
    config["text_config"]["num_attention_heads"] = 8.into();
    assert_eq!(parse(&config).map(|s| s.num_heads * s.head_dim), Ok(256));
}

#[test]
fn mixtures_of_experts_are_known_and_refused() {
    for name in ["GLM-4.5", "GLM-4.5-Air"] {
        let text = std::fs::read_to_string(fixtures().join(format!("real_configs/{name}.config.json"))).expect("text");
        let error = ModelSpec::from_config_json(&text).expect_err("not served");
        assert!(matches!(error, SpecError::NotServed { architecture: "Glm4MoeForCausalLM", .. }));
        assert!(error.to_string().contains("not served yet"), "{error}");
    }
}

#[test]
fn a_refusal_names_the_key_the_expectation_and_what_was_found() {
    // JSON pointer of the key, what to put there (null removes), and what the message must contain.
    let cases: &[(&str, &str, &[&str])] = &[
        ("/architectures", r#"["LlamaForCausalLM"]"#, &["architectures", "Glm4ForCausalLM", "LlamaForCausalLM"]),
        ("/architectures", "[]", &["architectures", "[]"]),
        ("/architectures", "7", &["architectures", "7"]),
        ("/hidden_size", "null", &["hidden_size", "missing", "1..="]),
        ("/hidden_size", "0", &["hidden_size", "1..=", "found 0"]),
        ("/hidden_size", "-1", &["hidden_size", "1..=", "found -1"]),
        ("/hidden_size", "1.5", &["hidden_size", "found 1.5"]),
        ("/hidden_size", r#""128""#, &["hidden_size", r#"found "128""#]),
        ("/hidden_size", "99999999999999999999", &["hidden_size", "1..=131072"]),
        ("/vocab_size", "4294967296", &["vocab_size", "4294967296"]),
        ("/num_hidden_layers", "100000", &["num_hidden_layers", "1..=1024", "100000"]),
        ("/num_attention_heads", "7", &["num_key_value_heads", "divisor", "7"]),
        ("/num_key_value_heads", "3", &["num_key_value_heads", "divisor", "8", "found 3"]),
        ("/num_key_value_heads", "0", &["num_key_value_heads", "found 0"]),
        ("/head_dim", "1", &["head_dim", "2..=2048", "found 1"]),
        ("/head_dim", "6", &["partial_rotary_factor", "even", "found 0.5"]),
        ("/intermediate_size", "0", &["intermediate_size", "found 0"]),
        ("/hidden_act", r#""gelu""#, &["hidden_act", "silu", "gelu"]),
        ("/attention_bias", "1", &["attention_bias", "true or false", "found 1"]),
        ("/rms_norm_eps", "0", &["rms_norm_eps", "found 0"]),
        ("/rms_norm_eps", r#""small""#, &["rms_norm_eps", "small"]),
        ("/rope_theta", "0.5", &["rope_theta", "found 0.5"]),
        ("/partial_rotary_factor", "2.0", &["partial_rotary_factor", "found 2.0"]),
        ("/rope_scaling", r#"{"rope_type": "yarn", "factor": 4.0}"#, &["rope_scaling.rope_type", "default", "yarn"]),
        ("/rope_scaling", "[1]", &["rope_scaling", "an object", "[1]"]),
        ("/max_position_embeddings", "0", &["max_position_embeddings", "found 0"]),
        ("/eos_token_id", "[2048]", &["eos_token_id", "below 2048", "[2048]"]),
        ("/tie_word_embeddings", r#""no""#, &["tie_word_embeddings", "true or false", "no"]),
    ];
    for (pointer, value, words) in cases {
        let mut config = tiny("tiny-glm4");
        config[&pointer[1..]] = serde_json::from_str(value).expect("JSON");
        let error = parse(&config).map(drop).expect_err(pointer).to_string();
        assert!(words.iter().all(|w| error.contains(w)) && error.lines().count() == 1, "{pointer} {value}: {error}");
    }
}

#[test]
fn refusals_inside_the_text_config_carry_its_path() {
    let mut config = tiny("tiny-glm4v");
    config["text_config"]["rope_scaling"]["mrope_section"] = [1, 1, 1].as_slice().into();
    let error = parse(&config).expect_err("does not add up").to_string();
    assert!(error.contains("mrope_section") && error.contains("half the rotary part (4)"), "{error}");
    let mut config = tiny("tiny-glm4v");
    config["text_config"]["vocab_size"] = 0.into();
    let error = parse(&config).expect_err("nothing in it").to_string();
    assert!(error.contains("text_config.vocab_size"), "{error}");
    let mut config = tiny("tiny-glm4v");
    config.as_object_mut().expect("an object").remove("text_config");
    assert!(matches!(parse(&config), Err(SpecError::Missing { key, .. }) if key == "text_config"));
}

#[test]
fn text_that_is_no_configuration() {
    for text in ["", "{", "[]", "null", "\"\"", &"[".repeat(10_000), &" ".repeat(2 << 20)] {
        let error = ModelSpec::from_config_json(text).expect_err("no object").to_string();
        assert!(error.contains("expected a JSON object") && error.len() < 300, "{error}");
    }
}
