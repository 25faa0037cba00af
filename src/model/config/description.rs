//! A decoder as all families describe it.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::family::{Family, Gain, HeadNorm, NormPlacement, Projections, Text};
use super::json::parse_json;
use super::raw::Raw;
use super::tokens::Marks;
use crate::model::batch::KvShape;
use crate::model::error::ModelError;
use crate::model::projection::Bias;
use crate::model::rope::Rope;
use crate::tensor::{Activation, Attention, Routing};

/// A decoder: its sizes, and in which way its blocks are what they are.
#[derive(Debug, Clone)]
pub(in crate::model) struct Config {
    pub(in crate::model) architecture: &'static str,
    /// What the names of its tensors begin with.
    pub(in crate::model) prefix: &'static str,
    /// Tensors with such names belong to another part of the model, which is not run.
    pub(in crate::model) left_out: &'static [&'static str],
    pub(in crate::model) vocab: usize,
    pub(in crate::model) hidden: usize,
    pub(in crate::model) intermediate: usize,
    pub(in crate::model) heads: usize,
    pub(in crate::model) kv_heads: usize,
    pub(in crate::model) head_dim: usize,
    pub(in crate::model) max_positions: usize,
    pub(in crate::model) norm_eps: f32,
    pub(in crate::model) norms: NormPlacement,
    pub(in crate::model) gain: Gain,
    pub(in crate::model) head_norm: HeadNorm,
    pub(in crate::model) projections: Projections,
    pub(in crate::model) biases: Biases,
    pub(in crate::model) activation: Activation,
    /// The different ones that layers have.
    pub(in crate::model) ropes: Vec<Rope>,
    pub(in crate::model) layers: Vec<Layer>,
    /// Multiplies the embedding.
    pub(in crate::model) embedding_scale: EmbeddingScale,
    pub(in crate::model) logit_softcap: Option<f32>,
    pub(in crate::model) tied_embeddings: bool,
    pub(in crate::model) bos: Marks,
    pub(in crate::model) eos: Marks,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct Layer {
    pub(in crate::model) attention: Attention,
    /// Which of the ropes it has, if any.
    pub(in crate::model) rope: Option<usize>,
    pub(in crate::model) mlp: Mlp,
}

/// What follows a layer's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Mlp {
    /// One gated MLP.
    Dense,
    /// Each row goes through a few of these.
    Sparse(Experts),
}

/// Which projections add a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Biases {
    pub(in crate::model) qkv: Bias,
    pub(in crate::model) o: Bias,
    pub(in crate::model) mlp: Bias,
}

/// The experts of a sparse layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Experts {
    pub(in crate::model) count: usize,
    pub(in crate::model) intermediate: usize,
    pub(in crate::model) routing: Routing,
}

/// What multiplies the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum EmbeddingScale {
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
    pub(in crate::model) const fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers.len(), kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// The name of a tensor of the decoder.
    pub(in crate::model) fn tensor(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name of the last layer, which lies beside the decoder.
    pub(in crate::model) fn head_name(&self) -> String {
        format!("{}lm_head.weight", self.prefix.strip_suffix("model.").unwrap_or(self.prefix))
    }

    /// Whether checkpoints carry a tensor of this name that the decoder does not read.
    pub(in crate::model) fn leaves_out(&self, name: &str) -> bool {
        // config.json tells the frequencies already; some write a head out although it is the embedding
        self.left_out.iter().any(|part| name.starts_with(part))
            || name.ends_with(".rotary_emb.inv_freq")
            || (self.tied_embeddings && name == self.head_name())
    }

    /// The most experts that a layer has.
    pub(in crate::model) fn most_experts(&self) -> usize {
        let count = |layer: &Layer| match layer.mlp {
            Mlp::Dense => 0,
            Mlp::Sparse(experts) => experts.count,
        };
        self.layers.iter().map(count).max().unwrap_or(0)
    }

    /// The same for a file whose gains have had 1 added to them already, where the family stores what they are more.
    pub(in crate::model) fn with_whole_gains(self) -> Self {
        Self { gain: Gain::Weight, ..self }
    }

    pub(in crate::model) fn read(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
        Self::of(path, &text)
    }

    /// Reads the text of a `config.json`, or what the file at `path` says in its keys.
    pub(in crate::model) fn of(path: &Path, text: &[u8]) -> Result<Self, ModelError> {
        // the architecture first: another one may well lack the fields of ours
        let Named { architectures, model_type, quantization_config } = parse_json(path, text)?;
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
            Text::Whole => parse_json::<Raw>(path, text)?,
            Text::Part { .. } => parse_json::<Parts>(path, text)?.text_config,
        };
        raw.check(family).map_err(wrong)
    }
}
