//! `config.json` as it is written: the keys of all families.

use serde::{Deserialize, Deserializer};

use super::rope::RawRope;
use super::tokens::TokenIds;

/// What a key says. Leaving one out is not the same as saying null.
#[derive(Debug, Clone, Default)]
pub(super) enum Given<T> {
    #[default]
    Absent,
    Null,
    Value(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::Value))
    }
}

impl<T: Copy> Given<T> {
    /// The value, or `absent` where the key is left out.
    pub(super) const fn or(&self, absent: Option<T>) -> Option<T> {
        match self {
            Self::Absent => absent,
            Self::Null => None,
            Self::Value(value) => Some(*value),
        }
    }
}

// sizes are u32, so that a product of two cannot overflow
#[derive(Deserialize)]
pub(super) struct Raw {
    pub(super) hidden_size: u32,
    pub(super) intermediate_size: u32,
    pub(super) num_hidden_layers: u32,
    pub(super) num_attention_heads: Option<u32>,
    pub(super) num_key_value_heads: Option<u32>,
    pub(super) head_dim: Option<u32>,
    pub(super) vocab_size: Option<u32>,
    pub(super) max_position_embeddings: Option<u32>,
    pub(super) original_max_position_embeddings: Option<f32>,
    pub(super) rms_norm_eps: Option<f32>,
    pub(super) hidden_act: Option<String>,
    pub(super) hidden_activation: Option<String>,
    pub(super) tie_word_embeddings: Option<bool>,
    pub(super) attention_bias: Option<bool>,
    pub(super) mlp_bias: Option<bool>,
    pub(super) use_bidirectional_attention: Option<bool>,

    pub(super) rope_theta: Option<f64>,
    pub(super) rope_local_base_freq: Option<f64>,
    pub(super) partial_rotary_factor: Option<f32>,
    pub(super) rope_scaling: Option<RawRope>,
    pub(super) rope_parameters: Option<RawRope>,
    pub(super) no_rope_layers: Option<Vec<u32>>,
    pub(super) no_rope_layer_interval: Option<u32>,

    #[serde(default)]
    pub(super) sliding_window: Given<u32>,
    pub(super) use_sliding_window: Option<bool>,
    pub(super) max_window_layers: Option<u32>,
    pub(super) sliding_window_pattern: Option<u32>,
    pub(super) layer_types: Option<Vec<String>>,

    pub(super) query_pre_attn_scalar: Option<f32>,
    #[serde(default)]
    pub(super) attn_logit_softcapping: Given<f32>,
    #[serde(default)]
    pub(super) final_logit_softcapping: Given<f32>,

    #[serde(alias = "num_local_experts")]
    pub(super) num_experts: Option<u32>,
    pub(super) num_experts_per_tok: Option<u32>,
    pub(super) moe_intermediate_size: Option<u32>,
    pub(super) norm_topk_prob: Option<bool>,
    pub(super) decoder_sparse_step: Option<u32>,
    pub(super) mlp_only_layers: Option<Vec<u32>>,

    #[serde(default)]
    pub(super) bos_token_id: Given<TokenIds>,
    #[serde(default)]
    pub(super) eos_token_id: Given<TokenIds>,
}
