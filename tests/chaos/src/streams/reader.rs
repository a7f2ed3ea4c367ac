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

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;

use super::kinds::Kind;
use super::read::Read;
use super::verdict::Ending;

/// Pause before the next gateway is asked.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a client waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next event, or the first sign of an answer, before another gateway is asked.
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
}

/// How one connection ended.
enum Lost {
    /// The stream has ended.
    Ended(Ending),
    /// Ask another gateway for the rest.
    Connection,
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
        let mut reading = Reading { ending: Ending::Stuck, read: Read::default(), picked_up: 0, events: Vec::new() };
        let (mut at, mut began, mut last_id) = (first, false, String::new());
        let mut refusal: Option<String> = None;
        let mut since = Instant::now();
        while since.elapsed() < self.patience.progress {
            let gateway = self.gateways[at % self.gateways.len()];
            let request = if began {
                self.http.get(format!("http://{gateway}/v1/requests/{name}/stream?after={last_id}"))
            } else {
                self.http.post(format!("http://{gateway}{}", kind.path)).header("x-request-id", name).json(&kind.body)
            };
            let events = reading.events.len();
            let lost = self.connection(request, &mut reading, &mut began, &mut last_id, &mut progress).await;
            if reading.events.len() > events {
                (since, refusal) = (Instant::now(), None);
            }
            match lost {
                Lost::Ended(ending) => {
                    reading.ending = ending;
                    return reading;
                }
                Lost::Refused(code) => refusal = Some(code),
                Lost::Connection => {}
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
        request: reqwest::RequestBuilder,
        reading: &mut Reading,
        began: &mut bool,
        last_id: &mut String,
        progress: &mut (impl FnMut(usize) + Send),
    ) -> Lost {
        let going_on = *began;
        let response = match tokio::time::timeout(self.patience.idle, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) | Err(_) => return Lost::Connection,
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
                Err(_) | Ok(Some(Err(_))) => return Lost::Connection,
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
