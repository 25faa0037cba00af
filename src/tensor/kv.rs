//! The paged key-value cache.
//!
//! Layout of a layer: `[blocks, block_size, kv_heads, head_dim]` for keys, the same for values. A slot is
//! `block * block_size + offset`. Allocated once; a step allocates nothing of it.
//!
//! A [`KvPool`] is the memory; several models of equal shape may keep their contexts in one. Each has a [`KvCache`]: the
//! blocks of the pool that are its own for now.
//!
//! Invariants: a block is held by one cache at most, and only rows over that cache read or write it; a cache is used by
//! one thread at a time; a block that is given back is not in use by work that a device has yet to do.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attention::Attention;
use super::cpu::Level;
use super::device::{Device, Place};
use super::encoding::ElementType;
use super::error::{Result, TensorError};
use super::rows::{Query, Rows};
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

/// Memory for keys and values of all layers, on a device. Clones are the same memory.
#[derive(Clone)]
pub struct KvPool(Arc<Pool>);

struct Pool {
    layout: KvLayout,
    element: ElementType,
    store: Store,
    // Guards which blocks nobody holds. Models take some before a step and give some back after it; none of them owns the
    // list, and a message to somebody who did would make each step wait for him.
    free: Mutex<Vec<u32>>,
}

pub(super) enum Store {
    Host(cpu::KvStore),
    Device(gpu::KvStore),
}

impl KvPool {
    /// Allocates all of it; `None` if the memory is not to be had. `activations` is the type of the models'.
    pub fn new(device: &Device, layout: KvLayout, activations: ElementType) -> Option<Self> {
        let element = Self::element_on(device, activations);
        let store = match &device.0 {
            Place::Cpu => Store::Host(cpu::KvStore::new(layout)?),
            // by a stream of its own, for it outlives those of the models
            Place::Gpu(gpu) => Store::Device(gpu::KvStore::new(&gpu.fork().ok()?, layout, element)?),
        };
        let free = Mutex::new((0..u32::try_from(layout.blocks).ok()?).rev().collect());
        Some(Self(Arc::new(Pool { layout, element, store, free })))
    }

    /// How a device keeps the keys and values of a model with such activations: as those on a GPU, as `f32` on the host.
    pub const fn element_on(device: &Device, activations: ElementType) -> ElementType {
        match &device.0 {
            Place::Cpu => ElementType::F32,
            Place::Gpu(_) => activations,
        }
    }

    /// Its sizes.
    pub fn layout(&self) -> KvLayout {
        self.0.layout
    }

    /// How it keeps a number.
    pub fn element(&self) -> ElementType {
        self.0.element
    }

    /// Whether two handles are of one memory.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> usize {
        self.0.free().len()
    }

    /// A cache that holds nothing of it yet, for passes that `device` computes: the pool's own, or another stream of it.
    pub fn cache(&self, device: &Device) -> KvCache {
        let held = vec![false; self.0.layout.blocks];
        KvCache { pool: self.clone(), device: device.clone(), held, one_thread: PhantomData }
    }
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KvPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvPool").field("layout", &self.0.layout).field("free", &self.free()).finish()
    }
}

/// One model's part of a [`KvPool`]. Dropping it gives all of it back.
pub struct KvCache {
    pool: KvPool,
    /// The stream that computes over it.
    device: Device,
    /// Whether a block is its own.
    held: Vec<bool>,
    /// Its blocks are written through a shared reference.
    one_thread: PhantomData<Cell<()>>,
}

impl KvCache {
    /// All of a pool of its own; `None` if the memory is not to be had.
    pub fn new(device: &Device, layout: KvLayout, activations: ElementType) -> Option<Self> {
        let mut cache = KvPool::new(device, layout, activations)?.cache(device);
        cache.take(layout.blocks);
        Some(cache)
    }

    /// The pool that it is part of.
    pub const fn pool(&self) -> &KvPool {
        &self.pool
    }

    /// The sizes of the pool.
    pub fn layout(&self) -> KvLayout {
        self.pool.layout()
    }

    /// Whether a block is its own.
    pub fn holds(&self, block: u32) -> bool {
        self.held.get(block as usize).is_some_and(|held| *held)
    }

    /// At most so many blocks more, whatever is in them.
    pub fn take(&mut self, most: usize) -> Vec<u32> {
        let mut free = self.pool.0.free();
        let left = free.len().saturating_sub(most);
        let taken = free.split_off(left);
        for block in &taken {
            self.held[*block as usize] = true;
        }
        taken
    }

    /// Gives blocks back, once passes that use them are done. Those that are not its own stay where they are.
    pub fn give(&mut self, blocks: impl IntoIterator<Item = u32>) {
        let mut blocks = blocks.into_iter().filter(|block| self.holds(*block)).collect::<Vec<_>>();
        if blocks.is_empty() {
            return;
        }
        if let Err(error) = self.device.wait() {
            tracing::error!(%error, blocks = blocks.len(), "blocks of a device that fails are nobody's any more");
            return;
        }
        blocks.retain(|block| std::mem::take(&mut self.held[*block as usize]));
        self.pool.0.free().extend(blocks);
    }

    pub(super) fn store(&self) -> &Store {
        &self.pool.0.store
    }

    /// The stream that computes over it, if that is a GPU's.
    pub(super) fn gpu(&self) -> Result<&gpu::Gpu> {
        match &self.device.0 {
            Place::Gpu(gpu) => Ok(gpu),
            Place::Cpu => Err(TensorError::shape("cache", "a cache on a GPU for passes on the host")),
        }
    }
}

impl Drop for KvCache {
    fn drop(&mut self) {
        self.give(0..self.held.len() as u32);
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.iter().filter(|held| **held).count();
        f.debug_struct("KvCache").field("pool", &self.pool).field("held", &held).finish_non_exhaustive()
    }
}

/// Writes keys and values of rows on the host into `slots`, which are theirs.
///
/// # Panics
/// If the layer is outside the layout, or there are not as many slots as rows.
pub(super) fn write(
    store: &cpu::KvStore,
    rows: &Rows<'_>,
    layer: usize,
    slots: &[u32],
    [keys, values]: [&[f32]; 2],
) {
    assert!(slots.len() == rows.len(), "slots of other rows");
    // SAFETY: rows are made for slots in blocks that their cache holds, it gives none away while they borrow it, and no
    // other thread has it
    unsafe { store.write(layer, slots, keys, values) };
}

/// Attention of rows on the host over `queries`, which are theirs.
pub(super) fn attend(
    store: &cpu::KvStore,
    rows: &Rows<'_>,
    layer: usize,
    q: &[f32],
    queries: &[Query<'_>],
    attention: Attention,
) -> Vec<f32> {
    assert!(queries.len() == rows.len(), "queries of other rows");
    // SAFETY: as above
    unsafe { cpu::attend(Level::best(), q, queries, (store, layer), attention) }
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

    #[test]
    fn a_block_is_held_by_one_cache_and_given_back_once() {
        let layout = KvLayout { layers: 1, blocks: 5, block_size: 4, kv_heads: 1, head_dim: 2 };
        let pool = KvPool::new(&Device::CPU, layout, ElementType::F32).unwrap();
        let [mut one, mut other] = [(); 2].map(|()| pool.cache(&Device::CPU));
        let (ones, others) = (one.take(3), other.take(9));
        assert_eq!((ones.len(), others.len(), pool.free()), (3, 2, 0));
        assert!(ones.iter().all(|block| one.holds(*block) && !other.holds(*block)));
        other.give(ones.clone());
        assert_eq!(pool.free(), 0, "they are not its own");
        one.give([ones[0], ones[0], 77]);
        assert_eq!((pool.free(), one.holds(ones[0])), (1, false));
        assert_eq!(other.take(1), [ones[0]]);
        drop(other);
        assert_eq!(pool.free(), 3);
    }
}
