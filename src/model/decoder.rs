//! The Llama decoder (Touvron et al., 2023): its weights and its forward pass.

use super::batch::{Batch, CausalLm, KvGeometry, KvShape, Logits, Span};
use super::config::Config;
use super::error::ModelError;
use super::projection::{Bias, Projection};
use super::weights::Checkpoint;
use crate::tensor::{
    Context, Device, HostRows, KvCache, KvLayout, Mask, Replays, Rope, RopeAngles, Rows, Tensor, TensorError,
    Vector, Weight, add_rms_norm, embedding, gated_linear, linear, logits, paged_attention, rms_norm,
    rope_write_kv, select_rows,
};

/// A Llama with its cache.
pub(super) struct Llama {
    /// A stream of its own.
    device: Device,
    body: Body,
    cache: Option<KvCache>,
    replays: Replays,
}

/// Its weights, on a device.
pub(super) struct Body {
    config: Config,
    rope: Rope,
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Vector,
    /// The embedding itself where the two are tied.
    head: Weight,
}

struct Layer {
    attention_norm: Vector,
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    mlp_norm: Vector,
    gate: Projection,
    up: Projection,
    down: Projection,
}

/// What all layers of one forward share.
struct Step<'a> {
    config: &'a Config,
    angles: RopeAngles,
    rows: &'a Rows<'a>,
}

impl Layer {
    /// Takes the residual stream `x` `[rows, hidden]`, and what the layer before has yet to add to it. Gives what this
    /// one has yet to add.
    fn forward(
        &self,
        x: &mut Tensor,
        delta: Option<&Tensor>,
        i: usize,
        step: &Step<'_>,
        cache: &mut KvCache,
    ) -> Result<Tensor, TensorError> {
        let Step { config: Config { norm_eps, .. }, angles, rows } = step;

        let h = match delta {
            Some(delta) => add_rms_norm(x, delta, &self.attention_norm, *norm_eps)?,
            None => rms_norm(x, &self.attention_norm, *norm_eps)?,
        };
        let q = linear(&h, self.q.layer())?; // [rows, heads * head_dim]
        let k = linear(&h, self.k.layer())?; // [rows, kv_heads * head_dim]
        let v = linear(&h, self.v.layer())?;
        let q = rope_write_kv(q, k, &v, angles, (&mut *cache, i), rows)?;
        let h = paged_attention(&q, cache, i, rows)?; // [rows, heads * head_dim]
        let h = linear(&h, self.o.layer())?; // [rows, hidden]

        let h = add_rms_norm(x, &h, &self.mlp_norm, *norm_eps)?;
        let h = gated_linear(&h, self.gate.layer(), self.up.layer())?; // [rows, intermediate]
        linear(&h, self.down.layer()) // [rows, hidden]
    }
}

fn context(span: &Span) -> Context<'_> {
    let Span { rows, context_len, block_table } = span;
    Context { rows: rows.len(), len: *context_len, blocks: block_table, mask: Mask::Causal }
}

impl CausalLm for Llama {
    fn vocab_size(&self) -> usize {
        self.body.config.vocab
    }

    fn max_positions(&self) -> usize {
        self.body.config.max_positions
    }

    fn kv_shape(&self) -> KvShape {
        self.body.config.kv_shape()
    }

    fn allocate_kv(&mut self, geometry: KvGeometry) -> Result<(), ModelError> {
        let KvGeometry { blocks, block_size } = geometry;
        let KvShape { layers, kv_heads, head_dim } = self.kv_shape();
        let tokens = blocks.saturating_mul(block_size);
        // slots are u32
        if tokens == 0 || u32::try_from(tokens).is_err() {
            return Err(ModelError::Batch(format!("a cache of {blocks} blocks of {block_size} tokens")));
        }
        // the one before goes first, so that both are never there at once
        self.replays.clear();
        self.cache = None;
        let layout = KvLayout { layers, blocks, block_size, kv_heads, head_dim };
        self.cache = KvCache::new(&self.device, layout, self.body.embedding.element());
        let bytes_per_token = self.kv_shape().bytes_per_token(&self.device, self.body.embedding.element());
        if self.cache.is_some() { Ok(()) } else { Err(ModelError::Memory { tokens, bytes_per_token }) }
    }

    fn reserve(&mut self, rows: usize, contexts: usize) -> Result<(), ModelError> {
        let Some(cache) = self.cache.as_ref().filter(|_| self.device.takes_memory_for_passes()) else {
            return Ok(());
        };
        let KvLayout { blocks, block_size, .. } = cache.layout();
        let longest = self.body.config.max_positions.min(blocks * block_size);
        // first those whose results stay: they would take pieces that the largest pass leaves for others
        for contexts in Replays::sizes(contexts) {
            self.forward(&Batch::first_tokens(contexts))?;
        }
        let rows = rows.max(contexts + 1);
        self.forward(&Batch::rehearsal(rows, contexts, longest, block_size)).map(drop)
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        let Self { body, cache, replays, .. } = self;
        let config = &body.config;
        let Some(cache) = cache else {
            return Err(ModelError::Batch("a forward pass before allocate_kv".to_owned()));
        };
        let KvLayout { blocks, block_size, .. } = cache.layout();
        batch.check(config.vocab, config.max_positions, KvGeometry { blocks, block_size })?;
        let contexts: Vec<Context<'_>> = batch.spans.iter().map(context).collect();
        let host = HostRows {
            tokens: &batch.tokens,
            positions: &batch.positions,
            slots: &batch.slots,
            wanted: &batch.logit_rows,
            contexts: &contexts,
        };
        if batch.tokens.is_empty() {
            return Ok(Logits::new(Vec::new(), config.vocab));
        }
        if let Some(logits) = replays.run(cache, &host, |cache, rows| body.forward(cache, rows))? {
            return Ok(Logits::of(logits));
        }
        let rows = Rows::new(cache, host)?;
        Ok(Logits::of(body.forward(cache, &rows)?))
    }
}

impl Body {
    /// Bytes of weights of which a pass reads a row a token: the embedding, where it is not the last layer, too.
    pub(super) fn looked_up_bytes(&self) -> u64 {
        if self.config.tied_embeddings { 0 } else { self.embedding.bytes().len() as u64 }
    }

    /// The same weights on a device. Those that it has already, for whomever, are shared.
    pub(super) fn on(&self, device: &Device) -> Result<Self, TensorError> {
        let Self { config, embedding, layers, norm, head, .. } = self;
        Ok(Self {
            rope: Rope::new(config.rope.table(config.head_dim), device)?,
            embedding: embedding.on(device)?,
            layers: layers.iter().map(|layer| layer.on(device)).collect::<Result<_, _>>()?,
            norm: norm.on(device)?,
            head: head.on(device)?,
            config: config.clone(),
        })
    }

    /// The logits of the wanted rows: `[wanted, vocab]`.
    fn forward(&self, cache: &mut KvCache, rows: &Rows<'_>) -> Result<Tensor, TensorError> {
        let Self { config, rope, embedding: table, layers, norm, head } = self;
        let step = Step { config, angles: rope.angles(rows)?, rows };

        let mut x = embedding(table, &rows.tokens)?; // [rows, hidden]
        let mut delta = None;
        for (i, layer) in layers.iter().enumerate() {
            delta = Some(layer.forward(&mut x, delta.as_ref(), i, &step, cache)?);
        }
        let mut x = select_rows(&x, &rows.wanted)?; // [wanted, hidden]
        let x = match &delta {
            Some(delta) => add_rms_norm(&mut x, &select_rows(delta, &rows.wanted)?, norm, config.norm_eps)?,
            None => rms_norm(&x, norm, config.norm_eps)?,
        };
        logits(&x, head)
    }
}

impl Llama {
    /// Without a cache. `body` is on `device`, or on another stream of it.
    pub(super) fn new(body: Body, device: Device) -> Self {
        Self { device, body, cache: None, replays: Replays::default() }
    }
}

impl Body {
    /// Takes its tensors into the host's memory, by the names that `transformers` gives them.
    pub(super) fn load(config: Config, from: &mut Checkpoint<'_>) -> Result<Self, ModelError> {
        let Config { hidden, vocab, layers, .. } = config;
        let embedding = from.take("model.embed_tokens.weight", &[vocab, hidden])?;
        let layers = (0..layers).map(|i| Layer::load(&config, i, from)).collect::<Result<_, _>>()?;
        let norm = from.take_vector("model.norm.weight", hidden)?;
        let head = if config.tied_embeddings {
            // some write it out although it is the embedding
            from.leave_out(|name| name == "lm_head.weight");
            embedding.clone()
        } else {
            from.take("lm_head.weight", &[vocab, hidden])?
        };
        // old checkpoints carry the frequencies, which config.json already tells
        from.leave_out(|name| name.ends_with(".rotary_emb.inv_freq"));
        let rope = Rope::new(config.rope.table(config.head_dim), &Device::CPU)?;
        Ok(Self { config, rope, embedding, layers, norm, head })
    }
}

impl Layer {
    fn on(&self, device: &Device) -> Result<Self, TensorError> {
        let Self { attention_norm, q, k, v, o, mlp_norm, gate, up, down } = self;
        Ok(Self {
            attention_norm: attention_norm.on(device)?,
            q: q.on(device)?,
            k: k.on(device)?,
            v: v.on(device)?,
            o: o.on(device)?,
            mlp_norm: mlp_norm.on(device)?,
            gate: gate.on(device)?,
            up: up.on(device)?,
            down: down.on(device)?,
        })
    }

    fn load(config: &Config, i: usize, from: &mut Checkpoint<'_>) -> Result<Self, ModelError> {
        let &Config { hidden, intermediate, attention_bias, mlp_bias, .. } = config;
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut gain = |name: &str| from.take_vector(&format!("model.layers.{i}.{name}.weight"), hidden);
        let (attention_norm, mlp_norm) = (gain("input_layernorm")?, gain("post_attention_layernorm")?);
        let (attention_bias, mlp_bias) = (Bias::from(attention_bias), Bias::from(mlp_bias));
        let mut projection = |name: &str, out: usize, width: usize, bias: Bias| {
            Projection::take(from, &format!("model.layers.{i}.{name}"), [out, width], bias)
        };
        Ok(Self {
            attention_norm,
            q: projection("self_attn.q_proj", queries, hidden, attention_bias)?,
            k: projection("self_attn.k_proj", keys, hidden, attention_bias)?,
            v: projection("self_attn.v_proj", keys, hidden, attention_bias)?,
            o: projection("self_attn.o_proj", hidden, queries, attention_bias)?,
            mlp_norm,
            gate: projection("mlp.gate_proj", intermediate, hidden, mlp_bias)?,
            up: projection("mlp.up_proj", intermediate, hidden, mlp_bias)?,
            down: projection("mlp.down_proj", hidden, intermediate, mlp_bias)?,
        })
    }
}
