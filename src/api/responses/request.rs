//! The body of POST /v1/responses, as a body of chat.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use utoipa::ToSchema;

use crate::api::body::typed;
use crate::api::error::{ApiError, shown};
use crate::api::fields::RESPONSES;
use crate::api::metadata;

/// What chat calls parameters, and what this endpoint does.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("messages", "input"),
    ("max_tokens", "max_output_tokens"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
];

/// The body of POST /v1/responses.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct ResponsesBody {
    /// The model, or one of its versions as `model@version`.
    pub model: String,
    /// A text, or the items of the conversation: messages, calls of functions, their results, reasoning.
    #[schema(value_type = Object)]
    pub input: Json,
    /// What the model is told first.
    pub instructions: Option<String>,
    /// End after this many tokens.
    pub max_output_tokens: Option<i64>,
    /// 0 to 2; 0 is greedy.
    pub temperature: Option<f64>,
    /// Above 0, up to 1.
    pub top_p: Option<f64>,
    /// Functions that the answer may call.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Map<String, Json>>>,
    /// `auto`, `none`, `required`, or `{"type": "function", "name": ..}`.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Json>,
    /// False leaves out all calls but the first.
    pub parallel_tool_calls: Option<bool>,
    /// `{"format": ..}`: the form of the text.
    #[schema(value_type = Option<Object>)]
    pub text: Option<Map<String, Json>>,
    /// `{"effort": ..}`: for templates that read `reasoning_effort`; `none` also sets `enable_thinking` to false.
    #[schema(value_type = Option<Object>)]
    pub reasoning: Option<Map<String, Json>>,
    /// Up to 16 pairs of texts that the response repeats.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Json>>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// Options of a stream.
    #[schema(value_type = Option<Object>)]
    pub stream_options: Option<Json>,
    /// The end user; keeps them on one version.
    pub user: Option<String>,
    /// The end user under its newer name.
    pub safety_identifier: Option<String>,
}

/// A body of chat, and what the response repeats of the request.
pub(super) struct Translated {
    pub(super) chat: Map<String, Json>,
    pub(super) echoed: Map<String, Json>,
}

pub(super) fn translate(map: &Map<String, Json>) -> Result<Translated, ApiError> {
    RESPONSES.check(map)?;
    let body: ResponsesBody = typed(map)?;
    metadata::check(body.metadata.as_ref())?;
    let mut chat = Map::new();
    let same = ["model", "temperature", "top_p", "tool_choice", "parallel_tool_calls", "stream"];
    for name in same.into_iter().chain(["stream_options", "user", "safety_identifier"]) {
        if let Some(value) = map.get(name) {
            chat.insert(name.into(), value.clone());
        }
    }
    chat.insert("messages".into(), Json::Array(messages(body.instructions.as_deref(), &body.input)?));
    if let Some(most) = body.max_output_tokens {
        chat.insert("max_tokens".into(), json!(most));
    }
    if let Some(tools) = &body.tools {
        let tools = tools.iter().enumerate().map(|(i, tool)| function(tool, i));
        chat.insert("tools".into(), tools.collect::<Result<_, _>>()?);
    }
    if let Some(format) = text_format(body.text.as_ref())? {
        chat.insert("response_format".into(), format);
    }
    if let Some(effort) = effort(body.reasoning.as_ref())? {
        chat.insert("reasoning_effort".into(), json!(effort));
    }
    Ok(Translated { chat, echoed: echoed(map) })
}

/// What a response repeats, with the values that hold where the request says nothing.
fn echoed(map: &Map<String, Json>) -> Map<String, Json> {
    let defaults = [
        ("instructions", Json::Null),
        ("max_output_tokens", Json::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", json!(true)),
        ("reasoning", json!({"effort": null, "summary": null})),
        ("temperature", Json::Null),
        ("text", json!({"format": {"type": "text"}})),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_p", Json::Null),
        ("user", Json::Null),
    ];
    let value = |name: &str| map.get(name).filter(|value| !value.is_null()).cloned();
    defaults.into_iter().map(|(name, default)| (name.into(), value(name).unwrap_or(default))).collect()
}

/// A tool in chat's shape.
fn function(tool: &Map<String, Json>, i: usize) -> Result<Json, ApiError> {
    let kind = tool.get("type").and_then(Json::as_str).unwrap_or_default();
    if kind != "function" {
        let message =
            format!("this server runs no tools of its own: only `function` is taken; found {}", shown(kind));
        return Err(ApiError::parameter("unsupported_parameter", format!("tools[{i}].type"), message));
    }
    let inner: Map<String, Json> = tool
        .iter()
        .filter(|(name, value)| *name != "type" && !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Ok(json!({"type": "function", "function": inner}))
}

/// `text.format` as chat's `response_format`.
fn text_format(text: Option<&Map<String, Json>>) -> Result<Option<Json>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    for (name, value) in text.iter().filter(|(name, value)| *name != "format" && !value.is_null()) {
        if !(name == "verbosity" && value == "medium") {
            let param = format!("text.{}", name.chars().take(80).collect::<String>());
            let message = format!("this server does not support this value of `{param}`; leave it out");
            return Err(ApiError::parameter("unsupported_parameter", param, message));
        }
    }
    let Some(Json::Object(format)) = text.get("format") else { return Ok(None) };
    if format.get("type").is_none_or(|kind| kind != "json_schema") {
        return Ok(Some(Json::Object(format.clone())));
    }
    let mut inner = format.clone();
    inner.shift_remove("type");
    Ok(Some(json!({"type": "json_schema", "json_schema": inner})))
}

/// How much is to be thought, of `reasoning`.
fn effort(reasoning: Option<&Map<String, Json>>) -> Result<Option<&str>, ApiError> {
    let mut effort = None;
    for (name, value) in reasoning.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        match (name.as_str(), value.as_str()) {
            ("effort", Some(given)) => effort = Some(given),
            // the model's own words are given, and nobody sums them up
            ("summary" | "generate_summary", Some("auto")) => {}
            _ => {
                let param = format!("reasoning.{}", name.chars().take(80).collect::<String>());
                let message = format!("this server does not support this value of `{param}`; leave it out");
                return Err(ApiError::parameter("unsupported_parameter", param, message));
            }
        }
    }
    Ok(effort)
}

/// The conversation in chat's shape.
fn messages(instructions: Option<&str>, input: &Json) -> Result<Vec<Json>, ApiError> {
    let mut all: Vec<Json> =
        instructions.map(|text| json!({"role": "system", "content": text})).into_iter().collect();
    match input {
        Json::String(text) => all.push(json!({"role": "user", "content": text})),
        Json::Array(items) if items.is_empty() => {
            return Err(ApiError::parameter("empty_array", "input", "`input` must have at least one item"));
        }
        Json::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                add_item(&mut all, item, &format!("input[{i}]"))?;
            }
            // one that only thought
            for message in all.iter_mut().filter(|m| m["content"].is_null() && m.get("tool_calls").is_none())
            {
                message["content"] = json!("");
            }
        }
        _ => {
            let message = "`input` must be a string or an array of items";
            return Err(ApiError::parameter("invalid_type", "input", message));
        }
    }
    Ok(all)
}

fn add_item(all: &mut Vec<Json>, item: &Json, param: &str) -> Result<(), ApiError> {
    let text = |name: &str| {
        item.get(name).and_then(Json::as_str).ok_or_else(|| {
            let param = format!("{param}.{name}");
            let message = format!("`{param}` is required, a string");
            ApiError::parameter("missing_required_parameter", param, message)
        })
    };
    let kind = item.get("type").and_then(Json::as_str);
    match kind.or_else(|| item.get("role").map(|_| "message")) {
        Some("message") => {
            let content = content(item.get("content"), param)?;
            let role = text("role")?;
            if role != "assistant" || !fill_open(all, "content", json!(content)) {
                all.push(json!({"role": role, "content": content}));
            }
        }
        Some("function_call") => {
            let function = json!({"name": text("name")?, "arguments": text("arguments")?});
            let call = json!({"id": text("call_id")?, "type": "function", "function": function});
            match all.last_mut().filter(|last| last["role"] == "assistant") {
                Some(last) => match last["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                },
                None => all.push(json!({"role": "assistant", "content": null, "tool_calls": [call]})),
            }
        }
        Some("function_call_output") => {
            let output = content(item.get("output"), param)?;
            all.push(json!({"role": "tool", "tool_call_id": text("call_id")?, "content": output}));
        }
        Some("reasoning") => {
            let thought = item.get("content").filter(|content| !content.is_null());
            let thought =
                thought.map(|thought| content(Some(thought), param)).transpose()?.unwrap_or_default();
            if !thought.is_empty() {
                all.push(json!({"role": "assistant", "content": null, "reasoning_content": thought}));
            }
        }
        Some("item_reference") => {
            let message =
                format!("this server is stateless and knows no former items: send `{param}` itself");
            return Err(ApiError::parameter("unsupported_parameter", format!("{param}.type"), message));
        }
        other => {
            let param = format!("{param}.type");
            let message = format!(
                "`{param}` is `message`, `function_call`, `function_call_output` or `reasoning`; found {}",
                shown(other.unwrap_or("nothing"))
            );
            return Err(ApiError::parameter("unsupported_parameter", param, message));
        }
    }
    Ok(())
}

/// Gives an assistant's message that has only thought so far what it said.
fn fill_open(all: &mut [Json], field: &str, value: Json) -> bool {
    let open = |last: &&mut Json| last.get("reasoning_content").is_some() && last["content"].is_null();
    match all.last_mut().filter(open) {
        Some(last) if last.get("tool_calls").is_none() => {
            last[field] = value;
            true
        }
        _ => false,
    }
}

/// The text of a content: a text, or parts of it.
fn content(content: Option<&Json>, param: &str) -> Result<String, ApiError> {
    match content {
        Some(Json::String(text)) => Ok(text.clone()),
        Some(Json::Array(parts)) => {
            let texts = parts.iter().enumerate().map(|(j, part)| {
                let kind = part.get("type").and_then(Json::as_str).unwrap_or_default();
                let text = part.get("text").and_then(Json::as_str);
                if let ("input_text" | "output_text" | "reasoning_text" | "text", Some(text)) = (kind, text) {
                    return Ok(text);
                }
                let param = format!("{param}.content[{j}].type");
                let found = shown(kind);
                let message =
                    format!("this server takes parts of text only, with their `text`; found {found}");
                Err(ApiError::parameter("unsupported_parameter", param, message))
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        _ => {
            let message = format!("`{param}` needs its content: a string or an array of parts");
            Err(ApiError::parameter("missing_required_parameter", format!("{param}.content"), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(body: Json) -> Result<Json, ApiError> {
        translate(body.as_object().unwrap()).map(|translated| Json::Object(translated.chat))
    }

    #[test]
    fn items_of_an_answer_that_is_sent_back_become_one_message_of_the_assistant() {
        let chat = chat(json!({
            "model": "m", "instructions": "Be kind.", "max_output_tokens": 9,
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
                {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
            ],
            "tools": [{"type": "function", "name": "weather", "parameters": {}, "strict": null}],
            "tool_choice": {"type": "function", "name": "weather"},
            "reasoning": {"effort": "none"}, "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}
        }));
        insta::assert_json_snapshot!(chat.unwrap(), @r#"
        {
          "model": "m",
          "tool_choice": {
            "type": "function",
            "name": "weather"
          },
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
                    "arguments": "{}"
                  }
                }
              ]
            },
            {
              "role": "tool",
              "tool_call_id": "call_1",
              "content": "sunny"
            }
          ],
          "max_tokens": 9,
          "tools": [
            {
              "type": "function",
              "function": {
                "name": "weather",
                "parameters": {}
              }
            }
          ],
          "response_format": {
            "type": "json_schema",
            "json_schema": {
              "name": "n",
              "schema": {}
            }
          },
          "reasoning_effort": "none"
        }
        "#);
    }

    #[test]
    fn what_needs_a_memory_is_refused_by_name() {
        for (members, param) in [
            (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
            (json!({"store": true}), "store"),
            (json!({"background": true}), "background"),
        ] {
            let mut body = json!({"model": "m", "input": "x", "store": false});
            body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            let error = chat(body).unwrap_err();
            assert!(error.message().contains("stateless") && error.message().contains(param), "{error:?}");
        }
        assert!(chat(json!({"model": "m", "input": "x"})).is_ok());
    }
}
