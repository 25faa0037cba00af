//! The files that sentence-transformers adds to a model: what becomes of the encoder's rows, and how long a text may be.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::config::{read_json, read_optional};
use crate::model::error::ModelError;

/// How the rows of a text become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Their mean.
    Mean,
    /// The first, whose token stands for the text.
    Cls,
}

/// What the files beside `config.json` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) pooling: Pooling,
    /// The most tokens of a text, those that are added included; what is longer is cut.
    pub(super) max_tokens: usize,
}

impl Layout {
    /// Reads a folder; `hidden` and `positions` are the model's own sizes.
    pub(super) fn read(dir: &Path, hidden: usize, positions: usize) -> Result<Self, ModelError> {
        refuse_prompts(&dir.join("config_sentence_transformers.json"))?;
        let pooling = match pooling_folder(&dir.join("modules.json"))? {
            Some(folder) => read_pooling(&dir.join(folder).join("config.json"), hidden)?,
            // as sentence-transformers takes a folder without this file
            None => Pooling::Mean,
        };
        Ok(Self { pooling, max_tokens: max_tokens(dir, positions)? })
    }
}

fn wrong<T>(path: &Path, what: impl Into<String>) -> Result<T, ModelError> {
    Err(ModelError::Config { path: path.into(), what: what.into() })
}

#[derive(Deserialize, Default)]
struct Prompts {
    default_prompt_name: Option<String>,
}

/// A default prompt would stand before each text and change its vector.
fn refuse_prompts(path: &Path) -> Result<(), ModelError> {
    let prompts: Prompts = read_optional(path)?;
    match prompts.default_prompt_name {
        None => Ok(()),
        Some(name) => {
            wrong(path, format!("default_prompt_name: {name:?} is not supported: only null, for no prompt"))
        }
    }
}

#[derive(Deserialize)]
struct Module {
    path: String,
    /// A Python class, with its package.
    r#type: String,
}

/// Where the pooling is described: what the model is made of must be a transformer, a pooling and at most a
/// normalisation. `None` if there is no such file.
fn pooling_folder(path: &Path) -> Result<Option<String>, ModelError> {
    let modules: Option<Vec<Module>> = read_optional(path)?;
    let Some(modules) = modules else { return Ok(None) };
    let kinds: Vec<&str> = modules.iter().filter_map(|module| module.r#type.rsplit('.').next()).collect();
    if !matches!(kinds[..], ["Transformer", "Pooling"] | ["Transformer", "Pooling", "Normalize"]) {
        let found = kinds.join(", ");
        return wrong(
            path,
            format!("{found} is not supported: only Transformer, Pooling and Normalize, in turn"),
        );
    }
    let [transformer, pooling, ..] = &modules[..] else { return Ok(None) };
    if !transformer.path.is_empty() {
        let found = &transformer.path;
        return wrong(
            path,
            format!("the Transformer lies in {found:?}: move its files to the top of the folder"),
        );
    }
    // an image is a folder: what it names may not lie outside of it
    if Path::new(&pooling.path).file_name() != Some(pooling.path.as_ref()) {
        return wrong(
            path,
            format!("the Pooling lies in {:?}, which is not a folder of this one", pooling.path),
        );
    }
    Ok(Some(pooling.path.clone()))
}

#[derive(Deserialize)]
struct RawPooling {
    /// As it is written since version 5.
    pooling_mode: Option<String>,
    embedding_dimension: Option<usize>,
    /// As it was before: `pooling_mode_…`, one truth value each.
    #[serde(flatten)]
    older: Map<String, Value>,
}

fn read_pooling(path: &Path, hidden: usize) -> Result<Pooling, ModelError> {
    let RawPooling { pooling_mode, embedding_dimension, older } = read_json(path)?;
    let older_dimension = || Some(older.get("word_embedding_dimension")?.as_u64()? as usize);
    if let Some(found) = embedding_dimension.or_else(older_dimension).filter(|found| *found != hidden) {
        return wrong(path, format!("a dimension of {found}, and config.json has hidden_size {hidden}"));
    }
    let set = older.iter().filter(|(_, value)| **value == Value::Bool(true));
    let set = set.filter_map(|(key, _)| key.strip_prefix("pooling_mode_"));
    let modes: Vec<&str> = pooling_mode.as_deref().map_or_else(|| set.collect(), |mode| vec![mode]);
    match modes[..] {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        _ => wrong(
            path,
            format!("pooling_mode: {:?} is not supported: only mean, or only cls", modes.join(" and ")),
        ),
    }
}

#[derive(Deserialize, Default)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    /// A number, or one so large (1e30) that it means none.
    model_max_length: Option<f64>,
}

/// The longest text that counts, of so many positions.
pub(super) fn max_tokens(dir: &Path, positions: usize) -> Result<usize, ModelError> {
    let path = dir.join("sentence_bert_config.json");
    let SentenceConfig { max_seq_length, do_lower_case } = read_optional(&path)?;
    if do_lower_case {
        return wrong(&path, "do_lower_case: true is not supported: let the tokenizer's normalizer do it");
    }
    match max_seq_length {
        Some(most) if most > positions => wrong(
            &path,
            format!(
                "max_seq_length: {most} is more than max_position_embeddings of config.json, {positions}"
            ),
        ),
        Some(most) => Ok(most),
        None => {
            let about: TokenizerConfig = read_optional(&dir.join("tokenizer_config.json"))?;
            let most = about.model_max_length.filter(|most| *most >= 1.0);
            Ok(most.map_or(positions, |most| positions.min(most as usize)))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HIDDEN: usize = 32;
    const POSITIONS: usize = 64;

    fn read(files: &[(&str, Value)]) -> Result<Layout, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content.to_string()).unwrap();
        }
        Layout::read(dir.path(), HIDDEN, POSITIONS).map_err(|e| e.to_string())
    }

    fn modules(kinds: &[&str]) -> (&'static str, Value) {
        let module = |(i, kind): (usize, &&str)| {
            let path = if i == 0 { String::new() } else { format!("{i}_{kind}") };
            json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
        };
        ("modules.json", kinds.iter().enumerate().map(module).collect())
    }

    const POOLING: &str = "1_Pooling/config.json";

    #[test]
    fn a_model_without_these_files_is_pooled_by_its_mean_and_as_long_as_its_positions() {
        assert_eq!(read(&[]).unwrap(), Layout { pooling: Pooling::Mean, max_tokens: POSITIONS });
    }

    #[test]
    fn older_and_newer_files_say_the_same() {
        let both = modules(&["Transformer", "Pooling"]);
        let old = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false, "word_embedding_dimension": 32});
        let new = json!({"pooling_mode": "cls", "embedding_dimension": 32, "include_prompt": true});
        for pooling in [old, new] {
            let found = read(&[both.clone(), (POOLING, pooling)]).unwrap();
            assert_eq!(found.pooling, Pooling::Cls);
        }
    }

    #[test]
    fn the_longest_text_is_said_in_three_places() {
        let sentence = ("sentence_bert_config.json", json!({"max_seq_length": 16}));
        let tokenizer = |most: f64| ("tokenizer_config.json", json!({"model_max_length": most}));
        for (files, most) in [
            (&[sentence, tokenizer(8.0)][..], 16),
            (&[tokenizer(8.0)], 8),
            (&[tokenizer(512.0)], POSITIONS),
            (&[tokenizer(1e30)], POSITIONS),
        ] {
            assert_eq!(read(files).unwrap().max_tokens, most, "{files:?}");
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_with_its_file() {
        let whole = modules(&["Transformer", "Pooling", "Normalize"]);
        let pooling = |content: Value| vec![whole.clone(), (POOLING, content)];
        let moved = |index: usize, path: &str| {
            let (name, mut content) = whole.clone();
            content[index]["path"] = json!(path);
            vec![(name, content)]
        };
        for (files, wanted) in [
            (
                vec![modules(&["Transformer", "Pooling", "Dense"])],
                "modules.json: Transformer, Pooling, Dense is",
            ),
            (vec![("modules.json", json!([]))], "modules.json:  is not supported"),
            (vec![whole.clone()], "1_Pooling/config.json: No such file"),
            (moved(0, "0_Transformer"), "modules.json: the Transformer lies in \"0_Transformer\""),
            (moved(1, "../1_Pooling"), "modules.json: the Pooling lies in \"../1_Pooling\""),
            (moved(1, ".."), "modules.json: the Pooling lies in \"..\""),
            (pooling(json!({"pooling_mode": "max"})), "1_Pooling/config.json: pooling_mode: \"max\" is"),
            (pooling(json!({})), "1_Pooling/config.json: pooling_mode: \"\" is"),
            (
                pooling(json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true})),
                "1_Pooling/config.json: pooling_mode: \"cls_token and mean_tokens\" is",
            ),
            (
                pooling(json!({"pooling_mode": "mean", "embedding_dimension": 48})),
                "1_Pooling/config.json: a dimension of 48, and config.json has hidden_size 32",
            ),
            (
                vec![("sentence_bert_config.json", json!({"max_seq_length": 65}))],
                "sentence_bert_config.json: max_seq_length: 65 is more than",
            ),
            (
                vec![("sentence_bert_config.json", json!({"do_lower_case": true}))],
                "sentence_bert_config.json: do_lower_case: true",
            ),
            (
                vec![("config_sentence_transformers.json", json!({"default_prompt_name": "query"}))],
                "config_sentence_transformers.json: default_prompt_name: \"query\"",
            ),
        ] {
            let error = read(&files).unwrap_err();
            assert!(error.contains(wanted), "{error}\nhas no {wanted}");
        }
    }
}
