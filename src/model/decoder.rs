//! A decoder: its weights and its forward pass.

use std::collections::BTreeSet;

use super::adapter::Adapter;
use super::batch::{Batch, CausalLm, KvGeometry, KvShape, Logits, Span};
use super::block::{Block, Step, gain};
use super::config::{Config, EmbeddingScale};
use super::error::ModelError;
use super::weights::Checkpoint;
use crate::tensor::{
    AdapterSlot, Adapters, Context, Device, ElementType, HostRows, KvCache, KvLayout, KvPool, Mask, Replays,
    Rope, Rows, Tensor, TensorError, Vector, Weight, add_rms_norm, embedding, logits, rms_norm, select_rows,
    softcap,
};

/// A decoder with its cache.
pub(super) struct Decoder {
    /// A stream of its own.
    device: Device,
    body: Body,
    cache: Option<KvCache>,
    replays: Replays,
    /// The slots that adapters have.
    seated: BTreeSet<AdapterSlot>,
}

/// Its weights, on a device.
pub(super) struct Body {
    config: Config,
    ropes: Vec<Rope>,
    embedding: Weight,
    blocks: Vec<Block>,
    norm: Vector,
    /// The embedding itself where the two are tied.
    head: Weight,
}

fn context(span: &Span) -> Context<'_> {
    let Span { rows, context_len, block_table, adapter } = span;
    Context {
        rows: rows.len(),
        len: *context_len,
        blocks: block_table,
        mask: Mask::Causal,
        adapter: *adapter,
    }
}

impl CausalLm for Decoder {
    fn vocab_size(&self) -> usize {
        self.body.config.vocab
    }

    fn max_positions(&self) -> usize {
        self.body.config.max_positions
    }

    fn kv_shape(&self) -> KvShape {
        self.body.config.kv_shape()
    }

    fn kv_element(&self) -> ElementType {
        KvPool::element_on(&self.device, self.body.norm.element())
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn join(&mut self, pool: &KvPool) -> Result<(), ModelError> {
        if !self.can_join(pool) {
            return Err(ModelError::Batch(format!("{pool:?} for keys and values of {:?}", self.kv_shape())));
        }
        self.replays.clear();
        self.cache = Some(pool.cache(&self.device));
        Ok(())
    }

    fn cache(&mut self) -> Option<&mut KvCache> {
        self.cache.as_mut()
    }

    fn computes_apart(&self) -> bool {
        !self.device.is_host()
    }

    fn seat(&mut self, adapter: &Adapter) -> Result<Option<AdapterSlot>, ModelError> {
        let Some(slot) = AdapterSlot::all().find(|slot| !self.seated.contains(slot)) else { return Ok(None) };
        let Self { body, device, .. } = self;
        let to = (&*device, body.norm.element());
        let mut layers = body.blocks.iter_mut().zip(adapter.layers());
        // taken from now on, also if it cannot be emptied again: nobody else is to find what is left there
        self.seated.insert(slot);
        if let Err(error) = layers.try_for_each(|(block, parts)| block.seat(slot, parts, to)) {
            let _ = self.unseat(slot);
            return Err(error.into());
        }
        // what was recorded is recorded anew, now that it is not a request that waits for it
        let Self { body, cache, replays, .. } = self;
        if let (Some(rows), Some(cache)) = (replays.adapt(Adapters::Some), cache)
            && let Err(error) = replays.record(cache, rows, |rows| body.forward(rows))
        {
            let _ = self.unseat(slot);
            return Err(error.into());
        }
        Ok(Some(slot))
    }

    fn unseat(&mut self, slot: AdapterSlot) -> Result<(), ModelError> {
        let Self { body, device, replays, seated, .. } = self;
        let emptied = body.blocks.iter_mut().map(|block| block.unseat(slot, device));
        emptied.fold(Ok(()), Result::and)?;
        seated.remove(&slot);
        // passes that are recorded for more adapters than there are left do for those
        if seated.is_empty() {
            replays.adapt(Adapters::None);
        }
        Ok(())
    }

    fn reserve(&mut self, rows: usize, contexts: usize) -> Result<(), ModelError> {
        if !self.device.takes_memory_for_passes() {
            return Ok(());
        }
        let bytes_per_token = self.kv_token_bytes();
        let Self { device, body, cache, replays, .. } = self;
        // first those whose results stay: they would take pieces that the largest pass leaves for others
        if let Some(cache) = cache {
            replays.record(cache, contexts, |rows| body.forward(rows))?;
        }
        let rows = rows.max(contexts + 1);
        let block_size = cache.as_ref().map_or(REHEARSAL_BLOCK, |cache| cache.layout().block_size);
        let longest = body.config.max_positions.min(rows);
        let KvShape { layers, kv_heads, head_dim } = body.config.kv_shape();
        let layout =
            KvLayout { layers, blocks: longest.div_ceil(block_size), block_size, kv_heads, head_dim };
        let no_room = ModelError::Memory { tokens: longest, bytes_per_token };
        // in blocks of its own: those of a pool may be somebody's
        let own = KvCache::new(device, layout, body.norm.element()).ok_or(no_room)?;
        body.compute(&own, &Batch::rehearsal(rows, contexts, longest, block_size))?;
        device.wait()?;
        Ok(())
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        let Self { body, cache, replays, seated, .. } = self;
        let Some(cache) = cache else {
            return Err(ModelError::Batch("a forward pass before the model has a cache".to_owned()));
        };
        if batch.tokens.is_empty() {
            return Ok(Logits::new(Vec::new(), body.config.vocab));
        }
        let contexts = body.checked(cache, batch)?;
        if let Some(slot) =
            batch.spans.iter().filter_map(|span| span.adapter).find(|slot| !seated.contains(slot))
        {
            return Err(ModelError::Batch(format!("{slot:?}, where no adapter is")));
        }
        let host = host_rows(batch, &contexts);
        if let Some(logits) = replays.run(cache, &host, |rows| body.forward(rows))? {
            return Ok(Logits::of(logits));
        }
        Ok(Logits::of(body.forward(&Rows::new(cache, host)?)?))
    }
}

/// A block of the cache that a rehearsal makes for itself where there is none to do as.
const REHEARSAL_BLOCK: usize = 16;

/// The name of the embedding, behind the model's prefix.
pub(super) const EMBEDDING: &str = "embed_tokens.weight";

fn host_rows<'a>(batch: &'a Batch, contexts: &'a [Context<'a>]) -> HostRows<'a> {
    let Batch { tokens, positions, slots, logit_rows: wanted, .. } = batch;
    HostRows { tokens, positions, slots, wanted, contexts }
}

impl Body {
    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of weights of which a pass reads a row a token: the embedding, where it is not the last layer, too.
    pub(super) fn looked_up_bytes(&self) -> u64 {
        if self.config.tied_embeddings { 0 } else { self.embedding.bytes().len() as u64 }
    }

    /// The same weights on a device. Those that it has already, for whomever, are shared.
    pub(super) fn on(&self, device: &Device) -> Result<Self, TensorError> {
        let Self { config, embedding, blocks, norm, head, .. } = self;
        Ok(Self {
            ropes: ropes(config, device)?,
            embedding: embedding.on(device)?,
            blocks: blocks.iter().map(|block| block.on(device)).collect::<Result<_, _>>()?,
            norm: norm.on(device)?,
            head: head.on(device)?,
            config: config.clone(),
        })
    }

    /// The contexts of a batch that fits the model and a cache.
    fn checked<'b>(&self, cache: &KvCache, batch: &'b Batch) -> Result<Vec<Context<'b>>, ModelError> {
        let KvLayout { blocks, block_size, .. } = cache.layout();
        let Config { vocab, max_positions, .. } = self.config;
        batch.check(vocab, max_positions, KvGeometry { blocks, block_size })?;
        Ok(batch.spans.iter().map(context).collect())
    }

    /// One pass that is not recorded.
    fn compute(&self, cache: &KvCache, batch: &Batch) -> Result<Tensor, ModelError> {
        let contexts = self.checked(cache, batch)?;
        Ok(self.forward(&Rows::new(cache, host_rows(batch, &contexts))?)?)
    }

    /// The logits of the wanted rows: `[wanted, vocab]`.
    fn forward(&self, rows: &Rows<'_>) -> Result<Tensor, TensorError> {
        let Self { config, ropes, embedding: table, blocks, norm, head } = self;
        let angles = ropes.iter().map(|rope| rope.angles(rows)).collect::<Result<_, _>>()?;
        let step = Step { config, angles, rows };

        let mut x = embedding(table, rows.tokens(), self.embedding_scale())?; // [rows, hidden]
        let mut delta = None;
        for (i, block) in blocks.iter().enumerate() {
            delta = Some(block.forward(&mut x, delta.as_ref(), i, &step)?);
        }
        let mut x = select_rows(&x, rows.wanted())?; // [wanted, hidden]
        let x = match &delta {
            Some(delta) => add_rms_norm(&mut x, &select_rows(delta, rows.wanted())?, norm, config.norm_eps)?,
            None => rms_norm(&x, norm, config.norm_eps)?,
        };
        let logits = logits(&x, head)?;
        match config.logit_softcap {
            Some(cap) => softcap(logits, cap),
            None => Ok(logits),
        }
    }

    fn embedding_scale(&self) -> f32 {
        match self.config.embedding_scale {
            EmbeddingScale::One => 1.0,
            EmbeddingScale::RootOfHidden => {
                self.embedding.element().rounded((self.config.hidden as f32).sqrt())
            }
        }
    }
}

fn ropes(config: &Config, device: &Device) -> Result<Vec<Rope>, TensorError> {
    config.ropes.iter().map(|rope| Rope::new(rope.table(), device)).collect()
}

impl Decoder {
    /// Without a cache. `body` is on `device`, or on another stream of it.
    pub(super) fn new(body: Body, device: Device) -> Self {
        let replays = Replays::new(body.config.max_positions);
        Self { device, body, cache: None, replays, seated: BTreeSet::new() }
    }
}

impl Body {
    /// Takes its tensors into the host's memory, by the names that `transformers` gives them.
    pub(super) fn load(config: Config, from: &mut Checkpoint<'_>) -> Result<Self, ModelError> {
        let Config { hidden, vocab, .. } = config;
        let embedding = from.take(&config.tensor(EMBEDDING), &[vocab, hidden])?;
        let blocks =
            (0..config.layers.len()).map(|i| Block::load(&config, i, from)).collect::<Result<_, _>>()?;
        let norm = gain(&config, &config.tensor("norm"), hidden, from)?;
        let head = if config.tied_embeddings {
            embedding.clone()
        } else {
            from.take(&config.head_name(), &[vocab, hidden])?
        };
        from.leave_out(|name| config.leaves_out(name));
        let ropes = ropes(&config, &Device::CPU)?;
        Ok(Self { config, ropes, embedding, blocks, norm, head })
    }
}
