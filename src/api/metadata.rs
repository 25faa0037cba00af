//! OpenAI's `metadata`: what a client notes on its request for its own sake. It is checked by OpenAI's rules, and decides nothing.

use serde_json::{Map, Value as Json};

use super::error::ApiError;

/// The most pairs.
const PAIRS: usize = 16;
/// The most characters of a key, and of a value.
const KEY_LENGTH: usize = 64;
const VALUE_LENGTH: usize = 512;

/// Refuses more than OpenAI takes.
pub(super) fn check(metadata: Option<&Map<String, Json>>) -> Result<(), ApiError> {
    let refused = |code, param: String, message: String| Err(ApiError::parameter(code, param, message));
    let Some(metadata) = metadata else { return Ok(()) };
    if metadata.len() > PAIRS {
        let message = format!("`metadata` has {} pairs; it may have {PAIRS}", metadata.len());
        return refused("array_above_max_length", "metadata".into(), message);
    }
    for (key, value) in metadata {
        let param = format!("metadata.{}", key.chars().take(KEY_LENGTH).collect::<String>());
        let Some(text) = value.as_str() else {
            return refused("invalid_type", param.clone(), format!("`{param}` must be a string"));
        };
        if key.chars().count() > KEY_LENGTH || text.chars().count() > VALUE_LENGTH {
            let message = format!(
                "`{param}`: a key has at most {KEY_LENGTH} characters and a value {VALUE_LENGTH}; found {} and {}",
                key.chars().count(),
                text.chars().count()
            );
            return refused("invalid_value", param, message);
        }
    }
    Ok(())
}
