//! The Llama decoder (Touvron et al., 2023): its weights and its forward pass.

use candle_core::{Result, Tensor};

use super::batch::{Batch, CausalLm, KvGeometry, KvShape, Logits};
use super::config::Config;
use super::error::ModelError;
use super::projection::{Bias, Projection};
use super::weights::Checkpoint;
use crate::tensor::{
    Contexts, KvCache, KvLayout, Query, RopeAngles, RopeTable, Weight, add, embedding, linear,
    paged_attention, rms_norm, rope, select_rows, silu_mul, write_kv,
};

/// A Llama with its cache.
pub(super) struct Llama {
    config: Config,
    rope: RopeTable,
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Weight,
    /// The embedding itself where the two are tied.
    head: Weight,
    cache: Option<KvCache>,
}

struct Layer {
    attention_norm: Weight,
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    mlp_norm: Weight,
    gate: Projection,
    up: Projection,
    down: Projection,
}

/// What all layers of one forward share.
struct Step<'a> {
    config: &'a Config,
    angles: RopeAngles,
    slots: &'a [u32],
    contexts: Contexts<'a>,
}

impl Layer {
    fn forward(&self, x: &Tensor, i: usize, step: &Step<'_>, cache: &mut KvCache) -> Result<Tensor> {
        let Config { heads, kv_heads, head_dim, norm_eps, .. } = *step.config;
        let rows = step.slots.len();

        let h = rms_norm(x, &self.attention_norm, norm_eps)?; // [rows, hidden]
        let q = self.q.forward(&h)?.reshape((rows, heads, head_dim))?;
        let k = self.k.forward(&h)?.reshape((rows, kv_heads, head_dim))?;
        let v = self.v.forward(&h)?.reshape((rows, kv_heads, head_dim))?;
        write_kv(cache, i, step.slots, &rope(&k, &step.angles)?, &v)?;
        let h = paged_attention(&rope(&q, &step.angles)?, cache, i, &step.contexts)?; // [rows, heads, head_dim]
        let x = add(x, &self.o.forward(&h.reshape((rows, heads * head_dim))?)?)?; // [rows, hidden]

        let h = rms_norm(&x, &self.mlp_norm, norm_eps)?;
        let h = silu_mul(&self.gate.forward(&h)?, &self.up.forward(&h)?)?; // [rows, intermediate]
        add(&x, &self.down.forward(&h)?) // [rows, hidden]
    }
}

impl CausalLm for Llama {
    fn vocab_size(&self) -> usize {
        self.config.vocab
    }

    fn max_positions(&self) -> usize {
        self.config.max_positions
    }

    fn kv_shape(&self) -> KvShape {
        self.config.kv_shape()
    }

    fn allocate_kv(&mut self, geometry: KvGeometry) -> std::result::Result<(), ModelError> {
        let KvGeometry { blocks, block_size } = geometry;
        let KvShape { layers, kv_heads, head_dim } = self.kv_shape();
        let tokens = blocks.saturating_mul(block_size);
        // slots are u32
        if tokens == 0 || u32::try_from(tokens).is_err() {
            return Err(ModelError::Batch(format!("a cache of {blocks} blocks of {block_size} tokens")));
        }
        // the one before goes first, so that both are never there at once
        self.cache = None;
        self.cache = KvCache::new(KvLayout { layers, blocks, block_size, kv_heads, head_dim });
        let bytes_per_token = self.kv_shape().bytes_per_token();
        if self.cache.is_some() { Ok(()) } else { Err(ModelError::Memory { tokens, bytes_per_token }) }
    }

    fn forward(&mut self, batch: &Batch) -> std::result::Result<Logits, ModelError> {
        let Self { config, rope, embedding: table, layers, norm, head, cache } = self;
        let Some(cache) = cache else {
            return Err(ModelError::Batch("a forward pass before allocate_kv".to_owned()));
        };
        let layout @ KvLayout { blocks, block_size, .. } = cache.layout();
        batch.check(config.vocab, config.max_positions, KvGeometry { blocks, block_size })?;
        if batch.tokens.is_empty() {
            return Ok(Logits::new(Vec::new(), config.vocab));
        }
        let queries = batch.spans.iter().flat_map(|span| {
            let visible = batch.positions[span.rows.clone()].iter().map(|position| *position as usize + 1);
            visible.map(|visible| Query { blocks: &span.block_table, visible })
        });
        let Some(contexts) = Contexts::new(queries.collect(), layout) else {
            return Err(ModelError::Batch("a row sees nothing, or more than its blocks hold".to_owned()));
        };
        let step = Step { config, angles: rope.angles(&batch.positions), slots: &batch.slots, contexts };

        let mut x = embedding(table, &batch.tokens)?; // [rows, hidden]
        for (i, layer) in layers.iter().enumerate() {
            x = layer.forward(&x, i, &step, cache)?;
        }
        if batch.logit_rows.is_empty() {
            return Ok(Logits::new(Vec::new(), config.vocab));
        }
        let x = rms_norm(&select_rows(&x, &batch.logit_rows)?, norm, config.norm_eps)?;
        let logits = linear(&x, head)?; // [logit rows, vocab]
        Ok(Logits::new(logits.flatten_all()?.to_vec1()?, config.vocab))
    }
}

impl Llama {
    /// Takes its tensors, by the names that `transformers` gives them.
    pub(super) fn load(config: Config, from: &mut Checkpoint<'_>) -> std::result::Result<Self, ModelError> {
        let Config { hidden, vocab, layers, .. } = config;
        let embedding = from.take("model.embed_tokens.weight", &[vocab, hidden])?;
        let layers =
            (0..layers).map(|i| Layer::load(&config, i, from)).collect::<std::result::Result<_, _>>()?;
        let norm = from.take("model.norm.weight", &[hidden])?;
        let head = if config.tied_embeddings {
            // some write it out although it is the embedding
            from.leave_out(|name| name == "lm_head.weight");
            embedding.clone()
        } else {
            from.take("lm_head.weight", &[vocab, hidden])?
        };
        // old checkpoints carry the frequencies, which config.json already tells
        from.leave_out(|name| name.ends_with(".rotary_emb.inv_freq"));
        let rope = config.rope.table(config.head_dim);
        Ok(Self { config, rope, embedding, layers, norm, head, cache: None })
    }
}

impl Layer {
    fn load(config: &Config, i: usize, from: &mut Checkpoint<'_>) -> std::result::Result<Self, ModelError> {
        let &Config { hidden, intermediate, attention_bias, mlp_bias, .. } = config;
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut gain = |name: &str| from.take(&format!("model.layers.{i}.{name}.weight"), &[hidden]);
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
