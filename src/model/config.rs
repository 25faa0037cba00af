//! `config.json`, parsed and checked into a type whose sizes fit each other.

use std::path::Path;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::batch::KvShape;
use super::error::ModelError;
use super::rope::{Rope, RopeScaling};

const SUPPORTED: &str = "LlamaForCausalLM";

/// A Llama decoder's sizes.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) architecture: String,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocab: usize,
    pub(super) max_positions: usize,
    pub(super) norm_eps: f32,
    pub(super) rope: Rope,
    pub(super) tied_embeddings: bool,
    pub(super) attention_bias: bool,
    pub(super) mlp_bias: bool,
    pub(super) bos: Marks,
    pub(super) eos: Marks,
}

/// The tokens that begin or end a text, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Marks {
    /// `config.json` names these: none of them, if it says null or -1.
    Named(Vec<u32>),
    /// It has no such key. These are what `LlamaConfig` takes then; a tokenizer that names its own knows better.
    Assumed(Vec<u32>),
}

impl Marks {
    /// What `LlamaConfig` takes if `bos_token_id` is absent.
    const BOS: u32 = 1;
    /// What it takes if `eos_token_id` is absent.
    const EOS: u32 = 2;

    fn read(key: &str, given: Given, absent: u32, vocab: u32) -> Result<Self, String> {
        match given {
            Given::Absent => Ok(Self::Assumed((absent < vocab).then_some(absent).into_iter().collect())),
            Given::Null => Ok(Self::Named(Vec::new())),
            Given::Ids(ids) => Ok(Self::Named(ids.below(key, vocab as usize)?)),
        }
    }
}

impl Config {
    pub(super) const fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        // the architecture first: another one may well lack the fields of ours
        let Named { architectures, model_type } = read_json(path)?;
        let found = match &architectures[..] {
            [] => format!("(none; model_type {})", model_type.as_deref().unwrap_or("is missing, too")),
            names => names.join(", "),
        };
        if found != SUPPORTED {
            return Err(ModelError::Architecture { path: path.into(), found, supported: SUPPORTED });
        }
        let raw: Raw = read_json(path)?;
        raw.check().map_err(|what| ModelError::Config { path: path.into(), what })
    }
}

/// Reads a JSON file; an error names the field.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    let text = std::fs::read(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&text)).map_err(|e| {
        let what = match e.path().to_string().as_str() {
            "." => e.inner().to_string(),
            field => format!("{field}: {}", e.inner()),
        };
        ModelError::Json { path: path.into(), what }
    })
}

/// Reads a JSON file that a folder need not have; without it, what is so by default.
pub(super) fn read_optional<T: DeserializeOwned + Default>(path: &Path) -> Result<T, ModelError> {
    match read_json(path) {
        Err(ModelError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(T::default())
        }
        other => other,
    }
}

/// One token or several, as `eos_token_id` may be.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum TokenIds {
    One(i64),
    Many(Vec<i64>),
}

impl TokenIds {
    /// The tokens, each of which the vocabulary must have; Hugging Face writes -1 for none. The error names `key`.
    pub(super) fn below(&self, key: &str, vocab: usize) -> Result<Vec<u32>, String> {
        let ids = match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        };
        let token = |id: &i64| {
            u32::try_from(*id).ok().filter(|token| (*token as usize) < vocab).ok_or_else(|| {
                format!("{key}: {id} is not a token: the vocabulary has {vocab}, from 0; -1 means none")
            })
        };
        ids.iter().filter(|id| **id != -1).map(token).collect()
    }
}

/// Tokens as a key gives them. Leaving a key out is not the same as saying null.
#[derive(Default)]
enum Given {
    #[default]
    Absent,
    Null,
    Ids(TokenIds),
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::Ids))
    }
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: Option<String>,
}

// sizes are u32, so that a product of two cannot overflow
#[derive(Deserialize)]
struct Raw {
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    vocab_size: u32,
    #[serde(default = "default_positions")]
    max_position_embeddings: u32,
    #[serde(default = "default_eps")]
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    #[serde(default = "default_act")]
    hidden_act: String,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    quantization_config: Option<IgnoredAny>,
    #[serde(default)]
    bos_token_id: Given,
    #[serde(default)]
    eos_token_id: Given,
}

#[derive(Deserialize, Default)]
struct RawRope {
    rope_type: Option<String>,
    /// The older name of `rope_type`; many files have both.
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
    partial_rotary_factor: Option<f32>,
}

const fn default_positions() -> u32 {
    2048
}

const fn default_eps() -> f32 {
    1e-6
}

fn default_act() -> String {
    "silu".to_owned()
}

impl RawRope {
    /// The kind of scaling, under either name; `key` is where this lies in the file.
    fn rope_type(&self, key: &str) -> Result<&str, String> {
        match (self.rope_type.as_deref(), self.kind.as_deref()) {
            (Some(new), Some(old)) if new != old => Err(format!(
                "{key}.rope_type: {new:?}, and {key}.type, its older name, says {old:?}: leave one of them out"
            )),
            (new, old) => Ok(new.or(old).unwrap_or("default")),
        }
    }
}

impl Raw {
    fn check(self) -> Result<Config, String> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads.unwrap_or(1)),
            ("head_dim", self.head_dim.unwrap_or(1)),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((field, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{field}: 0 is not a size"));
        }
        let heads = self.num_attention_heads;
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "num_attention_heads: {heads} is not a multiple of num_key_value_heads, {kv_heads}"
            ));
        }
        let head_dim = match self.head_dim {
            Some(dim) => dim,
            None if self.hidden_size.is_multiple_of(heads) => self.hidden_size / heads,
            None => {
                return Err(format!("head_dim: missing, and {heads} heads do not share hidden_size evenly"));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(format!("head_dim: {head_dim} is odd, and rotary embedding turns pairs"));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(format!("rms_norm_eps: {} is not usable", self.rms_norm_eps));
        }
        if self.hidden_act != "silu" {
            return Err(format!("hidden_act: {:?} is not supported: only \"silu\"", self.hidden_act));
        }
        if self.quantization_config.is_some() {
            return Err(
                "quantization_config: quantised checkpoints are not supported: use BF16, F16 or F32".into()
            );
        }
        let rope = self.rope()?;
        let bos = Marks::read("bos_token_id", self.bos_token_id, Marks::BOS, self.vocab_size)?;
        let eos = Marks::read("eos_token_id", self.eos_token_id, Marks::EOS, self.vocab_size)?;
        Ok(Config {
            architecture: SUPPORTED.to_owned(),
            hidden: self.hidden_size as usize,
            intermediate: self.intermediate_size as usize,
            layers: self.num_hidden_layers as usize,
            heads: heads as usize,
            kv_heads: kv_heads as usize,
            head_dim: head_dim as usize,
            vocab: self.vocab_size as usize,
            max_positions: self.max_position_embeddings as usize,
            norm_eps: self.rms_norm_eps,
            rope,
            tied_embeddings: self.tie_word_embeddings,
            attention_bias: self.attention_bias,
            mlp_bias: self.mlp_bias,
            bos,
            eos,
        })
    }

    /// `rope_parameters` is how `transformers` 5 writes what were `rope_theta` and `rope_scaling`.
    fn rope(&self) -> Result<Rope, String> {
        let absent = RawRope::default();
        let (key, raw) = match (&self.rope_parameters, &self.rope_scaling) {
            (Some(raw), _) => ("rope_parameters", raw),
            (None, Some(raw)) => ("rope_scaling", raw),
            (None, None) => ("rope_scaling", &absent),
        };
        let theta = raw.rope_theta.or(self.rope_theta).unwrap_or(10_000.0);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(format!("rope_theta: {theta} is not usable"));
        }
        if raw.partial_rotary_factor.is_some_and(|f| (f - 1.0).abs() > f32::EPSILON) {
            return Err(format!("{key}.partial_rotary_factor: only 1 is supported"));
        }
        let need = |field: &str, value: Option<f32>| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(format!("{key}.{field}: {value} is not usable")),
            None => Err(format!("{key}.{field}: missing")),
        };
        let scaling = match raw.rope_type(key)? {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: need("factor", raw.factor)? },
            "llama3" => {
                let low_freq_factor = need("low_freq_factor", raw.low_freq_factor)?;
                let high_freq_factor = need("high_freq_factor", raw.high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(format!(
                        "{key}.high_freq_factor: must be above low_freq_factor, {low_freq_factor}"
                    ));
                }
                RopeScaling::Llama3 {
                    factor: need("factor", raw.factor)?,
                    low_freq_factor,
                    high_freq_factor,
                    original_positions: need(
                        "original_max_position_embeddings",
                        raw.original_max_position_embeddings,
                    )?,
                }
            }
            other => {
                return Err(format!(
                    "{key}.rope_type: {other:?} is not supported: default, linear or llama3"
                ));
            }
        };
        Ok(Rope { theta, scaling })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(change: impl FnOnce(&mut Value)) -> Result<Config, String> {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 48, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
        });
        change(&mut config);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        Config::read(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_left_out_is_what_transformers_takes() {
        let config = read(|_| ()).unwrap();
        assert_eq!((config.kv_heads, config.head_dim, config.max_positions), (4, 12, 2048));
        assert_eq!(config.rope, Rope { theta: 10_000.0, scaling: RopeScaling::None });
        assert!(!config.tied_embeddings);
        assert_eq!((config.bos, config.eos), (Marks::Assumed(vec![1]), Marks::Assumed(vec![2])));
        // a vocabulary without such a token is no error: nobody named it
        let tiny = read(|c| c["vocab_size"] = json!(2)).unwrap();
        assert_eq!((tiny.bos, tiny.eos), (Marks::Assumed(vec![1]), Marks::Assumed(Vec::new())));
    }

    #[test]
    fn eos_is_one_token_or_several_or_said_to_be_none() {
        let cases = [
            (json!(2), vec![2]),
            (json!([2, 9]), vec![2, 9]),
            (json!(-1), vec![]),
            (json!(null), vec![]),
            (json!([]), vec![]),
        ];
        for (given, eos) in cases {
            let config = read(|c| c["eos_token_id"] = given.clone()).unwrap();
            assert_eq!(config.eos, Marks::Named(eos), "{given}");
        }
    }

    #[test]
    fn the_old_and_the_new_way_to_write_rope_mean_the_same() {
        let old = read(|c| {
            c["rope_theta"] = json!(5e5);
            c["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
        });
        let new =
            read(|c| c["rope_parameters"] = json!({"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}));
        let both = read(|c| {
            c["rope_theta"] = json!(5e5);
            c["rope_scaling"] = json!({"type": "linear", "rope_type": "linear", "factor": 2.0});
        });
        let old = old.unwrap().rope;
        assert_eq!(old, new.unwrap().rope);
        assert_eq!(old, both.unwrap().rope);
    }

    #[test]
    fn an_error_names_the_file_the_field_and_what_was_found() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 16] = [
            (|c| c["architectures"] = json!(["GPT2LMHeadModel"]), "GPT2LMHeadModel"),
            (|c| c["architectures"] = json!([]), "none"),
            (|c| c["hidden_size"] = json!("wide"), "hidden_size"),
            (|c| c["vocab_size"] = json!(0), "vocab_size"),
            (|c| c["num_key_value_heads"] = json!(3), "multiple"),
            (|c| c["num_attention_heads"] = json!(5), "head_dim"),
            (|c| c["head_dim"] = json!(7), "odd"),
            (|c| c["hidden_act"] = json!("gelu"), "gelu"),
            (|c| c["quantization_config"] = json!({}), "quantization_config"),
            (|c| c["rope_scaling"] = json!({"rope_type": "yarn", "factor": 2.0}), "yarn"),
            (|c| c["rope_scaling"] = json!({"rope_type": "linear"}), "rope_scaling.factor"),
            (|c| c["rope_scaling"] = json!({"rope_type": "linear", "type": "llama3"}), "rope_scaling.type"),
            (|c| c["eos_token_id"] = json!([2, 100]), "eos_token_id: 100"),
            (|c| c["eos_token_id"] = json!(-2), "eos_token_id: -2"),
            (|c| c["bos_token_id"] = json!(5_000_000_000_i64), "bos_token_id: 5000000000"),
            (|c| c["rope_parameters"] = json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor"),
        ];
        for (change, names) in cases {
            let error = read(change).unwrap_err();
            assert!(error.contains("config.json") && error.contains(names), "{error} does not name {names}");
        }
    }
}
