//! What is asked of an engine.

use std::num::NonZeroU32;

use super::constraint::Constraint;
use super::turns::Priority;
use crate::model::SpecialText;

/// One text to go on with.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The tokens so far; at least one.
    pub prompt: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// When it ends.
    pub stop: StopParams,
    /// The most tokens to generate; at least one.
    pub max_tokens: usize,
    /// Before so many tokens, nothing stops it: neither end-of-text nor stop tokens nor stop strings.
    pub min_tokens: usize,
    /// Score each generated token, and this many of the likeliest beside it.
    pub logprobs: Option<u8>,
    /// The same for the prompt's tokens. Such a request reads nothing from the prefix cache.
    pub prompt_logprobs: Option<u8>,
    /// A grammar that the answer keeps to. Where it allows the end of the text and nothing else, the answer ends,
    /// whatever `min_tokens` says; where it does not, end-of-text is not chosen.
    pub constraint: Option<Constraint>,
    /// Whether special tokens show in the text.
    pub special_text: SpecialText,
    /// Special tokens that show even where others do not.
    pub shown: Vec<u32>,
    /// Who waits for the answer.
    pub priority: Priority,
    /// Of those that wait for a place, the lower goes first, and of equals who came first; the higher gives its place up
    /// first where blocks run out. By [`SchedulingPolicy::Priority`](super::SchedulingPolicy::Priority) alone.
    pub rank: i32,
}

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 takes the likeliest, and of equals the one with the lowest id.
    pub temperature: f32,
    /// Only this many of the likeliest.
    pub top_k: Option<NonZeroU32>,
    /// Only the likeliest that together have this probability.
    pub top_p: f32,
    /// Only those with this share of the likeliest's probability.
    pub min_p: f32,
    /// Divides the logits of tokens in the prompt or answer; 1 does nothing.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens in the answer.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens in the answer, once for each time.
    pub frequency_penalty: f32,
    /// Added to logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// With the request, decides the text.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// What end-of-text tokens do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EosPolicy {
    /// Each of these ends the text.
    Stop(Vec<u32>),
    /// Nothing.
    Ignore,
}

/// Whether what stopped a text is part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopInclusion {
    /// The text ends before it.
    Exclude,
    /// The text ends with it.
    Include,
}

/// When a text ends before its most tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopParams {
    /// It ends where one of these is complete.
    pub strings: Vec<String>,
    /// Each of these tokens ends it.
    pub token_ids: Vec<u32>,
    /// What end-of-text tokens do.
    pub eos: EosPolicy,
    /// Whether what stopped it is part of it.
    pub include_stop: StopInclusion,
}

impl Default for StopParams {
    fn default() -> Self {
        Self {
            strings: Vec::new(),
            token_ids: Vec::new(),
            eos: EosPolicy::Ignore,
            include_stop: StopInclusion::Exclude,
        }
    }
}

impl StopParams {
    /// All tokens that end the text.
    pub(super) fn tokens(&self) -> Vec<u32> {
        let eos = match &self.eos {
            EosPolicy::Stop(eos) => eos.as_slice(),
            EosPolicy::Ignore => &[],
        };
        self.token_ids.iter().chain(eos).copied().collect()
    }
}

impl GenerateRequest {
    /// What makes no sense for a model with this vocabulary. Callers check their clients' words before; this keeps a
    /// mistake of theirs from reaching the model.
    pub(super) fn check(&self, vocab: usize) -> Result<(), String> {
        let s = &self.sampling;
        if self.prompt.is_empty() {
            return Err("the prompt has no tokens".into());
        }
        if let Some(tokens) =
            self.constraint.as_ref().map(Constraint::vocab).filter(|tokens| *tokens != vocab)
        {
            return Err(format!(
                "the constraint is for a vocabulary of {tokens} tokens, and this one has {vocab}"
            ));
        }
        if self.max_tokens == 0 {
            return Err("max_tokens is 0: ask for at least 1".into());
        }
        let biased = s.logit_bias.iter().map(|(token, _)| token);
        if let Some(token) = self.prompt.iter().chain(biased).find(|token| **token as usize >= vocab) {
            return Err(format!("token {token} is not below the vocabulary's {vocab}"));
        }
        let numbers = [
            ("temperature", s.temperature, s.temperature >= 0.0),
            ("top_p", s.top_p, s.top_p > 0.0 && s.top_p <= 1.0),
            ("min_p", s.min_p, (0.0..=1.0).contains(&s.min_p)),
            ("repetition_penalty", s.repetition_penalty, s.repetition_penalty > 0.0),
            ("presence_penalty", s.presence_penalty, true),
            ("frequency_penalty", s.frequency_penalty, true),
        ];
        match numbers.into_iter().find(|(_, value, within)| !value.is_finite() || !within) {
            Some((name, value, _)) => Err(format!("{name} of {value} is out of range")),
            None if s.logit_bias.iter().any(|(_, bias)| bias.is_nan()) => {
                Err("a logit_bias is not a number".into())
            }
            None => Ok(()),
        }
    }
}
