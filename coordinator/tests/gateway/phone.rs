//! What the phone agent's own client sends and wants to read.

use serde_json::{Value, json};

use crate::files::{fixtures, read_json};
use crate::harness::Harness;
use crate::scripted::{length, stop, tokens};

/// The client's fields of every step, around a message.
fn step(content: &Value) -> Value {
    json!({
        "model": "org/alias", "messages": [{"role": "user", "content": content}], "max_tokens": 500, "temperature": 0.0,
        "top_p": 0.85, "frequency_penalty": 0.2, "stream": true, "skip_special_tokens": false, "extra_body": {},
    })
}

/// The text of a stream and how it ended.
fn text(chunks: &[Value]) -> (String, Value) {
    let choices = || chunks.iter().filter_map(|chunk| chunk["choices"].get(0));
    let text = choices().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    (text, choices().next_back().unwrap()["finish_reason"].clone())
}

#[tokio::test]
async fn thoughts_and_answers_stay_in_the_content_and_every_end_ends() {
    let goldens = read_json(&fixtures().join("autoglm-nano-goldens/goldens_plain.json"));
    let golden = &goldens["conversations"][0];
    let output = &golden["outputs"]["freq_0.2"];
    let ids: Vec<u32> = serde_json::from_value(output["ids"].clone()).unwrap();
    let (end, said) = ids.split_last().unwrap();
    let eos = [4076, 4083, 4085, 4095];
    assert!(eos.contains(end));
    for end in eos {
        let mut h = Harness::seeing(vec![Ok(vec![tokens(said), tokens(&[end]), stop()])], 1, Default::default()).await;
        let told = h.chat(&step(&golden["messages"][0]["content"])).await;
        assert_eq!(told.status, 200, "{}", told.body);
        assert_eq!(text(&told.chunks()), (output["text"].as_str().unwrap().to_owned(), "stop".into()), "{end}");
        let (_, request) = h.seen.requests.recv().await.unwrap();
        let sampling = request.sampling;
        assert_eq!(sampling.stop_token_ids, eos);
        assert_eq!((sampling.temperature, sampling.top_p, sampling.frequency_penalty), (0.0, 0.85, 0.2));
    }
}

#[tokio::test]
async fn a_probe_by_text_gets_its_few_tokens_and_their_usage() {
    let h =
        Harness::seeing(vec![Ok(vec![tokens(&[4092, 405, 408, 3194, 403]), length()])], 1, Default::default()).await;
    let probe = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5});
    for path in ["/v1/chat/completions", "/api/paas/v4/chat/completions"] {
        let told = h.post(path, &probe).await;
        assert_eq!(told.status, 200, "{}", told.body);
        assert_eq!(told.json()["usage"]["completion_tokens"], 5);
        assert!(told.json()["choices"][0]["message"]["content"].as_str().unwrap().starts_with("<think>"));
    }
}
