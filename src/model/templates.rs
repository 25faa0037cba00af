//! What the files beside a tokenizer say in words: its special tokens, and chat templates.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::config::read_optional;
use super::error::ModelError;

/// The special tokens that a chat template may name.
#[derive(Debug, Clone, Default)]
pub struct SpecialTokenText {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a turn or a text.
    pub eos: Option<String>,
    /// Others by the names that templates know them by, such as `pad_token`.
    pub others: BTreeMap<String, String>,
}

/// The sources of a model's chat templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplateSources {
    /// For most conversations.
    pub default: String,
    /// For those with tools, where it is another one.
    pub tool_use: Option<String>,
}

/// What `tokenizer_config.json` and the templates beside it say.
#[derive(Debug)]
pub(super) struct TokenizerWords {
    pub(super) special: SpecialTokenText,
    pub(super) templates: Option<ChatTemplateSources>,
}

impl TokenizerWords {
    pub(super) fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("tokenizer_config.json");
        let TokenizerConfig { chat_template, mut others } = read_optional(&path)?;
        let mut token = |name: &str| others.remove(name).and_then(text);
        let (bos, eos) = (token("bos_token"), token("eos_token"));
        others.retain(|name, _| name.ends_with("_token"));
        let others = others.into_iter().filter_map(|(name, token)| Some((name, text(token)?))).collect();
        let mut named = files(dir)?;
        // the files count, if there are any
        if named.is_empty() {
            named = match chat_template {
                None => BTreeMap::new(),
                Some(Templates::One(source)) => BTreeMap::from([(DEFAULT.to_owned(), source)]),
                Some(Templates::Named(all)) => all.into_iter().map(|t| (t.name, t.template)).collect(),
            };
        }
        let special = SpecialTokenText { bos, eos, others };
        Ok(Self { special, templates: chosen(&path, named)? })
    }
}

/// The templates in files of their own in a folder, if there are any.
pub(super) fn templates_in(dir: &Path) -> Result<Option<ChatTemplateSources>, ModelError> {
    chosen(&dir.join("additional_chat_templates"), files(dir)?)
}

/// Of templates by name those that are used; `path` is where they were named.
fn chosen(
    path: &Path,
    mut named: BTreeMap<String, String>,
) -> Result<Option<ChatTemplateSources>, ModelError> {
    if named.is_empty() {
        return Ok(None);
    }
    let Some(default) = named.remove(DEFAULT) else {
        let names: Vec<String> = named.into_keys().collect();
        let what = format!("chat_template: {names:?}, without one that is named \"default\"");
        return Err(ModelError::Config { path: path.into(), what });
    };
    Ok(Some(ChatTemplateSources { default, tool_use: named.remove("tool_use") }))
}

/// The name of the template for most conversations.
const DEFAULT: &str = "default";

/// Templates in files of their own, by name: `chat_template.jinja` is the default one.
fn files(dir: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let mut named = BTreeMap::new();
    let mut take = |name: String, path: &Path| match std::fs::read_to_string(path) {
        Ok(source) => {
            named.insert(name, source);
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ModelError::Read { path: path.into(), source }),
    };
    take(DEFAULT.to_owned(), &dir.join("chat_template.jinja"))?;
    let more = dir.join("additional_chat_templates");
    let entries = match more.read_dir() {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(named),
        Err(source) => return Err(ModelError::Read { path: more, source }),
    };
    for entry in entries {
        let path = entry.map_err(|source| ModelError::Read { path: more.clone(), source })?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(name) = stem.filter(|_| path.extension().is_some_and(|e| e == "jinja")) {
            take(name.to_owned(), &path)?;
        }
    }
    Ok(named)
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// A token is written as its text, or as an object that has it.
fn text(token: Value) -> Option<String> {
    match token {
        Value::String(text) => Some(text),
        Value::Object(mut added) => added.remove("content").and_then(text),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn read(config: &Value, files: &[(&str, &str)]) -> Result<TokenizerWords, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        for (name, source) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, source).unwrap();
        }
        TokenizerWords::read(dir.path()).map_err(|e| e.to_string())
    }

    fn sources(default: &str, tool_use: Option<&str>) -> ChatTemplateSources {
        ChatTemplateSources { default: default.to_owned(), tool_use: tool_use.map(str::to_owned) }
    }

    #[test]
    fn a_template_is_found_wherever_transformers_puts_it() {
        let named = |names: &[&str]| json!({"chat_template": names.iter().map(|n| json!({"name": n, "template": n})).collect::<Vec<_>>()});
        let file = ("chat_template.jinja", "a file");
        let tools = ("additional_chat_templates/tool_use.jinja", "a file for tools");
        for (config, files, expected) in [
            (json!({}), &[][..], None),
            (json!({"chat_template": "one"}), &[], Some(sources("one", None))),
            (named(&["default", "tool_use", "rag"]), &[], Some(sources("default", Some("tool_use")))),
            (json!({"chat_template": "one"}), &[file], Some(sources("a file", None))),
            (json!({}), &[file, tools], Some(sources("a file", Some("a file for tools")))),
        ] {
            assert_eq!(read(&config, files).unwrap().templates, expected, "{config}");
        }
        for (config, files) in [(named(&["tool_use"]), &[][..]), (json!({}), &[tools])] {
            let error = read(&config, files).unwrap_err();
            assert!(error.contains("default") && error.contains("tool_use"), "{error}");
        }
    }

    #[test]
    fn tokens_are_texts_or_objects_that_hold_them() {
        let config = json!({
            "bos_token": null, "eos_token": {"content": "</s>"}, "pad_token": "<pad>", "add_bos_token": true,
        });
        let special = read(&config, &[]).unwrap().special;
        assert_eq!((special.bos, special.eos.as_deref()), (None, Some("</s>")));
        assert_eq!(special.others, BTreeMap::from([("pad_token".to_owned(), "<pad>".to_owned())]));
    }
}
