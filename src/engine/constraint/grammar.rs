//! Grammars, compiled for a vocabulary.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::ParserLimits;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory};

use super::Grammar;
use super::reader::mask_of;
use super::vocabulary::Vocabulary;
use crate::model::{TokenMask, Tokenizer};

/// Groups of readers that share what they learn; as many as there are threads, up to this.
const MOST_GROUPS: usize = 4;

/// As much of the library's reasons as a message shows.
const LONGEST_REASON: usize = 300;

/// Why there is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The model has no token that ends a text, so nothing would end after a grammar does.
    #[error("the model has no end-of-text token, and constraints need one")]
    NoEnd,
    /// The tokenizer is beyond the library.
    #[error("the model's tokenizer cannot be constrained: {0}")]
    Tokenizer(String),
    /// The grammar is wrong, or larger than the limits.
    #[error("{0}")]
    Grammar(String),
}

/// Compiles grammars for one model's vocabulary. Cloning it clones a pointer.
#[derive(Clone)]
pub struct GrammarCompiler {
    factory: Arc<ParserFactory>,
    vocab: usize,
}

/// A compiled grammar. Cloning it clones a pointer.
#[derive(Clone)]
pub struct Constraint(Arc<Compiled>);

struct Compiled {
    /// At the beginning, and nothing learnt.
    pristine: Matcher,
    /// At the beginning, too; what readers of each group learn, others of it know.
    // Guards the matcher that a group's next reader copies, for as long as that takes: it may be replaced.
    groups: Vec<Mutex<Matcher>>,
    /// Readers so far.
    readers: AtomicUsize,
    /// What an answer may begin with.
    first: TokenMask,
    vocab: usize,
}

impl GrammarCompiler {
    /// For a vocabulary of `vocab` tokens, of which `eos` end a text. Takes as long as reading the tokenizer did.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, eos: &[u32]) -> Result<Self, ConstraintError> {
        let vocabulary = Vocabulary::new(tokenizer.clone(), vocab, eos)?;
        let env: TokEnv = Arc::new(vocabulary);
        let capabilities =
            InferenceCapabilities { ff_tokens: env.tokenize_is_canonical(), ..Default::default() };
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, capabilities, &slices)
            .map_err(|error| ConstraintError::Tokenizer(reason(&error)))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory: Arc::new(factory), vocab })
    }

    /// Compiles a grammar. May take seconds, and much stack where rules refer to each other in long chains.
    pub fn compile(&self, grammar: Grammar) -> Result<Constraint, ConstraintError> {
        let parser = self.factory.create_parser(grammar);
        let parser = parser.map_err(|error| ConstraintError::Grammar(reason(&error)))?;
        let mut matcher = Matcher::new(Ok(parser));
        // finds out whether all is said already
        matcher.consume_tokens(&[]).map_err(|error| ConstraintError::Grammar(reason(&error)))?;
        let first = mask_of(&mut matcher, self.vocab).map_err(ConstraintError::Grammar)?;
        let groups = rayon::current_num_threads().clamp(1, MOST_GROUPS);
        let groups = (0..groups).map(|_| Mutex::new(matcher.deep_clone())).collect();
        let compiled =
            Compiled { pristine: matcher, groups, readers: AtomicUsize::new(0), first, vocab: self.vocab };
        Ok(Constraint(Arc::new(compiled)))
    }
}

impl Constraint {
    /// How many tokens its vocabulary has.
    pub(in crate::engine) fn vocab(&self) -> usize {
        self.0.vocab
    }

    /// Whether these tokens are an answer as a whole.
    #[cfg(test)]
    pub(crate) fn accepts(&self, tokens: &[u32]) -> bool {
        let mut matcher = self.pristine();
        let taken = matcher.try_consume_tokens(tokens).unwrap_or(0);
        let ends =
            matcher.is_stopped() && matcher.stop_reason().is_ok() || matcher.is_accepting().unwrap_or(false);
        taken == tokens.len() && ends
    }

    /// What an answer may begin with.
    pub(super) fn first(&self) -> TokenMask {
        self.0.first.clone()
    }

    /// A group for a reader, and a matcher that shares what that group learns.
    pub(super) fn join(&self) -> (usize, Matcher) {
        let Compiled { groups, readers, .. } = &*self.0;
        let group = readers.fetch_add(1, Ordering::Relaxed) % groups.len();
        (group, groups[group].lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Lets a group begin anew, for those who join it from now on.
    pub(super) fn renew(&self, group: usize) {
        let fresh = self.pristine();
        *self.0.groups[group].lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// A matcher that shares nothing.
    pub(super) fn pristine(&self) -> Matcher {
        self.0.pristine.deep_clone()
    }
}

/// So that no grammar takes memory or time that others need: of compiling, some seconds; of a mask, some milliseconds.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// The library's reason in one line.
pub(super) fn reason(error: &impl fmt::Display) -> String {
    one_line(&format!("{error:#}"))
}

/// What comes before the library's own state, and not too much of it.
pub(super) fn one_line(text: &str) -> String {
    let text = ["<state>", "<non-verbose/>", "<backtrace>"]
        .iter()
        .fold(text, |text, mark| text.split_once(mark).map_or(text, |(before, _)| before));
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect()
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("vocab", &self.0.vocab).finish_non_exhaustive()
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").field("vocab", &self.vocab).finish_non_exhaustive()
    }
}
