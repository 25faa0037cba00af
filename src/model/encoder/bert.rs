//! BERT (Devlin et al., 2019): its weights and its forward pass.

use candle_core::{Result, Tensor};

use super::config::Config;
use crate::model::error::ModelError;
use crate::model::projection::{Bias, Projection};
use crate::model::weights::Checkpoint;
use crate::tensor::{
    Contexts, KvCache, KvLayout, Query, Weight, add, embedding, gelu, layer_norm, paged_attention, write_kv,
};

pub(super) struct Bert {
    config: Config,
    words: Weight,
    positions: Weight,
    token_types: Weight,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    attention_norm: LayerNorm,
    up: Projection,
    down: Projection,
    norm: LayerNorm,
}

struct LayerNorm {
    gain: Weight,
    bias: Weight,
    eps: f32,
}

/// What all layers of one forward share.
struct Pass<'a> {
    config: &'a Config,
    slots: Vec<u32>,
    contexts: Contexts<'a>,
    /// Of the layer under way: keys and values are not kept, as no token comes later.
    cache: KvCache,
}

impl Bert {
    /// The last hidden state of one text: `[tokens, hidden]`. Without padding there is nothing to mask: each row sees
    /// all rows.
    pub(super) fn forward(&self, tokens: &[u32]) -> std::result::Result<Tensor, ModelError> {
        let rows = tokens.len();
        let Config { heads, head_dim, .. } = self.config;
        let layout = KvLayout { layers: 1, blocks: 1, block_size: rows, kv_heads: heads, head_dim };
        let whole_text = Query { blocks: &[0], visible: rows };
        // the text's positions are slots, too
        let slots: Vec<u32> = (0..rows as u32).collect();
        let (Some(contexts), Some(cache)) =
            (Contexts::new(vec![whole_text; rows], layout), KvCache::new(layout))
        else {
            return Err(ModelError::Batch(format!("a text of {rows} tokens")));
        };
        let mut pass = Pass { config: &self.config, slots, contexts, cache };

        let x = add(&embedding(&self.words, tokens)?, &embedding(&self.positions, &pass.slots)?)?;
        let x = add(&x, &embedding(&self.token_types, &[0])?)?; // all of it is the first segment
        let mut x = self.norm.forward(&x)?; // [rows, hidden]
        for layer in &self.layers {
            x = layer.forward(&x, &mut pass)?;
        }
        Ok(x)
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let Config { heads, head_dim, hidden, .. } = *pass.config;
        let rows = pass.slots.len();

        let q = self.q.forward(x)?.reshape((rows, heads, head_dim))?;
        let k = self.k.forward(x)?.reshape((rows, heads, head_dim))?;
        let v = self.v.forward(x)?.reshape((rows, heads, head_dim))?;
        write_kv(&mut pass.cache, 0, &pass.slots, &k, &v)?;
        let h = paged_attention(&q, &pass.cache, 0, &pass.contexts)?.reshape((rows, hidden))?;
        let x = self.attention_norm.forward(&add(x, &self.o.forward(&h)?)?)?; // [rows, hidden]

        let h = gelu(&self.up.forward(&x)?)?; // [rows, intermediate]
        self.norm.forward(&add(&x, &self.down.forward(&h)?)?) // [rows, hidden]
    }
}

impl LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.gain, &self.bias, self.eps)
    }

    fn take(from: &mut Checkpoint<'_>, name: &str, config: &Config) -> std::result::Result<Self, ModelError> {
        let mut vector = |part: &str| from.take(&format!("{name}.LayerNorm.{part}"), &[config.hidden]);
        Ok(Self { gain: vector("weight")?, bias: vector("bias")?, eps: config.norm_eps })
    }
}

impl Bert {
    /// Takes its tensors, by the names that `transformers` gives them.
    pub(super) fn load(config: Config, from: &mut Checkpoint<'_>) -> std::result::Result<Self, ModelError> {
        let mut table = |name: &str, rows: usize| {
            from.take(&format!("embeddings.{name}_embeddings.weight"), &[rows, config.hidden])
        };
        let words = table("word", config.vocab)?;
        let positions = table("position", config.max_positions)?;
        let token_types = table("token_type", config.token_types)?;
        let norm = LayerNorm::take(from, "embeddings", &config)?;
        let layers = (0..config.layers)
            .map(|i| Layer::load(&config, i, from))
            .collect::<std::result::Result<_, _>>()?;
        // the head of the first training, and 0, 1, 2, …
        from.leave_out(|name| name.starts_with("pooler.") || name == "embeddings.position_ids");
        Ok(Self { config, words, positions, token_types, norm, layers })
    }
}

impl Layer {
    fn load(config: &Config, i: usize, from: &mut Checkpoint<'_>) -> std::result::Result<Self, ModelError> {
        let &Config { hidden, intermediate, .. } = config;
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        let attention_norm = LayerNorm::take(from, &name("attention.output"), config)?;
        let norm = LayerNorm::take(from, &name("output"), config)?;
        let mut projection = |part: &str, out: usize, width: usize| {
            Projection::take(from, &name(part), [out, width], Bias::Added)
        };
        Ok(Self {
            q: projection("attention.self.query", hidden, hidden)?,
            k: projection("attention.self.key", hidden, hidden)?,
            v: projection("attention.self.value", hidden, hidden)?,
            o: projection("attention.output.dense", hidden, hidden)?,
            attention_norm,
            up: projection("intermediate.dense", intermediate, hidden)?,
            down: projection("output.dense", hidden, intermediate)?,
            norm,
        })
    }
}
