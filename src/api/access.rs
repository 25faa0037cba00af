//! Every answer of either listener, counted and logged: also those that no model ever sees, such as a wrong key.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::telemetry::Metrics;

/// Stands for all paths that are not served: a client could otherwise make a time series of every path it tries.
const OTHER: &str = "other";

/// Counts an answer by its path and status, and writes a line about it. The time is until the answer's headers: a
/// stream's text comes after them.
pub(super) async fn record(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let path = matched.as_ref().map_or(OTHER, MatchedPath::as_str);
    let status = response.status().as_u16();
    metrics.http_answered(path, status);
    let ms = began.elapsed().as_millis() as u64;
    // Probes come every few seconds, for ever; they would bury the requests.
    if matches!(path, "/health" | "/ready" | "/metrics") {
        tracing::debug!(%method, path, status, ms, "answered");
    } else {
        tracing::info!(%method, path, status, ms, "answered");
    }
    response
}
