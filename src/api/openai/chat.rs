//! POST /v1/chat/completions.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::chat_request::ChatRequest;
use super::chat_response::{self, ChatChunks, ChatCompletion};
use super::decoding::Delivery;
use super::stream::{Adding, Envelope, Logprobs, added, events, with_headers};
use crate::api::caller::Caller;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::Object;
use crate::api::public::PublicState;
use crate::gateway::{Answer, ChatCommand, SpecialTokens, TokenizeInput};

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
    let Asked { answer, model, delivery, logprobs } = ask(&state, &mut caller, &map).await?;
    let by = answer.by.clone();
    let envelope = Envelope::new("chatcmpl-", &model, &answer);
    let response = match delivery {
        Delivery::Whole => Json(chat_response::whole(answer, envelope, logprobs).await?).into_response(),
        Delivery::Events(usage) => {
            let chunks = ChatChunks { envelope, choices: answer.choices_per_prompt, usage };
            events(answer, chunks)
        }
    };
    Ok(with_headers(response, &by, &caller))
}

/// A conversation that is being answered.
pub(in crate::api) struct Asked {
    answer: Answer,
    /// As the client wrote it.
    model: String,
    delivery: Delivery,
    logprobs: Logprobs,
}

impl Asked {
    /// The answer in another shape, by what `writer` makes of the client's word for the model, and of the answer.
    pub(in crate::api) async fn written<W: Adding>(
        self,
        caller: &Caller,
        writer: impl FnOnce(&str, &Answer) -> W,
    ) -> Result<Response, ApiError> {
        let Self { answer, model, delivery, .. } = self;
        let by = answer.by.clone();
        let writer = writer(&model, &answer);
        Ok(with_headers(added(answer, delivery, writer).await?, &by, caller))
    }
}

/// Asks for the answer to a body in the shape of chat. Endpoints of other shapes come here with theirs translated.
pub(in crate::api) async fn ask(
    state: &PublicState,
    caller: &mut Caller,
    map: &Map<String, Value>,
) -> Result<Asked, ApiError> {
    let ChatRequest { shared, conversation, tools, decoding, delivery } = ChatRequest::parse(map)?;
    let model = shared.model()?.to_owned();
    let address = caller.address(&state.gateway, &model, shared.end_user())?;
    let logprobs = Logprobs::of(&decoding);
    let answer = state.gateway.chat(ChatCommand { address, conversation, tools, decoding }).await?;
    Ok(Asked { answer, model, delivery, logprobs })
}

/// How many tokens a body in the shape of chat makes of its conversation.
pub(in crate::api) async fn count(
    state: &PublicState,
    caller: &mut Caller,
    map: &Map<String, Value>,
) -> Result<usize, ApiError> {
    let ChatRequest { shared, conversation, .. } = ChatRequest::parse(map)?;
    let address = caller.address(&state.gateway, shared.model()?, shared.end_user())?;
    let input = TokenizeInput::Messages { conversation, special: SpecialTokens::Parse };
    Ok(state.gateway.tokenize(&address, input).await?.1.len())
}
