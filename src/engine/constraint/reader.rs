//! What reads one answer by its grammar.
//!
//! Readers of one grammar share what its lexer has learnt, in a few groups, so that what is known is not found out again
//! for each request, and they still work in parallel. What one reader does to its group's lexer (it outgrows a limit, it
//! panics) is no other's fault: who finds the group broken reads his answer again, by a lexer of his own.

use llguidance::Matcher;

use super::Constraint;
use super::grammar::{one_line, reason};
use crate::model::TokenMask;

/// Whose lexer a reader uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lexer {
    /// That of a group.
    Of(usize),
    Own,
}

/// One answer's reader.
pub(super) struct Reader {
    constraint: Constraint,
    matcher: Matcher,
    lexer: Lexer,
    /// What was read so far.
    read: Vec<u32>,
}

/// Whether more may follow what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// More may, or must.
    Open,
    /// Nothing may.
    Complete,
}

impl Reader {
    /// At the beginning of an answer.
    pub(super) fn new(constraint: &Constraint) -> Self {
        let (group, matcher) = constraint.join();
        Self { constraint: constraint.clone(), matcher, lexer: Lexer::Of(group), read: Vec::new() }
    }

    /// Reads a token.
    pub(super) fn read(&mut self, token: u32) -> Result<Standing, String> {
        let result = self.matcher.consume_token(token).map_err(|error| reason(&error));
        self.read.push(token);
        if let Err(why) = result {
            self.read_again(why)?;
        }
        self.standing()
    }

    /// Reads the tokens that must follow, if any must.
    pub(super) fn read_forced(&mut self) -> Result<(Vec<u32>, Standing), String> {
        let mut forced = self.matcher.consume_ff_tokens();
        if let Some(why) = self.matcher.get_error() {
            self.read_again(one_line(&why))?;
            forced = self.matcher.consume_ff_tokens();
        }
        self.read.extend_from_slice(&forced);
        Ok((forced, self.standing()?))
    }

    /// What may come next. At the end of the grammar, only the end of the text.
    pub(super) fn mask(&mut self) -> Result<TokenMask, String> {
        let vocab = self.constraint.vocab();
        let result = mask_of(&mut self.matcher, vocab);
        result.or_else(|why| {
            self.read_again(why)?;
            mask_of(&mut self.matcher, vocab)
        })
    }

    fn standing(&self) -> Result<Standing, String> {
        if !self.matcher.is_stopped() {
            Ok(Standing::Open)
        } else if self.matcher.stop_reason().is_ok() {
            Ok(Standing::Complete)
        } else {
            let why = self.matcher.get_error().unwrap_or_else(|| self.matcher.stop_reason().to_string());
            Err(one_line(&why))
        }
    }

    /// Reads all again by a lexer of its own, unless it has one already: then `why` is the answer's own trouble.
    fn read_again(&mut self, why: String) -> Result<(), String> {
        let Lexer::Of(group) = self.lexer else { return Err(why) };
        self.constraint.renew(group);
        self.lexer = Lexer::Own;
        self.matcher = self.constraint.pristine();
        self.matcher.consume_tokens(&self.read).map_err(|error| reason(&error))
    }
}

/// What may come next after what a matcher has read.
pub(super) fn mask_of(matcher: &mut Matcher, vocab: usize) -> Result<TokenMask, String> {
    let computed = matcher.compute_mask_or_eos().map_err(|error| reason(&error))?;
    let mut words = computed.as_slice().to_vec();
    words.resize(vocab.div_ceil(32), 0);
    let mask = TokenMask::new(words);
    if mask.holds_others_than(&[]) { Ok(mask) } else { Err("no token of the model can come next".to_owned()) }
}
