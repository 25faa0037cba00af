//! The transformer as candle differentiates it: plain operators, no cache. The names are Hugging Face's,
//! so that `export` writes what any loader of Llama models reads.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, IndexOp, Result, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) vocab: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) ffn: usize,
    pub(crate) positions: usize,
}

impl Shape {
    pub(crate) const DEMO: Self = Self {
        vocab: 1024,
        hidden: 192,
        layers: 4,
        heads: 6,
        kv_heads: 2,
        head_dim: 32,
        ffn: 448,
        positions: 1024,
    };
}

pub(crate) const NORM_EPS: f64 = 1e-5;
pub(crate) const ROPE_THETA: f64 = 10_000.0;

/// Whether a training changes the embeddings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Embeddings {
    Trained,
    Frozen,
}

pub(crate) struct Network {
    pub(crate) shape: Shape,
    pub(crate) weights: BTreeMap<String, Var>,
    device: Device,
}

pub(crate) const EMBEDDINGS: &str = "model.embed_tokens.weight";

impl Network {
    pub(crate) fn random(shape: &Shape, seed: u64, device: &Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = BTreeMap::new();
        let s = shape;
        let mut matrix = |name: String, rows: usize, cols: usize, scale: f64| -> Result<()> {
            let values: Vec<f32> = (0..rows * cols).map(|_| (normal(&mut rng) * scale) as f32).collect();
            weights.insert(name, Var::from_vec(values, (rows, cols), device)?);
            Ok(())
        };
        let std = 0.02_f64.max(0.5 / (s.hidden as f64).sqrt());
        let out = std / (2.0 * s.layers as f64).sqrt();
        matrix(EMBEDDINGS.into(), s.vocab, s.hidden, 0.04)?;
        for l in 0..s.layers {
            let name = |part: &str| format!("model.layers.{l}.{part}.weight");
            matrix(name("self_attn.q_proj"), s.heads * s.head_dim, s.hidden, std)?;
            matrix(name("self_attn.k_proj"), s.kv_heads * s.head_dim, s.hidden, std)?;
            matrix(name("self_attn.v_proj"), s.kv_heads * s.head_dim, s.hidden, std)?;
            matrix(name("self_attn.o_proj"), s.hidden, s.heads * s.head_dim, out)?;
            matrix(name("mlp.gate_proj"), s.ffn, s.hidden, std)?;
            matrix(name("mlp.up_proj"), s.ffn, s.hidden, std)?;
            matrix(name("mlp.down_proj"), s.hidden, s.ffn, out)?;
        }
        for l in 0..s.layers {
            for part in ["input_layernorm", "post_attention_layernorm"] {
                let ones = Var::ones(s.hidden, DType::F32, device)?;
                weights.insert(format!("model.layers.{l}.{part}.weight"), ones);
            }
        }
        weights.insert("model.norm.weight".into(), Var::ones(s.hidden, DType::F32, device)?);
        Ok(Self { shape: shape.clone(), weights, device: device.clone() })
    }

    fn mapped(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let copy = |(name, var): (&String, &Var)| Ok((name.clone(), Var::from_tensor(&f(var.as_tensor())?)?));
        let weights = self.weights.iter().map(copy).collect::<Result<_>>()?;
        Ok(Self { shape: self.shape.clone(), weights, device: self.device.clone() })
    }

    pub(crate) fn deep_copy(&self) -> Result<Self> {
        self.mapped(Tensor::copy)
    }

    /// The same network with every weight at bf16's precision.
    pub(crate) fn rounded_to_bf16(&self) -> Result<Self> {
        self.mapped(|t| t.to_dtype(DType::BF16)?.to_dtype(DType::F32))
    }

    pub(crate) fn trained(&self, embeddings: Embeddings) -> Vec<Var> {
        let wanted = |name: &str| embeddings == Embeddings::Trained || name != EMBEDDINGS;
        self.weights.iter().filter(|(name, _)| wanted(name)).map(|(_, var)| var.clone()).collect()
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        let var = self.weights.get(name);
        var.map(Var::as_tensor).ok_or_else(|| candle_core::Error::Msg(format!("no weight {name}")))
    }

    /// `[batch, tokens, in] -> [batch, tokens, out]`
    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let (b, t, width) = x.dims3()?;
        x.reshape((b * t, width))?.matmul(&self.weight(name)?.t()?)?.reshape((b, t, ()))
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        x.broadcast_div(&(variance + NORM_EPS)?.sqrt()?)?.broadcast_mul(self.weight(name)?)
    }

    /// Last hidden states, `[batch, tokens, hidden]`, of right-padded `tokens` `[batch, tokens]`.
    pub(crate) fn hidden(&self, tokens: &Tensor) -> Result<Tensor> {
        let (b, t) = tokens.dims2()?;
        let s = &self.shape;
        let (cos, sin) = self.rotation(t)?;
        let mask = self.causal_mask(t)?;
        let embedded = self.weight(EMBEDDINGS)?.index_select(&tokens.flatten_all()?, 0)?;
        let mut x = embedded.reshape((b, t, s.hidden))?;
        for l in 0..s.layers {
            let name = |part: &str| format!("model.layers.{l}.{part}.weight");
            let h = self.norm(&x, &name("input_layernorm"))?;
            let split =
                |x: Tensor, heads: usize| x.reshape((b, t, heads, s.head_dim))?.transpose(1, 2)?.contiguous();
            let q = rotate(&split(self.linear(&h, &name("self_attn.q_proj"))?, s.heads)?, &cos, &sin)?;
            let k = rotate(&split(self.linear(&h, &name("self_attn.k_proj"))?, s.kv_heads)?, &cos, &sin)?;
            let v = split(self.linear(&h, &name("self_attn.v_proj"))?, s.kv_heads)?;
            // query heads of one key-value head are rows of one matrix: [batch, kv_heads, group * tokens, head_dim]
            let group = s.heads / s.kv_heads;
            let q = q.reshape((b, s.kv_heads, group * t, s.head_dim))?;
            let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (s.head_dim as f64).sqrt())?;
            let scores = scores.reshape((b, s.heads, t, t))?.broadcast_add(&mask)?;
            let shares = softmax(&scores)?.reshape((b, s.kv_heads, group * t, t))?;
            let mixed = shares.matmul(&v)?.reshape((b, s.heads, t, s.head_dim))?;
            let mixed = mixed.transpose(1, 2)?.contiguous()?.reshape((b, t, s.heads * s.head_dim))?;
            x = (x + self.linear(&mixed, &name("self_attn.o_proj"))?)?;
            let h = self.norm(&x, &name("post_attention_layernorm"))?;
            let gate = self.linear(&h, &name("mlp.gate_proj"))?.silu()?;
            let up = self.linear(&h, &name("mlp.up_proj"))?;
            x = (x + self.linear(&(gate * up)?, &name("mlp.down_proj"))?)?;
        }
        self.norm(&x, "model.norm.weight")
    }

    /// Logits of chosen rows, `[rows, hidden] -> [rows, vocab]`: the embeddings are tied.
    pub(crate) fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        rows.matmul(&self.weight(EMBEDDINGS)?.t()?)
    }

    /// `[tokens, head_dim / 2]` cosines and sines.
    fn rotation(&self, t: usize) -> Result<(Tensor, Tensor)> {
        let half = self.shape.head_dim / 2;
        let angle = |p: usize, i: usize| p as f64 / ROPE_THETA.powf(i as f64 / half as f64);
        let all: Vec<f64> = (0..t).flat_map(|p| (0..half).map(move |i| angle(p, i))).collect();
        let tensor = |f: fn(f64) -> f64| {
            Tensor::from_vec(all.iter().map(|a| f(*a) as f32).collect::<Vec<_>>(), (t, half), &self.device)
        };
        Ok((tensor(f64::cos)?, tensor(f64::sin)?))
    }

    fn causal_mask(&self, t: usize) -> Result<Tensor> {
        let cell = |i: usize, j: usize| if j > i { -1e9_f32 } else { 0.0 };
        let cells: Vec<f32> = (0..t).flat_map(|i| (0..t).map(move |j| cell(i, j))).collect();
        Tensor::from_vec(cells, (t, t), &self.device)
    }
}

/// Rotates halves, as Hugging Face's Llama does. `x` is `[batch, heads, tokens, head_dim]`.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// A standard normal deviate (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let mut uniform = || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform()).cos()
}

/// The most likely next token after each row of right-padded `tokens`, at `last` positions.
pub(crate) fn next_tokens(network: &Network, tokens: &Tensor, last: &[usize]) -> Result<Vec<u32>> {
    let hidden = network.hidden(tokens)?;
    let rows: Vec<Tensor> =
        last.iter().enumerate().map(|(i, at)| hidden.i((i, *at))).collect::<Result<_>>()?;
    network.logits(&Tensor::stack(&rows, 0)?)?.argmax(D::Minus1)?.to_vec1()
}
