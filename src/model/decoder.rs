//! The Llama decoder (Touvron et al., 2023): its weights and its forward pass.

use super::batch::{Batch, CausalLm, KvGeometry, KvShape, Logits, Span};
use super::config::Config;
use super::error::ModelError;
use super::projection::{Bias, Projection};
use super::weights::Checkpoint;
use crate::tensor::{
    Context, Device, ElementType, HostRows, KvCache, KvLayout, KvPool, Mask, Replays, Rope, RopeAngles, Rows,
    Tensor, TensorError, Vector, Weight, add_rms_norm, embedding, gated_linear, linear, logits,
    paged_attention, rms_norm, rope_write_kv, select_rows,
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
    ) -> Result<Tensor, TensorError> {
        let Step { config: Config { norm_eps, .. }, angles, rows } = step;

        let h = match delta {
            Some(delta) => add_rms_norm(x, delta, &self.attention_norm, *norm_eps)?,
            None => rms_norm(x, &self.attention_norm, *norm_eps)?,
        };
        let q = linear(&h, self.q.layer())?; // [rows, heads * head_dim]
        let k = linear(&h, self.k.layer())?; // [rows, kv_heads * head_dim]
        let v = linear(&h, self.v.layer())?;
        let q = rope_write_kv(q, k, &v, angles, i, rows)?;
        let h = paged_attention(&q, i, rows)?; // [rows, heads * head_dim]
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

    fn kv_element(&self) -> ElementType {
        KvPool::element_on(&self.device, self.body.embedding.element())
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

    fn reserve(&mut self, rows: usize, contexts: usize) -> Result<(), ModelError> {
        if !self.device.takes_memory_for_passes() {
            return Ok(());
        }
        let bytes_per_token = self.kv_token_bytes();
        let Self { device, body, cache, replays } = self;
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
        let own = KvCache::new(device, layout, body.embedding.element()).ok_or(no_room)?;
        body.compute(&own, &Batch::rehearsal(rows, contexts, longest, block_size))?;
        device.wait()?;
        Ok(())
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, ModelError> {
        let Self { body, cache, replays, .. } = self;
        let Some(cache) = cache else {
            return Err(ModelError::Batch("a forward pass before the model has a cache".to_owned()));
        };
        if batch.tokens.is_empty() {
            return Ok(Logits::new(Vec::new(), body.config.vocab));
        }
        let contexts = body.checked(cache, batch)?;
        let host = host_rows(batch, &contexts);
        if let Some(logits) = replays.run(cache, &host, |rows| body.forward(rows))? {
            return Ok(Logits::of(logits));
        }
        Ok(Logits::of(body.forward(&Rows::new(cache, host)?)?))
    }
}

/// A block of the cache that a rehearsal makes for itself where there is none to do as.
const REHEARSAL_BLOCK: usize = 16;

fn host_rows<'a>(batch: &'a Batch, contexts: &'a [Context<'a>]) -> HostRows<'a> {
    let Batch { tokens, positions, slots, logit_rows: wanted, .. } = batch;
    HostRows { tokens, positions, slots, wanted, contexts }
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
        let Self { config, rope, embedding: table, layers, norm, head } = self;
        let step = Step { config, angles: rope.angles(rows)?, rows };

        let mut x = embedding(table, rows.tokens())?; // [rows, hidden]
        let mut delta = None;
        for (i, layer) in layers.iter().enumerate() {
            delta = Some(layer.forward(&mut x, delta.as_ref(), i, &step)?);
        }
        let mut x = select_rows(&x, rows.wanted())?; // [wanted, hidden]
        let x = match &delta {
            Some(delta) => add_rms_norm(&mut x, &select_rows(delta, rows.wanted())?, norm, config.norm_eps)?,
            None => rms_norm(&x, norm, config.norm_eps)?,
        };
        logits(&x, head)
    }
}

impl Llama {
    /// Without a cache. `body` is on `device`, or on another stream of it.
    pub(super) fn new(body: Body, device: Device) -> Self {
        let replays = Replays::new(body.config.max_positions);
        Self { device, body, cache: None, replays }
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
