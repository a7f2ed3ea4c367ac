//! What of a streamed request is kept, so that another gateway can go on with it.
//!
//! Not here: who keeps it (`crate::journal`). Invariant: body, prompt ids and seed together are the request: whoever reads them
//! anew asks a replica the same.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use axum::body::Bytes;
use protocol::RequestId;
use protocol::journal::{AnswerFormat, JournalEntry};

use super::sse::Naming;
use super::state::App;
use super::validate::ValidRequest;

/// Whose requests these are, as long as nobody is told apart: what a client is recognised by belongs here.
pub(super) const PRINCIPAL: &str = "";

/// What is kept beside what a [`ValidRequest`] says.
pub(super) struct Keeping {
    pub(super) id: RequestId,
    pub(super) version: u64,
    pub(super) format: AnswerFormat,
    pub(super) body: Bytes,
    /// As they were encoded, a picture being one token.
    pub(super) prompts: Vec<Vec<u32>>,
    /// s since 1970.
    pub(super) created: u64,
}

impl Keeping {
    /// The entry of a request of which nothing was answered.
    pub(super) fn entry(self, request: &ValidRequest) -> JournalEntry {
        let Self { id, version, format, body, prompts, created } = self;
        let (spec, ms) = (&request.target.deployment.spec, request.terms.timeout.as_millis());
        let timeout_ms = u32::try_from(ms).unwrap_or(u32::MAX);
        JournalEntry {
            id,
            version,
            format,
            principal: PRINCIPAL.to_owned(),
            body: body.to_vec(),
            priority: request.terms.priority,
            timeout_ms,
            left_ms: timeout_ms,
            created,
            seed: request.sampling.seed,
            digest: spec.model.digest.clone(),
            dtype: spec.dtype,
            taken: vec![Vec::new(); request.choices_in_all()],
            cached: vec![None; prompts.len()],
            prompts,
            pictures: pictures(request),
        }
    }
}

/// Digests of the levels of a request's pictures.
pub(super) fn pictures(request: &ValidRequest) -> Vec<[u8; 32]> {
    let levels = request.prompts.iter().flat_map(|p| &p.pictures.levels);
    let digest = |rgb: &[u8]| digest::digest(&digest::SHA256, rgb);
    levels.map(|picture| digest(&picture.rgb).as_ref().try_into().expect("SHA-256 has 32 bytes")).collect()
}

/// A version of an entry that begins now.
pub(super) fn version_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl App {
    /// Has a named stream kept, where there is room.
    pub(super) fn keep(&self, entry: JournalEntry, deadline: Instant) -> Naming {
        let id = entry.id;
        match self.journal.record(entry, deadline) {
            Some(recorder) => Naming::Kept(recorder),
            None => {
                self.counters.unkept();
                tracing::info!(request_id = %id, "no room in the journal: the stream would not survive this gateway");
                Naming::Unkept
            }
        }
    }
}
