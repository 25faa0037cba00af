//! What is checked: one answer, without a word about how it was made or sent.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::FinishReason;
use super::embedding::{Embedder, Embedding};

/// One answer that ran to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// What it says.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens generated.
    pub output_tokens: usize,
    /// From admission to the first token; none where there was no token.
    pub time_to_first_token: Option<Duration>,
    /// From admission to the last token.
    pub elapsed: Duration,
    /// The tools that it asks to be called.
    pub tool_calls: Vec<ToolCall>,
    /// The tools that the request offered.
    pub tools: Arc<[Tool]>,
}

/// A tool that the answer asks to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Which.
    pub name: String,
    /// With what: JSON, if the model kept to it.
    pub arguments: String,
}

/// A tool that the request offered.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Json,
}

/// A response under judgement. Its text is read as JSON and embedded at most once, and only if a check asks.
pub(super) struct Subject<'r> {
    pub(super) response: &'r Response,
    json: OnceCell<Result<Json, String>>,
    embedding: OnceCell<Result<Embedding, String>>,
}

impl<'r> Subject<'r> {
    pub(super) fn new(response: &'r Response) -> Self {
        Self { response, json: OnceCell::new(), embedding: OnceCell::new() }
    }

    pub(super) fn text(&self) -> &'r str {
        &self.response.text
    }

    /// The text as one JSON value, or why it is none.
    pub(super) fn json(&self) -> Result<&Json, &str> {
        let parsed = self.json.get_or_init(|| serde_json::from_str(self.text()).map_err(|e| e.to_string()));
        parsed.as_ref().map_err(String::as_str)
    }

    /// What the text means, or why that cannot be told. A server has one embedder: whichever check asks, it brings the
    /// same.
    pub(super) fn embedding(&self, embedder: &Embedder) -> Result<&Embedding, &str> {
        self.embedding.get_or_init(|| embedder.embed(self.text())).as_ref().map_err(String::as_str)
    }

    /// What a person would read: the text itself, or the strings inside it where it is a JSON object or list.
    pub(super) fn prose(&self) -> Vec<&str> {
        match self.json() {
            Ok(json @ (Json::Object(_) | Json::Array(_))) => {
                let mut found = Vec::new();
                strings(json, &mut found);
                found
            }
            Ok(Json::String(text)) => vec![text],
            _ => vec![self.text()],
        }
    }
}

/// All string values in a JSON value, in their order. The depth is bounded by the parser's.
fn strings<'j>(json: &'j Json, found: &mut Vec<&'j str>) {
    match json {
        Json::String(text) => found.push(text),
        Json::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Json::Object(members) => members.values().for_each(|value| strings(value, found)),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}
