//! A request's body: read within its limit, parsed, and every fault named by the path of the value at fault.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::error::ApiError;

/// Reads a JSON object of at most `limit` bytes.
pub(super) async fn read_object(request: Request, limit: usize) -> Result<Map<String, Json>, ApiError> {
    let (parts, body) = request.into_parts();
    must_be_json(&parts.headers)?;
    parse_object(&read(body, &parts.headers, limit).await?)
}

fn must_be_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let found = if given.is_empty() { "none".to_owned() } else { super::error::shown(given) };
    Err(ApiError::request(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("the content type must be `application/json`; found {found}"),
    ))
}

async fn read(body: Body, headers: &HeaderMap, limit: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        ApiError::request(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request_too_large",
            format!("the body is larger than the {limit} bytes that this server takes (`server.body_limit`)"),
        )
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0));
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| {
            ApiError::request(StatusCode::BAD_REQUEST, "incomplete_body", format!("the body broke off: {e}"))
        })?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn parse_object(bytes: &[u8]) -> Result<Map<String, Json>, ApiError> {
    let broken = |why: String| {
        ApiError::request(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is {why}"))
    };
    if bytes.is_empty() {
        return Err(broken("empty; a JSON object was expected".into()));
    }
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(map)) => Ok(map),
        Ok(other) => Err(broken(format!("{}; a JSON object was expected", kind_of(&other)))),
        Err(e) => Err(broken(format!("not valid JSON: {e}"))),
    }
}

fn kind_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

/// Reads the known fields of `map` into a `T`; a fault names its path.
pub(super) fn typed<T: DeserializeOwned>(map: &Map<String, Json>) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(Json::Object(map.clone())).map_err(|error| {
        let path = error.path().to_string();
        fault(if path == "." { "" } else { &path }, &error.into_inner().to_string())
    })
}

/// As [`typed`], of these fields alone: a body may be large, and reading it copies what is read.
pub(super) fn typed_of<T: DeserializeOwned>(map: &Map<String, Json>, names: &[&str]) -> Result<T, ApiError> {
    typed(&names.iter().filter_map(|name| Some(((*name).to_owned(), map.get(*name)?.clone()))).collect())
}

/// Refuses what is there and no object. Serde would also read a struct from an array, field by field.
pub(super) fn must_be_object(value: Option<&Json>, param: &str) -> Result<(), ApiError> {
    match value {
        None | Some(Json::Null | Json::Object(_)) => Ok(()),
        Some(other) => {
            let message = format!("`{param}` must be an object; found {}", kind_of(other));
            Err(ApiError::parameter("invalid_type", param, message))
        }
    }
}

/// Serde tells its kinds of error apart by their words alone, so their words are what we go by.
fn fault(path: &str, message: &str) -> ApiError {
    let child = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(name) = quoted(message, "missing field `") {
        let param = child(name);
        let message = format!("`{param}` is required");
        return ApiError::parameter("missing_required_parameter", param, message);
    }
    if let Some(name) = quoted(message, "unknown field `") {
        // The path already ends with the unknown field itself.
        let param = if path.ends_with(name) { path.to_owned() } else { child(name) };
        let message = format!("`{param}` is not a parameter of this endpoint");
        return ApiError::parameter("unknown_parameter", param, message);
    }
    let code = if message.starts_with("invalid type") { "invalid_type" } else { "invalid_value" };
    ApiError::parameter(code, path, format!("`{path}`: {message}"))
}

fn quoted<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.split('`').next()
}
