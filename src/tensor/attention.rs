//! The paged key-value cache, and attention over it.
//!
//! Layout of a layer: `[blocks, block_size, kv_heads, head_dim]` for keys, the same for values. A slot is
//! `block * block_size + offset`. Allocated once; a step allocates nothing of it.

use rayon::prelude::*;

use super::linear::dot;

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
    const fn slot(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// Keys and values of all layers.
pub struct KvCache {
    layout: KvLayout,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl KvCache {
    /// Allocates all of it.
    pub fn new(layout: KvLayout) -> Self {
        let layer = || vec![0.0; layout.blocks * layout.block_size * layout.slot()];
        let all = || (0..layout.layers).map(|_| layer()).collect();
        Self { layout, keys: all(), values: all() }
    }

    /// Writes `[rows, kv_heads, head_dim]` keys and values of `layer` into `slots`, one a row.
    ///
    /// # Panics
    /// If a slot or the layer is outside the layout.
    pub fn write(&mut self, layer: usize, slots: &[u32], keys: &[f32], values: &[f32]) {
        let width = self.layout.slot();
        for (i, slot) in slots.iter().enumerate() {
            let (from, to) = (i * width, *slot as usize * width);
            self.keys[layer][to..to + width].copy_from_slice(&keys[from..from + width]);
            self.values[layer][to..to + width].copy_from_slice(&values[from..from + width]);
        }
    }
}

/// Where a row's context lies: it sees the first `visible` tokens of `blocks`, itself the last of them.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The block table of its context.
    pub blocks: &'a [u32],
    /// Tokens that it attends to.
    pub visible: usize,
}

/// Causal attention of each row of `q` `[rows, heads, head_dim]` over its own context: `[rows, heads, head_dim]`.
/// Query heads are grouped over key-value heads (Ainslie et al., 2023). Two passes a head: scores with their
/// maximum, then the weighted sum, both in the order of the context.
///
/// # Panics
/// If `q` is not one row a query, or a query's blocks do not hold what it sees.
pub fn attend(q: &[f32], queries: &[Query<'_>], cache: &KvCache, layer: usize) -> Vec<f32> {
    let KvLayout { block_size, kv_heads, head_dim, .. } = cache.layout;
    let mut out = vec![0.0; q.len()];
    if queries.is_empty() {
        return out;
    }
    let width = q.len() / queries.len();
    let group = width / head_dim / kv_heads;
    let (keys, values) = (&cache.keys[layer], &cache.values[layer]);
    let scale = (head_dim as f32).sqrt().recip();
    let row = |((out, q), query): ((&mut [f32], &[f32]), &Query<'_>)| {
        let at = |token: usize, head: usize| {
            let slot = query.blocks[token / block_size] as usize * block_size + token % block_size;
            (slot * kv_heads + head) * head_dim
        };
        let mut scores = vec![0.0; query.visible];
        for (h, (out, q)) in out.chunks_exact_mut(head_dim).zip(q.chunks_exact(head_dim)).enumerate() {
            let mut highest = f32::NEG_INFINITY;
            for (token, score) in scores.iter_mut().enumerate() {
                *score = scale * dot(q, &keys[at(token, h / group)..][..head_dim]);
                highest = highest.max(*score);
            }
            let mut total = 0.0;
            for (token, score) in scores.iter().enumerate() {
                let share = (score - highest).exp();
                total += share;
                for (o, v) in out.iter_mut().zip(&values[at(token, h / group)..][..head_dim]) {
                    *o += share * v;
                }
            }
            for o in out.iter_mut() {
                *o /= total;
            }
        }
    };
    out.par_chunks_mut(width).zip(q.par_chunks(width)).zip(queries.par_iter()).for_each(row);
    out
}
