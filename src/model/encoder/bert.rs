//! BERT (Devlin et al., 2019), and `RoBERTa` (Liu et al., 2019), which is one but for its positions: its weights and its
//! forward pass.

use super::config::Config;
use crate::model::error::ModelError;
use crate::model::projection::{Bias, Projection};
use crate::model::weights::Checkpoint;
use crate::tensor::{
    Attention, Context, Device, ElementType, HostRows, Indices, KvCache, KvLayout, Mask, Rows, Tensor,
    TensorError, Vector, Weight, add, embedding, gelu, layer_norm, linear, paged_attention, write_kv,
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
    gain: Vector,
    bias: Vector,
    eps: f32,
}

impl Bert {
    /// The last hidden state of one text, or of a pair: `[tokens, hidden]`. `segments` has one for each token, or one for all.
    /// Without padding there is nothing to mask: each row sees all rows.
    pub(super) fn forward(&self, tokens: &[u32], segments: &[u32]) -> Result<Tensor, ModelError> {
        let rows = tokens.len();
        let Config { heads, head_dim, .. } = self.config;
        let layout = KvLayout { layers: 1, blocks: 1, block_size: rows, kv_heads: heads, head_dim };
        // of the layer under way: keys and values are not kept, as no token comes later
        let Some(cache) = KvCache::new(&Device::CPU, layout, ElementType::F32) else {
            return Err(ModelError::Batch(format!("a text of {rows} tokens")));
        };
        let slots: Vec<u32> = (0..rows as u32).collect();
        let first = self.config.first_position as u32;
        let positions: Vec<u32> = slots.iter().map(|slot| first + slot).collect();
        let whole_text = [Context { rows, len: rows, blocks: &[0], mask: Mask::Full, adapter: None }];
        let host =
            HostRows { tokens, positions: &positions, slots: &slots, wanted: &[], contexts: &whole_text };
        let rows = Rows::new(&cache, host)?;

        let x = embedding(&self.words, rows.tokens(), 1.0)?;
        let x = add(x, &embedding(&self.positions, rows.positions(), 1.0)?)?;
        let x = add(x, &embedding(&self.token_types, &Indices::host(segments), 1.0)?)?;
        let mut x = self.norm.forward(x)?; // [rows, hidden]
        for layer in &self.layers {
            x = layer.forward(x, &rows, Attention::of_heads(head_dim))?;
        }
        Ok(x)
    }
}

impl Layer {
    fn forward(&self, x: Tensor, rows: &Rows<'_>, attention: Attention) -> Result<Tensor, TensorError> {
        let q = linear(&x, self.q.layer())?; // [rows, heads * head_dim]
        let k = linear(&x, self.k.layer())?;
        let v = linear(&x, self.v.layer())?;
        write_kv(0, rows, &k, &v)?;
        let h = paged_attention(&q, 0, rows, attention)?;
        let x = self.attention_norm.forward(add(linear(&h, self.o.layer())?, &x)?)?; // [rows, hidden]

        let h = gelu(linear(&x, self.up.layer())?)?; // [rows, intermediate]
        self.norm.forward(add(linear(&h, self.down.layer())?, &x)?) // [rows, hidden]
    }
}

impl LayerNorm {
    fn forward(&self, x: Tensor) -> Result<Tensor, TensorError> {
        layer_norm(x, &self.gain, &self.bias, self.eps)
    }

    fn take(from: &mut Checkpoint<'_>, name: &str, config: &Config) -> Result<Self, ModelError> {
        let mut vector = |part: &str| from.take_vector(&format!("{name}.LayerNorm.{part}"), config.hidden);
        Ok(Self { gain: vector("weight")?, bias: vector("bias")?, eps: config.norm_eps })
    }
}

impl Bert {
    /// Takes its tensors, by the names that `transformers` gives them.
    pub(super) fn load(config: Config, from: &mut Checkpoint<'_>) -> Result<Self, ModelError> {
        let prefix = config.prefix;
        let mut table = |name: &str, rows: usize| {
            from.take(&format!("{prefix}embeddings.{name}_embeddings.weight"), &[rows, config.hidden])
        };
        let words = table("word", config.vocab)?;
        let positions = table("position", config.max_positions)?;
        let token_types = table("token_type", config.token_types)?;
        let norm = LayerNorm::take(from, &format!("{prefix}embeddings"), &config)?;
        let layers = (0..config.layers).map(|i| Layer::load(&config, i, from)).collect::<Result<_, _>>()?;
        // the head of the first training, and 0, 1, 2, …
        let unread = format!("{prefix}embeddings.position_ids");
        from.leave_out(|name| name.starts_with("pooler.") || name == unread);
        Ok(Self { config, words, positions, token_types, norm, layers })
    }
}

impl Layer {
    fn load(config: &Config, i: usize, from: &mut Checkpoint<'_>) -> Result<Self, ModelError> {
        let &Config { hidden, intermediate, .. } = config;
        let name = |part: &str| format!("{}encoder.layer.{i}.{part}", config.prefix);
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
