//! Clients of one gateway: they ask for answers to random prompts, and tell what they read, token by token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coordinator::gateway::InProcess;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::fact::{Fact, Recorder};
use crate::host::HostId;

/// Pause between two requests, ms.
const PAUSE_MS: std::ops::Range<u64> = 20..600;

/// One client.
pub(crate) struct Client {
    pub(crate) host: HostId,
    pub(crate) gateway: InProcess,
    pub(crate) recorder: Recorder,
    /// Whether it is to begin anything new.
    pub(crate) open: Arc<AtomicBool>,
    pub(crate) seed: u64,
}

impl Client {
    /// Asks until its host is killed.
    pub(crate) async fn run(self) {
        let mut rng = StdRng::seed_from_u64(self.seed);
        for number in 0u64.. {
            tokio::time::sleep(Duration::from_millis(rng.gen_range(PAUSE_MS))).await;
            if self.open.load(Ordering::Relaxed) {
                self.ask(format!("{}/{:x}.{number}", self.host, self.seed), &mut rng).await;
            }
        }
    }

    async fn ask(&self, stream: String, rng: &mut StdRng) {
        let prompt: Vec<u32> = (0..rng.gen_range(1..40)).map(|_| rng.gen_range(100..1_000)).collect();
        let (max_tokens, choices) = (rng.gen_range(1..80), rng.gen_range(1..=2u16));
        let body = json!({
            "model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "n": choices, "seed": 1,
            "stream": true, "return_token_ids": true,
        });
        self.recorder.fact(Fact::Asked { stream: stream.clone(), prompt, max_tokens, choices });
        let mut answer = self.gateway.post("/v1/completions", body.to_string()).await;
        if answer.status != 200 {
            self.recorder.fact(Fact::AnswerEnded { stream, refused: true, error: Some(answer.status.to_string()) });
            return;
        }
        let mut left = Vec::new();
        // What is not ended by `[DONE]` or an error ends in silence.
        let mut error = Some("the stream ended in silence".to_owned());
        while let Some(bytes) = answer.next().await {
            left.extend_from_slice(&bytes);
            while let Some(end) = left.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = left.drain(..end + 2).collect();
                let data = event.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"data: "));
                match data {
                    Some(b"[DONE]") => error = error.filter(|e| e.starts_with("told")),
                    Some(data) => {
                        let told: Value = serde_json::from_slice(data).unwrap_or_default();
                        if let Some(reason) = self.told(&stream, &told) {
                            error = Some(reason);
                        }
                    }
                    None => {}
                }
            }
        }
        self.recorder.fact(Fact::AnswerEnded { stream, refused: false, error });
    }

    /// Tells what an event brought; its error, where it is one.
    fn told(&self, stream: &str, told: &Value) -> Option<String> {
        if let Some(error) = told.get("error") {
            return Some(format!("told: {}", error["code"].as_str().unwrap_or("an error without a code")));
        }
        for choice in told["choices"].as_array().into_iter().flatten() {
            let index = choice["index"].as_u64().and_then(|i| u16::try_from(i).ok()).unwrap_or(u16::MAX);
            let ids = choice["token_ids"].as_array().into_iter().flatten();
            let tokens = ids.filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect();
            let finished = choice["finish_reason"].is_string();
            self.recorder.fact(Fact::Told { stream: stream.to_owned(), choice: index, tokens, finished });
        }
        None
    }
}
