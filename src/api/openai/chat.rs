//! POST /v1/chat/completions.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::chat_request::ChatRequest;
use super::chat_response::{self, ChatChunks, ChatCompletion};
use super::decoding::Delivery;
use super::stream::{Envelope, Logprobs, events, with_headers};
use crate::api::caller::Caller;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::Object;
use crate::api::public::PublicState;
use crate::gateway::ChatCommand;

/// Answers a conversation, whole or as server-sent events.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "openai",
    request_body = crate::api::openapi::ChatRequestSchema,
    responses(
        (status = 200, description = "The answer, or events of chat.completion.chunk", body = ChatCompletion),
        (status = "4XX", description = "The request is at fault", body = ErrorBody),
        (status = "5XX", description = "The server is", body = ErrorBody),
    ),
)]
pub(in crate::api) async fn chat_completions(
    State(state): State<PublicState>,
    mut caller: Caller,
    Object(map): Object,
) -> Result<Response, ApiError> {
    let request = ChatRequest::parse(&map)?;
    let model = request.shared.model()?.to_owned();
    let address = caller.address(&state.gateway, &model, request.shared.end_user())?;
    let logprobs = Logprobs::of(&request.decoding);
    let answer = state
        .gateway
        .chat(ChatCommand { address, conversation: request.conversation, decoding: request.decoding })
        .await?;
    let version = answer.version.clone();
    let envelope = Envelope::new("chatcmpl", &model, &answer);
    let response = match request.delivery {
        Delivery::Whole => Json(chat_response::whole(answer, envelope, logprobs).await?).into_response(),
        Delivery::Events(usage) => {
            let chunks = ChatChunks { envelope, choices: answer.choices_per_prompt, usage };
            events(answer, chunks)
        }
    };
    Ok(with_headers(response, &version, &caller))
}
