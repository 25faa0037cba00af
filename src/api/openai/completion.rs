//! POST /v1/completions.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::completion_request::CompletionRequest;
use super::completion_response::{self, Completion, CompletionChunks};
use super::decoding::Delivery;
use super::stream::{Envelope, events, with_headers};
use crate::api::caller::Caller;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::Object;
use crate::api::public::PublicState;
use crate::gateway::CompletionCommand;

/// Goes on with one or more texts, whole or as server-sent events.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "openai",
    request_body = crate::api::openapi::CompletionRequestSchema,
    responses(
        (status = 200, description = "The answer, or events of the same shape", body = Completion),
        (status = "4XX", description = "The request is at fault", body = ErrorBody),
        (status = "5XX", description = "The server is", body = ErrorBody),
    ),
)]
pub(in crate::api) async fn completions(
    State(state): State<PublicState>,
    mut caller: Caller,
    Object(map): Object,
) -> Result<Response, ApiError> {
    let request = CompletionRequest::parse(&map)?;
    let model = request.shared.model()?.to_owned();
    let address = caller.address(&state.gateway, &model, request.shared.end_user())?;
    let command = CompletionCommand {
        address,
        prompts: request.prompts,
        echo: request.echo,
        decoding: request.decoding,
    };
    let answer = state.gateway.complete(command).await?;
    let by = answer.by.clone();
    let envelope = Envelope::new("cmpl-", &model, &answer);
    let response = match request.delivery {
        Delivery::Whole => {
            Json(completion_response::whole(answer, envelope, request.logprobs, request.best).await?)
                .into_response()
        }
        Delivery::Events(usage) => {
            let echoes = completion_response::echoes(&answer.prompts, answer.choices_per_prompt);
            let offsets = vec![0; echoes.len()];
            events(answer, CompletionChunks { envelope, echoes, offsets, usage })
        }
    };
    Ok(with_headers(response, &by, &caller))
}
