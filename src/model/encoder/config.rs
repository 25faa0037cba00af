//! `config.json` of a BERT or a `RoBERTa`, checked into sizes that fit each other.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::model::config::read_json;
use crate::model::error::ModelError;

const SUPPORTED: &str = "bert";

/// A BERT encoder's sizes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocab: usize,
    pub(super) max_positions: usize,
    pub(super) token_types: usize,
    pub(super) norm_eps: f32,
    /// What the names of its tensors begin with.
    pub(super) prefix: &'static str,
    /// The position of a text's first token: `RoBERTa` counts from behind that of the padding.
    pub(super) first_position: usize,
}

/// A model that tells one number of a text: its encoder, and the layers behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Classifier {
    architecture: &'static str,
    model_type: &'static str,
    prefix: &'static str,
    /// The layer that the first token's state goes through, before tanh.
    pub(super) dense: &'static str,
    /// The layer that gives the number.
    pub(super) out: &'static str,
}

const CLASSIFIERS: [Classifier; 3] = [
    Classifier {
        architecture: "BertForSequenceClassification",
        model_type: "bert",
        prefix: "bert.",
        dense: "bert.pooler.dense",
        out: "classifier",
    },
    XLM_ROBERTA,
    Classifier { architecture: "RobertaForSequenceClassification", model_type: "roberta", ..XLM_ROBERTA },
];

const XLM_ROBERTA: Classifier = Classifier {
    architecture: "XLMRobertaForSequenceClassification",
    model_type: "xlm-roberta",
    prefix: "roberta.",
    dense: "classifier.dense",
    out: "classifier.out_proj",
};

impl Classifier {
    fn of(named: &Named) -> Option<&'static Self> {
        CLASSIFIERS.iter().find(|kind| named.architectures.iter().any(|name| name == kind.architecture))
    }

    /// Whether the file is there and names such a model.
    pub(super) fn is_named_in(path: &Path) -> bool {
        read_json::<Named>(path).is_ok_and(|named| Self::of(&named).is_some())
    }

    /// Reads a file that names one: it, and its encoder.
    pub(super) fn read(path: &Path) -> Result<(&'static Self, Config), ModelError> {
        let named: Named = read_json(path)?;
        let wrong = |what| ModelError::Config { path: path.into(), what };
        let Some(kind) = Self::of(&named) else {
            let supported = CLASSIFIERS.map(|kind| kind.architecture).join(", ");
            let found = named.architectures.join(", ");
            return Err(ModelError::Architecture { path: path.into(), found, supported });
        };
        if named.model_type.as_deref() != Some(kind.model_type) {
            let (found, architecture) = (named.model_type, kind.architecture);
            return Err(wrong(format!("model_type: {found:?} does not go with {architecture}")));
        }
        // transformers takes two where nothing is said
        let labels = named.id2label.map_or(named.num_labels.unwrap_or(2), |labels| labels.len());
        if labels != 1 {
            return Err(wrong(format!(
                "id2label: {labels} labels are not supported: a cross-encoder has one, how well two texts go together"
            )));
        }
        let raw: Raw = read_json(path)?;
        let padding = raw.pad_token_id.unwrap_or(1);
        let first = if kind.prefix == "roberta." { padding.saturating_add(1) as usize } else { 0 };
        let config = raw.check().map_err(wrong)?;
        if first >= config.max_positions {
            let positions = config.max_positions;
            return Err(wrong(format!(
                "pad_token_id: {padding} leaves no position of {positions} for a text"
            )));
        }
        Ok((kind, Config { prefix: kind.prefix, first_position: first, ..config }))
    }
}

impl Config {
    /// Whether the file is there and names this architecture.
    pub(super) fn names_it(path: &Path) -> bool {
        read_json::<Named>(path).is_ok_and(|named| named.model_type.as_deref() == Some(SUPPORTED))
    }

    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        // the kind first: another one may well lack the fields of ours
        let Named { model_type, .. } = read_json(path)?;
        if model_type.as_deref() != Some(SUPPORTED) {
            let found = model_type.unwrap_or_else(|| "(no model_type)".to_owned());
            return Err(ModelError::Architecture {
                path: path.into(),
                found,
                supported: SUPPORTED.to_owned(),
            });
        }
        let raw: Raw = read_json(path)?;
        raw.check().map_err(|what| ModelError::Config { path: path.into(), what })
    }
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: Option<String>,
    id2label: Option<Map<String, Value>>,
    num_labels: Option<usize>,
}

// sizes are u32, so that a product of two cannot overflow
#[derive(Deserialize)]
struct Raw {
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    vocab_size: u32,
    #[serde(default = "default_positions")]
    max_position_embeddings: u32,
    #[serde(default = "default_token_types")]
    type_vocab_size: u32,
    #[serde(default = "default_eps")]
    layer_norm_eps: f32,
    #[serde(default = "default_act")]
    hidden_act: String,
    #[serde(default = "default_position_embedding")]
    position_embedding_type: String,
    #[serde(default)]
    is_decoder: bool,
    pad_token_id: Option<u32>,
    quantization_config: Option<IgnoredAny>,
}

const fn default_positions() -> u32 {
    512
}

const fn default_token_types() -> u32 {
    2
}

const fn default_eps() -> f32 {
    1e-12
}

fn default_act() -> String {
    "gelu".to_owned()
}

fn default_position_embedding() -> String {
    "absolute".to_owned()
}

impl Raw {
    fn check(self) -> Result<Config, String> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        if let Some((field, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{field}: 0 is not a size"));
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        if !hidden.is_multiple_of(heads) {
            return Err(format!(
                "num_attention_heads: {heads} heads do not share hidden_size {hidden} evenly"
            ));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return Err(format!("layer_norm_eps: {} is not usable", self.layer_norm_eps));
        }
        if self.hidden_act != "gelu" {
            return Err(format!("hidden_act: {:?} is not supported: only \"gelu\"", self.hidden_act));
        }
        if self.position_embedding_type != "absolute" {
            let found = self.position_embedding_type;
            return Err(format!("position_embedding_type: {found:?} is not supported: only \"absolute\""));
        }
        if self.is_decoder {
            return Err("is_decoder: true is not supported: an encoder sees the whole text".to_owned());
        }
        if self.quantization_config.is_some() {
            return Err(
                "quantization_config: quantised checkpoints are not supported: use BF16, F16 or F32".into()
            );
        }
        Ok(Config {
            hidden: hidden as usize,
            intermediate: self.intermediate_size as usize,
            layers: self.num_hidden_layers as usize,
            heads: heads as usize,
            head_dim: (hidden / heads) as usize,
            vocab: self.vocab_size as usize,
            max_positions: self.max_position_embeddings as usize,
            token_types: self.type_vocab_size as usize,
            norm_eps: self.layer_norm_eps,
            prefix: "",
            first_position: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Change = fn(&mut Value);

    fn read(change: impl FnOnce(&mut Value)) -> Result<Config, String> {
        let mut config = json!({
            "model_type": "bert", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 100,
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
        assert_eq!((config.head_dim, config.max_positions, config.token_types), (12, 512, 2));
    }

    #[test]
    fn a_classifier_has_one_label_and_its_own_positions() {
        let classifier = |change: Change| {
            let mut config = json!({
                "architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta",
                "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                "vocab_size": 100, "max_position_embeddings": 34, "pad_token_id": 1, "id2label": {"0": "LABEL_0"},
            });
            change(&mut config);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("config.json");
            std::fs::write(&path, config.to_string()).unwrap();
            assert!(Classifier::is_named_in(&path));
            Classifier::read(&path).map_err(|e| e.to_string())
        };
        let (kind, config) = classifier(|_| ()).unwrap();
        assert_eq!((config.first_position, config.prefix, kind.out), (2, "roberta.", "classifier.out_proj"));
        let cases: [(Change, &str); 4] = [
            (|c| c["id2label"] = json!({"0": "no", "1": "yes"}), "id2label: 2 labels"),
            (|c| drop(c.as_object_mut().unwrap().remove("id2label")), "id2label: 2 labels"),
            (|c| c["model_type"] = json!("bert"), "model_type: Some(\"bert\")"),
            (|c| c["pad_token_id"] = json!(40), "pad_token_id: 40"),
        ];
        for (change, names) in cases {
            let error = classifier(change).unwrap_err();
            assert!(error.contains("config.json: ") && error.contains(names), "{error}");
        }
    }

    #[test]
    fn an_error_names_the_file_the_field_and_what_was_found() {
        let cases: [(Change, &str); 10] = [
            (|c| c["model_type"] = json!("llama"), "architecture llama is not supported: only bert"),
            (|c| c["model_type"] = json!(null), "(no model_type)"),
            (|c| c["hidden_size"] = json!("wide"), "hidden_size: "),
            (|c| c["vocab_size"] = json!(0), "vocab_size: 0"),
            (|c| c["num_attention_heads"] = json!(5), "num_attention_heads: 5"),
            (|c| c["layer_norm_eps"] = json!(-1), "layer_norm_eps: -1"),
            (|c| c["hidden_act"] = json!("relu"), "hidden_act: \"relu\""),
            (|c| c["position_embedding_type"] = json!("relative_key"), "position_embedding_type: \"relative"),
            (|c| c["is_decoder"] = json!(true), "is_decoder: "),
            (|c| c["quantization_config"] = json!({}), "quantization_config: "),
        ];
        for (change, names) in cases {
            let error = read(change).unwrap_err();
            assert!(error.contains("config.json: ") && error.contains(names), "{error}");
        }
    }
}
