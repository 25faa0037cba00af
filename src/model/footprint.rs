//! What a model will take of a device, told from the headers of its files alone.

use std::path::Path;

use super::batch::KvShape;
use super::config::Config;
use super::error::ModelError;
use super::weights::stored_bytes;

/// What a model takes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// The sizes of its keys and values.
    pub kv_shape: KvShape,
}

impl Footprint {
    /// Of the model in `dir`; no weight is read.
    pub fn of(dir: &Path) -> Result<Self, ModelError> {
        let config = Config::read(&dir.join("config.json"))?;
        Ok(Self { weight_bytes: stored_bytes(dir)?, kv_shape: config.kv_shape() })
    }
}
