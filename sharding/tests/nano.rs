//! The model that comes with the project: its text answers token for token, greedy, with and without a frequency
//! penalty.

mod support;

use protocol::Dtype;
use serde_json::Value;
use support::golden::ids;
use support::run::{Greedy, Setup};
use support::{fixtures, nano};

/// Where the two best logits come closer than this anywhere, the reference's choice is not held.
const GAP_MIN: f64 = 0.01;

struct Conversation {
    id: String,
    prompt: Vec<u32>,
    expected: Vec<u32>,
}

fn conversations(outputs: &str) -> Vec<Conversation> {
    let text = std::fs::read_to_string(fixtures().join("autoglm-nano-goldens/goldens_plain.json")).expect("goldens");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let all = json["conversations"].as_array().expect("conversations");
    let text_only = all.iter().filter(|c| c["image"].is_null());
    let clear = |c: &&Value| c["outputs"][outputs]["min_top2_gap"].as_f64().expect("a gap") >= GAP_MIN;
    let conversation = |c: &Value| Conversation {
        id: c["id"].as_str().expect("id").to_owned(),
        prompt: ids(&c["prompt_ids"]),
        expected: ids(&c["outputs"][outputs]["ids"]),
    };
    text_only.filter(clear).map(conversation).collect()
}

fn answers_match(outputs: &str, penalty: f32, world: u16, dtype: Dtype) {
    let conversations = conversations(outputs);
    assert_eq!(conversations.len(), 16, "text conversations with a clear gap");
    let prompts: Vec<_> = conversations.iter().map(|c| c.prompt.clone()).collect();
    let setup = Setup { dtype, ..Setup::new(&nano(), world) };
    let stop = [4076, 4083, 4085, 4095];
    let answers = setup.run(|lead| lead.greedy(&prompts, &Greedy { penalty, ..Greedy::new(96, &stop) }));
    for (conversation, answer) in conversations.iter().zip(answers) {
        assert_eq!(answer.ids, conversation.expected, "{} {outputs} TP {world}", conversation.id);
    }
}

#[test]
fn greedy_without_a_penalty() {
    answers_match("freq_0.0", 0.0, 1, Dtype::F32);
}

#[test]
fn greedy_with_a_frequency_penalty_on_two_ranks() {
    answers_match("freq_0.2", 0.2, 2, Dtype::F32);
}

#[test]
fn a_bf16_checkpoint_is_the_same_at_either_precision() {
    answers_match("freq_0.2", 0.2, 1, Dtype::Bf16);
}
