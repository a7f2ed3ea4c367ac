//! Where a request's grammar becomes constraints, one a choice: off the runtime's own thread, a few at a time, within a
//! deadline.
//!
//! Not here: what a grammar may be ([`crate::grammar`]).
//! Invariant: a grammar that takes longer than anybody waits for keeps at most its own place busy, until llguidance's
//! limits end it.

use std::sync::Arc;
use std::time::Duration;

use protocol::frame::{Refusal, RefusalCode};
use protocol::generate::{Choice, GenerateRequest, Grammar};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::grammar::{Constraint, GrammarError, Grammars};

/// Grammars that are compiled at once.
pub(super) const COMPILES_MAX: usize = 2;
/// How long a request waits for its turn, and then for its grammar. The first one of a replica waits for the tokenizer to
/// be read too.
const COMPILE_DEADLINE: Duration = Duration::from_secs(10);

/// The grammars of a replica, and who may compile one.
#[derive(Debug)]
pub(super) struct Constraints {
    grammars: Arc<Grammars>,
    turns: Arc<Semaphore>,
}

impl Constraints {
    pub(super) fn new(grammars: Grammars) -> Self {
        Self { grammars: Arc::new(grammars), turns: Arc::new(Semaphore::new(COMPILES_MAX)) }
    }

    /// A constraint for each choice of a request that has a grammar, none for one that has none.
    ///
    /// # Errors
    /// A refusal that says what is wrong with the grammar.
    ///
    /// # Cancel safety
    /// What is being compiled goes on and is kept for whoever asks next.
    pub(super) async fn of(&self, request: &GenerateRequest) -> Result<Vec<Constraint>, Refusal> {
        let Some(grammar) = request.sampling.grammar.clone() else { return Ok(Vec::new()) };
        let turn = match timeout(COMPILE_DEADLINE, self.turns.clone().acquire_owned()).await {
            Ok(turn) => turn.expect("nobody closes the semaphore"),
            Err(_) => {
                let retry_after_ms = u32::try_from(COMPILE_DEADLINE.as_millis()).unwrap_or(u32::MAX);
                let detail = "other grammars are being compiled".to_owned();
                return Err(Refusal { code: RefusalCode::Overloaded { retry_after_ms }, detail });
            }
        };
        let (choices, stop_ids) = (request.choices.clone(), request.sampling.stop_token_ids.clone());
        let grammars = self.grammars.clone();
        let job = spawn_blocking(move || {
            let _turn = turn;
            constraints(&grammars, &grammar, &choices, &stop_ids)
        });
        match timeout(COMPILE_DEADLINE, job).await {
            Ok(Ok(made)) => made.map_err(refusal),
            Ok(Err(panicked)) => Err(Refusal { code: RefusalCode::Internal, detail: panicked.to_string() }),
            Err(_) => {
                let detail = format!("the grammar took longer than {} s to compile", COMPILE_DEADLINE.as_secs());
                Err(Refusal { code: RefusalCode::BadRequest, detail })
            }
        }
    }
}

/// A constraint for each of `choices`. Blocking.
pub(super) fn constraints(
    grammars: &Grammars,
    grammar: &Grammar,
    choices: &[Choice],
    stop_ids: &[u32],
) -> Result<Vec<Constraint>, GrammarError> {
    let start = grammars.constraint(grammar)?;
    let at = |choice: &Choice| {
        let mut constraint = start.copy();
        constraint.resume(&choice.resume, stop_ids)?;
        Ok(constraint)
    };
    choices.iter().map(at).collect()
}

fn refusal(error: GrammarError) -> Refusal {
    let code = match &error {
        GrammarError::Invalid { .. } | GrammarError::Resumed { .. } | GrammarError::Broken { .. } => {
            RefusalCode::BadRequest
        }
        GrammarError::Vocabulary { .. } => RefusalCode::Internal,
    };
    Refusal { code, detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use protocol::generate::{Priority, SamplingParams};
    use protocol::{ReplicaId, RequestId};

    use super::*;

    fn request(grammar: Option<Grammar>, choices: Vec<Choice>) -> GenerateRequest {
        GenerateRequest {
            request_id: RequestId::from_bytes([1; 16]),
            replica: ReplicaId(1),
            prompt_ids: vec![1],
            pictures: Vec::new(),
            choices,
            sampling: SamplingParams { grammar, ..SamplingParams::greedy(8) },
            priority: Priority::default(),
            cache_salt: String::new(),
            deadline_ms: 60_000,
        }
    }

    #[tokio::test]
    async fn each_choice_gets_a_constraint_of_its_own_or_the_request_a_reason() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/autoglm-nano");
        let constraints = Constraints::new(Grammars::new(dir, 4096));
        let two = || vec![Choice { index: 0, resume: Vec::new() }, Choice { index: 4, resume: Vec::new() }];
        let digits = |text: &str| Some(Grammar::Regex(text.to_owned()));
        assert!(constraints.of(&request(None, two())).await.expect("no grammar").is_empty());
        assert_eq!(constraints.of(&request(digits("[0-9]+"), two())).await.expect("a good grammar").len(), 2);
        let refused = constraints.of(&request(digits("[0-9"), two())).await.expect_err("no expression");
        assert_eq!(refused.code, RefusalCode::BadRequest);
        assert!(refused.detail.starts_with("the grammar cannot be used: "), "{refused:?}");
        let resumed = vec![Choice { index: 0, resume: vec![4083] }];
        let refused = constraints.of(&request(digits("[0-9]+"), resumed)).await.expect_err("no digit");
        assert_eq!(refused.code, RefusalCode::BadRequest);
        let elsewhere = Constraints::new(Grammars::new("/nowhere".into(), 4096));
        let refused = elsewhere.of(&request(digits("[0-9]+"), two())).await.expect_err("no tokenizer");
        assert_eq!(refused.code, RefusalCode::Internal);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_turn_only_so_long() {
        let constraints = Constraints::new(Grammars::new("/nowhere".into(), 4096));
        let turns = constraints.turns.clone().acquire_many_owned(u32::try_from(COMPILES_MAX).expect("few")).await;
        let refused =
            constraints.of(&request(Some(Grammar::JsonObject), vec![Choice::only()])).await.expect_err("full");
        assert_eq!(refused.code, RefusalCode::Overloaded { retry_after_ms: 10_000 });
        drop(turns);
    }
}
