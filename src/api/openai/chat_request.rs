//! The body of POST /v1/chat/completions.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use utoipa::ToSchema;

use super::decoding::{DecodingBody, Delivery, logprob_count, token_count, too_many};
use super::structured::structure;
use super::tools::{ToolCallBody, ToolsBody};
use crate::api::body::{must_be_object, typed};
use crate::api::error::{ApiError, shown};
use crate::api::fields::{CHAT, MESSAGE, PART};
use crate::api::metadata;
use crate::gateway::{Conversation, Decoding, GenerationPrompt, ToolChoice, ToolUse};

/// The parameters that only chat has.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ChatBody {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// End after this many tokens; `max_tokens` under its newer name.
    pub max_completion_tokens: Option<i64>,
    /// Report the log-probability of each token.
    pub logprobs: Option<bool>,
    /// And of this many of the likeliest tokens at each position, 0 to 20.
    pub top_logprobs: Option<i64>,
    /// Open the assistant's turn; true if absent.
    pub add_generation_prompt: Option<bool>,
    /// How much the model is to think, as its template understands it; `none` also sets `enable_thinking` to false.
    pub reasoning_effort: Option<String>,
    /// Further variables for the chat template.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Json>>,
    /// Variables of the version's prompt.
    #[schema(value_type = Option<Object>)]
    pub prompt_variables: Option<Map<String, Json>>,
    /// The client's own notes: up to 16 short texts, which decide nothing.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Json>>,
}

/// One message.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What it says.
    pub content: Option<Content>,
    /// Who says it, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of the assistant: the tools that it called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallBody>>,
    /// Of a tool: the call that this is the result of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Of the assistant: what it thought before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What else it holds; refused unless it means nothing.
    #[serde(flatten, skip_serializing)]
    #[schema(ignore)]
    pub other: Map<String, Json>,
}

/// A message's content: text, or parts of text.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts, joined by line breaks.
    Parts(Vec<Part>),
}

/// One part of a content.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct Part {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
    /// What else it holds; refused unless it means nothing.
    #[serde(flatten, skip_serializing)]
    #[schema(ignore)]
    pub other: Map<String, Json>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;
        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of text parts")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }
        deserializer.deserialize_any(TextOrParts)
    }
}

/// A chat request that has passed every check that needs no model.
#[derive(Debug)]
pub(super) struct ChatRequest {
    pub(super) shared: DecodingBody,
    pub(super) conversation: Conversation,
    pub(super) tools: Option<ToolUse>,
    pub(super) decoding: Decoding,
    pub(super) delivery: Delivery,
}

/// The most messages of a conversation.
const MAX_MESSAGES: usize = 4096;

/// Variables that the request may not overwrite in the template.
const RESERVED: [&str; 4] = ["messages", "add_generation_prompt", "bos_token", "eos_token"];

impl ChatRequest {
    pub(super) fn parse(map: &Map<String, Json>) -> Result<Self, ApiError> {
        CHAT.check(map)?;
        let shared = DecodingBody::parse(map)?;
        shared.model()?;
        messages_must_be_objects(map)?;
        let body: ChatBody = typed(map)?;
        metadata::check(body.metadata.as_ref())?;
        let mut template = template_variables(body.chat_template_kwargs)?;
        if let Some(effort) = &body.reasoning_effort {
            think(&mut template, effort);
        }
        let tools = ToolsBody::parse(map)?.offer()?.map(|(tools, written)| {
            template.insert("tools".into(), written);
            tools
        });
        // the format is that of a text, and an answer that has to be a call has none
        let calls = tools.as_ref().is_some_and(|tools| tools.choice != ToolChoice::Auto);
        let formatted = map.get("response_format").is_some_and(|format| !format.is_null());
        let structure = structure(map)?.filter(|_| !(calls && formatted));
        let messages = messages(&body.messages)?;
        let max_tokens = max_tokens(body.max_completion_tokens, shared.max_tokens)?;
        let top = logprob_count("top_logprobs", body.top_logprobs)?;
        let logprobs = match (body.logprobs.unwrap_or(false), top) {
            (true, top) => Some(top.unwrap_or(0)),
            (false, None | Some(0)) => None,
            (false, Some(_)) => {
                let message = "`top_logprobs` needs `logprobs` to be true";
                return Err(ApiError::parameter("invalid_value", "top_logprobs", message));
            }
        };
        let conversation = Conversation {
            messages,
            variables: body.prompt_variables.unwrap_or_default(),
            template,
            generation: generation(body.add_generation_prompt),
        };
        Ok(Self {
            conversation,
            tools,
            decoding: Decoding { structure, ..shared.decoding(max_tokens, logprobs)? },
            delivery: shared.delivery()?,
            shared,
        })
    }
}

/// One limit under its two names.
fn max_tokens(newer: Option<i64>, older: Option<i64>) -> Result<Option<usize>, ApiError> {
    let newer = token_count("max_completion_tokens", newer, 1)?;
    let older = token_count("max_tokens", older, 1)?;
    match (newer, older) {
        (Some(newer), Some(older)) if newer != older => Err(ApiError::parameter(
            "invalid_value",
            "max_tokens",
            format!("`max_tokens` is {older} and `max_completion_tokens` is {newer}; give one of them"),
        )),
        _ => Ok(newer.or(older)),
    }
}

/// Refuses a message, or a part of one, that is no object.
pub(super) fn messages_must_be_objects(map: &Map<String, Json>) -> Result<(), ApiError> {
    let messages = map.get("messages").and_then(Json::as_array).into_iter().flatten();
    for (i, message) in messages.enumerate() {
        must_be_object(Some(message), &format!("messages[{i}]"))?;
        let parts = message["content"].as_array().into_iter().flatten();
        for (j, part) in parts.enumerate() {
            must_be_object(Some(part), &format!("messages[{i}].content[{j}]"))?;
        }
    }
    Ok(())
}

/// `add_generation_prompt` as a word.
pub(super) fn generation(add: Option<bool>) -> GenerationPrompt {
    if add == Some(false) { GenerationPrompt::Omit } else { GenerationPrompt::Add }
}

/// `chat_template_kwargs`, checked.
pub(super) fn template_variables(given: Option<Map<String, Json>>) -> Result<Map<String, Json>, ApiError> {
    let variables = given.unwrap_or_default();
    match variables.keys().find(|name| RESERVED.contains(&name.as_str())) {
        None => Ok(variables),
        Some(name) => Err(ApiError::parameter(
            "invalid_value",
            format!("chat_template_kwargs.{name}"),
            format!("`chat_template_kwargs` may not set `{name}`: the server sets it"),
        )),
    }
}

/// What templates are told of an effort. A variable that the request sets by its name stays.
fn think(template: &mut Map<String, Json>, effort: &str) {
    template.entry("reasoning_effort").or_insert(json!(effort));
    if effort == "none" {
        template.entry("enable_thinking").or_insert(json!(false));
    }
}

/// The messages as templates read them: content as text.
pub(super) fn messages(given: &[Message]) -> Result<Vec<Json>, ApiError> {
    if given.is_empty() {
        return Err(ApiError::parameter(
            "empty_array",
            "messages",
            "`messages` must have at least one message",
        ));
    }
    too_many("messages", given.len(), MAX_MESSAGES)?;
    given.iter().enumerate().map(|(i, message)| message.to_template(i)).collect()
}

impl Message {
    fn to_template(&self, i: usize) -> Result<Json, ApiError> {
        match self.role.as_str() {
            "system" | "developer" | "user" | "assistant" | "tool" => {}
            other => {
                return Err(ApiError::parameter(
                    "invalid_value",
                    format!("messages[{i}].role"),
                    format!(
                        "a message's role is one of `system`, `developer`, `user`, `assistant`, `tool`; found {}",
                        shown(other)
                    ),
                ));
            }
        }
        self.fields_fit_the_role(i)?;
        MESSAGE.check_within(&self.other, &format!("messages[{i}]."))?;
        let text = match &self.content {
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => joined(parts, i)?,
            None if self.calls().next().is_some() => String::new(),
            None => {
                let param = format!("messages[{i}].content");
                let message = format!("`{param}` is required");
                return Err(ApiError::parameter("missing_required_parameter", param, message));
            }
        };
        let mut message = json!({"role": self.role, "content": text});
        if let Some(name) = &self.name {
            message["name"] = json!(name);
        }
        if let Some(id) = &self.tool_call_id {
            message["tool_call_id"] = json!(id);
        }
        if let Some(thought) = self.reasoning_content.as_ref().filter(|thought| !thought.is_empty()) {
            message["reasoning_content"] = json!(thought);
        }
        let calls = self.calls().enumerate();
        let calls = calls.map(|(j, call)| call.to_template(&format!("messages[{i}].tool_calls[{j}]")));
        let calls: Vec<Json> = calls.collect::<Result<_, _>>()?;
        if !calls.is_empty() {
            message["tool_calls"] = Json::Array(calls);
        }
        Ok(message)
    }

    fn calls(&self) -> impl Iterator<Item = &ToolCallBody> {
        self.tool_calls.iter().flatten()
    }

    /// Calls and reasoning are the assistant's, results the tools'.
    fn fields_fit_the_role(&self, i: usize) -> Result<(), ApiError> {
        let (assistant, tool) = (self.role == "assistant", self.role == "tool");
        let thought = self.reasoning_content.as_ref().is_some_and(|thought| !thought.is_empty());
        let misplaced = [
            ("tool_calls", self.calls().next().is_some() && !assistant),
            ("reasoning_content", thought && !assistant),
            ("tool_call_id", self.tool_call_id.is_some() && !tool),
        ];
        if let Some((field, _)) = misplaced.into_iter().find(|(_, misplaced)| *misplaced) {
            let param = format!("messages[{i}].{field}");
            let message = format!("`{param}`: a message of the role `{}` has none", self.role);
            return Err(ApiError::parameter("invalid_value", param, message));
        }
        if tool && self.tool_call_id.is_none() {
            let param = format!("messages[{i}].tool_call_id");
            let message = format!("`{param}` is required: it names the call that this answers");
            return Err(ApiError::parameter("missing_required_parameter", param, message));
        }
        Ok(())
    }
}

fn joined(parts: &[Part], i: usize) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (j, part) in parts.iter().enumerate() {
        let param = format!("messages[{i}].content[{j}]");
        match (part.kind.as_str(), &part.text) {
            ("text", Some(text)) => {
                PART.check_within(&part.other, &format!("{param}."))?;
                texts.push(text.as_str());
            }
            ("text", None) => {
                let message = format!("`{param}.text` is required");
                return Err(ApiError::parameter(
                    "missing_required_parameter",
                    format!("{param}.text"),
                    message,
                ));
            }
            (other, _) => {
                return Err(ApiError::parameter(
                    "unsupported_parameter",
                    format!("{param}.type"),
                    format!("this server supports parts of type `text` only; found {}", shown(other)),
                ));
            }
        }
    }
    Ok(texts.join("\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_has_to_be_a_call_has_no_format() {
        let has_shape = |choice: &str| {
            let body = json!({
                "model": "m", "messages": [{"role": "user", "content": "x"}], "tool_choice": choice,
                "tools": [{"type": "function", "function": {"name": "f"}}], "response_format": {"type": "json_object"},
            });
            ChatRequest::parse(body.as_object().unwrap()).unwrap().decoding.structure.is_some()
        };
        assert_eq!(["none", "auto", "required"].map(has_shape), [true, true, false]);
    }

    #[test]
    fn an_effort_is_a_variable_of_the_template() {
        let told = |members: Json| {
            let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
            body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            Json::Object(ChatRequest::parse(body.as_object().unwrap()).unwrap().conversation.template)
        };
        assert_eq!(told(json!({})), json!({}));
        assert_eq!(told(json!({"reasoning_effort": "low"})), json!({"reasoning_effort": "low"}));
        let none = json!({"reasoning_effort": "none", "chat_template_kwargs": {"reasoning_effort": "high"}});
        assert_eq!(told(none), json!({"reasoning_effort": "high", "enable_thinking": false}));
    }
}
