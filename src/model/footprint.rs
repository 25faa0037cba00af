//! What a model will take of a device, told from the headers of its files alone.

use std::path::Path;

use super::batch::KvShape;
use super::config::Config;
use super::error::ModelError;
use super::weights::stored;
use crate::tensor::{Device, ElementType, KvPool};

/// What a model takes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// The sizes of its keys and values.
    pub kv_shape: KvShape,
    /// How its embedding is stored.
    element: ElementType,
}

impl Footprint {
    /// Of the model in `dir`; no weight is read.
    pub fn of(dir: &Path) -> Result<Self, ModelError> {
        let config = Config::read(&dir.join("config.json"))?;
        let (weight_bytes, element) = stored(dir, "model.embed_tokens.weight")?;
        Ok(Self { weight_bytes, kv_shape: config.kv_shape(), element })
    }

    /// How a device keeps its keys and values.
    pub const fn kv_element(&self, device: &Device) -> ElementType {
        KvPool::element_on(device, self.element)
    }

    /// Bytes of keys and values of so many tokens on a device.
    pub fn kv_bytes(&self, device: &Device, tokens: usize) -> u64 {
        self.kv_shape.bytes_per_token(self.kv_element(device)) as u64 * tokens as u64
    }
}
