//! Logits, hidden states, values inside layers and greedy tokens against Hugging Face's, on one rank.

mod support;

use std::collections::HashMap;

use sharding::layers::{Point, Positions, Rope, Tap};
use support::golden::{Golden, argmax, max_abs, relative};
use support::run::{Greedy, Setup, every_row, seq};
use support::{TINY, checkpoint};

/// Bounds of `tests/fixtures/README.md`.
const LOGITS: f64 = 1.5e-4;
const VALUES: f64 = 3e-5;

#[test]
fn logits_after_the_prompt_and_every_greedy_token() {
    for model in TINY {
        let golden = Golden::load(model);
        let cases = golden.text_cases();
        let prompts: Vec<_> = cases.iter().map(|c| c.prompt.clone()).collect();
        let stop = golden.stop_ids();
        let answers = Setup::new(&checkpoint(model), 1).run(|lead| lead.greedy(&prompts, &Greedy::new(48, &stop)));
        for (case, answer) in cases.iter().zip(answers) {
            let (expected, _) = golden.tensor(&format!("{}/last_logits", case.name)).expect("last_logits");
            let distance = max_abs(&answer.logits[0], &expected);
            assert!(distance <= LOGITS, "{model} {}: {distance:e}", case.name);
            assert_eq!(answer.ids, case.greedy, "{model} {}", case.name);
        }
    }
}

#[test]
fn logits_after_every_prompt_token() {
    for model in TINY {
        let golden = Golden::load(model);
        Setup::new(&checkpoint(model), 1).run(|lead| {
            for case in golden.text_cases() {
                let blocks = lead.blocks(0, case.prompt.len());
                let logits = lead.step(every_row(&case.prompt, &blocks));
                let best: Vec<u32> = logits.iter().map(argmax).collect();
                assert_eq!(best, case.prompt_argmax, "{model} {}", case.name);
                if let Some((expected, _)) = golden.tensor(&format!("{}/all_logits", case.name)) {
                    let distance = max_abs(&logits.rows, &expected);
                    assert!(distance <= LOGITS, "{model} {}: {distance:e}", case.name);
                }
            }
        });
    }
}

#[test]
fn hidden_states_and_values_inside_layers() {
    let mut compared = 0;
    for model in TINY {
        let golden = Golden::load(model);
        let setup = Setup::new(&checkpoint(model), 1);
        let layers = setup.spec.num_layers as usize;
        setup.run(|lead| {
            for case in golden.text_cases() {
                let blocks = lead.blocks(0, case.prompt.len());
                let mut seen = HashMap::new();
                let mut see = |point: Point, value: &candle_core::Tensor| {
                    let value = if matches!(point, Point::Layer(_, Tap::QueryRotated | Tap::KeyRotated)) {
                        // The reference keeps heads before tokens.
                        value.transpose(0, 1).and_then(|t| t.contiguous()).expect("three axes")
                    } else {
                        value.clone()
                    };
                    let flat = value.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
                    seen.insert(name_of(point, layers), flat);
                };
                lead.step_observed(every_row(&case.prompt, &blocks), &mut see);
                for (name, value) in seen {
                    // The last hidden state of the reference is after the final norm.
                    let names = match name.as_str() {
                        "norm" => vec!["tap/norm".to_owned(), format!("hidden/{layers}")],
                        "hidden/0" => vec![name, "tap/inputs_embeds".to_owned()],
                        _ => vec![name],
                    };
                    for name in names {
                        let Some((expected, _)) = golden.tensor(&format!("{}/{name}", case.name)) else { continue };
                        let distance = relative(&value, &expected);
                        assert!(distance <= VALUES, "{model} {} {name}: {distance:e}", case.name);
                        compared += 1;
                    }
                }
            }
        });
    }
    // Five hidden states of three short prompts and of two detailed ones; of these also the embedding, the last norm,
    // nine taps of three layers and two rotated ones of two layers.
    assert_eq!(compared, 3 * 5 + 2 * (5 + 2 + 3 * 9 + 2 * 2), "a value that was not compared");
}

fn name_of(point: Point, layers: usize) -> String {
    match point {
        Point::Hidden(i) if i == layers => "before the norm".to_owned(),
        Point::Hidden(i) => format!("hidden/{i}"),
        Point::Norm => "norm".to_owned(),
        Point::Layer(i, tap) => {
            let tap = match tap {
                Tap::InputNorm => "input_layernorm",
                Tap::Query => "self_attn.q_proj",
                Tap::Key => "self_attn.k_proj",
                Tap::Value => "self_attn.v_proj",
                Tap::QueryRotated => "q_post_rope",
                Tap::KeyRotated => "k_post_rope",
                Tap::Attention => "self_attn",
                Tap::PostAttentionNorm => "post_self_attn_layernorm",
                Tap::MlpNorm => "post_attention_layernorm",
                Tap::Mlp => "mlp",
                Tap::PostMlpNorm => "post_mlp_layernorm",
            };
            format!("tap/layers.{i}.{tap}")
        }
        Point::Vision(tap) => panic!("{tap:?} of a step without pictures"),
    }
}

#[test]
fn both_styles_of_configuration_give_the_same_logits() {
    for model in TINY {
        let golden = Golden::load(model);
        let case = &golden.text_cases()[0];
        let run = |setup: &Setup| {
            setup.run(|lead| {
                let blocks = lead.blocks(0, case.prompt.len());
                lead.step(vec![seq(0, 0, case.prompt.clone(), &blocks, true)])
            })
        };
        let v4 = Setup::new(&checkpoint(model), 1);
        let config = support::fixtures().join("configs_v5").join(model).join("config.json");
        let v5 = Setup { spec: support::spec_of(config), ..v4.clone() };
        assert_eq!(v4.spec, v5.spec, "{model}");
        assert_eq!(run(&v4), run(&v5), "{model}");
    }
}

#[test]
fn angles_of_rows_that_stand_apart_on_the_three_axes() {
    let model = "tiny-glm4v";
    let golden = Golden::load(model);
    let spec = support::spec_of(checkpoint(model).join("config.json")).rope;
    let (axes, tokens) = golden.positions("img1");
    let mut positions = Positions::default();
    (0..tokens).for_each(|t| positions.push([0, 1, 2].map(|axis: usize| axes[axis * tokens + t])));
    assert_eq!(positions.len(), tokens);
    let (cos, sin) = Rope::new(&spec).angles(&positions).expect("small");
    // Section by section: a frequency follows the axis of its section.
    let axis_of: Vec<usize> = spec.sections.iter().enumerate().flat_map(|(axis, n)| vec![axis; *n as usize]).collect();
    for (name, ours) in [("cos", cos), ("sin", sin)] {
        // `[3, 1, tokens, rotary dim]`, each frequency twice.
        let (all, shape) = golden.tensor(&format!("img1/tap/rope_{name}")).expect("angles");
        assert_eq!(shape, [3, 1, tokens, spec.dim as usize]);
        let ours = ours.to_vec2::<f32>().expect("f32");
        for (t, row) in ours.iter().enumerate() {
            for (i, value) in row.iter().enumerate() {
                let expected = all[(axis_of[i] * tokens + t) * spec.dim as usize + i];
                assert!((value - expected).abs() <= 1e-6, "{name} of row {t}, frequency {i}: {value}, {expected}");
            }
        }
    }
}
