//! The body of POST /v1/messages, as a body of chat.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use utoipa::ToSchema;

use crate::api::body::{must_be_object, typed};
use crate::api::error::{ApiError, shown};
use crate::api::fields::MESSAGES;

/// What chat calls parameters, and what this endpoint does.
pub(super) const NAMES: &[(&str, &str)] = &[("stop", "stop_sequences"), ("user", "metadata.user_id")];

/// The body of POST /v1/messages.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct MessagesBody {
    /// The model, or one of its versions as `model@version`.
    pub model: String,
    /// End after this many tokens.
    pub max_tokens: i64,
    /// The conversation: `{"role": "user" | "assistant", "content": ..}`, a text or blocks of the types `text`, `tool_use`,
    /// `tool_result` and `thinking`.
    #[schema(value_type = Vec<Object>)]
    pub messages: Vec<Json>,
    /// What the model is told first: a text, or blocks of text.
    #[schema(value_type = Option<Object>)]
    pub system: Option<Json>,
    /// Up to 16 texts that end the answer.
    pub stop_sequences: Option<Vec<String>>,
    /// 0 to 1; 0 is greedy.
    pub temperature: Option<f64>,
    /// Above 0, up to 1.
    pub top_p: Option<f64>,
    /// From 1.
    pub top_k: Option<i64>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// Tools that the answer may call: `{"name", "description", "input_schema"}`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Map<String, Json>>>,
    /// `{"type": "auto" | "any" | "tool" | "none"}`, with `name` and `disable_parallel_tool_use`.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Map<String, Json>>,
    /// `{"user_id": ..}`: the end user; keeps them on one version.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Json>>,
    /// `{"type": "disabled"}` tells templates that read `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub thinking: Option<Map<String, Json>>,
}

pub(super) fn translate(map: &Map<String, Json>) -> Result<Map<String, Json>, ApiError> {
    MESSAGES.check(map)?;
    let body: MessagesBody = typed(map)?;
    let mut chat = Map::new();
    for (here, there) in [
        ("model", "model"),
        ("max_tokens", "max_tokens"),
        ("stop_sequences", "stop"),
        ("temperature", "temperature"),
    ]
    .into_iter()
    .chain([("top_p", "top_p"), ("top_k", "top_k"), ("stream", "stream")])
    {
        if let Some(value) = map.get(here) {
            chat.insert(there.into(), value.clone());
        }
    }
    chat.insert("messages".into(), Json::Array(messages(body.system.as_ref(), &body.messages)?));
    if let Some(tools) = &body.tools {
        let tools = tools.iter().enumerate().map(|(i, tool)| function(tool, i));
        chat.insert("tools".into(), tools.collect::<Result<_, _>>()?);
    }
    if let Some(choice) = &body.tool_choice {
        chat.insert("tool_choice".into(), tool_choice(choice)?);
        if choice.get("disable_parallel_tool_use") == Some(&json!(true)) {
            chat.insert("parallel_tool_calls".into(), json!(false));
        }
    }
    if let Some(user) = body.metadata.as_ref().and_then(|metadata| metadata.get("user_id")) {
        chat.insert("user".into(), user.clone());
    }
    if let Some(thinking) = &body.thinking {
        match thinking.get("type").and_then(Json::as_str) {
            Some("disabled") => {
                chat.insert("chat_template_kwargs".into(), json!({"enable_thinking": false}));
            }
            Some("adaptive") => {}
            _ => {
                let message = "`thinking` is `disabled` or `adaptive`: a budget for it cannot be kept here";
                return Err(ApiError::parameter("unsupported_parameter", "thinking.type", message));
            }
        }
    }
    Ok(chat)
}

/// A tool in chat's shape.
fn function(tool: &Map<String, Json>, i: usize) -> Result<Json, ApiError> {
    let refused = |field: &str, code: &'static str, message: String| {
        Err(ApiError::parameter(code, format!("tools[{i}].{field}"), message))
    };
    let kind = tool.get("type").and_then(Json::as_str).unwrap_or("custom");
    if kind != "custom" {
        let message =
            format!("this server runs no tools of its own: only `custom` is taken; found {}", shown(kind));
        return refused("type", "unsupported_parameter", message);
    }
    let mut inner = Map::new();
    for (name, value) in tool.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "name" | "description" | "strict" => drop(inner.insert(name.clone(), value.clone())),
            "input_schema" => drop(inner.insert("parameters".into(), value.clone())),
            // equal beginnings are found in the prefix cache without a mark
            "type" | "cache_control" => {}
            other => {
                let message = format!("{} is not a field of a tool; leave it out", shown(other));
                return refused(&other.chars().take(80).collect::<String>(), "unknown_parameter", message);
            }
        }
    }
    Ok(json!({"type": "function", "function": inner}))
}

fn tool_choice(choice: &Map<String, Json>) -> Result<Json, ApiError> {
    match choice.get("type").and_then(Json::as_str) {
        Some("auto") => Ok(json!("auto")),
        Some("any") => Ok(json!("required")),
        Some("none") => Ok(json!("none")),
        Some("tool") => Ok(json!({"type": "function", "function": {"name": choice.get("name")}})),
        other => {
            let found = shown(other.unwrap_or("nothing"));
            let message = format!("`tool_choice.type` is `auto`, `any`, `tool` or `none`; found {found}");
            Err(ApiError::parameter("invalid_value", "tool_choice.type", message))
        }
    }
}

/// The conversation in chat's shape.
fn messages(system: Option<&Json>, given: &[Json]) -> Result<Vec<Json>, ApiError> {
    let mut all = Vec::with_capacity(given.len() + 1);
    if let Some(system) = system.filter(|system| !system.is_null()) {
        all.push(json!({"role": "system", "content": text_of(system, "system")?}));
    }
    if given.is_empty() {
        let message = "`messages` must have at least one message";
        return Err(ApiError::parameter("empty_array", "messages", message));
    }
    for (i, message) in given.iter().enumerate() {
        let param = format!("messages[{i}]");
        must_be_object(Some(message), &param)?;
        match message.get("role").and_then(Json::as_str) {
            Some("user") => of_user(&mut all, &message["content"], &param)?,
            Some("assistant") => of_assistant(&mut all, &message["content"], &param)?,
            other => {
                let found = shown(other.unwrap_or("nothing"));
                let message = format!("`{param}.role` is `user` or `assistant`; found {found}");
                return Err(ApiError::parameter("invalid_value", format!("{param}.role"), message));
            }
        }
    }
    Ok(all)
}

/// The results of tools first, each a message of its own, then what the user says.
fn of_user(all: &mut Vec<Json>, content: &Json, param: &str) -> Result<(), ApiError> {
    let Some(blocks) = content.as_array() else {
        all.push(json!({"role": "user", "content": text_of(content, &format!("{param}.content"))?}));
        return Ok(());
    };
    let mut texts = Vec::new();
    for (j, block) in blocks.iter().enumerate() {
        let place = format!("{param}.content[{j}]");
        match kind(block) {
            "text" => texts.push(text(block, "text", &place)?),
            "tool_result" => {
                let id = text(block, "tool_use_id", &place)?;
                let result = block.get("content").filter(|content| !content.is_null());
                let result =
                    result.map(|content| text_of(content, &format!("{place}.content"))).transpose()?;
                all.push(json!({"role": "tool", "tool_call_id": id, "content": result.unwrap_or_default()}));
            }
            other => return Err(unknown_block(other, &place, "`text` or `tool_result`")),
        }
    }
    if !texts.is_empty() || blocks.is_empty() {
        all.push(json!({"role": "user", "content": texts.join("\n")}));
    }
    Ok(())
}

fn of_assistant(all: &mut Vec<Json>, content: &Json, param: &str) -> Result<(), ApiError> {
    let Some(blocks) = content.as_array() else {
        all.push(json!({"role": "assistant", "content": text_of(content, &format!("{param}.content"))?}));
        return Ok(());
    };
    let (mut texts, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (j, block) in blocks.iter().enumerate() {
        let place = format!("{param}.content[{j}]");
        match kind(block) {
            "text" => texts.push(text(block, "text", &place)?),
            "thinking" => thoughts.push(text(block, "thinking", &place)?),
            "tool_use" => {
                let arguments = block.get("input").cloned().unwrap_or_else(|| json!({}));
                let function =
                    json!({"name": text(block, "name", &place)?, "arguments": arguments.to_string()});
                calls.push(
                    json!({"id": text(block, "id", &place)?, "type": "function", "function": function}),
                );
            }
            other => return Err(unknown_block(other, &place, "`text`, `tool_use` or `thinking`")),
        }
    }
    let mut message = json!({"role": "assistant", "content": texts.join("\n")});
    if !thoughts.is_empty() {
        message["reasoning_content"] = json!(thoughts.join("\n"));
    }
    if !calls.is_empty() {
        message["tool_calls"] = Json::Array(calls);
    }
    all.push(message);
    Ok(())
}

fn kind(block: &Json) -> &str {
    block.get("type").and_then(Json::as_str).unwrap_or_default()
}

fn text<'b>(block: &'b Json, field: &str, place: &str) -> Result<&'b str, ApiError> {
    block.get(field).and_then(Json::as_str).ok_or_else(|| {
        let param = format!("{place}.{field}");
        let message = format!("`{param}` is required, a string");
        ApiError::parameter("missing_required_parameter", param, message)
    })
}

fn unknown_block(found: &str, place: &str, taken: &str) -> ApiError {
    let param = format!("{place}.type");
    let message = format!("`{param}` is {taken} here; found {}", shown(found));
    ApiError::parameter("unsupported_parameter", param, message)
}

/// A text, or blocks of text.
fn text_of(content: &Json, param: &str) -> Result<String, ApiError> {
    match content {
        Json::String(text) => Ok(text.clone()),
        Json::Array(blocks) => {
            let texts = blocks.iter().enumerate().map(|(j, block)| {
                let place = format!("{param}[{j}]");
                match kind(block) {
                    "text" => text(block, "text", &place),
                    other => Err(unknown_block(other, &place, "`text`")),
                }
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        _ => {
            let message = format!("`{param}` must be a string or an array of blocks");
            Err(ApiError::parameter("invalid_type", param, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_messages_calls_and_results() {
        let body = json!({
            "model": "m", "max_tokens": 9, "system": [{"type": "text", "text": "Be kind.", "cache_control": {}}],
            "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Rome"}}
                ]},
                {"role": "user", "content": [
                    {"type": "text", "text": "Well?"},
                    {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "sunny"}]}
                ]}
            ],
            "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "metadata": {"user_id": "ada"}, "stop_sequences": ["END"]
        });
        let chat = translate(body.as_object().unwrap()).unwrap();
        insta::assert_json_snapshot!(chat, @r#"
        {
          "model": "m",
          "max_tokens": 9,
          "stop": [
            "END"
          ],
          "messages": [
            {
              "role": "system",
              "content": "Be kind."
            },
            {
              "role": "user",
              "content": "Weather?"
            },
            {
              "role": "assistant",
              "content": "I look.",
              "reasoning_content": "hm",
              "tool_calls": [
                {
                  "id": "call_1",
                  "type": "function",
                  "function": {
                    "name": "weather",
                    "arguments": "{\"city\":\"Rome\"}"
                  }
                }
              ]
            },
            {
              "role": "tool",
              "tool_call_id": "call_1",
              "content": "sunny"
            },
            {
              "role": "user",
              "content": "Well?"
            }
          ],
          "tools": [
            {
              "type": "function",
              "function": {
                "name": "weather",
                "parameters": {
                  "type": "object"
                }
              }
            }
          ],
          "tool_choice": "required",
          "parallel_tool_calls": false,
          "user": "ada"
        }
        "#);
    }
}
