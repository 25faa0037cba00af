//! The paged key-value cache.
//!
//! Layout of a layer: `[blocks, block_size, kv_heads, head_dim]` for keys, the same for values. A slot is
//! `block * block_size + offset`. Allocated once; a step allocates nothing of it.

use super::device::{Device, Place};
use super::weight::ElementType;
use super::{cpu, gpu};

/// The sizes of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    /// Decoder layers.
    pub layers: usize,
    /// Blocks in the pool.
    pub blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvLayout {
    /// Elements of one token's keys in one layer.
    pub(super) const fn slot(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Tokens that it holds.
    pub(super) const fn slots(&self) -> usize {
        self.blocks * self.block_size
    }

    /// Elements of one layer's keys; `None` if no machine can count them.
    pub(super) fn layer(&self) -> Option<usize> {
        self.blocks.checked_mul(self.block_size)?.checked_mul(self.slot())
    }
}

/// Keys and values of all layers, on a device.
pub struct KvCache {
    layout: KvLayout,
    store: Store,
}

pub(super) enum Store {
    Host(cpu::KvStore),
    Device(gpu::KvStore),
}

impl KvCache {
    /// Allocates all of it; `None` if the memory is not to be had. On a GPU its elements are of the type that the
    /// model's weights have; on the host they are `f32`.
    pub fn new(device: &Device, layout: KvLayout, element: ElementType) -> Option<Self> {
        let store = match &device.0 {
            Place::Cpu => Store::Host(cpu::KvStore::new(layout)?),
            Place::Gpu(gpu) => Store::Device(gpu::KvStore::new(gpu, layout, element)?),
        };
        Some(Self { layout, store })
    }

    /// How a device keeps the keys and values of a model whose weights are stored so.
    pub const fn element(device: &Device, weights: ElementType) -> ElementType {
        match &device.0 {
            Place::Cpu => ElementType::F32,
            Place::Gpu(_) => weights,
        }
    }

    /// Its sizes.
    pub const fn layout(&self) -> KvLayout {
        self.layout
    }

    pub(super) const fn store(&self) -> &Store {
        &self.store
    }

    pub(super) const fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_no_memory_holds_is_refused() {
        let layout =
            KvLayout { layers: 4, blocks: usize::MAX / 64, block_size: 16, kv_heads: 8, head_dim: 128 };
        assert!(KvCache::new(&Device::CPU, layout, ElementType::F32).is_none());
    }
}
