//! The way to who answers: bodies of OpenAI's API in and out, whoever carries them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde_json::{Map, Value as Json, json};

use crate::config::FinishReason;
use crate::quality::response::{Response, Tool, ToolCall};

/// Why there is no answer, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DoorError {
    /// Too much is asked at once; it may be asked again.
    #[error("{why}")]
    Busy {
        /// When, if that was said.
        after: Option<Duration>,
        /// What was said.
        why: String,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// How often one that is busy is asked.
const TRIES: u32 = 6;
/// The longest that is waited for it at a time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A server of OpenAI's API.
pub trait Door: Send + Sync {
    /// Posts a body to a path such as `/v1/chat/completions`, and gives the body of the answer. An answer that tells an error
    /// is an error here.
    fn post(&self, path: &'static str, body: Json) -> BoxFuture<'_, Result<Json, DoorError>>;
}

/// A request of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Who is asked.
    pub model: String,
    /// What was said.
    pub messages: Vec<Json>,
    /// How to answer.
    pub parameters: Map<String, Json>,
}

/// An answer to it.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) response: Response,
    /// What it is called by the server.
    pub(super) id: Option<String>,
}

impl Asked {
    /// Puts it to a server.
    pub(super) async fn answer(&self, door: &dyn Door) -> Result<Answer, DoorError> {
        let mut body = self.parameters.clone();
        body.insert("model".to_owned(), Json::String(self.model.clone()));
        body.insert("messages".to_owned(), Json::Array(self.messages.clone()));
        let (answer, elapsed) = post(door, "/v1/chat/completions", &Json::Object(body)).await?;
        self.read(&answer, elapsed)
    }

    fn read(&self, answer: &Json, elapsed: Duration) -> Result<Answer, DoorError> {
        let choice = &answer["choices"][0];
        let message = choice["message"].as_object();
        let message = message
            .ok_or_else(|| DoorError::Failed(format!("an answer without a message: {}", cut(answer))))?;
        let text = message.get("content").and_then(Json::as_str).unwrap_or_default().to_owned();
        let finish = choice["finish_reason"].as_str().unwrap_or_default();
        let finish_reason = FinishReason::ALL.into_iter().find(|(name, _)| *name == finish);
        let finish_reason = finish_reason
            .map(|(_, reason)| reason)
            .ok_or_else(|| DoorError::Failed(format!("an answer that ended for {finish:?}")))?;
        let response = Response {
            text,
            finish_reason,
            output_tokens: answer["usage"]["completion_tokens"].as_u64().unwrap_or(0) as usize,
            time_to_first_token: None,
            elapsed,
            tool_calls: message.get("tool_calls").map(tool_calls).unwrap_or_default(),
            tools: self.tools(),
        };
        Ok(Answer { response, id: answer["id"].as_str().map(str::to_owned) })
    }

    fn tools(&self) -> Arc<[Tool]> {
        let tools = self.parameters.get("tools").and_then(Json::as_array).into_iter().flatten();
        let tool = |tool: &Json| {
            let function = &tool["function"];
            let parameters = function.get("parameters").cloned().unwrap_or_else(|| json!({}));
            Some(Tool { name: function["name"].as_str()?.to_owned(), parameters })
        };
        tools.filter_map(tool).collect()
    }
}

fn tool_calls(calls: &Json) -> Vec<ToolCall> {
    let call = |call: &Json| {
        let text = |key: &str| call["function"][key].as_str().unwrap_or_default().to_owned();
        ToolCall { name: text("name"), arguments: text("arguments") }
    };
    calls.as_array().into_iter().flatten().map(call).collect()
}

/// An answer, and how long it took; one who is busy is asked again.
async fn post(door: &dyn Door, path: &'static str, body: &Json) -> Result<(Json, Duration), DoorError> {
    let mut tries = 0;
    loop {
        let begun = Instant::now();
        tries += 1;
        match door.post(path, body.clone()).await {
            Ok(answer) => return Ok((answer, begun.elapsed())),
            Err(DoorError::Busy { after, .. }) if tries < TRIES => {
                tokio::time::sleep(after.unwrap_or(Duration::from_secs(1)).min(LONGEST_PAUSE)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The vectors of some texts.
pub(super) async fn embeddings(
    door: &dyn Door,
    model: &str,
    texts: &[&str],
) -> Result<Vec<Vec<f32>>, DoorError> {
    let (answer, _) = post(door, "/v1/embeddings", &json!({"model": model, "input": texts})).await?;
    let vector = |item: &Json| {
        let numbers = item["embedding"].as_array()?.iter();
        let vector = numbers.map(Json::as_f64).collect::<Option<Vec<f64>>>()?;
        // not every server's vectors have the length 1
        let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        Some(vector.into_iter().map(|x| (x / length) as f32).collect::<Vec<f32>>())
    };
    let vectors = answer["data"].as_array().into_iter().flatten().map(vector).collect::<Option<Vec<_>>>();
    vectors
        .filter(|vectors| vectors.len() == texts.len())
        .ok_or_else(|| DoorError::Failed(format!("no vectors for {} texts: {}", texts.len(), cut(&answer))))
}

/// The beginning of an answer that was not expected.
fn cut(answer: &Json) -> String {
    answer.to_string().chars().take(200).collect()
}
