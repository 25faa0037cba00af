//! POST /tokenize and /detokenize, in vLLM's shapes.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json_};
use utoipa::ToSchema;

use super::chat_request::{Message, generation, messages, messages_must_be_objects, template_variables};
use super::stream::with_headers;
use crate::api::body::typed;
use crate::api::caller::Caller;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::Object;
use crate::api::fields::{DETOKENIZE, TOKENIZE};
use crate::api::public::PublicState;
use crate::gateway::{Conversation, Gateway, SpecialTokens, TokenizeInput};

/// What to tokenize: `prompt` or `messages`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct TokenizeBody {
    /// The model or version; may be absent where only one model is served.
    pub model: Option<String>,
    /// A text.
    pub prompt: Option<String>,
    /// A conversation.
    pub messages: Option<Vec<Message>>,
    /// Put the model's special tokens around it; true for a text, false for a conversation, if absent.
    pub add_special_tokens: Option<bool>,
    /// Open the assistant's turn; true if absent.
    pub add_generation_prompt: Option<bool>,
    /// Also answer the text of each token.
    pub return_token_strs: Option<bool>,
    /// Further variables for the chat template.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Json_>>,
    /// Variables of the version's prompt.
    #[schema(value_type = Option<Object>)]
    pub prompt_variables: Option<Map<String, Json_>>,
}

/// Tokens of a text.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Tokenized {
    /// How many.
    pub count: usize,
    /// The model's context.
    pub max_model_len: usize,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The text of each, if asked for.
    pub token_strs: Option<Vec<String>>,
}

/// What to turn into text.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeBody {
    /// The model or version; may be absent where only one model is served.
    pub model: Option<String>,
    /// The tokens.
    pub tokens: Vec<u32>,
}

/// The text of tokens.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Detokenized {
    /// The text, special tokens included.
    pub prompt: String,
}

fn model_of(gateway: &Gateway, given: Option<String>) -> Result<String, ApiError> {
    given.or_else(|| gateway.only_model().map(|model| model.to_string())).ok_or_else(|| {
        let message = "`model` is required: this server has several models; GET /v1/models lists them";
        ApiError::parameter("missing_required_parameter", "model", message)
    })
}

/// The tokens of a text or a conversation.
#[utoipa::path(post, path = "/tokenize", tag = "vllm", request_body = TokenizeBody, responses(
    (status = 200, description = "The tokens", body = Tokenized),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
))]
pub(in crate::api) async fn tokenize(
    State(state): State<PublicState>,
    mut caller: Caller,
    Object(map): Object,
) -> Result<Response, ApiError> {
    TOKENIZE.check(&map)?;
    messages_must_be_objects(&map)?;
    let body: TokenizeBody = typed(&map)?;
    let special = |default: bool| {
        if body.add_special_tokens.unwrap_or(default) { SpecialTokens::Add } else { SpecialTokens::Parse }
    };
    let input = match (&body.prompt, &body.messages) {
        (Some(_), None) if body.prompt_variables.as_ref().is_some_and(|given| !given.is_empty()) => {
            let message = "`prompt_variables` are for `messages`; a text is tokenized as it is";
            return Err(ApiError::parameter("invalid_value", "prompt_variables", message));
        }
        (Some(text), None) => TokenizeInput::Text { text: text.clone(), special: special(true) },
        (None, Some(given)) => TokenizeInput::Messages {
            conversation: Conversation {
                messages: messages(given)?,
                variables: body.prompt_variables.clone().unwrap_or_default(),
                template: template_variables(body.chat_template_kwargs.clone())?,
                generation: generation(body.add_generation_prompt),
            },
            special: special(false),
        },
        (None, None) => {
            let message = "`prompt` or `messages` is required";
            return Err(ApiError::parameter("missing_required_parameter", "prompt", message));
        }
        (Some(_), Some(_)) => {
            let message = "give `prompt` or `messages`, not both";
            return Err(ApiError::parameter("invalid_value", "messages", message));
        }
    };
    let address = caller.address(&state.gateway, &model_of(&state.gateway, body.model)?, None)?;
    let (backend, tokens) = state.gateway.tokenize(&address, input).await?;
    let token_strs = match body.return_token_strs {
        Some(true) => Some(state.gateway.token_texts(&backend, &tokens).await?),
        Some(false) | None => None,
    };
    let answer = Tokenized { count: tokens.len(), max_model_len: backend.max_context(), tokens, token_strs };
    Ok(with_headers(Json(answer).into_response(), backend.version(), &caller))
}

/// The text of tokens.
#[utoipa::path(post, path = "/detokenize", tag = "vllm", request_body = DetokenizeBody, responses(
    (status = 200, description = "The text", body = Detokenized),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
))]
pub(in crate::api) async fn detokenize(
    State(state): State<PublicState>,
    mut caller: Caller,
    Object(map): Object,
) -> Result<Response, ApiError> {
    DETOKENIZE.check(&map)?;
    let body: DetokenizeBody = typed(&map)?;
    let address = caller.address(&state.gateway, &model_of(&state.gateway, body.model)?, None)?;
    let (backend, prompt) = state.gateway.detokenize(&address, body.tokens).await?;
    Ok(with_headers(Json(Detokenized { prompt }).into_response(), backend.version(), &caller))
}
