//! From what a file says and what its family is to one [`Config`].

use super::family::{AbsentExperts, BiasRule, Family, QueryScale, Text};
use super::layers::Kind;
use super::raw::Raw;
use super::{Biases, Config, Experts, Layer, Marks};
use crate::model::projection::Bias;
use crate::tensor::{Activation, Attention, Routing, Shares};

/// The sizes of attention.
struct Heads {
    queries: u32,
    keys: u32,
    width: u32,
}

impl Raw {
    pub(super) fn check(self, family: &Family) -> Result<Config, String> {
        let Heads { queries, keys, width: head_dim } = self.heads(family)?;
        let vocab = self.vocab_size.or(family.absent.vocab).ok_or("vocab_size: missing")?;
        let positions = self.max_position_embeddings.unwrap_or(family.absent.positions);
        no_zero(&[
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("vocab_size", vocab),
            ("max_position_embeddings", positions),
        ])?;
        if self.use_bidirectional_attention == Some(true) {
            return Err(
                "use_bidirectional_attention: true is not supported: a decoder sees what came before".into(),
            );
        }
        let norm_eps = self.rms_norm_eps.unwrap_or(family.absent.norm_eps);
        if !(norm_eps.is_finite() && norm_eps >= 0.0) {
            return Err(format!("rms_norm_eps: {norm_eps} is not usable"));
        }
        let activation = self.activation(family)?;
        let ropes = self.ropes(family, head_dim, positions)?;
        let layers = self.layers(family, head_dim, ropes.len())?;
        let caps = family.softcaps;
        let logit_softcap = cap(
            "final_logit_softcapping",
            caps.and_then(|caps| self.final_logit_softcapping.or(caps.logits)),
        )?;
        let (prefix, left_out) = match family.text {
            Text::Whole => ("model.", &[][..]),
            Text::Part { prefix, left_out } => (prefix, left_out),
        };
        Ok(Config {
            architecture: family.architecture,
            prefix,
            left_out,
            vocab: vocab as usize,
            hidden: self.hidden_size as usize,
            intermediate: self.intermediate_size as usize,
            heads: queries as usize,
            kv_heads: keys as usize,
            head_dim: head_dim as usize,
            max_positions: positions as usize,
            norm_eps,
            norms: family.norms,
            gain: family.gain,
            head_norm: family.head_norm,
            projections: family.projections,
            biases: self.biases(family),
            activation,
            ropes,
            layers,
            embedding_scale: family.embedding,
            logit_softcap,
            tied_embeddings: self.tie_word_embeddings.unwrap_or(family.absent.tied_embeddings),
            bos: Marks::read("bos_token_id", self.bos_token_id, family.absent.bos, vocab)?,
            eos: Marks::read("eos_token_id", self.eos_token_id, family.absent.eos, vocab)?,
        })
    }

    fn heads(&self, family: &Family) -> Result<Heads, String> {
        let heads = self.num_attention_heads.or(family.absent.heads).ok_or("num_attention_heads: missing")?;
        let kv_heads = self.num_key_value_heads.or(family.absent.kv_heads).unwrap_or(heads);
        no_zero(&[("num_attention_heads", heads), ("num_key_value_heads", kv_heads)])?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "num_attention_heads: {heads} is not a multiple of num_key_value_heads, {kv_heads}"
            ));
        }
        let head_dim = match self.head_dim.or(family.absent.head_dim) {
            Some(dim) => dim,
            None if self.hidden_size.is_multiple_of(heads) => self.hidden_size / heads,
            None => {
                return Err(format!("head_dim: missing, and {heads} heads do not share hidden_size evenly"));
            }
        };
        no_zero(&[("head_dim", head_dim)])?;
        if !head_dim.is_multiple_of(2) {
            return Err(format!("head_dim: {head_dim} is odd, and rotary embedding turns pairs"));
        }
        Ok(Heads { queries: heads, keys: kv_heads, width: head_dim })
    }

    fn activation(&self, family: &Family) -> Result<Activation, String> {
        let key = family.activation.key;
        let given = if key == "hidden_act" { &self.hidden_act } else { &self.hidden_activation };
        match given.as_deref() {
            None => Ok(family.activation.absent),
            Some("silu") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            Some(other) => {
                Err(format!("{key}: {other:?} is not supported: only \"silu\" and \"gelu_pytorch_tanh\""))
            }
        }
    }

    fn biases(&self, family: &Family) -> Biases {
        let bias = |rule: BiasRule, said: Option<bool>| match rule {
            BiasRule::Never => Bias::Absent,
            BiasRule::Always => Bias::Added,
            BiasRule::IfSaid => Bias::from(said.unwrap_or(false)),
        };
        Biases {
            qkv: bias(family.qkv_bias, self.attention_bias),
            o: bias(family.o_bias, self.attention_bias),
            mlp: bias(family.mlp_bias, self.mlp_bias),
        }
    }

    fn layers(&self, family: &Family, head_dim: u32, ropes: usize) -> Result<Vec<Layer>, String> {
        let turns = self.turning(family)?;
        let (window, kinds) = self.windows(family, &turns)?;
        let plain = self.attention(family, head_dim)?;
        let layer = |i: usize| {
            let sliding = kinds[i] == Kind::Sliding;
            let window = window.filter(|_| sliding).map(|window| window as usize);
            let rope = if sliding { ropes - 1 } else { 0 };
            Ok(Layer {
                attention: Attention { window, ..plain },
                rope: turns[i].then_some(rope),
                mlp: self.mlp(family, i as u32)?,
            })
        };
        (0..kinds.len()).map(layer).collect()
    }

    /// Attention of a layer without a window.
    fn attention(&self, family: &Family, head_dim: u32) -> Result<Attention, String> {
        let given = family.softcaps.and_then(|caps| self.attn_logit_softcapping.or(caps.attention));
        let softcap = cap("attn_logit_softcapping", given)?;
        let plain = Attention { softcap, ..Attention::of_heads(head_dim as usize) };
        let QueryScale::PreAttentionScalar { absent } = family.scale else { return Ok(plain) };
        let scalar = self.query_pre_attn_scalar.unwrap_or(absent as f32);
        if !(scalar.is_finite() && scalar > 0.0) {
            return Err(format!("query_pre_attn_scalar: {scalar} is not usable: it must be above 0"));
        }
        Ok(Attention { scale: scalar.sqrt().recip(), ..plain })
    }

    pub(super) fn experts(&self, absent: AbsentExperts) -> Result<Experts, String> {
        let count = self.num_experts.unwrap_or(absent.count);
        let per_token = self.num_experts_per_tok.unwrap_or(absent.per_token);
        let intermediate = self.moe_intermediate_size.unwrap_or(absent.intermediate);
        no_zero(&[("num_experts", count), ("moe_intermediate_size", intermediate)])?;
        if per_token == 0 || per_token > count {
            return Err(format!("num_experts_per_tok: {per_token} of num_experts, {count}"));
        }
        let shares = if self.norm_topk_prob == Some(true) { Shares::Normalised } else { Shares::OfAll };
        Ok(Experts {
            count: count as usize,
            intermediate: intermediate as usize,
            routing: Routing { per_token: per_token as usize, shares },
        })
    }
}

fn no_zero(sizes: &[(&str, u32)]) -> Result<(), String> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((field, _)) => Err(format!("{field}: 0 is not a size")),
        None => Ok(()),
    }
}

fn cap(field: &str, given: Option<f32>) -> Result<Option<f32>, String> {
    match given {
        Some(cap) if !(cap.is_finite() && cap > 0.0) => {
            Err(format!("{field}: {cap} is not usable: it must be above 0, or null for no cap"))
        }
        given => Ok(given),
    }
}
