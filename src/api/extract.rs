//! What handlers take from a request, each with our own error body where it is at fault.

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::body::read_object;
use super::error::ApiError;
use super::public::PublicState;

/// A public request's body as a JSON object, read within the limits of size and time.
pub(super) struct Object(pub(super) Map<String, Json>);

impl FromRequest<PublicState> for Object {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &PublicState) -> Result<Self, ApiError> {
        let read = read_object(request, state.body_limit);
        match tokio::time::timeout(state.body_timeout, read).await {
            Ok(map) => map.map(Self),
            Err(_) => Err(ApiError::request(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                format!("the body did not arrive within {} s", state.body_timeout.as_secs_f64()),
            )),
        }
    }
}

/// The variable parts of a request's path.
pub(super) struct PathParam<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathParam<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = Path::<T>::from_request_parts(parts, state).await;
        read.map(|Path(value)| Self(value)).map_err(|rejection| {
            if rejection.status().is_server_error() {
                tracing::error!(%rejection, "a handler asks for a path parameter that its route lacks");
                return ApiError::defect();
            }
            let message = format!("the path cannot be read: {}", rejection.body_text());
            ApiError::request(StatusCode::BAD_REQUEST, "invalid_path", message)
        })
    }
}
