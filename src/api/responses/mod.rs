//! POST /v1/responses: OpenAI's newer shape over the same conversation as chat. Stateless: nothing is stored, and whoever
//! goes on with an answer sends it back.
//!
//! `request` translates a body into chat's, `output` writes deltas as items and as typed events.

mod output;
mod request;

use axum::extract::State;
use axum::response::Response;

pub use request::ResponsesBody;

use super::caller::Caller;
use super::error::{ApiError, ErrorBody};
use super::extract::Object;
use super::openai::{Envelope, ask};
use super::public::PublicState;
use output::Writer;
use request::{NAMES, Translated, translate};

/// Answers a conversation, whole or as typed events.
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = ResponsesBody, responses(
    (status = 200, description = "The response, or events such as response.output_text.delta", body = Object),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
    (status = "5XX", description = "The server is", body = ErrorBody),
))]
pub(super) async fn responses(
    State(state): State<PublicState>,
    mut caller: Caller,
    Object(map): Object,
) -> Result<Response, ApiError> {
    let Translated { chat, echoed } = translate(&map)?;
    let asked = ask(&state, &mut caller, &chat).await.map_err(|error| error.renamed(NAMES))?;
    asked.written(&caller, |model, answer| Writer::new(Envelope::new("resp_", model, answer), echoed)).await
}
