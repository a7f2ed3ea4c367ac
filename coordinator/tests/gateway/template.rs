//! Chat templates: what transformers renders, to the character; and templates that mean harm.
//!
//! The oracle's renderings are Hugging Face's own and are held where the oracle lies beside the checkout. The templates
//! in `fixtures/templates` are this project's; their renderings below were made by Jinja2 3.1 with transformers' settings.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::files::oracle;
use coordinator::gateway::template::{ChatTemplate, Conversation, TemplateError, TemplateSource};
use coordinator::gateway::tokenize::TextTokenizer;
use serde_json::{Map, Value, json};

fn clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_735_689_599)
}

fn of_text(text: &str) -> ChatTemplate {
    let source =
        TemplateSource { path: PathBuf::from("chat_template.jinja"), text: text.to_owned(), tokens: Map::new() };
    ChatTemplate::new(source, clock).unwrap()
}

fn render(template: &ChatTemplate, messages: &Value, kwargs: &Value, generate: bool) -> Result<String, TemplateError> {
    template.render(Conversation {
        messages: messages.as_array().unwrap(),
        tools: kwargs.get("tools").and_then(Value::as_array).map(Vec::as_slice),
        add_generation_prompt: generate,
        kwargs: kwargs.as_object().unwrap(),
    })
}

#[test]
fn the_oracles_conversations_render_and_encode_as_hugging_face_does() {
    let Some(oracle) = oracle() else { return };
    for (golden, checkpoint) in [("glm0414", "tiny-glm4"), ("glm4v", "tiny-glm4v"), ("glm45", "tiny-glm4-moe")] {
        let path = oracle.join("goldens/tokenizer").join(format!("{golden}.json"));
        let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let dir = oracle.join("checkpoints").join(checkpoint);
        let tokenizer = TextTokenizer::load(&dir.join("tokenizer.json")).unwrap();
        let template = ChatTemplate::new(TemplateSource::find(&dir).unwrap().unwrap(), clock).unwrap();
        for case in golden["chat"].as_array().unwrap() {
            let text = template
                .render(Conversation {
                    messages: case["messages"].as_array().unwrap(),
                    tools: case.get("tools").and_then(Value::as_array).map(Vec::as_slice),
                    add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                    kwargs: case["kwargs"].as_object().unwrap(),
                })
                .unwrap();
            assert_eq!(text, case["rendered"].as_str().unwrap(), "{checkpoint} {}", case["name"]);
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{checkpoint} {}", case["name"]);
        }
    }
}

#[test]
fn our_own_templates_render_as_jinja2_does() {
    let cases: Value = serde_json::from_str(include_str!("../fixtures/templates/rendered.json")).unwrap();
    for case in cases.as_array().unwrap() {
        let template = of_text(match case["template"].as_str().unwrap() {
            "dense" => include_str!("../fixtures/templates/dense.jinja"),
            "thinking" => include_str!("../fixtures/templates/thinking.jinja"),
            inline => inline,
        });
        let generate = case["add_generation_prompt"].as_bool().unwrap();
        let text = render(&template, &case["messages"], &case["kwargs"], generate).unwrap();
        assert_eq!(text, case["rendered"].as_str().unwrap(), "{case}");
    }
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let user = json!([{"role": "user", "content": "x"}]);
    for endless in [
        "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 1000000000 }}",
    ] {
        let error = render(&of_text(endless), &user, &json!({}), true).unwrap_err();
        assert!(matches!(error, TemplateError::OutOfFuel { .. } | TemplateError::Render { .. }), "{endless}: {error}");
    }
}

#[test]
fn a_template_reaches_no_other_file() {
    let user = json!([{"role": "user", "content": "x"}]);
    let error = render(&of_text("{% include '/etc/passwd' %}"), &user, &json!({}), true).unwrap_err();
    assert!(matches!(error, TemplateError::Render { .. }), "{error}");
}

#[test]
fn what_the_template_raises_is_told_in_its_words() {
    let error =
        render(&of_text("{{ raise_exception('roles must alternate') }}"), &json!([]), &json!({}), true).unwrap_err();
    assert_eq!(error.to_string(), "the chat template refuses these messages: roles must alternate");
    let dir = PathBuf::from("m/chat_template.jinja");
    let source = TemplateSource { path: dir, text: "{% for %}".to_owned(), tokens: Map::new() };
    let error = ChatTemplate::new(source, clock).unwrap_err();
    assert!(error.to_string().starts_with("m/chat_template.jinja: syntax error"), "{error}");
}

#[test]
fn long_conversations_have_fuel_enough() {
    let role = |i: usize| if i.is_multiple_of(2) { "user" } else { "assistant" };
    let turn = |i: usize| json!({"role": role(i), "content": "好 ".repeat(1000)});
    let messages = Value::Array((0..2000).map(turn).collect());
    for text in
        [include_str!("../fixtures/templates/dense.jinja"), include_str!("../fixtures/templates/thinking.jinja")]
    {
        assert!(render(&of_text(text), &messages, &json!({}), true).unwrap().len() > 2000 * 3000);
    }
}

#[test]
fn who_reads_parts_is_found_out() {
    let dense = of_text(include_str!("../fixtures/templates/dense.jinja"));
    let thinking = of_text(include_str!("../fixtures/templates/thinking.jinja"));
    let mixed = of_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}\
         {% endfor %}{% endif %}{% endfor %}",
    );
    for role in ["system", "user", "assistant"] {
        assert!(!dense.takes_parts(role), "{role}");
        assert!(thinking.takes_parts(role), "{role}");
        assert_eq!(mixed.takes_parts(role), role != "system", "{role}");
    }
}
