//! What whole answers and streams have in common: their names, their usage, their headers, their events.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use super::decoding::Delivery;
use crate::api::caller::Caller;
use crate::api::error::ApiError;
use crate::gateway::{Answer, Decoding, Delta, Ending, GatewayError, Totals};

/// The version that answered, as `model@version`; where a flag did, `flag:` and what it is of.
pub(super) const VERSION_HEADER: HeaderName = HeaderName::from_static("x-switchback-version");

/// Tokens of a request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct UsageBody {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// Of the prompt tokens.
    pub prompt_tokens_details: PromptDetails,
    /// Of the tokens generated; where the version's reasoning is told from its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionDetails>,
}

/// What is known of the tokens generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct CompletionDetails {
    /// Spent on reasoning.
    pub reasoning_tokens: usize,
}

/// What is known of prompt tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PromptDetails {
    /// Found in the prefix cache.
    pub cached_tokens: usize,
}

impl From<Totals> for UsageBody {
    fn from(Totals { usage, reasoning_tokens }: Totals) -> Self {
        Self {
            completion_tokens_details: reasoning_tokens
                .map(|reasoning_tokens| CompletionDetails { reasoning_tokens }),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_tokens },
        }
    }
}

/// What every object of one answer repeats.
#[derive(Debug, Clone)]
pub(in crate::api) struct Envelope {
    pub(in crate::api) id: String,
    pub(in crate::api) created: u64,
    /// As the client wrote it.
    pub(in crate::api) model: String,
    pub(in crate::api) fingerprint: String,
}

impl Envelope {
    pub(in crate::api) fn new(prefix: &str, model: &str, answer: &Answer) -> Self {
        Self {
            id: format!("{prefix}{}", answer.id),
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            model: model.to_owned(),
            fingerprint: answer.fingerprint.clone(),
        }
    }
}

/// Whether an answer reports the log-probabilities of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logprobs {
    /// It does, if only by an empty list.
    Report,
    /// It does not.
    Omit,
}

impl Logprobs {
    pub(super) fn of(decoding: &Decoding) -> Self {
        if decoding.logprobs.is_some() { Self::Report } else { Self::Omit }
    }

    /// An empty list to report in, if there is to be one.
    pub(super) fn list<T: Default>(self) -> Option<T> {
        (self == Self::Report).then(T::default)
    }
}

/// OpenAI's word for why a choice ended.
pub(super) fn finish_word(reason: Ending) -> &'static str {
    match reason {
        Ending::Stop => "stop",
        Ending::Length => "length",
        Ending::ToolCalls => "tool_calls",
    }
}

/// Puts the version, and a key that was given to the connection, on the answer.
pub(in crate::api) fn with_headers(
    mut response: Response,
    by: &impl std::fmt::Display,
    caller: &Caller,
) -> Response {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(by.to_string()) {
        headers.insert(VERSION_HEADER, value);
    }
    caller.tell_given_key(headers);
    response
}

/// Writes the chunks of one kind of answer.
pub(in crate::api) trait Chunks: Send + 'static {
    /// Chunks before any delta.
    fn opening(&mut self) -> Vec<Event>;
    /// Chunks of one delta.
    fn on(&mut self, delta: Delta) -> Vec<Event>;
    /// Chunks of an error, after which nothing follows but the end.
    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        vec![json_event(&error.body())]
    }
    /// Chunks after the last delta.
    fn closing(&mut self) -> Vec<Event> {
        vec![Event::default().data("[DONE]")]
    }
}

const UNWRITTEN: &str = r#"{"error":{"message":"a chunk could not be written","type":"server_error","param":null,"code":"internal_error"}}"#;

/// Chunks that add up to one object.
pub(in crate::api) trait Adding: Chunks {
    /// The object, as far as it is.
    fn object(&self) -> Json;
}

/// An answer in a shape of chunks that add up, whole or as events.
pub(super) async fn added(
    answer: Answer,
    delivery: Delivery,
    mut chunks: impl Adding,
) -> Result<Response, ApiError> {
    if let Delivery::Events(_) = delivery {
        return Ok(events(answer, chunks));
    }
    let mut stream = answer.stream;
    while let Some(delta) = stream.next().await {
        drop(chunks.on(delta?));
    }
    Ok(axum::Json(chunks.object()).into_response())
}

/// An event of one JSON object that names its type: these members, and then those.
pub(in crate::api) fn typed_event(kind: &str, members: Json, more: Json) -> Event {
    let mut event = Map::from_iter([("type".to_owned(), Json::from(kind))]);
    for members in [members, more] {
        if let Json::Object(members) = members {
            event.extend(members);
        }
    }
    json_event(&event).event(kind)
}

/// An event of one JSON object.
pub(super) fn json_event(value: &impl Serialize) -> Event {
    Event::default().json_data(value).unwrap_or_else(|e| {
        // Our own types always have a JSON; should one not, the client is told rather than left waiting.
        tracing::error!(error = %e, "a chunk has no JSON");
        Event::default().data(UNWRITTEN)
    })
}

/// The answer as server-sent events: an opening, the deltas, an end. An error on the way is an event of its own.
pub(super) fn events(answer: Answer, mut chunks: impl Chunks) -> Response {
    let opening = chunks.opening();
    let deltas = answer.stream.map(Some).chain(stream::once(async { None }));
    let written = deltas.flat_map(move |delta| {
        stream::iter(match delta {
            Some(delta) => written(&mut chunks, delta),
            None => chunks.closing(),
        })
    });
    let all = stream::iter(opening).chain(written).map(Ok::<_, Infallible>);
    sse(all)
}

fn written(chunks: &mut impl Chunks, delta: Result<Delta, GatewayError>) -> Vec<Event> {
    match delta {
        Ok(delta) => chunks.on(delta),
        Err(error) => {
            tracing::warn!(%error, "a stream broke off");
            chunks.failed(&ApiError::from(error))
        }
    }
}

fn sse(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Proxies such as nginx would gather the stream into one piece.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
