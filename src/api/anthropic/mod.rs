//! POST /v1/messages: Anthropic's shape over the same conversation as chat, with its events and its errors.
//!
//! `request` translates a body into chat's, `output` writes deltas as content blocks and as typed events, `error` gives
//! errors the body that Anthropic's clients read.

mod error;
mod output;
mod request;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use error::{AnthropicError, AnthropicErrorDetail};
pub use request::MessagesBody;

use super::caller::Caller;
use super::error::ApiError;
use super::extract::Object;
use super::openai::{Envelope, ask, count};
use super::public::PublicState;
pub(super) use error::in_anthropics_words;
use output::Writer;
use request::{NAMES, translate};

/// How many tokens a conversation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCount {
    /// With all that the version's prompt and template put around it.
    pub input_tokens: usize,
}

/// Answers a conversation in Anthropic's shape, whole or as typed events.
#[utoipa::path(post, path = "/v1/messages", tag = "anthropic", request_body = MessagesBody, responses(
    (status = 200, description = "The message, or events such as content_block_delta", body = Object),
    (status = "4XX", description = "The request is at fault", body = AnthropicError),
    (status = "5XX", description = "The server is", body = AnthropicError),
))]
pub(super) async fn messages(
    State(state): State<PublicState>,
    mut caller: Caller,
    Object(map): Object,
) -> Result<Response, ApiError> {
    let chat = translate(&map)?;
    let asked = ask(&state, &mut caller, &chat).await.map_err(|error| error.renamed(NAMES))?;
    asked.written(&caller, |model, answer| Writer::new(Envelope::new("msg_", model, answer), answer)).await
}

/// Counts the tokens of a conversation in Anthropic's shape.
#[utoipa::path(post, path = "/v1/messages/count_tokens", tag = "anthropic", request_body = MessagesBody, responses(
    (status = 200, description = "How many", body = TokenCount),
    (status = "4XX", description = "The request is at fault", body = AnthropicError),
))]
pub(super) async fn count_tokens(
    State(state): State<PublicState>,
    mut caller: Caller,
    Object(mut map): Object,
) -> Result<Response, ApiError> {
    // whoever only counts need not say it
    if map.get("max_tokens").is_none_or(serde_json::Value::is_null) {
        map.insert("max_tokens".into(), 1.into());
    }
    let chat = translate(&map)?;
    let count = count(&state, &mut caller, &chat).await.map_err(|error| error.renamed(NAMES))?;
    Ok(Json(TokenCount { input_tokens: count }).into_response())
}
