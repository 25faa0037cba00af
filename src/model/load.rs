//! The door: a folder in Hugging Face layout, or a GGUF file, becomes a model that can run.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::Path;

use serde::Deserialize;

use super::adapter::Adapter;
use super::batch::{CausalLm, KvShape};
use super::config::{Marks, TokenIds};
use super::decoder::{Body, Decoder, EMBEDDING};
use super::error::ModelError;
use super::pool::WeightPool;
use super::quantize::Recipe;
use super::source::Source;
use super::templates::{ChatTemplateSources, SpecialTokenText, TokenizerWords};
use super::tokenizer::Tokenizer;
use super::weights::Checkpoint;
use crate::ids::Quantize;
use crate::tensor::{Device, Staged, TensorError, Weight};

/// A model in the host's memory, where its weights are mapped; [`LoadedModel::lm`] brings them to where it computes.
pub struct LoadedModel {
    body: Body,
    /// All its weights, as they are stored.
    weights: Vec<Weight>,
    device: Device,
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
    /// The sources of its chat templates.
    pub chat_templates: Option<ChatTemplateSources>,
    /// The special tokens that the template may name.
    pub special: SpecialTokenText,
}

/// What was loaded.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// As `config.json` names it, or would.
    pub architecture: String,
    /// How many there are.
    pub parameters: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Of those, bytes that other versions had loaded before.
    pub shared_bytes: u64,
    /// Bytes that a decode step reads: all but a table of embeddings that is not the last layer, too.
    pub step_bytes: u64,
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
    /// Only tokens with so much of the likeliest's probability.
    pub min_p: Option<f32>,
    /// Above 1 disfavours what has been said.
    pub repetition_penalty: Option<f32>,
    /// An answer ends after so many tokens.
    pub max_new_tokens: Option<NonZeroUsize>,
}

/// Loads the model at `path`: a folder, or a GGUF file. Weights are mapped, and read once from end to end to find those that `pool` holds
/// already, so the first request does not wait for the disk; or they are quantised into memory of their own. `progress`
/// hears of bytes read and of all bytes.
pub fn load(
    path: &Path,
    quantize: Quantize,
    pool: &WeightPool,
    progress: &dyn Fn(u64, u64),
) -> Result<LoadedModel, ModelError> {
    let source = Source::find(path)?;
    let config = source.config()?;
    // the small files first: what is wrong with them shows before gigabytes are read
    let tokenizer = source.tokenizer()?;
    if tokenizer.vocab_size() > config.vocab {
        let (tokens, vocabulary) = (tokenizer.vocab_size(), config.vocab);
        return Err(ModelError::Vocabulary { path: source.tokenizer_path(), tokens, vocabulary });
    }
    let TokenizerWords { special, templates: chat_templates } = source.words()?;
    let (generation_path, generation) = source.generation()?;
    let misconfigured = |what| ModelError::Config { path: generation_path.clone(), what };
    let defaults = generation.defaults().map_err(misconfigured)?;
    // tokens that the tokenizer names are below the vocabulary: its highest is
    let named = |text: &Option<String>| tokenizer.id_of(text.as_deref()?);
    let bos = begins(&config.bos, named(&special.bos));
    let generation_eos = generation.eos(config.vocab).map_err(misconfigured)?;
    let eos = ends(&config.eos, generation_eos, named(&special.eos));

    pool.sweep();
    let recipe = Recipe { quantize, layers: config.layers.len() };
    let tensors = source.tensors(&config)?;
    let activations = tensors.activations(&config.tensor(EMBEDDING))?;
    let mut checkpoint = Checkpoint::new(tensors, recipe, Some(activations), pool, progress)?;
    let body = Body::load(config.clone(), &mut checkpoint)?;
    let (totals, weights) = checkpoint.finish()?;
    let info = ModelInfo {
        parameters: totals.parameters,
        weight_bytes: totals.bytes,
        shared_bytes: totals.shared_bytes,
        step_bytes: totals.bytes - body.looked_up_bytes(),
        max_positions: config.max_positions,
        vocab_size: config.vocab,
        kv_shape: config.kv_shape(),
        architecture: config.architecture.to_owned(),
    };
    Ok(LoadedModel {
        body,
        weights,
        device: pool.device().clone(),
        tokenizer,
        info,
        eos,
        bos,
        generation: defaults,
        chat_templates,
        special,
    })
}

/// Keeps a model's weights in memory from which a GPU gets them fastest. Dropping it gives that back.
pub struct StagedModel(Vec<Staged>);

impl LoadedModel {
    /// What computes, on the device of the pool that the model was loaded with. Weights that are there already, of another
    /// model or of this one's before, are shared.
    pub fn lm(&self) -> Result<Box<dyn CausalLm>, ModelError> {
        // weights go there by the device's first stream, where nothing waits behind a step
        Ok(Box::new(Decoder::new(self.body.on(&self.device)?, self.device.stream()?)))
    }

    /// Reads an adapter that was trained on this model; `pool` is that which it was loaded with.
    pub fn adapter(&self, dir: &Path, pool: &WeightPool) -> Result<Adapter, ModelError> {
        Adapter::load(dir, self.body.config(), pool)
    }

    /// An adapter of noise, to measure what one of such a rank costs.
    pub fn noise_adapter(&self, rank: usize, seed: u64) -> Result<Adapter, ModelError> {
        Adapter::noise(self.body.config(), rank, seed)
    }

    /// Keeps the weights in the host's memory such that [`LoadedModel::lm`] takes no longer than copying them; nothing more
    /// than that they are mapped, where the device is the host.
    pub fn stage(&self) -> Result<StagedModel, ModelError> {
        let staged: Result<_, TensorError> =
            self.weights.iter().map(|weight| weight.stage(&self.device)).collect();
        Ok(StagedModel(staged?))
    }
}

/// The token that begins a text: `config.json` before the tokenizer, and what is only assumed last.
fn begins(config: &Marks, tokenizer: Option<u32>) -> Option<u32> {
    match config {
        Marks::Named(ids) => ids.first().copied().or(tokenizer),
        Marks::Assumed(ids) => tokenizer.or_else(|| ids.first().copied()),
    }
}

/// The tokens that end an answer: those of `generation_config.json`, else those of `config.json`; the tokenizer's in
/// any case; and what is only assumed if nobody named any.
fn ends(config: &Marks, generation: Option<Vec<u32>>, tokenizer: Option<u32>) -> Vec<u32> {
    let mut eos = match (generation, config) {
        (Some(ids), _) => ids,
        (None, Marks::Named(ids)) => ids.clone(),
        (None, Marks::Assumed(ids)) if tokenizer.is_none() => ids.clone(),
        (None, Marks::Assumed(_)) => Vec::new(),
    };
    eos.extend(tokenizer);
    eos.sort_unstable();
    eos.dedup();
    eos
}

/// `generation_config.json` as it is written.
#[derive(Deserialize, Default)]
pub(super) struct GenerationConfig {
    eos_token_id: Option<TokenIds>,
    do_sample: Option<bool>,
    temperature: Option<f64>,
    top_k: Option<i64>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    max_new_tokens: Option<i64>,
}

impl GenerationConfig {
    /// The tokens that end an answer, if the file names any.
    fn eos(&self, vocab: usize) -> Result<Option<Vec<u32>>, String> {
        self.eos_token_id.as_ref().map(|ids| ids.below("eos_token_id", vocab)).transpose()
    }

    /// The same ranges as a client's own parameters have. A value outside would fail every request that leaves it to
    /// the version, so the version is refused instead.
    fn defaults(&self) -> Result<GenerationDefaults, String> {
        let temperature = within("temperature", self.temperature, 0.0..=2.0, "from 0 to 2")?;
        let max_new_tokens =
            self.max_new_tokens.map(|most| match usize::try_from(most).map(NonZeroUsize::new) {
                Ok(Some(most)) => Ok(most),
                _ => Err(outside("max_new_tokens", most, "1 or more")),
            });
        Ok(GenerationDefaults {
            temperature: if self.do_sample == Some(false) { Some(0.0) } else { temperature },
            top_k: self.top_k.map_or(Ok(None), best)?,
            top_p: within("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, "above 0 and at most 1")?,
            min_p: within("min_p", self.min_p, 0.0..=1.0, "from 0 to 1")?,
            // logits are divided by it: one that is nearly 0 would leave the floats
            repetition_penalty: within(
                "repetition_penalty",
                self.repetition_penalty,
                0.01..=10.0,
                "from 0.01 to 10",
            )?,
            max_new_tokens: max_new_tokens.transpose()?,
        })
    }
}

/// `top_k`, where 0 and, as vLLM writes it, -1 mean all tokens.
fn best(k: i64) -> Result<Option<NonZeroU32>, String> {
    match u32::try_from(k) {
        Ok(k) => Ok(NonZeroU32::new(k)),
        Err(_) if k == -1 => Ok(None),
        Err(_) => Err(outside("top_k", k, "1 or more, or 0 or -1 for all tokens")),
    }
}

/// A number that is within `range` as the `f32` that the sampler works in; `wanted` puts the range in words.
fn within(
    field: &str,
    found: Option<f64>,
    range: RangeInclusive<f32>,
    wanted: &str,
) -> Result<Option<f32>, String> {
    match found {
        Some(found) if !range.contains(&(found as f32)) => Err(outside(field, found, wanted)),
        found => Ok(found.map(|found| found as f32)),
    }
}

fn outside(field: &str, found: impl fmt::Display, wanted: &str) -> String {
    format!("{field}: {found} is out of range: make it {wanted}, or leave it out")
}

impl fmt::Debug for StagedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pinned: usize = self.0.iter().map(Staged::bytes).sum();
        write!(f, "StagedModel({} weights, {pinned} bytes pinned)", self.0.len())
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
