//! The answers of POST /v1/completions, whole and in chunks.

use axum::response::sse::Event;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use super::best_of::{BestOf, Score};
use super::decoding::UsageChunk;
use super::stream::{Chunks, Envelope, Logprobs, UsageBody, finish_word, json_event};
use crate::api::error::ApiError;
use crate::gateway::{Answer, Delta, PromptEcho, TokenLogprob};

/// A completion, or a chunk of one: OpenAI gives both the same shape.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Completion {
    /// Unique; the same in all chunks.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The model as the client named it.
    pub model: String,
    /// The answers, or one delta.
    pub choices: Vec<CompletionChoice>,
    /// Of a whole answer; of a stream with `include_usage`, null and the usage in the last chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UsageBody>)]
    pub usage: Option<Option<UsageBody>>,
    /// Names the version by its digest.
    pub system_fingerprint: String,
}

/// One answer or a delta of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// From 0, prompt by prompt.
    pub index: usize,
    /// The text.
    pub text: String,
    /// If asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: Option<String>,
}

/// Log-probabilities in the columns of OpenAI's first API.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Where each token starts in `text`, in characters.
    pub text_offset: Vec<usize>,
    /// The log-probability of each; null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The text of each.
    pub tokens: Vec<String>,
    /// The likeliest in place of each, by text; null for the first token of a prompt.
    #[schema(value_type = Vec<Object>)]
    pub top_logprobs: Vec<Option<Map<String, Json>>>,
}

impl CompletionLogprobs {
    fn push(&mut self, token: TokenLogprob, offset: &mut usize) {
        let mut top: Map<String, Json> =
            token.top.into_iter().map(|(_, text, _, logprob)| (text, Json::from(logprob))).collect();
        // Two tokens may have one text; the token itself is the one that counts.
        top.insert(token.text.clone(), Json::from(token.logprob));
        self.token_logprobs.push(Some(token.logprob));
        self.top_logprobs.push(Some(top));
        self.place(token.text, offset);
    }

    /// The first token of a prompt has no probability: nothing comes before it.
    fn push_first(&mut self, token: TokenLogprob, offset: &mut usize) {
        self.token_logprobs.push(None);
        self.top_logprobs.push(None);
        self.place(token.text, offset);
    }

    fn place(&mut self, text: String, offset: &mut usize) {
        self.text_offset.push(*offset);
        *offset += text.chars().count();
        self.tokens.push(text);
    }

    fn of_prompt(tokens: Vec<TokenLogprob>, offset: &mut usize) -> Self {
        let mut all = Self::default();
        let mut tokens = tokens.into_iter();
        if let Some(first) = tokens.next() {
            all.push_first(first, offset);
        }
        tokens.for_each(|token| all.push(token, offset));
        all
    }

    fn extend(&mut self, other: Self) {
        self.text_offset.extend(other.text_offset);
        self.token_logprobs.extend(other.token_logprobs);
        self.tokens.extend(other.tokens);
        self.top_logprobs.extend(other.top_logprobs);
    }
}

/// Gathers a whole answer.
pub(super) async fn whole(
    answer: Answer,
    envelope: Envelope,
    logprobs: Logprobs,
    best: Option<BestOf>,
) -> Result<Completion, ApiError> {
    let mut choices: Vec<CompletionChoice> = echoes(&answer.prompts, answer.choices_per_prompt)
        .into_iter()
        .enumerate()
        .map(|(index, text)| CompletionChoice { index, text, logprobs: logprobs.list(), finish_reason: None })
        .collect();
    let mut offsets = vec![0; choices.len()];
    let mut usage = UsageBody::default();
    let mut scores = vec![Score::default(); choices.len()];
    let mut stream = answer.stream;
    while let Some(delta) = stream.next().await {
        match delta? {
            Delta::Prompt { choice, tokens } => {
                if let Some(all) = &mut choices[choice].logprobs {
                    all.extend(CompletionLogprobs::of_prompt(tokens, &mut offsets[choice]));
                }
            }
            Delta::Text { choice, text, logprob } => {
                choices[choice].text.push_str(&text);
                if let Some(one) = &logprob {
                    scores[choice].add(one.logprob);
                }
                if let (Some(all), Some(one)) = (&mut choices[choice].logprobs, logprob) {
                    all.push(one, &mut offsets[choice]);
                }
            }
            Delta::Finished { choice, reason } => {
                choices[choice].finish_reason = Some(finish_word(reason).into());
            }
            // a completion's text is read as it is
            Delta::Reasoning { .. } | Delta::Call { .. } | Delta::Arguments { .. } => {}
            Delta::Done(total) => usage = total.into(),
        }
    }
    if let Some(best) = best {
        choices = best.of(choices, &scores);
        choices.iter_mut().enumerate().for_each(|(index, choice)| choice.index = index);
    }
    Ok(completion(envelope, choices, Some(Some(usage))))
}

/// What each choice starts with: its prompt, if it is to be repeated.
pub(super) fn echoes(prompts: &[PromptEcho], choices_per_prompt: usize) -> Vec<String> {
    let texts = prompts.iter().map(|prompt| prompt.text.clone().unwrap_or_default());
    texts.flat_map(|text| std::iter::repeat_n(text, choices_per_prompt)).collect()
}

#[expect(clippy::option_option, reason = "OpenAI tells absent from null")]
fn completion(
    envelope: Envelope,
    choices: Vec<CompletionChoice>,
    usage: Option<Option<UsageBody>>,
) -> Completion {
    Completion {
        id: envelope.id,
        object: "text_completion".into(),
        created: envelope.created,
        model: envelope.model,
        choices,
        usage,
        system_fingerprint: envelope.fingerprint,
    }
}

/// Writes a completion in chunks.
pub(super) struct CompletionChunks {
    pub(super) envelope: Envelope,
    pub(super) echoes: Vec<String>,
    pub(super) offsets: Vec<usize>,
    pub(super) usage: UsageChunk,
}

impl CompletionChunks {
    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<UsageBody>) -> Event {
        let usage = (self.usage == UsageChunk::Send).then_some(usage);
        json_event(&completion(self.envelope.clone(), choices, usage))
    }

    fn of_choice(
        &self,
        index: usize,
        text: String,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<String>,
    ) -> Event {
        self.chunk(vec![CompletionChoice { index, text, logprobs, finish_reason }], None)
    }
}

impl Chunks for CompletionChunks {
    fn opening(&mut self) -> Vec<Event> {
        let echoes = std::mem::take(&mut self.echoes);
        let echoed = echoes.into_iter().enumerate().filter(|(_, text)| !text.is_empty());
        echoed.map(|(index, text)| self.of_choice(index, text, None, None)).collect()
    }

    fn on(&mut self, delta: Delta) -> Vec<Event> {
        match delta {
            Delta::Prompt { choice, tokens } => {
                let logprobs = CompletionLogprobs::of_prompt(tokens, &mut self.offsets[choice]);
                vec![self.of_choice(choice, String::new(), Some(logprobs), None)]
            }
            Delta::Text { choice, text, logprob } => {
                let logprobs = logprob.map(|one| {
                    let mut all = CompletionLogprobs::default();
                    all.push(one, &mut self.offsets[choice]);
                    all
                });
                vec![self.of_choice(choice, text, logprobs, None)]
            }
            Delta::Finished { choice, reason } => {
                vec![self.of_choice(choice, String::new(), None, Some(finish_word(reason).into()))]
            }
            Delta::Done(usage) if self.usage == UsageChunk::Send => {
                vec![self.chunk(Vec::new(), Some(usage.into()))]
            }
            Delta::Done(_) | Delta::Reasoning { .. } | Delta::Call { .. } | Delta::Arguments { .. } => {
                Vec::new()
            }
        }
    }
}
