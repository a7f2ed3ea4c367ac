//! Tools and reasoning: what the template is shown, and what is split off the answer.

use coordinator::GatewayLimits;
use serde_json::{Value, json};

use crate::chat::hi_with;
use crate::files::{END, ids};
use crate::harness::Harness;
use crate::scripted::{Step, length, stop, tokens};

/// Shows tools, calls and their answers in a few letters; this project's own.
pub(crate) const TEMPLATE: &str = "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}\
    {% for m in messages %}<|{{ m.role }}|>{{ m.content }}\
    {% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}\
    {% for k, v in c.function.arguments.items() %}({{ k }}={{ v }}){% endfor %}{% endfor %}{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{{ suffix }}{% endif %}";

async fn speaking(steps: Vec<Step>) -> Harness {
    let harness = Harness::unready(vec![Ok(steps)], GatewayLimits::default()).await;
    std::fs::write(harness.dir.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    harness.serve(1);
    harness.until_ready().await;
    harness
}

pub(crate) fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    json!([{"type": "function", "function": {"name": "weather", "parameters": parameters}}])
}

pub(crate) const CALLS: &str = "<think>\nhm\n</think>\nwait<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>好\"</arg_value>\n\
    <arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>";

/// One byte an event, then the end.
fn spoken(text: &str) -> Vec<Step> {
    ids(text).iter().map(|id| tokens(&[*id])).chain([tokens(&[END]), stop()]).collect()
}

#[tokio::test]
async fn a_call_is_told_whole() {
    let h = speaking(spoken(CALLS)).await;
    let answer = h.chat(&hi_with(json!({"tools": weather(), "separate_reasoning": true}))).await.json();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &json!("wait")));
    assert_eq!(choice["message"]["reasoning_content"], "hm");
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["type"]), (1, &json!("function")));
    assert!(calls[0]["id"].as_str().unwrap().starts_with("call_") && calls[0].get("index").is_none());
    let expected = json!({"name": "weather", "arguments": "{\"city\": \"好\\\"\", \"days\": 2}"});
    assert_eq!(calls[0]["function"], expected);
}

#[tokio::test]
async fn a_streamed_call_adds_up_to_the_whole_one() {
    let h = speaking(spoken(CALLS)).await;
    let body = hi_with(json!({"tools": weather(), "separate_reasoning": true, "stream": true}));
    let chunks = h.chat(&body).await.chunks();
    let (mut reasoning, mut content, mut arguments, mut names) = (String::new(), String::new(), String::new(), vec![]);
    for chunk in &chunks {
        let delta = &chunk["choices"][0]["delta"];
        reasoning += delta["reasoning_content"].as_str().unwrap_or_default();
        content += delta["content"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            assert_eq!(call["index"], 0);
            names.extend(call["function"]["name"].as_str().map(str::to_owned));
            arguments += call["function"]["arguments"].as_str().unwrap();
        }
    }
    assert_eq!((reasoning.as_str(), content.as_str(), names), ("hm", "wait", vec!["weather".to_owned()]));
    assert_eq!(arguments, "{\"city\": \"好\\\"\", \"days\": 2}");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    let empty = |c: &&Value| c["choices"][0]["delta"] == json!({}) && c["choices"][0]["finish_reason"].is_null();
    assert_eq!(chunks.iter().filter(empty).count(), 0, "no chunk says nothing");
}

#[tokio::test]
async fn nothing_is_split_unless_asked() {
    for more in [json!({}), json!({"tools": weather(), "tool_choice": "none"}), json!({"separate_reasoning": false})] {
        let h = speaking(spoken(CALLS)).await;
        let choice = &h.chat(&hi_with(more)).await.json()["choices"][0];
        let expected = json!({"role": "assistant", "content": CALLS, "refusal": null});
        assert_eq!((&choice["message"], &choice["finish_reason"]), (&expected, &json!("stop")));
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_in_a_call_says_so() {
    let steps = vec![tokens(&ids("<tool_call>weather\n<arg_key>city</arg_key><arg_value>Ber")), length()];
    let h = speaking(steps).await;
    let choice = &h.chat(&hi_with(json!({"tools": weather()}))).await.json()["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("length"), &json!(null)));
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"city\": \"Ber");
}

#[tokio::test]
async fn a_prompt_that_opens_the_reasoning_has_it_split_from_the_first_token() {
    let h = speaking(spoken("hm</think>yes")).await;
    let kwargs = json!({"separate_reasoning": true, "chat_template_kwargs": {"suffix": "<think>\n"}});
    let message = &h.chat(&hi_with(kwargs)).await.json()["choices"][0]["message"];
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("hm"), &json!("yes")));
}

#[tokio::test]
async fn the_template_sees_tools_calls_and_what_they_answered() {
    let mut h = speaking(spoken("ok")).await;
    let call =
        json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"X\"}"}});
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
    ]);
    let body = json!({"model": "tiny", "messages": messages, "tools": weather()});
    assert_eq!(h.chat(&body).await.json()["choices"][0]["message"]["content"], "ok");
    let (_, request) = h.seen.requests.recv().await.unwrap();
    let bytes: Vec<u8> = request.prompt_ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "[weather]hi<|assistant|>".replace("<|assistant|>", "") + "<tool_call>weather(city=X)<|tool|>sun"
    );
}

#[tokio::test]
async fn bad_tools_are_refused_by_name() {
    let h = speaking(vec![]).await;
    for (more, param) in [
        (json!({"tools": 3}), "tools"),
        (json!({"tools": [3]}), "tools[0]"),
        (json!({"tools": [{"type": "retrieval"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": [{"type": "function", "function": {"name": ""}}]}), "tools[0].function.name"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}),
            "tools[0].function.parameters",
        ),
        (json!({"tools": weather(), "tool_choice": "required"}), "tool_choice"),
        (json!({"tools": weather(), "tool_choice": {"type": "function"}}), "tool_choice"),
        (json!({"tool_choice": "some"}), "tool_choice"),
        (json!({"tools": weather(), "parallel_tool_calls": false}), "parallel_tool_calls"),
        (json!({"separate_reasoning": 1}), "separate_reasoning"),
    ] {
        let told = h.chat(&hi_with(more.clone())).await;
        assert_eq!((told.status.as_u16(), &told.error()["param"]), (400, &json!(param)), "{more}");
    }
    let messages = |call: Value| json!({"model": "tiny", "messages": [{"role": "assistant", "tool_calls": [call]}]});
    for (call, param) in [
        (json!({}), "messages[0].tool_calls[0].function"),
        (json!({"function": {"name": 1}}), "messages[0].tool_calls[0].function.name"),
        (json!({"function": {"name": "f", "arguments": "[1]"}}), "messages[0].tool_calls[0].function.arguments"),
    ] {
        let told = h.chat(&messages(call)).await;
        assert_eq!((told.status.as_u16(), &told.error()["param"]), (400, &json!(param)));
    }
    // The model whose template has no words for calls.
    let plain = Harness::playing(vec![]).await;
    let told = plain.chat(&hi_with(json!({"tools": weather()}))).await;
    assert_eq!((told.status.as_u16(), &told.error()["param"]), (400, &json!("tools")));
}
