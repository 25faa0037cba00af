//! The seam between the engine and a model: a ragged batch in, logits out.

use std::ops::Range;

use super::ModelError;

/// One ragged forward: rows of several independent spans, each span = consecutive positions of one context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The token of each row.
    pub tokens: Vec<u32>,
    /// The position of each row in its context.
    pub positions: Vec<u32>,
    /// Where each row's key and value go: `block * block_size + offset`.
    pub slots: Vec<u32>,
    /// The contexts that the rows belong to.
    pub spans: Vec<Span>,
    /// The rows whose logits are wanted, ascending.
    pub logit_rows: Vec<u32>,
}

/// Consecutive rows of one context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The rows of the batch.
    pub rows: Range<usize>,
    /// Tokens in the context, these rows included.
    pub context_len: usize,
    /// The blocks that hold the context, in order.
    pub block_table: Vec<u32>,
}

/// What one token takes in the key-value storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// Key-value heads a layer.
    pub kv_heads: usize,
    /// Numbers a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Bytes of one token's keys and values, in f32.
    pub fn bytes_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * size_of::<f32>()
    }
}

/// How the key-value storage is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvGeometry {
    /// Blocks.
    pub blocks: usize,
    /// Tokens a block.
    pub block_size: usize,
}

/// A causal language model with its own key-value storage.
pub trait CausalLm: Send {
    /// A count of the vocabulary: tokens are below it.
    fn vocab_size(&self) -> usize;
    /// The longest context that the model was made for.
    fn max_positions(&self) -> usize;
    /// What one token takes in the key-value storage.
    fn kv_shape(&self) -> KvShape;
    /// Allocates the key-value storage, once.
    fn allocate_kv(&mut self, geometry: KvGeometry) -> Result<(), ModelError>;
    /// Computes the rows of a batch, writes their keys and values, and gives the logits wanted.
    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError>;
}

/// Row-major logits, `[logit_rows, vocab]`.
#[derive(Debug, Clone)]
pub struct Logits {
    values: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// Wraps row-major values; their count is a multiple of `vocab`.
    pub fn new(values: Vec<f32>, vocab: usize) -> Self {
        debug_assert!(values.len().is_multiple_of(vocab));
        Self { values, vocab }
    }

    /// The logits of the i-th wanted row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.vocab..(i + 1) * self.vocab]
    }

    /// The logits of the i-th wanted row, to change.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.values[i * self.vocab..(i + 1) * self.vocab]
    }
}
