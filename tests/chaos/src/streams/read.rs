//! What a client has read of a stream, whatever events it came in.

use std::collections::BTreeMap;

use serde_json::Value;

/// One choice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    /// Ids of the tokens, in order.
    pub token_ids: Vec<u64>,
    /// Fields that are texts, each joined: content, reasoning.
    pub texts: BTreeMap<String, String>,
    /// By index: name and arguments of a tool call, joined.
    pub calls: BTreeMap<u64, (String, String)>,
    /// Why it ended.
    pub finish_reason: Option<String>,
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Read {
    /// By index.
    pub choices: BTreeMap<u64, Choice>,
    /// Tokens of prompt and answer, as the stream counts them; what was cached depends on who was there before.
    pub usage: Option<(u64, u64)>,
}

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl Read {
    /// Tokens over all choices.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.choices.values().map(|c| c.token_ids.len()).sum()
    }

    /// Takes the data of one event that is no error.
    ///
    /// # Errors
    /// [`Unreadable`] for what is no chunk of an answer.
    pub fn take(&mut self, chunk: &Value) -> Result<(), Unreadable> {
        let unreadable = || Unreadable(chunk.to_string());
        let number = |usage: &Value, name: &str| usage[name].as_u64();
        if let Some(usage) = chunk.get("usage").filter(|u| !u.is_null()) {
            let both = number(usage, "prompt_tokens").zip(number(usage, "completion_tokens"));
            self.usage = Some(both.ok_or_else(unreadable)?);
        }
        for choice in chunk["choices"].as_array().ok_or_else(unreadable)? {
            let index = choice["index"].as_u64().ok_or_else(unreadable)?;
            let known = self.choices.entry(index).or_default();
            known.token_ids.extend(choice["token_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64));
            if let Some(reason) = choice["finish_reason"].as_str() {
                known.finish_reason = Some(reason.to_owned());
            }
            for (name, value) in choice["delta"].as_object().into_iter().flatten() {
                match (name.as_str(), value) {
                    ("role", _) => {}
                    ("tool_calls", Value::Array(calls)) => calls.iter().for_each(|call| known.take_call(call)),
                    (_, Value::String(text)) => known.texts.entry(name.clone()).or_default().push_str(text),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Choice {
    fn take_call(&mut self, call: &Value) {
        let (name, arguments) = self.calls.entry(call["index"].as_u64().unwrap_or(0)).or_default();
        name.push_str(call["function"]["name"].as_str().unwrap_or_default());
        arguments.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(chunks: &[Value]) -> Read {
        let mut read = Read::default();
        chunks.iter().for_each(|chunk| read.take(chunk).expect("readable"));
        read
    }

    #[test]
    fn the_same_answer_in_other_events_reads_the_same_and_a_doubled_token_does_not() {
        let chunk = |text: &str, ids: &[u64]| json!({ "choices": [{ "index": 0, "delta": { "content": text }, "token_ids": ids }] });
        let one = read(&[chunk("ab", &[1, 2]), chunk("c", &[3])]);
        assert_eq!(one, read(&[chunk("a", &[1]), chunk("bc", &[2, 3])]));
        assert_ne!(one, read(&[chunk("a", &[1]), chunk("bc", &[1, 2, 3])]));
        assert_ne!(one, read(&[chunk("ab", &[1, 2])]));
        assert_eq!(one.tokens(), 3);
    }

    #[test]
    fn calls_are_joined_by_their_index() {
        let chunk = |function: Value| json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [{ "index": 1, "function": function }] } }] });
        let read =
            read(&[chunk(json!({ "name": "weather", "arguments": "{\"a" })), chunk(json!({ "arguments": "\":1}" }))]);
        assert_eq!(read.choices[&0].calls[&1], ("weather".to_owned(), "{\"a\":1}".to_owned()));
    }
}
