//! The JSON object of a public request, read within the limits of size and time.

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde_json::{Map, Value as Json};

use super::body::read_object;
use super::error::ApiError;
use super::public::PublicState;

/// A request's body as a JSON object.
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
