//! A request of which all is checked but its pictures: their files have not been looked at.
//!
//! Invariant: where the model sees, each of its one-token placeholders in a prompt stands for one of the pictures.

use std::time::Duration;

use super::errors::ApiError;
use super::pictures::{PictureSource, few_enough, placeholders};
use super::spoken::SpeechRules;
use super::state::Target;
use super::validate::{Encoded, Endpoint, Options, ValidRequest};

/// One request.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) options: Options,
    pub(super) target: Target,
    /// One, where there are pictures.
    pub(super) prompts: Vec<Encoded>,
    /// By their place in the prompt.
    pub(super) sources: Vec<PictureSource>,
    pub(super) speech: Option<SpeechRules>,
}

impl Draft {
    /// # Errors
    /// [`ApiError::Picture`] for too many, [`ApiError::Placeholders`].
    pub(super) fn new(
        options: Options,
        target: Target,
        prompts: Vec<Encoded>,
        sources: Vec<PictureSource>,
        endpoint: Endpoint,
    ) -> Result<Self, ApiError> {
        let Some((eyes, limits)) = target.eyes() else {
            return Ok(Self { options, target, prompts, sources, speech: None });
        };
        few_enough(&sources, limits.pictures_max)?;
        let found: usize = prompts.iter().map(|p| placeholders(&p.ids, eyes.token)).sum();
        if found != sources.len() {
            let param = match endpoint {
                Endpoint::Chat => "messages",
                Endpoint::Completions => "prompt",
            };
            return Err(ApiError::Placeholders { param, found, pictures: sources.len() });
        }
        Ok(Self { options, target, prompts, sources, speech: None })
    }

    /// Whether its answer is streamed.
    pub(super) fn streams(&self) -> bool {
        self.options.streams()
    }

    /// How long it may take.
    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout()
    }

    /// The request, where it has no pictures.
    ///
    /// # Errors
    /// Those of [`Options::with_prompts`].
    pub(super) fn without_pictures(self) -> Result<ValidRequest, ApiError> {
        let Self { options, target, prompts, speech, .. } = self;
        Ok(ValidRequest { speech, ..options.with_prompts(prompts, target)? })
    }
}
