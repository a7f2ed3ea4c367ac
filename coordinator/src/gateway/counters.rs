//! What this gateway has done, for metrics: counted here, named and served elsewhere.
//!
//! Invariant: every number but the present ones (`open`, `waiting`, `in_flight` and what waiting takes up) only grows while
//! the gateway lives; labels are routes and codes of this program, so their number is bounded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use protocol::stats::Histogram;

use super::errors::FailureCode;
use super::state::App;
use crate::journal::JournalStats;

/// Stands for every path that is no route.
const NO_ROUTE: &str = "other";

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GatewayStats {
    /// Responses that were begun, by route (`other` for none) and status. A stream counts when its head is sent.
    pub responses: BTreeMap<(String, u16), u64>,
    /// Failures, by their `code`; those of streams that had begun too.
    pub failures: BTreeMap<&'static str, u64>,
    /// Requests for an answer that are in this gateway now, from their first byte to their last.
    pub open: u64,
    /// Prompts that wait for a replica now.
    pub waiting: u64,
    /// KV tokens that those will take up.
    pub waiting_tokens: u64,
    /// Memory that those hold, bytes.
    pub waiting_bytes: u64,
    /// Prompts that are at a replica now.
    pub in_flight: u64,
    /// How long prompts waited in admission that were placed, from when they were read.
    pub admission_wait: Histogram,
    /// Streams that went on here after another connection, perhaps another gateway, had begun them.
    pub picked_up: u64,
    /// Streams that their clients named and for which the journal had no room.
    pub unkept: u64,
    /// What the journal holds now.
    pub journal: JournalStats,
    /// How often a prompt's replica was lost in the middle of its answers.
    pub interrupted: u64,
    /// How long it then took until another one went on; of those that did.
    pub resume: Histogram,
}

/// The counts behind it.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    responses: BTreeMap<(String, u16), u64>,
    failures: BTreeMap<&'static str, u64>,
    interrupted: u64,
    resume: Histogram,
    picked_up: u64,
    unkept: u64,
}

impl Counters {
    fn response(&self, route: &str, status: u16, failure: Option<FailureCode>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.responses.entry((route.to_owned(), status)).or_default() += 1;
        if let Some(FailureCode(code)) = failure {
            *counts.failures.entry(code).or_default() += 1;
        }
    }

    /// A stream that had begun broke off.
    pub(super) fn broken_off(&self, code: &'static str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.failures.entry(code).or_default() += 1;
    }

    /// A stream goes on here.
    pub(super) fn picked_up(&self) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).picked_up += 1;
    }

    /// A named stream is not kept.
    pub(super) fn unkept(&self) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).unkept += 1;
    }

    /// A prompt's replica was lost in the middle of its answers.
    pub(super) fn interrupted(&self) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).interrupted += 1;
    }

    /// Another one goes on, so long after the loss.
    pub(super) fn resumed(&self, after: Duration) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).resume.record(after);
    }
}

impl App {
    /// What this gateway has done so far.
    pub(super) fn stats(&self) -> GatewayStats {
        let gate = self.gate.stats();
        let counts = self.counters.counts.lock().unwrap_or_else(PoisonError::into_inner);
        GatewayStats {
            responses: counts.responses.clone(),
            failures: counts.failures.clone(),
            open: self.places.taken() as u64,
            waiting: gate.waiting,
            waiting_tokens: gate.waiting_tokens,
            waiting_bytes: gate.waiting_bytes,
            in_flight: gate.in_flight,
            admission_wait: gate.waited,
            picked_up: counts.picked_up,
            unkept: counts.unkept,
            journal: self.journal.stats(),
            interrupted: counts.interrupted,
            resume: counts.resume.clone(),
        }
    }
}

/// Counts each response as it leaves.
pub(super) async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let failure = response.extensions().get::<FailureCode>().copied();
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    app.counters.response(route, response.status().as_u16(), failure);
    response
}
