//! The parameters that chat and completions share, and their ranges.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use crate::api::body::{must_be_object, typed};
use crate::api::error::ApiError;
use crate::config::sampling::{
    MAX_STOP_BYTES, MAX_STOPS, MIN_P, PENALTY, REPETITION_PENALTY, TEMPERATURE, TOP_K, TOP_P, TopK,
};
use crate::gateway::{Decoding, EndOfText, SpecialText, StopText};

/// The most answers that one request may ask for, over all its prompts.
pub(super) const MAX_CHOICES: usize = 128;
/// The most log-probabilities for each position.
const MAX_LOGPROBS: i64 = 20;
/// The most stop tokens.
const MAX_STOP_TOKENS: usize = 256;
/// What may be added to a logit.
const BIAS: RangeInclusive<f64> = -100.0..=100.0;
/// The most biased tokens.
const MAX_BIASED: usize = 1024;

/// Parameters that say how an answer is decoded; the same for chat and completions.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct DecodingBody {
    /// The model, or one of its versions as `model@version`.
    #[serde(default)]
    pub model: Option<String>,
    /// 0 to 2; 0 is greedy. The version's own default if absent.
    pub temperature: Option<f64>,
    /// Above 0, up to 1.
    pub top_p: Option<f64>,
    /// From 1; -1 or 0 mean all tokens.
    pub top_k: Option<i64>,
    /// 0 to 1.
    pub min_p: Option<f64>,
    /// 0.01 to 10; 1 changes nothing.
    pub repetition_penalty: Option<f64>,
    /// -2 to 2.
    pub presence_penalty: Option<f64>,
    /// -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// From token id to a bias of -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// The same seed gives the same answer from the same version. Answer `i` of `n` uses `seed + i`.
    pub seed: Option<i64>,
    /// Up to 16 texts that end the answer.
    pub stop: Option<Stop>,
    /// Tokens that end the answer.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Leave the stop text that was found in the answer.
    pub include_stop_str_in_output: Option<bool>,
    /// Do not end at the model's own end-of-text token.
    pub ignore_eos: Option<bool>,
    /// Do not end before this many tokens.
    pub min_tokens: Option<i64>,
    /// End after this many tokens.
    pub max_tokens: Option<i64>,
    /// Leave special tokens out of the text; true if absent.
    pub skip_special_tokens: Option<bool>,
    /// How many answers; 1 to 128.
    pub n: Option<i64>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// Options of a stream.
    pub stream_options: Option<StreamOptions>,
    /// The end user; keeps them on one version.
    pub user: Option<String>,
    /// The end user under OpenAI's newer name; keeps them on one version.
    pub safety_identifier: Option<String>,
    /// Of requests that wait, the lower goes first; 0 if absent. Other numbers are taken only where the model's
    /// `engine.scheduling_policy` is `priority`.
    pub priority: Option<i64>,
}

/// Options of a stream.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Send a last chunk with the usage.
    #[serde(default)]
    pub include_usage: Option<bool>,
    /// Pad chunks against eavesdroppers; only `false` is supported.
    #[serde(default)]
    pub include_obfuscation: Option<bool>,
}

/// One stop text or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Stop;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop::One(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stop, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Stop::Many(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

/// How an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Delivery {
    /// As one JSON object.
    Whole,
    /// As events.
    Events(UsageChunk),
}

/// Whether a stream tells the usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum UsageChunk {
    /// In a last chunk of its own.
    Send,
    /// Not at all.
    Omit,
}

impl DecodingBody {
    /// The shared parameters of a request.
    pub(super) fn parse(map: &Map<String, Json>) -> Result<Self, ApiError> {
        must_be_object(map.get("stream_options"), "stream_options")?;
        typed(map)
    }

    /// The client's name for the model.
    pub(super) fn model(&self) -> Result<&str, ApiError> {
        self.model.as_deref().ok_or_else(|| {
            ApiError::parameter("missing_required_parameter", "model", "`model` is required: name a model")
        })
    }

    /// The end user, if the body names one.
    pub(super) fn end_user(&self) -> Option<&str> {
        [&self.user, &self.safety_identifier]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .find(|u| !u.is_empty())
    }

    /// How to send the answer.
    pub(super) fn delivery(&self) -> Result<Delivery, ApiError> {
        let streams = self.stream.unwrap_or(false);
        match self.stream_options {
            Some(_) if !streams => Err(ApiError::parameter(
                "invalid_value",
                "stream_options",
                "`stream_options` needs `stream` to be true",
            )),
            Some(StreamOptions { include_obfuscation: Some(true), .. }) => Err(ApiError::parameter(
                "unsupported_parameter",
                "stream_options.include_obfuscation",
                "`stream_options.include_obfuscation` is not supported by this server",
            )),
            _ if !streams => Ok(Delivery::Whole),
            Some(StreamOptions { include_usage: Some(true), .. }) => Ok(Delivery::Events(UsageChunk::Send)),
            _ => Ok(Delivery::Events(UsageChunk::Omit)),
        }
    }

    /// The checked parameters. `max_tokens` is what the endpoint made of its own parameters.
    pub(super) fn decoding(
        &self,
        max_tokens: Option<usize>,
        logprobs: Option<u8>,
    ) -> Result<Decoding, ApiError> {
        let min_tokens = whole("min_tokens", self.min_tokens, 0, i64::from(u32::MAX))?.unwrap_or(0) as usize;
        if let Some(max) = max_tokens.filter(|max| *max < min_tokens) {
            return Err(ApiError::parameter(
                "invalid_value",
                "min_tokens",
                format!(
                    "`min_tokens` is {min_tokens}, but the answer may have {max} tokens at most; lower it"
                ),
            ));
        }
        let choices = whole("n", self.n, 1, MAX_CHOICES as i64)?.unwrap_or(1) as usize;
        Ok(Decoding {
            temperature: within("temperature", self.temperature, TEMPERATURE)?,
            top_p: positive("top_p", self.top_p, TOP_P)?,
            top_k: whole("top_k", self.top_k, *TOP_K.start(), *TOP_K.end())?.map(TopK::written),
            min_p: within("min_p", self.min_p, MIN_P)?,
            repetition_penalty: within("repetition_penalty", self.repetition_penalty, REPETITION_PENALTY)?,
            presence_penalty: within("presence_penalty", self.presence_penalty, PENALTY)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, PENALTY)?,
            logit_bias: self.biases()?,
            seed: self.seed.map(i64::cast_unsigned),
            stop: self.stops()?,
            stop_token_ids: self.stop_tokens()?,
            stop_text: if self.include_stop_str_in_output == Some(true) {
                StopText::Include
            } else {
                StopText::Cut
            },
            end_of_text: if self.ignore_eos == Some(true) { EndOfText::Ignore } else { EndOfText::Obey },
            max_tokens,
            min_tokens,
            special_text: if self.skip_special_tokens == Some(false) {
                SpecialText::Keep
            } else {
                SpecialText::Skip
            },
            structure: None,
            choices: NonZeroUsize::new(choices).unwrap_or(NonZeroUsize::MIN),
            logprobs,
            priority: self.rank()?,
        })
    }

    fn rank(&self) -> Result<i32, ApiError> {
        let priority = whole("priority", self.priority, i64::from(i32::MIN), i64::from(i32::MAX))?;
        Ok(priority.map_or(0, |priority| priority as i32))
    }

    fn biases(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let Some(map) = &self.logit_bias else { return Ok(Vec::new()) };
        too_many("logit_bias", map.len(), MAX_BIASED)?;
        map.iter()
            .map(|(id, bias)| {
                let param = format!("logit_bias.{}", id.chars().take(40).collect::<String>());
                let token = id.parse::<u32>().map_err(|_| {
                    ApiError::parameter(
                        "invalid_value",
                        "logit_bias",
                        format!(
                            "the keys of `logit_bias` are token ids; found {}",
                            crate::api::error::shown(id)
                        ),
                    )
                })?;
                let bias = within(&param, Some(*bias), BIAS)?.unwrap_or(0.0);
                Ok((token, bias))
            })
            .collect()
    }

    fn stops(&self) -> Result<Option<Vec<String>>, ApiError> {
        let texts = match &self.stop {
            None => return Ok(None),
            Some(Stop::One(text)) => std::slice::from_ref(text),
            Some(Stop::Many(texts)) => texts.as_slice(),
        };
        too_many("stop", texts.len(), MAX_STOPS)?;
        for (i, text) in texts.iter().enumerate() {
            let param =
                if matches!(self.stop, Some(Stop::One(_))) { "stop".into() } else { format!("stop[{i}]") };
            if text.is_empty() || text.len() > MAX_STOP_BYTES {
                let message =
                    format!("`{param}` must have 1 to {MAX_STOP_BYTES} bytes; it has {}", text.len());
                return Err(ApiError::parameter("invalid_value", param, message));
            }
        }
        Ok(Some(texts.to_vec()))
    }

    fn stop_tokens(&self) -> Result<Vec<u32>, ApiError> {
        let tokens = self.stop_token_ids.clone().unwrap_or_default();
        too_many("stop_token_ids", tokens.len(), MAX_STOP_TOKENS)?;
        Ok(tokens)
    }
}

/// A count of log-probabilities, 0 to 20.
pub(super) fn logprob_count(param: &str, value: Option<i64>) -> Result<Option<u8>, ApiError> {
    Ok(whole(param, value, 0, MAX_LOGPROBS)?.and_then(|n| u8::try_from(n).ok()))
}

/// A count of tokens from `least`.
pub(super) fn token_count(param: &str, value: Option<i64>, least: i64) -> Result<Option<usize>, ApiError> {
    Ok(whole(param, value, least, i64::from(u32::MAX))?.and_then(|n| usize::try_from(n).ok()))
}

pub(super) fn too_many(param: &str, count: usize, most: usize) -> Result<(), ApiError> {
    if count <= most {
        return Ok(());
    }
    let message = format!("`{param}` has {count} entries; it may have at most {most}");
    Err(ApiError::parameter("array_above_max_length", param, message))
}

pub(super) fn whole(param: &str, value: Option<i64>, least: i64, most: i64) -> Result<Option<i64>, ApiError> {
    let Some(found) = value else { return Ok(None) };
    let code = if found < least {
        "integer_below_min_value"
    } else if found > most {
        "integer_above_max_value"
    } else {
        return Ok(Some(found));
    };
    let message = format!("`{param}` must be from {least} to {most}; found {found}");
    Err(ApiError::parameter(code, param, message))
}

fn within(param: &str, value: Option<f64>, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
    let Some(found) = value else { return Ok(None) };
    let (least, most) = range.into_inner();
    let code = if found < least {
        "decimal_below_min_value"
    } else if found > most {
        "decimal_above_max_value"
    } else {
        return Ok(Some(found as f32));
    };
    let message = format!("`{param}` must be from {least} to {most}; found {found}");
    Err(ApiError::parameter(code, param, message))
}

/// Above zero, also after rounding to the `f32` that the sampler works in.
fn positive(param: &str, value: Option<f64>, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
    let most = *range.end();
    let Some(found) = within(param, value, range)? else { return Ok(None) };
    if found == 0.0 {
        let message = format!("`{param}` must be above 0 and at most {most}; found {}", value.unwrap_or(0.0));
        return Err(ApiError::parameter("decimal_below_min_value", param, message));
    }
    Ok(Some(found))
}
