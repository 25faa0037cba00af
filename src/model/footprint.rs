//! What a model will take of a device, told from the headers of its files alone.

use std::path::Path;

use super::batch::KvShape;
use super::config::Config;
use super::error::ModelError;
use super::quantize::Recipe;
use super::weights::footprint;
use crate::ids::Quantize;
use crate::tensor::{Device, ElementType, KvPool};

/// What a model takes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// The sizes of its keys and values.
    pub kv_shape: KvShape,
    /// What its last norm gives on a GPU.
    activations: ElementType,
}

impl Footprint {
    /// Of the model in `dir`, loaded so; no weight is read.
    pub fn of(dir: &Path, quantize: Quantize) -> Result<Self, ModelError> {
        let config = Config::read(&dir.join("config.json"))?;
        let recipe = Recipe { quantize, layers: config.layers.len() };
        let (weight_bytes, activations) =
            footprint(dir, recipe, &config.tensor("norm.weight"), |name| config.leaves_out(name))?;
        Ok(Self { weight_bytes, kv_shape: config.kv_shape(), activations })
    }

    /// How a device keeps its keys and values.
    pub const fn kv_element(&self, device: &Device) -> ElementType {
        KvPool::element_on(device, self.activations)
    }

    /// Bytes of keys and values of so many tokens on a device.
    pub fn kv_bytes(&self, device: &Device, tokens: usize) -> u64 {
        self.kv_shape.bytes_per_token(self.kv_element(device)) as u64 * tokens as u64
    }
}
