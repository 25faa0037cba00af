//! What a model will take of a device, told from the headers of its files alone.

use std::path::Path;

use super::batch::KvShape;
use super::decoder::EMBEDDING;
use super::error::ModelError;
use super::quantize::Recipe;
use super::source::Source;
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
    /// What a GPU keeps activations in.
    activations: ElementType,
}

impl Footprint {
    /// Of the model at `path`, a folder or a GGUF file, loaded so; no weight is read.
    pub fn of(path: &Path, quantize: Quantize) -> Result<Self, ModelError> {
        let source = Source::find(path)?;
        let config = source.config()?;
        let tensors = source.tensors(&config)?;
        let recipe = Recipe { quantize, layers: config.layers.len() };
        let weight_bytes = footprint(&tensors, recipe, |name| config.leaves_out(name))?;
        let activations = tensors.activations(&config.tensor(EMBEDDING))?;
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
