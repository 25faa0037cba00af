//! The body of POST /v1/completions.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use super::best_of::BestOf;
use super::decoding::{DecodingBody, Delivery, MAX_CHOICES, logprob_count, token_count};
use super::stream::Logprobs;
use super::structured::structure;
use crate::api::body::typed;
use crate::api::error::ApiError;
use crate::api::fields::COMPLETION;
use crate::gateway::{Decoding, Echo, PromptInput};

/// What OpenAI generates if `max_tokens` is absent.
const DEFAULT_MAX_TOKENS: usize = 16;

/// The parameters that only completions have.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct CompletionBody {
    /// One prompt or several, as text or tokens.
    pub prompt: Prompt,
    /// Start the answer with the prompt.
    pub echo: Option<bool>,
    /// Report the log-probability of each token, and of this many of the likeliest, 0 to 20.
    pub logprobs: Option<i64>,
    /// Make so many answers to each prompt, at least `n`, and give the `n` whose tokens are the likeliest; up to 128, and
    /// not streamed.
    pub best_of: Option<i64>,
}

/// One prompt or several, as text or tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// A list: of texts, of lists of tokens, or the tokens of one prompt.
    List(Vec<PromptItem>),
}

/// An entry of a prompt list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PromptItem {
    /// A prompt as text.
    Text(String),
    /// A token of the one prompt.
    Token(u32),
    /// A prompt as tokens.
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrList;
        impl<'de> Visitor<'de> for TextOrList {
            type Value = Prompt;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, an array of tokens or an array of token arrays")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Prompt::List(items))
            }
        }
        deserializer.deserialize_any(TextOrList)
    }
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Item;
        impl<'de> Visitor<'de> for Item {
            type Value = PromptItem;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token or an array of tokens")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PromptItem, E> {
                Ok(PromptItem::Text(text.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, token: u64) -> Result<PromptItem, E> {
                let unexpected = de::Unexpected::Unsigned(token);
                u32::try_from(token)
                    .map(PromptItem::Token)
                    .map_err(|_| E::invalid_value(unexpected, &"a token"))
            }
            fn visit_i64<E: de::Error>(self, token: i64) -> Result<PromptItem, E> {
                Err(E::invalid_value(de::Unexpected::Signed(token), &"a token"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PromptItem, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = seq.next_element()? {
                    tokens.push(token);
                }
                Ok(PromptItem::Tokens(tokens))
            }
        }
        deserializer.deserialize_any(Item)
    }
}

impl Prompt {
    fn inputs(self) -> Result<Vec<PromptInput>, ApiError> {
        let items = match self {
            Self::Text(text) => return Ok(vec![PromptInput::Text(text)]),
            Self::List(items) => items,
        };
        let wrong =
            |code: &'static str, param: String, message: &str| Err(ApiError::parameter(code, param, message));
        match items.first() {
            None => wrong("empty_array", "prompt".into(), "`prompt` must not be an empty array"),
            Some(PromptItem::Token(_)) => {
                let mut tokens = Vec::with_capacity(items.len());
                for (i, item) in items.into_iter().enumerate() {
                    match item {
                        PromptItem::Token(token) => tokens.push(token),
                        _ => return wrong("invalid_type", format!("prompt[{i}]"), MIXED),
                    }
                }
                Ok(vec![PromptInput::Tokens(tokens)])
            }
            Some(_) => {
                let mut prompts = Vec::with_capacity(items.len());
                let mut text = None;
                for (i, item) in items.into_iter().enumerate() {
                    let is_text = matches!(item, PromptItem::Text(_));
                    if *text.get_or_insert(is_text) != is_text {
                        return wrong("invalid_type", format!("prompt[{i}]"), MIXED);
                    }
                    prompts.push(match item {
                        PromptItem::Text(text) => PromptInput::Text(text),
                        PromptItem::Tokens(tokens) if tokens.is_empty() => {
                            return wrong(
                                "empty_array",
                                format!("prompt[{i}]"),
                                "a prompt given as tokens must have at least one",
                            );
                        }
                        PromptItem::Tokens(tokens) => PromptInput::Tokens(tokens),
                        PromptItem::Token(_) => return wrong("invalid_type", format!("prompt[{i}]"), MIXED),
                    });
                }
                Ok(prompts)
            }
        }
    }
}

const MIXED: &str = "the entries of `prompt` must be all texts, all tokens or all arrays of tokens";

/// A completion request that has passed every check that needs no model.
#[derive(Debug)]
pub(super) struct CompletionRequest {
    pub(super) shared: DecodingBody,
    pub(super) prompts: Vec<PromptInput>,
    pub(super) echo: Echo,
    pub(super) decoding: Decoding,
    pub(super) delivery: Delivery,
    pub(super) logprobs: Logprobs,
    pub(super) best: Option<BestOf>,
}

impl CompletionRequest {
    pub(super) fn parse(map: &Map<String, Json>) -> Result<Self, ApiError> {
        COMPLETION.check(map)?;
        let shared = DecodingBody::parse(map)?;
        shared.model()?;
        let body: CompletionBody = typed(map)?;
        let logprobs = logprob_count("logprobs", body.logprobs)?;
        let echo = if body.echo == Some(true) { Echo::Repeat } else { Echo::Omit };
        // With `echo`, no new tokens at all is a fair wish: the prompt's own log-probabilities.
        let least = i64::from(echo == Echo::Omit);
        let max_tokens = token_count("max_tokens", shared.max_tokens, least)?.unwrap_or(DEFAULT_MAX_TOKENS);
        let mut decoding =
            Decoding { structure: structure(map)?, ..shared.decoding(Some(max_tokens), logprobs)? };
        let delivery = shared.delivery()?;
        let best = BestOf::parse(body.best_of, decoding.choices, delivery)?;
        if let Some(best) = best {
            best.apply(&mut decoding);
        }
        let prompts = body.prompt.inputs()?;
        let choices = prompts.len().saturating_mul(decoding.choices.get());
        if choices > MAX_CHOICES {
            return Err(ApiError::parameter(
                "array_above_max_length",
                "prompt",
                format!(
                    "the prompts times `n` or `best_of` make {choices} answers; one request may ask for {MAX_CHOICES}"
                ),
            ));
        }
        let logprobs = if logprobs.is_some() { Logprobs::Report } else { Logprobs::Omit };
        Ok(Self { shared, prompts, echo, decoding, delivery, logprobs, best })
    }
}
