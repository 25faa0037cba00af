//! `config.json` of any family, checked into one description of a decoder whose sizes fit each other.
//!
//! `family` says how the families differ, as data: a row of a table each. `raw` is the file as it is written, `check`
//! brings the two together, `layers` and `rope` do so for what differs by layer. What a file says and is not supported is
//! an error that names the field, the value and what would do.

mod check;
mod family;
mod json;
mod layers;
mod raw;
mod rope;
mod tokens;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

pub(super) use family::{Gain, HeadNorm, NormPlacement, Projections};
pub(super) use json::{read_json, read_optional};
pub(super) use tokens::{Marks, TokenIds};

use self::family::{Family, Text};
use self::raw::Raw;
use super::batch::KvShape;
use super::error::ModelError;
use super::projection::Bias;
use super::rope::Rope;
use crate::tensor::{Activation, Attention, Routing};

/// A decoder: its sizes, and in which way its blocks are what they are.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) architecture: &'static str,
    /// What the names of its tensors begin with.
    pub(super) prefix: &'static str,
    /// Tensors with such names belong to another part of the model, which is not run.
    pub(super) left_out: &'static [&'static str],
    pub(super) vocab: usize,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) max_positions: usize,
    pub(super) norm_eps: f32,
    pub(super) norms: NormPlacement,
    pub(super) gain: Gain,
    pub(super) head_norm: HeadNorm,
    pub(super) projections: Projections,
    pub(super) biases: Biases,
    pub(super) activation: Activation,
    /// Where a layer is [`Mlp::Sparse`].
    pub(super) experts: Option<Experts>,
    /// The different ones that layers have.
    pub(super) ropes: Vec<Rope>,
    pub(super) layers: Vec<Layer>,
    /// Multiplies the embedding.
    pub(super) embedding_scale: EmbeddingScale,
    pub(super) logit_softcap: Option<f32>,
    pub(super) tied_embeddings: bool,
    pub(super) bos: Marks,
    pub(super) eos: Marks,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    pub(super) attention: Attention,
    /// Which of the ropes it has, if any.
    pub(super) rope: Option<usize>,
    pub(super) mlp: Mlp,
}

/// What follows a layer's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mlp {
    /// One gated MLP.
    Dense,
    /// Each row goes through a few of many.
    Sparse,
}

/// Which projections add a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Biases {
    pub(super) qkv: Bias,
    pub(super) o: Bias,
    pub(super) mlp: Bias,
}

/// The experts of a sparse layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Experts {
    pub(super) count: usize,
    pub(super) intermediate: usize,
    pub(super) routing: Routing,
}

/// What multiplies the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmbeddingScale {
    One,
    /// The root of the hidden size, as a number of the type that the embedding is stored in: so were these models
    /// trained.
    RootOfHidden,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: Option<String>,
    quantization_config: Option<IgnoredAny>,
}

/// A model of several parts, of which one is the decoder.
#[derive(Deserialize)]
struct Parts {
    text_config: Raw,
}

impl Config {
    pub(super) const fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers.len(), kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// The name of a tensor of the decoder.
    pub(super) fn tensor(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name of the last layer, which lies beside the decoder.
    pub(super) fn head_name(&self) -> String {
        format!("{}lm_head.weight", self.prefix.strip_suffix("model.").unwrap_or(self.prefix))
    }

    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        // the architecture first: another one may well lack the fields of ours
        let Named { architectures, model_type, quantization_config } = read_json(path)?;
        let found = match &architectures[..] {
            [] => format!("(none; model_type {})", model_type.as_deref().unwrap_or("is missing, too")),
            names => names.join(", "),
        };
        let Some(family) = Family::of(&found) else {
            return Err(ModelError::Architecture { path: path.into(), found, supported: Family::names() });
        };
        let wrong = |what| ModelError::Config { path: path.into(), what };
        if quantization_config.is_some() {
            return Err(wrong(
                "quantization_config: quantised checkpoints are not supported: use BF16, F16 or F32"
                    .to_owned(),
            ));
        }
        let raw = match family.text {
            Text::Whole => read_json::<Raw>(path)?,
            Text::Part { .. } => read_json::<Parts>(path)?.text_config,
        };
        raw.check(family).map_err(wrong)
    }
}
