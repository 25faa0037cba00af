//! The answers of POST /v1/chat/completions, whole and in chunks.

use axum::response::sse::Event;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::decoding::UsageChunk;
use super::stream::{Chunks, Envelope, Logprobs, UsageBody, finish_word, json_event};
use super::tools::{CalledBody, ToolCallBody};
use crate::api::error::ApiError;
use crate::gateway::{Answer, Delta, TokenLogprob};
use futures::StreamExt;

/// A chat completion.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletion {
    /// Unique.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The model as the client named it.
    pub model: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// Tokens.
    pub usage: UsageBody,
    /// Names the version by its digest.
    pub system_fingerprint: String,
}

/// One answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatChoice {
    /// From 0.
    pub index: usize,
    /// What the assistant says.
    pub message: ChatMessage,
    /// If asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: Option<String>,
}

/// What the assistant says.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// `assistant`.
    pub role: String,
    /// The text; null where the answer is nothing but calls.
    pub content: Option<String>,
    /// What it thought before; where the version's reasoning is told from its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The tools that it calls, if it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallBody>,
    /// Always null: models here do not refuse by a field of its own.
    pub refusal: Option<String>,
}

/// Log-probabilities of an answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ChatLogprobs {
    /// One a token.
    pub content: Vec<ChatToken>,
    /// Always null.
    pub refusal: Option<Vec<ChatToken>>,
}

/// A token and the likeliest in its place.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatToken {
    /// Its text.
    pub token: String,
    /// Its log-probability.
    pub logprob: f32,
    /// Its bytes; a token may be part of a character.
    pub bytes: Vec<u8>,
    /// The likeliest tokens.
    pub top_logprobs: Vec<ChatTopToken>,
}

/// One of the likeliest tokens.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatTopToken {
    /// Its text.
    pub token: String,
    /// Its log-probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl From<TokenLogprob> for ChatToken {
    fn from(token: TokenLogprob) -> Self {
        Self {
            token: token.text,
            logprob: token.logprob,
            bytes: token.bytes,
            top_logprobs: token
                .top
                .into_iter()
                .map(|(_, text, bytes, logprob)| ChatTopToken { token: text, logprob, bytes })
                .collect(),
        }
    }
}

/// A chunk of a streamed chat completion.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatChunk {
    /// The same in all chunks.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The model as the client named it.
    pub model: String,
    /// Names the version by its digest.
    pub system_fingerprint: String,
    /// One delta; empty in the chunk of the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// With `include_usage`: null, and the usage in the last chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UsageBody>)]
    pub usage: Option<Option<UsageBody>>,
}

/// A delta of one answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatChunkChoice {
    /// Which answer.
    pub index: usize,
    /// What is new.
    pub delta: ChatDelta,
    /// If asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// In the last chunk of this answer.
    pub finish_reason: Option<String>,
}

/// What is new in a chunk.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ChatDelta {
    /// In the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of what it thinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<[ToolCallDelta; 1]>,
}

/// What is new of a call.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ToolCallDelta {
    /// Which call of the answer.
    pub index: usize,
    /// In its first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in its first chunk.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is called.
    pub function: CalledDelta,
}

/// What is new of what is called.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct CalledDelta {
    /// In the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments.
    pub arguments: String,
}

/// Gathers a whole answer.
pub(super) async fn whole(
    answer: Answer,
    envelope: Envelope,
    logprobs: Logprobs,
) -> Result<ChatCompletion, ApiError> {
    let mut choices: Vec<ChatChoice> = (0..answer.choices_per_prompt)
        .map(|index| ChatChoice {
            index,
            message: ChatMessage {
                role: "assistant".into(),
                content: Some(String::new()),
                reasoning_content: None,
                tool_calls: Vec::new(),
                refusal: None,
            },
            logprobs: logprobs.list(),
            finish_reason: None,
        })
        .collect();
    let mut usage = UsageBody::default();
    let mut stream = answer.stream;
    while let Some(delta) = stream.next().await {
        match delta? {
            Delta::Prompt { .. } => {}
            Delta::Text { choice, text, logprob } => {
                choices[choice].message.content.get_or_insert_default().push_str(&text);
                if let (Some(all), Some(one)) = (&mut choices[choice].logprobs, logprob) {
                    all.content.push(one.into());
                }
            }
            Delta::Reasoning { choice, text } => {
                choices[choice].message.reasoning_content.get_or_insert_default().push_str(&text);
            }
            Delta::Call { choice, id, name, .. } => {
                let function = CalledBody { name, arguments: String::new() };
                choices[choice].message.tool_calls.push(ToolCallBody {
                    id,
                    kind: "function".into(),
                    function,
                });
            }
            Delta::Arguments { choice, text, .. } => {
                if let Some(call) = choices[choice].message.tool_calls.last_mut() {
                    call.function.arguments.push_str(&text);
                }
            }
            Delta::Finished { choice, reason } => {
                let message = &mut choices[choice].message;
                let says_nothing = message.content.as_ref().is_some_and(String::is_empty);
                if says_nothing && !message.tool_calls.is_empty() {
                    message.content = None;
                }
                choices[choice].finish_reason = Some(finish_word(reason).into());
            }
            Delta::Done(total) => usage = total.into(),
        }
    }
    Ok(ChatCompletion {
        id: envelope.id,
        object: "chat.completion".into(),
        created: envelope.created,
        model: envelope.model,
        choices,
        usage,
        system_fingerprint: envelope.fingerprint,
    })
}

/// Writes a chat completion in chunks.
pub(super) struct ChatChunks {
    pub(super) envelope: Envelope,
    pub(super) choices: usize,
    pub(super) usage: UsageChunk,
}

impl ChatChunks {
    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<UsageBody>) -> Event {
        json_event(&ChatChunk {
            id: self.envelope.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.envelope.created,
            model: self.envelope.model.clone(),
            system_fingerprint: self.envelope.fingerprint.clone(),
            choices,
            usage: (self.usage == UsageChunk::Send).then_some(usage),
        })
    }

    fn of_choice(
        &self,
        index: usize,
        delta: ChatDelta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<String>,
    ) -> Event {
        self.chunk(vec![ChatChunkChoice { index, delta, logprobs, finish_reason }], None)
    }
}

impl ChatChunks {
    fn of_call(&self, choice: usize, call: ToolCallDelta) -> Event {
        let delta = ChatDelta { tool_calls: Some([call]), ..ChatDelta::default() };
        self.of_choice(choice, delta, None, None)
    }
}

impl Chunks for ChatChunks {
    fn opening(&mut self) -> Vec<Event> {
        let role = || ChatDelta {
            role: Some("assistant".into()),
            content: Some(String::new()),
            ..ChatDelta::default()
        };
        (0..self.choices).map(|index| self.of_choice(index, role(), None, None)).collect()
    }

    fn on(&mut self, delta: Delta) -> Vec<Event> {
        match delta {
            Delta::Text { choice, text, logprob } => {
                let logprobs = logprob.map(|one| ChatLogprobs { content: vec![one.into()], refusal: None });
                let delta = ChatDelta { content: Some(text), ..ChatDelta::default() };
                vec![self.of_choice(choice, delta, logprobs, None)]
            }
            Delta::Reasoning { choice, text } => {
                let delta = ChatDelta { reasoning_content: Some(text), ..ChatDelta::default() };
                vec![self.of_choice(choice, delta, None, None)]
            }
            Delta::Call { choice, call, id, name } => {
                let function = CalledDelta { name: Some(name), arguments: String::new() };
                let (id, kind) = (Some(id), Some("function".into()));
                vec![self.of_call(choice, ToolCallDelta { index: call, id, kind, function })]
            }
            Delta::Arguments { choice, call, text } => {
                let function = CalledDelta { name: None, arguments: text };
                vec![
                    self.of_call(choice, ToolCallDelta { index: call, function, ..ToolCallDelta::default() }),
                ]
            }
            Delta::Finished { choice, reason } => {
                vec![self.of_choice(choice, ChatDelta::default(), None, Some(finish_word(reason).into()))]
            }
            Delta::Done(usage) if self.usage == UsageChunk::Send => {
                vec![self.chunk(Vec::new(), Some(usage.into()))]
            }
            Delta::Done(_) | Delta::Prompt { .. } => Vec::new(),
        }
    }
}
