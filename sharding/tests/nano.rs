//! The model that comes with the project: its answers token for token, about text and about pictures, greedy, with and
//! without a frequency penalty.

mod support;

use protocol::{Dtype, SeqId};
use serde_json::Value;
use sharding::checkpoint::read_pixel_spec;
use sharding::layers::VisionTower;
use sharding::picture::{Grid, PromptPositions, Rgb, Size};
use support::golden::ids;
use support::pictures::prepared;
use support::run::{Greedy, Look, Setup};
use support::{fixtures, nano};

/// Where the two best logits come closer than this anywhere, the reference's choice is not held.
const GAP_MIN: f64 = 0.01;

struct Conversation {
    id: String,
    prompt: Vec<u32>,
    expected: Vec<u32>,
    /// File of its picture, where it has one, and the patches of that.
    picture: Option<(String, Vec<u32>)>,
}

fn conversations(outputs: &str) -> Vec<Conversation> {
    let text = std::fs::read_to_string(fixtures().join("autoglm-nano-goldens/goldens_plain.json")).expect("goldens");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let all = json["conversations"].as_array().expect("conversations");
    let clear = |c: &&Value| c["outputs"][outputs]["min_top2_gap"].as_f64().expect("a gap") >= GAP_MIN;
    let conversation = |c: &Value| Conversation {
        id: c["id"].as_str().expect("id").to_owned(),
        prompt: ids(&c["prompt_ids"]),
        expected: ids(&c["outputs"][outputs]["ids"]),
        picture: c["image"].as_str().map(|file| (file.to_owned(), ids(&c["image_grid_thw"]))),
    };
    all.iter().filter(clear).map(conversation).collect()
}

/// What a conversation about a picture sees.
fn look(tower: &VisionTower, seq: usize, conversation: &Conversation) -> Option<Look> {
    let (file, expected_grid) = conversation.picture.as_ref()?;
    let picture = image::open(fixtures().join("autoglm-nano-goldens").join(file)).expect("a picture").into_rgb8();
    let size = Size { height: picture.height(), width: picture.width() };
    let spec = read_pixel_spec(&nano(), tower.spec()).expect("a processor of this tower");
    let (pixels, grid) = prepared(Rgb::new(size, picture.into_raw()), &spec);
    assert_eq!(*expected_grid, [1, grid.rows(), grid.columns()], "{file}");
    let grids: [Grid; 1] = [grid];
    let positions =
        PromptPositions::new(&conversation.prompt, tower.spec().image_token_id, &grids).expect("one picture");
    let mut encoding = tower.begin(pixels, grid).expect("fits");
    assert_eq!(tower.advance(&mut encoding, usize::MAX).expect("all blocks"), 0);
    let embeddings = vec![tower.finish(encoding).expect("done")];
    Some(Look { seq: SeqId(seq as u64), positions, embeddings })
}

fn answers_match(outputs: &str, penalty: f32, world: u16, dtype: Dtype) {
    let conversations = conversations(outputs);
    let pictures = conversations.iter().filter(|c| c.picture.is_some()).count();
    assert_eq!((conversations.len(), pictures), (24, 8), "conversations with a clear gap");
    let prompts: Vec<_> = conversations.iter().map(|c| c.prompt.clone()).collect();
    let setup = Setup { dtype, kv_tokens: 32_768, ..Setup::new(&nano(), world) };
    let stop = [4076, 4083, 4085, 4095];
    let answers = setup.run(|lead| {
        let tower = lead.model().vision().expect("it sees");
        let all = conversations.iter().enumerate();
        lead.looks = all.filter_map(|(seq, conversation)| look(tower, seq, conversation)).collect();
        lead.greedy(&prompts, &Greedy { penalty, ..Greedy::new(96, &stop) })
    });
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
