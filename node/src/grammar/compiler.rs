//! Compiles grammars against one model's vocabulary, and keeps those compiled last.
//!
//! Not here: threads and deadlines; whoever calls brings a thread that may block and has [`STACK_BYTES`].
//! Invariants: nothing is read before the first grammar; a cached grammar is only ever copied, lexer caches and all, so
//! no sequence sees what another made of it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use llguidance::api::{GrammarInit, ParserLimits};
use llguidance::earley::SlicedBiasComputer;
use llguidance::earley::lexerspec::LexerSpec;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use protocol::generate::Grammar;
use sharding::Pieces;

use super::source::top_level;
use super::vocabulary::token_env;
use super::{Constraint, GrammarError};

/// How llguidance says that nothing can come next.
const NO_OUTPUT: &str = "NoExtensionBias";

/// Finds out by fuel whether the lexer's first transitions can be computed. llguidance computes them without a limit
/// when it makes a parser, and an intersection of two expressions can have any number of states.
fn check_start(lexemes: &LexerSpec, mut limits: ParserLimits) -> Result<(), GrammarError> {
    let mut regexes = lexemes.to_regex_vec(&mut limits).map_err(GrammarError::invalid)?;
    regexes.set_fuel(limits.initial_lexer_fuel);
    let start = regexes.initial_state(&lexemes.all_lexemes());
    for byte in 0..=u8::MAX {
        regexes.transition(start, byte);
        if let Some(error) = regexes.get_error() {
            return Err(GrammarError::invalid(error));
        }
    }
    Ok(())
}

/// Stack of a thread that compiles: llguidance follows references by recursion.
pub const STACK_BYTES: usize = 256 << 20;
/// Compiled grammars that are kept.
const CACHE_MAX: usize = 32;
/// Lexer states of one sequence; 1 to 2 kB each.
const LEXER_STATES_MAX: usize = 10_000;
/// Earley items of one place in the output. A property that may come next takes four, and an object may have a thousand.
const ROW_ITEMS_MAX: usize = 5_000;

/// The grammars of one model version.
pub struct Grammars {
    dir: PathBuf,
    vocab_size: u32,
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
    /// The one used last in front.
    compiled: Mutex<VecDeque<(Grammar, Matcher)>>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Of the model in `dir`, whose LM head has `vocab_size` rows.
    #[must_use]
    pub fn new(dir: PathBuf, vocab_size: u32) -> Self {
        Self { dir, vocab_size, factory: OnceLock::new(), compiled: Mutex::new(VecDeque::new()) }
    }

    /// A constraint at the start of the output. Blocking: compiling takes up to seconds, and the first call reads the
    /// tokenizer.
    ///
    /// # Errors
    /// [`GrammarError`].
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        let attempt = catch_unwind(AssertUnwindSafe(|| self.matcher(grammar)));
        let matcher = attempt.unwrap_or_else(|_| Err(GrammarError::broken("llguidance panicked")))?;
        Constraint::new(matcher, self.vocab_size)
    }

    fn matcher(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        if let Some(matcher) = self.cached(grammar) {
            return Ok(matcher);
        }
        let factory = self.factory.get_or_init(|| self.factory()).as_ref().map_err(Clone::clone)?;
        let source = GrammarInit::Serialized(top_level(grammar)?);
        let (rules, lexemes) = source
            .to_internal(Some(factory.tok_env().clone()), factory.limits().clone())
            .map_err(GrammarError::invalid)?;
        check_start(&lexemes, factory.limits().clone())?;
        let parser = factory
            .create_parser_from_init_default(GrammarInit::Internal(rules, lexemes))
            .map_err(GrammarError::invalid)?;
        let mut matcher = Matcher::new(Ok(parser));
        // A grammar that no output can match, or whose every mask is too much work, shows here and is the sender's fault.
        matcher.compute_mask_or_eos().map_err(|e| match e.to_string().starts_with(NO_OUTPUT) {
            true => GrammarError::invalid("no output can match it"),
            false => GrammarError::invalid(e),
        })?;
        let copy = matcher.deep_clone();
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.truncate(CACHE_MAX - 1);
        compiled.push_front((grammar.clone(), matcher));
        Ok(copy)
    }

    fn cached(&self, grammar: &Grammar) -> Option<Matcher> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let at = compiled.iter().position(|(text, _)| text == grammar)?;
        let hit = compiled.remove(at)?;
        let copy = hit.1.deep_clone();
        compiled.push_front(hit);
        Some(copy)
    }

    fn factory(&self) -> Result<ParserFactory, GrammarError> {
        let pieces = Pieces::read(&self.dir)?;
        let env = token_env(&pieces, self.vocab_size);
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|e| GrammarError::Vocabulary { reason: e.to_string() })?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: LEXER_STATES_MAX,
            max_items_in_row: ROW_ITEMS_MAX,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(factory)
    }
}
