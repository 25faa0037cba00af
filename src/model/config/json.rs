//! JSON files whose errors name the file and the field.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::model::error::ModelError;

/// Reads a JSON file; an error names the field.
pub(in crate::model) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    let text = std::fs::read(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
    parse_json(path, &text)
}

/// Reads the text of a JSON file, or what a file at `path` says in JSON; an error names the field.
pub(super) fn parse_json<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, ModelError> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(text)).map_err(|e| {
        let what = match e.path().to_string().as_str() {
            "." => e.inner().to_string(),
            field => format!("{field}: {}", e.inner()),
        };
        ModelError::Json { path: path.into(), what }
    })
}

/// Reads a JSON file that a folder need not have; without it, what is so by default.
pub(in crate::model) fn read_optional<T: DeserializeOwned + Default>(path: &Path) -> Result<T, ModelError> {
    match read_json(path) {
        Err(ModelError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(T::default())
        }
        other => other,
    }
}
