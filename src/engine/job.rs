//! What the engine's thread keeps of a request beside its sequence: settings, text so far, the way to the client.

use std::sync::Arc;

use super::constraint::{Guide, JumpAhead};
use super::detokenizer::{Detokenizer, Piece, Search};
use super::generation::{Event, FinishReason, Outbox, TokenEvent, TokenLogprob, Usage};
use super::logprobs::Score;
use super::penalties::History;
use super::request::{GenerateRequest, SamplingParams, StopInclusion};
use super::sampler::choice;
use super::shared::{Place, Tenant};
use super::speculation::{GuessedBy, Guessing};
use super::turns::{Presence, Priority, Turns};
use crate::model::{Choice, SpecialText, Tokenizer};

/// A request in work.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) tenant: Arc<Tenant>,
    /// Held until the request is admitted for the first time.
    pub(super) place: Option<Place>,
    pub(super) priority: Priority,
    pub(super) rank: i32,
    /// Held for as long as a client waits.
    _presence: Option<Presence>,
    pub(super) outbox: Outbox,
    sampling: SamplingParams,
    history: Option<History>,
    stop_tokens: Vec<u32>,
    inclusion: StopInclusion,
    max_tokens: usize,
    min_tokens: usize,
    pub(super) logprobs: Option<u8>,
    pub(super) prompt_logprobs: Option<u8>,
    special_text: SpecialText,
    /// Where the answer is in its grammar, if it has one.
    pub(super) guide: Option<Guide>,
    shown: Vec<u32>,
    detokenizer: Detokenizer,
    first_token: Option<u32>,
    prompt_scores: Vec<TokenLogprob>,
    started: bool,
    usage: Usage,
}

/// How an answer stands after a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    GoesOn,
    Ended,
}

/// Why a token is an answer's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is one that ends a text.
    StopToken,
    /// The answer's grammar has no more to say.
    Complete,
    /// The answer has its most tokens.
    Length,
}

impl End {
    fn reason(self) -> FinishReason {
        match self {
            Self::StopToken | Self::Complete => FinishReason::Stop,
            Self::Length => FinishReason::Length,
        }
    }
}

/// A chosen token with its score, if asked for.
pub(super) type Chosen = (u32, Option<Score>);

impl Job {
    /// A request in work, and its prompt.
    pub(super) fn new(
        request: GenerateRequest,
        outbox: Outbox,
        (tenant, place): (Arc<Tenant>, Place),
        turns: &Turns,
    ) -> (Self, Vec<u32>) {
        // a token that is not computed has no score
        let jump_ahead = if request.logprobs.is_some() { JumpAhead::No } else { JumpAhead::Yes };
        let job = Self {
            tenant,
            place: Some(place),
            priority: request.priority,
            rank: request.rank,
            _presence: turns.enter(request.priority),
            outbox,
            history: History::of(&request.prompt, &request.sampling),
            sampling: request.sampling,
            stop_tokens: request.stop.tokens(),
            inclusion: request.stop.include_stop,
            max_tokens: request.max_tokens,
            min_tokens: request.min_tokens.min(request.max_tokens),
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            special_text: request.special_text,
            guide: request.constraint.as_ref().map(|constraint| Guide::new(constraint, jump_ahead)),
            shown: request.shown,
            detokenizer: Detokenizer::new(request.stop.strings, request.stop.include_stop),
            first_token: request.prompt.first().copied(),
            prompt_scores: Vec::new(),
            started: false,
            usage: Usage { prompt_tokens: request.prompt.len(), ..Usage::default() },
        };
        (job, request.prompt)
    }

    /// How the next token is chosen, and the one after each of these guesses, were they right.
    pub(super) fn choices(&self, guesses: &[u32]) -> Vec<Choice> {
        let mut choices = vec![self.choice(0, self.history.as_ref())];
        let mut history = self.history.as_ref().filter(|_| !guesses.is_empty()).cloned();
        for (i, guess) in guesses.iter().enumerate() {
            if let Some(history) = &mut history {
                history.push(*guess);
            }
            choices.push(self.choice(i + 1, history.as_ref()));
        }
        choices
    }

    /// How the token after such guesses is chosen, were they right.
    pub(super) fn choice_after(&self, guesses: &[u32]) -> Choice {
        self.choices(guesses).swap_remove(guesses.len())
    }

    /// How the token `ahead` of the next one is chosen, by such a history.
    fn choice(&self, ahead: usize, history: Option<&History>) -> Choice {
        let index = self.usage.completion_tokens + ahead;
        let banned: &[u32] = if index < self.min_tokens { &self.stop_tokens } else { &[] };
        let allowed = self.guide.as_ref().and_then(Guide::allowed);
        choice(&self.sampling, history, index, allowed, banned)
    }

    /// How much is guessed of its sequence. With a grammar, nothing: the mask after a guess is not there yet.
    pub(super) fn guessing(&self, by: GuessedBy, most: usize) -> Guessing {
        if self.guide.is_some() {
            return Guessing::NEVER;
        }
        Guessing::up_to(most, by, self.usage.prompt_tokens + self.max_tokens)
    }

    /// Scores of prompt tokens, in order.
    pub(super) fn add_prompt_scores(&mut self, scores: Vec<Score>, tokenizer: &Tokenizer) {
        self.prompt_scores.extend(scores.into_iter().map(|score| token_logprob(score, tokenizer)));
    }

    /// Tells the client once that the prompt is computed. Whether it was told now.
    pub(super) fn start(&mut self, cached_tokens: usize, tokenizer: &Tokenizer) -> bool {
        if std::mem::replace(&mut self.started, true) {
            return false;
        }
        self.usage.cached_tokens = cached_tokens;
        let mut prompt = std::mem::take(&mut self.prompt_scores);
        if let (Some(token), Some(_)) = (self.first_token, self.prompt_logprobs) {
            prompt.insert(0, token_logprob(Score { token, logprob: 0.0, top: Vec::new() }, tokenizer));
        }
        self.outbox.send(Event::Started { prompt, cached_tokens });
        true
    }

    /// Adds a token to the answer: all that the choice of the next one depends on. Why the answer is over, if the token
    /// itself ends it; its text and its grammar may end it, too.
    pub(super) fn accept(&mut self, token: u32) -> Option<End> {
        self.usage.completion_tokens += 1;
        if let Some(history) = &mut self.history {
            history.push(token);
        }
        if self.stop_tokens.contains(&token) {
            return Some(End::StopToken);
        }
        (self.usage.completion_tokens == self.max_tokens).then_some(End::Length)
    }

    /// Whether its text may end the answer.
    pub(super) fn stops_by_text(&self) -> bool {
        self.detokenizer.has_stops()
    }

    /// Tells the client of the token that was accepted last, and of the end, if that was the last: by `end`, or by its text.
    pub(super) fn tell(
        &mut self,
        (token, score): Chosen,
        end: Option<End>,
        tokenizer: &Tokenizer,
    ) -> Progress {
        let hidden = end == Some(End::StopToken) && self.inclusion == StopInclusion::Exclude;
        let structure = self.special_text == SpecialText::Skip
            && tokenizer.is_special(token)
            && !self.shown.contains(&token);
        let unseen = hidden || structure;
        let bytes = if unseen { Vec::new() } else { tokenizer.token_bytes(token).unwrap_or_default() };
        let enough = self.usage.completion_tokens >= self.min_tokens;
        let search = if enough { Search::Stops } else { Search::Nothing };
        let (text, end) = match self.detokenizer.push(&bytes, search) {
            Piece::More(text) => (text, end.map(End::reason)),
            Piece::Stopped(text) => (text, Some(FinishReason::Stop)),
        };
        let logprob = if hidden { None } else { score.map(|score| token_logprob(score, tokenizer)) };
        self.outbox.send(Event::Token(TokenEvent { text, token, logprob }));
        match end {
            Some(reason) => {
                self.finish(reason);
                Progress::Ended
            }
            None => Progress::GoesOn,
        }
    }

    /// Ends the answer with what is left of its text.
    pub(super) fn finish(&mut self, reason: FinishReason) {
        let text = self.detokenizer.finish();
        if !text.is_empty() {
            self.outbox.send(Event::Text(text));
        }
        self.outbox.send(Event::Finished { reason, usage: self.usage });
    }
}

fn token_logprob(score: Score, tokenizer: &Tokenizer) -> TokenLogprob {
    let spell = |token: u32| {
        let bytes = tokenizer.token_bytes(token).unwrap_or_default();
        (String::from_utf8_lossy(&bytes).into_owned(), bytes)
    };
    let (text, bytes) = spell(score.token);
    let top = score.top.into_iter().map(|(token, logprob)| {
        let (text, bytes) = spell(token);
        (token, text, bytes, logprob)
    });
    TokenLogprob { token: score.token, text, bytes, logprob: score.logprob, top: top.collect() }
}
