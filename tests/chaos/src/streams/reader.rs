//! One client reading one stream, as a careful program would: it names its request, and asks another gateway for the rest
//! when its own is gone or falls silent.
//!
//! ```text
//!  POST at one gateway ─refused─▶ the next one, until patience ends ─▶ Refused
//!        │ 200
//!        ▼
//!  events … [DONE] ─▶ Done     error event ─▶ Error     end without either ─▶ Silence
//!        │ connection lost, or nothing for `idle`
//!        ▼
//!  GET /v1/requests/{id}/stream?after=N at the next gateway, and so on; until patience ends ─▶ Error or Stuck
//! ```
//! Invariant: a gateway that is asked after a silence has twice as long for its first sign as the one before. One that is at
//! work is as silent as one that is stopped, and the next begins with the work anew: with the same time for each, a picture
//! that takes longer would never be answered.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;

use super::kinds::Kind;
use super::read::Read;
use super::verdict::Ending;

/// Pause before the next gateway is asked.
const PAUSE: Duration = Duration::from_millis(100);

/// Silences in a row after which a gateway's time is doubled no more.
const SILENCES_MAX: u32 = 4;

/// How long a client waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next event, or the first sign of an answer, before another gateway is asked; for the first sign twice as long
    /// after each silence.
    pub idle: Duration,
    /// For any progress, wherever it asks.
    pub progress: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [connect, idle, progress] = [1, 4, 90].map(Duration::from_secs);
        Self { connect, idle, progress }
    }
}

/// A client of several gateways.
#[derive(Debug, Clone)]
pub struct Reader {
    gateways: Vec<SocketAddr>,
    http: reqwest::Client,
    patience: Patience,
}

/// What came of one stream.
#[derive(Debug, Clone)]
pub struct Reading {
    /// How it ended.
    pub ending: Ending,
    /// What was read.
    pub read: Read,
    /// How often it was gone on with at another gateway.
    pub picked_up: u32,
    /// When each event with a token came.
    pub events: Vec<Instant>,
    /// Whom it asked, in order.
    pub asked: Vec<Attempt>,
}

/// One gateway that was asked, and what came of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its number.
    pub gateway: usize,
    /// When.
    pub at: Instant,
    /// How long until it was left.
    pub took: Duration,
    /// Events with tokens that it brought.
    pub events: usize,
    /// Why it was left.
    pub outcome: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gateway, took, events, outcome, .. } = self;
        write!(f, "c{}: {events} events in {:.2} s, then {outcome}", gateway + 1, took.as_secs_f64())
    }
}

/// How one connection ended.
#[derive(Debug)]
enum Lost {
    /// The stream has ended.
    Ended(Ending),
    /// Ask another gateway for the rest.
    Connection,
    /// The same; nothing was heard of this one.
    Silence,
    /// That one refused; with its code.
    Refused(String),
}

impl Reading {
    /// The longest time without a token that had not ended before `after`.
    #[must_use]
    pub fn longest_gap(&self, after: Instant) -> Option<Duration> {
        let gaps = self.events.windows(2).filter(|w| w[1] > after).map(|w| w[1] - w[0]);
        gaps.max()
    }
}

impl Reader {
    /// A client of these gateways.
    ///
    /// # Errors
    /// No HTTP client.
    pub fn new(gateways: Vec<SocketAddr>, patience: Patience) -> Result<Self, reqwest::Error> {
        // A connection each: one that a frozen gateway holds must not be used again.
        let builder = reqwest::Client::builder().no_proxy().connect_timeout(patience.connect);
        let http = builder.pool_max_idle_per_host(0).build()?;
        Ok(Self { gateways, http, patience })
    }

    /// Reads the answer to one request under `name`, first at the gateway of that number; `progress` hears how many tokens
    /// there are after each event.
    pub async fn read(&self, kind: &Kind, name: &str, first: usize, mut progress: impl FnMut(usize) + Send) -> Reading {
        let mut reading = Reading {
            ending: Ending::Stuck,
            read: Read::default(),
            picked_up: 0,
            events: Vec::new(),
            asked: Vec::new(),
        };
        let (mut at, mut began, mut last_id) = (first, false, String::new());
        let mut refusal: Option<String> = None;
        let (mut since, mut silences) = (Instant::now(), 0_u32);
        while since.elapsed() < self.patience.progress {
            let gateway = self.gateways[at % self.gateways.len()];
            let request = if began {
                self.http.get(format!("http://{gateway}/v1/requests/{name}/stream?after={last_id}"))
            } else {
                self.http.post(format!("http://{gateway}{}", kind.path)).header("x-request-id", name).json(&kind.body)
            };
            let (events, asked_at) = (reading.events.len(), Instant::now());
            let left = self.patience.progress.saturating_sub(since.elapsed());
            let first = self.patience.idle.saturating_mul(1 << silences.min(SILENCES_MAX)).min(left);
            let lost = self.connection((request, first), &mut reading, &mut began, &mut last_id, &mut progress).await;
            reading.asked.push(Attempt {
                gateway: at % self.gateways.len(),
                at: asked_at,
                took: asked_at.elapsed(),
                events: reading.events.len() - events,
                outcome: format!("{lost:?}"),
            });
            if reading.events.len() > events {
                (since, silences, refusal) = (Instant::now(), 0, None);
            }
            match lost {
                Lost::Ended(ending) => {
                    reading.ending = ending;
                    return reading;
                }
                Lost::Refused(code) => refusal = Some(code),
                Lost::Connection => {}
                Lost::Silence => silences += 1,
            }
            at += 1;
            tokio::time::sleep(PAUSE).await;
        }
        reading.ending = match refusal {
            Some(code) if began => Ending::Error(code),
            Some(code) => Ending::Refused(code),
            None if began => Ending::Stuck,
            None => Ending::Refused("no_connection".to_owned()),
        };
        reading
    }

    async fn connection(
        &self,
        (request, first): (reqwest::RequestBuilder, Duration),
        reading: &mut Reading,
        began: &mut bool,
        last_id: &mut String,
        progress: &mut (impl FnMut(usize) + Send),
    ) -> Lost {
        let going_on = *began;
        let response = match tokio::time::timeout(first, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => return Lost::Connection,
            Err(_) => return Lost::Silence,
        };
        if response.status() == 204 {
            return Lost::Ended(Ending::Done);
        }
        if response.status() != 200 {
            let status = response.status();
            let body = tokio::time::timeout(self.patience.idle, response.json::<Value>()).await;
            let code = body.ok().and_then(Result::ok).and_then(|b| b["error"]["code"].as_str().map(str::to_owned));
            return Lost::Refused(code.unwrap_or_else(|| status.as_str().to_owned()));
        }
        *began = true;
        reading.picked_up += u32::from(going_on);
        let mut tokens = reading.read.tokens();
        let (mut body, mut rest) = (response.bytes_stream(), Vec::new());
        loop {
            let piece = match tokio::time::timeout(self.patience.idle, body.next()).await {
                Err(_) => return Lost::Silence,
                Ok(Some(Err(_))) => return Lost::Connection,
                Ok(None) => return Lost::Ended(Ending::Silence),
                Ok(Some(Ok(piece))) => piece,
            };
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = rest.drain(..end + 2).collect();
                match take(&String::from_utf8_lossy(&event), &mut reading.read, last_id) {
                    Some(ending) => return Lost::Ended(ending),
                    None if reading.read.tokens() > tokens => {
                        tokens = reading.read.tokens();
                        reading.events.push(Instant::now());
                        progress(tokens);
                    }
                    None => {}
                }
            }
        }
    }
}

/// Takes one event; how the stream ended, if it did.
fn take(event: &str, read: &mut Read, last_id: &mut String) -> Option<Ending> {
    let mut data = None;
    for line in event.lines() {
        if let Some(id) = line.strip_prefix("id: ") {
            id.clone_into(last_id);
        } else if let Some(text) = line.strip_prefix("data: ") {
            data = Some(text);
        }
    }
    let data = data?;
    if data == "[DONE]" {
        return Some(Ending::Done);
    }
    let unreadable = |what: &str| Some(Ending::Error(format!("unreadable event {what}")));
    let Ok(chunk) = serde_json::from_str::<Value>(data) else { return unreadable(data) };
    if let Some(error) = chunk.get("error") {
        return Some(Ending::Error(error["code"].as_str().unwrap_or("no code").to_owned()));
    }
    match read.take(&chunk) {
        Ok(()) => None,
        Err(what) => unreadable(&what.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A gateway that begins with each request anew and answers it after `work`.
    async fn at_work(work: Duration) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    tokio::time::sleep(work).await;
                    let chunk = json!({ "choices": [{ "index": 0, "delta": { "content": "a" }, "token_ids": [7] }] });
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                    let answer = format!("{head}id: 1\ndata: {chunk}\n\nid: done\ndata: [DONE]\n\n");
                    // Whoever asked may be gone.
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        addr
    }

    #[tokio::test]
    async fn work_that_takes_longer_than_a_gateway_is_given_at_first_is_answered_all_the_same() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let [connect, idle, progress] = [10_000, 50, 60_000].map(Duration::from_millis);
        let gateways = vec![at_work(idle * 5).await, at_work(idle * 5).await];
        let reader = Reader::new(gateways, Patience { connect, idle, progress }).expect("a client");
        let kind = Kind { name: "any".to_owned(), path: "/", body: json!({}) };
        let reading = reader.read(&kind, "name", 0, |_| {}).await;
        assert_eq!((reading.ending, reading.read.tokens()), (Ending::Done, 1), "{} asked", reading.asked.len());
        assert!(reading.asked.len() > 1, "the first one had no time for it");
    }
}
