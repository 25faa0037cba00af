//! One block of a decoder: attention, then an MLP, each on the normalised residual stream (Vaswani et al., 2017; Touvron
//! et al., 2023). How families differ is data: see [`Config`].

use super::adapter::{Parts, Target};
use super::config::{Config, Gain, HeadNorm, Layer, NormPlacement, Projections};
use super::error::ModelError;
use super::moe::Mlp;
use super::projection::Projection;
use super::weights::Checkpoint;
use crate::tensor::{
    AdapterSlot, Attention, Device, ElementType, RopeAngles, Rows, Tensor, TensorError, Vector, add_rms_norm,
    paged_attention, rms_norm, rms_norm_heads, rope_write_kv,
};

pub(super) struct Block {
    norms: Norms,
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    /// Of each head of the queries.
    q_norm: Option<Vector>,
    k_norm: Option<Vector>,
    attention: Attention,
    rope: Option<usize>,
    mlp: Mlp,
}

/// The gains of a block's norms.
struct Norms {
    attention: Vector,
    /// Of what attention gives.
    after_attention: Option<Vector>,
    mlp: Vector,
    /// Of what the MLP gives.
    after_mlp: Option<Vector>,
}

/// What all blocks of one forward share.
pub(super) struct Step<'a> {
    pub(super) config: &'a Config,
    /// Of each rope.
    pub(super) angles: Vec<RopeAngles>,
    pub(super) rows: &'a Rows<'a>,
}

impl Block {
    /// Takes the residual stream `x` `[rows, hidden]`, and what the block before has yet to add to it. Gives what this
    /// one has yet to add.
    pub(super) fn forward(
        &self,
        x: &mut Tensor,
        delta: Option<&Tensor>,
        i: usize,
        step: &Step<'_>,
    ) -> Result<Tensor, TensorError> {
        let &Config { norm_eps, activation, .. } = step.config;

        let h = match delta {
            Some(delta) => add_rms_norm(x, delta, &self.norms.attention, norm_eps)?,
            None => rms_norm(x, &self.norms.attention, norm_eps)?,
        };
        let h = self.attend(&h, i, step)?; // [rows, hidden]
        let h = normed(h, self.norms.after_attention.as_ref(), norm_eps)?;

        let h = add_rms_norm(x, &h, &self.norms.mlp, norm_eps)?;
        let h = self.mlp.forward(&h, activation, step.rows)?; // [rows, hidden]
        normed(h, self.norms.after_mlp.as_ref(), norm_eps)
    }

    fn attend(&self, h: &Tensor, i: usize, step: &Step<'_>) -> Result<Tensor, TensorError> {
        let Step { config, angles, rows } = step;
        let q = normed(self.q.forward(h, rows)?, self.q_norm.as_ref(), config.norm_eps)?; // [rows, heads * head_dim]
        let k = normed(self.k.forward(h, rows)?, self.k_norm.as_ref(), config.norm_eps)?; // [rows, kv_heads * head_dim]
        let v = self.v.forward(h, rows)?;
        let q = rope_write_kv(q, k, &v, self.rope.map(|rope| &angles[rope]), i, rows)?;
        let h = paged_attention(&q, i, rows, self.attention)?; // [rows, heads * head_dim]
        self.o.forward(&h, rows)
    }
}

fn maybe_on(gain: Option<&Vector>, device: &Device) -> Result<Option<Vector>, TensorError> {
    gain.map(|gain| gain.on(device)).transpose()
}

/// Where there is a gain: of each head, or of the whole row, by its length.
fn normed(x: Tensor, gain: Option<&Vector>, eps: f32) -> Result<Tensor, TensorError> {
    match gain {
        Some(gain) => rms_norm_heads(x, gain, eps),
        None => Ok(x),
    }
}

impl Block {
    /// Adds an adapter's part of this layer to rows that go through it from now on.
    pub(super) fn seat(
        &mut self,
        slot: AdapterSlot,
        parts: &Parts,
        to: (&Device, ElementType),
    ) -> Result<(), TensorError> {
        for (target, projection) in self.adaptable() {
            if let Some(part) = parts.get(&target) {
                projection.seat(slot, part, to)?;
            }
        }
        Ok(())
    }

    /// Takes it out.
    pub(super) fn unseat(&mut self, slot: AdapterSlot, device: &Device) -> Result<(), TensorError> {
        let emptied = self.adaptable().into_iter().map(|(_, projection)| projection.unseat(slot, device));
        emptied.fold(Ok(()), Result::and)
    }

    fn adaptable(&mut self) -> Vec<(Target, &mut Projection)> {
        let Self { q, k, v, o, mlp, .. } = self;
        let mut all = vec![(Target::Q, q), (Target::K, k), (Target::V, v), (Target::O, o)];
        all.extend(mlp.adaptable());
        all
    }

    pub(super) fn on(&self, device: &Device) -> Result<Self, TensorError> {
        let Self { norms, q, k, v, o, q_norm, k_norm, attention, rope, mlp } = self;
        Ok(Self {
            norms: norms.on(device)?,
            q: q.on(device)?,
            k: k.on(device)?,
            v: v.on(device)?,
            o: o.on(device)?,
            q_norm: maybe_on(q_norm.as_ref(), device)?,
            k_norm: maybe_on(k_norm.as_ref(), device)?,
            attention: *attention,
            rope: *rope,
            mlp: mlp.on(device)?,
        })
    }

    pub(super) fn load(config: &Config, i: usize, from: &mut Checkpoint<'_>) -> Result<Self, ModelError> {
        let name = config.tensor(&format!("layers.{i}"));
        let Layer { attention, rope, mlp } = config.layers[i].clone();
        let [q, k, v, o] = projections(config, &format!("{name}.self_attn"), from)?;
        let mut head_norm = |of: &str| match config.head_norm {
            HeadNorm::Absent => Ok(None),
            HeadNorm::QueriesAndKeys => {
                gain(config, &format!("{name}.self_attn.{of}"), config.head_dim, from).map(Some)
            }
        };
        let (q_norm, k_norm) = (head_norm("q_norm")?, head_norm("k_norm")?);
        let norms = Norms::load(config, &name, from)?;
        let mlp = Mlp::load(config, mlp, &format!("{name}.mlp"), from)?;
        Ok(Self { norms, q, k, v, o, q_norm, k_norm, attention, rope, mlp })
    }
}

/// q, k, v and o of the layer's attention, `name`.
fn projections(
    config: &Config,
    name: &str,
    from: &mut Checkpoint<'_>,
) -> Result<[Projection; 4], ModelError> {
    let &Config { hidden, biases, head_dim, .. } = config;
    let (queries, keys) = (config.heads * head_dim, config.kv_heads * head_dim);
    let [q, k, v] = match config.projections {
        Projections::Separate => {
            let mut projection = |part: &str, out: usize| {
                Projection::take(from, &format!("{name}.{part}"), [out, hidden], biases.qkv)
            };
            [projection("q_proj", queries)?, projection("k_proj", keys)?, projection("v_proj", keys)?]
        }
        Projections::Fused => {
            let weight = format!("{name}.qkv_proj.weight");
            from.take_stacked(&weight, [queries, keys, keys], hidden)?.map(Projection::without_bias)
        }
    };
    let o = Projection::take(from, &format!("{name}.o_proj"), [hidden, queries], biases.o)?;
    Ok([q, k, v, o])
}

/// The gain `name.weight` of a norm over `len` elements.
pub(super) fn gain(
    config: &Config,
    name: &str,
    len: usize,
    from: &mut Checkpoint<'_>,
) -> Result<Vector, ModelError> {
    let offset = match config.gain {
        Gain::Weight => 0.0,
        Gain::OnePlusWeight => 1.0,
    };
    from.take_vector_plus(&format!("{name}.weight"), len, offset)
}

impl Norms {
    /// `post_attention_layernorm` is what its name says only where what attention gives is normalised; elsewhere it is
    /// that before the MLP.
    fn load(config: &Config, layer: &str, from: &mut Checkpoint<'_>) -> Result<Self, ModelError> {
        let mut gain = |name: &str| gain(config, &format!("{layer}.{name}"), config.hidden, from);
        let attention = gain("input_layernorm")?;
        let second = gain("post_attention_layernorm")?;
        Ok(match config.norms {
            NormPlacement::Pre => Self { attention, after_attention: None, mlp: second, after_mlp: None },
            NormPlacement::PreAndPost => Self {
                attention,
                after_attention: Some(second),
                mlp: gain("pre_feedforward_layernorm")?,
                after_mlp: Some(gain("post_feedforward_layernorm")?),
            },
        })
    }

    fn on(&self, device: &Device) -> Result<Self, TensorError> {
        let Self { attention, after_attention, mlp, after_mlp } = self;
        Ok(Self {
            attention: attention.on(device)?,
            after_attention: maybe_on(after_attention.as_ref(), device)?,
            mlp: mlp.on(device)?,
            after_mlp: maybe_on(after_mlp.as_ref(), device)?,
        })
    }
}
