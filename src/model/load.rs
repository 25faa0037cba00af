//! The door: a folder in Hugging Face layout becomes a model that can run.

use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::batch::{CausalLm, KvShape};
use super::config::{Config, TokenIds, read_json};
use super::decoder::Llama;
use super::error::ModelError;
use super::pool::WeightPool;
use super::tokenizer::Tokenizer;
use super::weights::Checkpoint;

/// A version, ready to run.
pub struct LoadedModel {
    /// What computes.
    pub lm: Box<dyn CausalLm>,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// What was loaded.
    pub info: ModelInfo,
    /// The tokens that end an answer.
    pub eos: Vec<u32>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// How it wants to be sampled.
    pub generation: GenerationDefaults,
    /// The source of its chat template.
    pub chat_template: Option<String>,
    /// The special tokens that the template may name.
    pub special: SpecialTokenText,
}

/// What was loaded.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// As `config.json` names it.
    pub architecture: String,
    /// How many there are.
    pub parameters: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Of those, bytes that other versions had loaded before.
    pub shared_bytes: u64,
    /// Positions are below it.
    pub max_positions: usize,
    /// Tokens are below it.
    pub vocab_size: usize,
    /// The sizes of its keys and values.
    pub kv_shape: KvShape,
}

/// Sampling as `generation_config.json` sets it; `do_sample: false` there is a temperature of 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Only the so many likeliest tokens.
    pub top_k: Option<NonZeroU32>,
    /// Only the likeliest tokens of so much probability together.
    pub top_p: Option<f32>,
    /// Above 1 disfavours what has been said.
    pub repetition_penalty: Option<f32>,
}

/// The special tokens that a chat template may name.
#[derive(Debug, Clone, Default)]
pub struct SpecialTokenText {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a turn or a text.
    pub eos: Option<String>,
}

/// Loads the model in `dir`. Weights are mapped, and read once from end to end to find those that `pool` holds
/// already, so the first request does not wait for the disk. `progress` hears of bytes read and of all bytes.
pub fn load(dir: &Path, pool: &WeightPool, progress: &dyn Fn(u64, u64)) -> Result<LoadedModel, ModelError> {
    let config = Config::read(&dir.join("config.json"))?;
    // the small files first: what is wrong with them shows before gigabytes are read
    let tokenizer_path = dir.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&tokenizer_path)?;
    if tokenizer.vocab_size() > config.vocab {
        let (tokens, vocabulary) = (tokenizer.vocab_size(), config.vocab);
        return Err(ModelError::Vocabulary { path: tokenizer_path, tokens, vocabulary });
    }
    let words: TokenizerConfig = read_optional(&dir.join("tokenizer_config.json"))?;
    let generation: GenerationConfig = read_optional(&dir.join("generation_config.json"))?;
    let special = SpecialTokenText {
        bos: words.bos_token.map(TokenText::into_text),
        eos: words.eos_token.map(TokenText::into_text),
    };
    let bos = config.bos.or_else(|| tokenizer.id_of(special.bos.as_deref()?));
    let mut eos = generation.eos_token_id.as_ref().map_or_else(|| config.eos.clone(), TokenIds::ids);
    eos.extend(special.eos.as_deref().and_then(|text| tokenizer.id_of(text)));
    eos.sort_unstable();
    eos.dedup();
    if let Some(token) = eos.iter().chain(&bos).find(|t| **t as usize >= config.vocab) {
        let what = format!("token {token} begins or ends a text, and the vocabulary is of {}", config.vocab);
        return Err(ModelError::Config { path: dir.join("config.json"), what });
    }
    let chat_template = read_template(dir, words.chat_template)?;

    pool.sweep();
    let mut checkpoint = Checkpoint::open(dir, pool, progress)?;
    let lm = Llama::load(config.clone(), &mut checkpoint)?;
    let totals = checkpoint.finish()?;
    let info = ModelInfo {
        parameters: totals.parameters,
        weight_bytes: totals.bytes,
        shared_bytes: totals.shared_bytes,
        max_positions: config.max_positions,
        vocab_size: config.vocab,
        kv_shape: config.kv_shape(),
        architecture: config.architecture,
    };
    let generation = generation.defaults();
    Ok(LoadedModel { lm: Box::new(lm), tokenizer, info, eos, bos, generation, chat_template, special })
}

/// `chat_template.jinja` before `tokenizer_config.json`, as in `transformers`.
fn read_template(dir: &Path, configured: Option<Templates>) -> Result<Option<String>, ModelError> {
    let path = dir.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => return Ok(Some(source)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(ModelError::Read { path, source }),
    }
    match configured {
        None => Ok(None),
        Some(Templates::One(source)) => Ok(Some(source)),
        Some(Templates::Named(all)) => match all.into_iter().find(|t| t.name == "default") {
            Some(default) => Ok(Some(default.template)),
            None => Err(ModelError::Config {
                path: dir.join("tokenizer_config.json"),
                what: "chat_template: a list without one that is named \"default\"".to_owned(),
            }),
        },
    }
}

fn read_optional<T: DeserializeOwned + Default>(path: &Path) -> Result<T, ModelError> {
    match read_json(path) {
        Err(ModelError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(T::default())
        }
        other => other,
    }
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Text(String),
    Added { content: String },
}

impl TokenText {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
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

#[derive(Deserialize, Default)]
struct GenerationConfig {
    eos_token_id: Option<TokenIds>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    fn defaults(&self) -> GenerationDefaults {
        GenerationDefaults {
            temperature: if self.do_sample == Some(false) { Some(0.0) } else { self.temperature },
            top_k: self.top_k.and_then(NonZeroU32::new),
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
        }
    }
}

impl fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedModel")
            .field("info", &self.info)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}
