//! What goes into a forward pass and what comes out.

use std::borrow::Cow;
use std::ops::Range;

use super::adapter::Adapter;
use super::error::ModelError;
use crate::tensor::{AdapterSlot, Choice, Device, ElementType, KvCache, KvLayout, KvPool, Tensor, choose};

/// One ragged forward: rows of several independent spans, each span consecutive positions of one context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// A token a row.
    pub tokens: Vec<u32>,
    /// Its position in its context.
    pub positions: Vec<u32>,
    /// Where its keys and values go: `block * block_size + offset`.
    pub slots: Vec<u32>,
    /// The contexts, in the order of their rows; together they cover all rows.
    pub spans: Vec<Span>,
    /// The rows whose logits are wanted, in the order in which they are given back.
    pub logit_rows: Vec<u32>,
}

/// Consecutive positions of one context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its rows in the batch.
    pub rows: Range<usize>,
    /// Tokens in the context, these rows included.
    pub context_len: usize,
    /// The blocks that hold the context, in its order; more than are needed do no harm.
    pub block_table: Vec<u32>,
    /// The adapter that its rows go through, if any: one that is seated.
    pub adapter: Option<AdapterSlot>,
}

/// The most prompt rows of a pass that are scored over the whole vocabulary: each takes `vocab` numbers.
pub const MOST_SCORED_ROWS: usize = 64;

/// The sizes of a model's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Decoder layers.
    pub layers: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvShape {
    /// Bytes of cache that one token takes: keys and values of all layers, kept as such elements.
    pub const fn bytes_per_token(&self, element: ElementType) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * element.size()
    }
}

/// The sizes of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvGeometry {
    /// Blocks in the pool.
    pub blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
}

/// A causal language model with a paged key-value cache.
pub trait CausalLm: Send {
    /// Tokens are below it; a row of logits has as many.
    fn vocab_size(&self) -> usize;
    /// Positions are below it.
    fn max_positions(&self) -> usize;
    /// The sizes of its keys and values.
    fn kv_shape(&self) -> KvShape;
    /// How its device keeps a number of them.
    fn kv_element(&self) -> ElementType;
    /// Where it computes.
    fn device(&self) -> Device {
        Device::CPU
    }
    /// Bytes that the keys and values of a token take.
    fn kv_token_bytes(&self) -> usize {
        self.kv_shape().bytes_per_token(self.kv_element())
    }
    /// A pool that the model can keep its keys and values in, beside others of the same sizes on the same device.
    fn kv_pool(&self, geometry: KvGeometry) -> Result<KvPool, ModelError> {
        let KvGeometry { blocks, block_size } = geometry;
        let KvShape { layers, kv_heads, head_dim } = self.kv_shape();
        let tokens = blocks.saturating_mul(block_size);
        // slots are u32
        if tokens == 0 || u32::try_from(tokens).is_err() {
            return Err(ModelError::Batch(format!("a cache of {blocks} blocks of {block_size} tokens")));
        }
        let layout = KvLayout { layers, blocks, block_size, kv_heads, head_dim };
        let bytes_per_token = self.kv_token_bytes();
        let pool = KvPool::new(&self.device(), layout, self.kv_element());
        pool.ok_or(ModelError::Memory { tokens, bytes_per_token })
    }
    /// Whether it can keep its keys and values in a pool of another model on its device.
    fn can_join(&self, pool: &KvPool) -> bool {
        let KvLayout { layers, kv_heads, head_dim, .. } = pool.layout();
        (KvShape { layers, kv_heads, head_dim }, pool.element()) == (self.kv_shape(), self.kv_element())
    }
    /// Takes its cache from a pool from now on. It holds no block of it yet.
    fn join(&mut self, pool: &KvPool) -> Result<(), ModelError>;
    /// The cache, once there is one. A pass takes blocks that it holds.
    fn cache(&mut self) -> Option<&mut KvCache>;
    /// Has a pool of its own, and all of it, in place of the cache before.
    fn allocate_kv(&mut self, geometry: KvGeometry) -> Result<(), ModelError> {
        let pool = self.kv_pool(geometry)?;
        self.join(&pool)?;
        if let Some(cache) = self.cache() {
            cache.take(geometry.blocks);
        }
        Ok(())
    }
    /// Adds an adapter that spans may name from now on; none where it has as many as it can have. It is one of a model of
    /// this description.
    fn seat(&mut self, adapter: &Adapter) -> Result<Option<AdapterSlot>, ModelError> {
        let _ = adapter;
        Ok(None)
    }
    /// Takes an adapter out, which no span names any more. Where that fails its slot stays taken.
    fn unseat(&mut self, slot: AdapterSlot) -> Result<(), ModelError> {
        let _ = slot;
        Ok(())
    }
    /// Takes the memory that passes work in: so that it is missed now, while others serve, and not by a request. `rows`
    /// is the most of one pass, `contexts` the most that get their next token in one, which others may share with prompts;
    /// of these, at most [`MOST_SCORED_ROWS`] rows are scored. What depends on the cache is done if there is one.
    fn reserve(&mut self, rows: usize, contexts: usize) -> Result<(), ModelError> {
        let _ = (rows, contexts);
        Ok(())
    }
    /// Whether a pass goes on after [`CausalLm::forward`] has returned, until its logits are read: then there is time for
    /// something else in between.
    fn computes_apart(&self) -> bool {
        false
    }
    /// Computes one batch: writes its keys and values and gives the logits asked for.
    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError>;
}

/// Logits, one row for each of a batch's `logit_rows`, where they were computed.
#[derive(Debug)]
pub struct Logits(Tensor);

impl Logits {
    /// From rows of `vocab` values in the host's memory.
    ///
    /// # Panics
    /// If `values` is not a whole number of rows.
    pub fn new(values: Vec<f32>, vocab: usize) -> Self {
        let rows = values.len() / vocab.max(1);
        Self(Tensor::from_vec(values, rows, vocab).expect("logits are whole rows"))
    }

    pub(super) const fn of(rows: Tensor) -> Self {
        Self(rows)
    }

    /// How many rows there are.
    pub const fn rows(&self) -> usize {
        self.0.rows()
    }

    /// Row `i`: a value for each token. Copied where it was computed elsewhere than in the host's memory.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> Result<Cow<'_, [f32]>, ModelError> {
        Ok(self.0.row(i)?)
    }

    /// A token of row `rows[i]` for each of `choices`, all at once; none where nothing can be chosen from a row. Only ids
    /// are copied. A row has one choice, which may spend it: what else is wanted of it is read before.
    ///
    /// # Panics
    /// If there are not as many rows as choices.
    pub fn choose(&self, rows: &[u32], choices: &[Choice]) -> Result<Vec<Option<u32>>, ModelError> {
        Ok(choose(&self.0, rows, choices)?)
    }
}

impl Batch {
    /// So many contexts of one token, all in the first slot.
    pub(super) fn first_tokens(contexts: usize) -> Self {
        let span = |row| Span { rows: row..row + 1, context_len: 1, block_table: vec![0], adapter: None };
        Self {
            tokens: vec![0; contexts],
            positions: vec![0; contexts],
            slots: vec![0; contexts],
            spans: (0..contexts).map(span).collect(),
            logit_rows: (0..contexts as u32).collect(),
        }
    }

    /// As much at once as a pass over so many rows ever has: so many contexts of one token, and prompts of at most `longest`
    /// tokens in what is left of the rows; the logits of each context are wanted, and those of as many rows of prompts as
    /// are ever scored.
    pub(super) fn rehearsal(rows: usize, contexts: usize, longest: usize, block_size: usize) -> Self {
        let mut batch = Self::first_tokens(contexts);
        while batch.tokens.len() < rows {
            let (first, len) = (batch.tokens.len(), longest.min(rows - batch.tokens.len()));
            let block_table = (0..len.div_ceil(block_size) as u32).collect();
            let rows = first..first + len;
            batch.spans.push(Span { rows, context_len: len, block_table, adapter: None });
            batch.tokens.resize(first + len, 0);
            batch.positions.extend(0..len as u32);
            batch.slots.extend(0..len as u32);
        }
        batch.logit_rows = (0..rows.min(contexts + MOST_SCORED_ROWS) as u32).collect();
        batch
    }

    /// Refuses a batch that contradicts itself, the model or its cache, before any of it is written.
    pub(super) fn check(&self, vocab: usize, positions: usize, cache: KvGeometry) -> Result<(), ModelError> {
        let wrong = |what: String| Err(ModelError::Batch(what));
        let rows = self.tokens.len();
        if self.positions.len() != rows || self.slots.len() != rows {
            let (p, s) = (self.positions.len(), self.slots.len());
            return wrong(format!("{rows} tokens, {p} positions, {s} slots"));
        }
        if let Some(token) = self.tokens.iter().find(|t| **t as usize >= vocab) {
            return wrong(format!("token {token} of a vocabulary of {vocab}"));
        }
        if let Some(slot) = self.slots.iter().find(|s| **s as usize >= cache.blocks * cache.block_size) {
            return wrong(format!("slot {slot} in {} blocks of {}", cache.blocks, cache.block_size));
        }
        if let Some(row) = self.logit_rows.iter().find(|r| **r as usize >= rows) {
            return wrong(format!("logits of row {row} of {rows}"));
        }
        let mut covered = 0;
        for Span { rows: span, context_len, block_table, .. } in &self.spans {
            if span.start != covered || span.end < span.start || span.end > rows {
                return wrong(format!("a span of rows {span:?} where row {covered} of {rows} is next"));
            }
            covered = span.end;
            let Some(first) = context_len.checked_sub(span.len()) else {
                return wrong(format!("{} rows of a context of {context_len}", span.len()));
            };
            if *context_len > positions {
                return wrong(format!("a context of {context_len} in a model of {positions} positions"));
            }
            if context_len.div_ceil(cache.block_size) > block_table.len() {
                return wrong(format!("a context of {context_len} in {} blocks", block_table.len()));
            }
            if let Some(block) = block_table.iter().find(|b| **b as usize >= cache.blocks) {
                return wrong(format!("block {block} of {}", cache.blocks));
            }
            for (row, position) in span.clone().zip(first..) {
                let slot = block_table[position / cache.block_size] as usize * cache.block_size
                    + position % cache.block_size;
                if self.positions[row] as usize != position || self.slots[row] as usize != slot {
                    let (p, s) = (self.positions[row], self.slots[row]);
                    return wrong(format!(
                        "row {row} at position {p}, slot {s}: its span says {position}, {slot}"
                    ));
                }
            }
        }
        if covered == rows { Ok(()) } else { wrong(format!("spans of {covered} rows for {rows} tokens")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_contradicts_itself_is_refused() {
        let cache = KvGeometry { blocks: 4, block_size: 2 };
        let span = Span { rows: 0..2, context_len: 3, block_table: vec![3, 1], adapter: None };
        let good = Batch {
            tokens: vec![5, 6],
            positions: vec![1, 2],
            slots: vec![7, 2],
            spans: vec![span],
            logit_rows: vec![1],
        };
        let check = |b: &Batch| b.check(10, 4, cache);
        check(&good).unwrap();
        check(&Batch::default()).unwrap();
        let bad: [fn(&mut Batch); 12] = [
            |b| b.tokens[0] = 10,
            |b| b.positions[0] = 0,
            |b| b.slots[1] = 3,
            |b| b.slots[1] = 8,
            |b| b.logit_rows[0] = 2,
            |b| b.spans[0].rows = 0..1,
            |b| b.spans[0].rows = 1..2,
            |b| b.spans[0].context_len = 1,
            |b| b.spans[0].context_len = 5,
            |b| b.spans[0].block_table = vec![3],
            |b| b.spans[0].block_table = vec![3, 4],
            |b| b.spans.clear(),
        ];
        for (i, change) in bad.iter().enumerate() {
            let mut batch = good.clone();
            change(&mut batch);
            assert!(matches!(check(&batch), Err(ModelError::Batch(_))), "change {i} was taken");
        }
    }
}
