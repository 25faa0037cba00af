//! The router that clients meet.

use std::any::Any;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use super::access;
use super::caller::{ApiKeys, authenticate};
use super::error::ApiError;
use super::{anthropic, feedback, ofrep, openai, ops, responses};
use crate::config::{ApiKey, ServerConfig};
use crate::gateway::Gateway;

/// The longest that a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// What every public handler may use.
#[derive(Clone)]
pub(super) struct PublicState {
    pub(super) gateway: Gateway,
    pub(super) body_limit: usize,
    pub(super) body_timeout: Duration,
    pub(super) keys: ApiKeys,
}

impl PublicState {
    pub(super) fn new(gateway: Gateway, server: &ServerConfig) -> Self {
        Self {
            gateway,
            body_limit: server.body_limit,
            body_timeout: server.request_timeout.min(BODY_TIMEOUT),
            keys: ApiKeys::new(server.api_keys.iter().map(ApiKey::expose)),
        }
    }
}

/// The public router: OpenAI's endpoints, and the operational ones.
pub fn public_router(gateway: Gateway, server: &ServerConfig) -> Router {
    let state = PublicState::new(gateway, server);
    let keyed = Router::new()
        .route("/v1/chat/completions", post(openai::chat_completions))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v1/rerank", post(openai::rerank))
        .route("/v1/models", get(openai::list_models))
        .route("/v1/models/{model}", get(openai::retrieve_model))
        .route("/v1/feedback", post(feedback::feedback))
        .route("/ofrep/v1/evaluate/flags", post(ofrep::evaluate_all))
        .route("/ofrep/v1/evaluate/flags/{key}", post(ofrep::evaluate))
        .route("/tokenize", post(openai::tokenize))
        .route("/detokenize", post(openai::detokenize))
        .method_not_allowed_fallback(wrong_method)
        .route_layer(from_fn_with_state(state.clone(), authenticate));
    let anthropic = Router::new()
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .method_not_allowed_fallback(wrong_method)
        .route_layer(from_fn_with_state(state.clone(), authenticate))
        .route_layer(map_response(anthropic::in_anthropics_words));
    let open = Router::new()
        .route("/health", get(ops::health))
        .route("/ready", get(ops::ready))
        .route("/metrics", get(ops::metrics))
        .route("/openapi.json", get(ops::openapi))
        .method_not_allowed_fallback(wrong_method);
    framed(keyed.merge(anthropic).merge(open), &state.gateway).with_state(state)
}

/// What both routers share: our error body for what is not there and for a panic, and a record of every answer.
pub(super) fn framed<S: Clone + Send + Sync + 'static>(router: Router<S>, gateway: &Gateway) -> Router<S> {
    router
        .fallback(unknown_path)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(gateway.metrics().clone(), access::record))
}

async fn unknown_path(request: Request) -> ApiError {
    ApiError::unknown_path(request.uri().path())
}

pub(super) async fn wrong_method(request: Request) -> ApiError {
    ApiError::wrong_method(request.method().as_str(), request.uri().path())
}

#[expect(clippy::needless_pass_by_value, reason = "the layer's own signature")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    tracing::error!(panic = what, "a handler panicked");
    ApiError::defect().into_response()
}
