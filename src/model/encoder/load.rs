//! The door: a folder becomes an encoder, and a text a vector.

use std::fmt;
use std::path::Path;

use super::bert::Bert;
use super::config::Config;
use super::files::{checkpoint, tokenizers};
use super::layout::{Layout, Pooling};
use crate::model::error::ModelError;
use crate::model::pool::WeightPool;
use crate::model::tokenizer::{SpecialTokens, Texts, Tokenizer};
use crate::model::weights::Totals;

/// A sentence encoder in the layout of sentence-transformers, such as `all-MiniLM-L6-v2`.
pub struct Encoder {
    bert: Bert,
    tokenizer: Tokenizer,
    /// The same, and cuts texts to the longest that counts.
    cutting: Tokenizer,
    layout: Layout,
    hidden: usize,
    vocab: usize,
    totals: Totals,
}

impl Encoder {
    /// Loads the encoder in `dir`. Its weights are mapped, and read once from end to end, so that the first text does
    /// not wait for the disk.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        Self::load_in(dir, &WeightPool::new(), &|_, _| ())
    }

    /// Whether the model in `dir` says that it is one.
    pub fn is_in(dir: &Path) -> bool {
        Config::names_it(&dir.join("config.json"))
    }

    /// The same with weights that are shared with other versions. `progress` hears of bytes read and of all bytes.
    pub fn load_in(dir: &Path, pool: &WeightPool, progress: &dyn Fn(u64, u64)) -> Result<Self, ModelError> {
        let config = Config::read(&dir.join("config.json"))?;
        let layout = Layout::read(dir, config.hidden, config.max_positions)?;
        let (tokenizer, cutting) = tokenizers(dir, config.vocab, layout.max_tokens, Texts::One)?;
        let (hidden, vocab) = (config.hidden, config.vocab);
        let mut checkpoint = checkpoint(dir, pool, progress)?;
        let bert = Bert::load(config, &mut checkpoint)?;
        let (totals, _) = checkpoint.finish()?;
        Ok(Self { bert, tokenizer, cutting, layout, hidden, vocab, totals })
    }

    /// What a text means, as a vector of length 1: the cosine of two texts is the product of their vectors. Of a text
    /// that is longer than [`Self::max_tokens`], only the beginning counts.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, ModelError> {
        self.embed_tokens(&self.cut_tokens(text)?)
    }

    /// All tokens of a text, with those that the tokenizer adds.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.tokenizer.encode(text, SpecialTokens::Add)
    }

    /// The tokens of a text that count.
    pub fn cut_tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.cutting.encode(text, SpecialTokens::Add)
    }

    /// The vector of tokens as they are: at least one, at most [`Self::max_tokens`], each below [`Self::vocab_size`].
    pub fn embed_tokens(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let fits = !tokens.is_empty() && tokens.len() <= self.layout.max_tokens;
        if !fits || tokens.iter().any(|token| *token as usize >= self.vocab) {
            let (count, most, vocab) = (tokens.len(), self.layout.max_tokens, self.vocab);
            return Err(ModelError::Batch(format!(
                "a text of {count} tokens, where 1 to {most} below {vocab} are taken"
            )));
        }
        let states = self.bert.forward(tokens, &[0])?; // [tokens, hidden]
        let (rows, width) = (states.rows(), states.width());
        let mut pooled = states.into_vec()?;
        match self.layout.pooling {
            Pooling::Mean => pooled = mean(&pooled, rows, width),
            Pooling::Cls => pooled.truncate(width),
        }
        unit(pooled).ok_or(ModelError::NotFinite)
    }

    /// The most tokens of a text that count, those included that the tokenizer adds.
    pub fn max_tokens(&self) -> usize {
        self.layout.max_tokens
    }

    /// Numbers in a vector.
    pub const fn dimensions(&self) -> usize {
        self.hidden
    }

    /// Tokens are below it.
    pub const fn vocab_size(&self) -> usize {
        self.vocab
    }

    /// Bytes of all weights.
    pub const fn weight_bytes(&self) -> u64 {
        self.totals.bytes
    }

    /// Of those, bytes that other versions had loaded before.
    pub const fn shared_bytes(&self) -> u64 {
        self.totals.shared_bytes
    }

    /// Text to tokens and back, without a limit.
    pub const fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

/// The mean of `[rows, width]` over its rows.
fn mean(values: &[f32], rows: usize, width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for row in values.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    for sum in &mut sums {
        *sum /= rows as f32;
    }
    sums
}

/// The vector of length 1 in the same direction; `None` if it has none.
fn unit(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return None;
    }
    for x in &mut vector {
        *x = (f64::from(*x) / length) as f32;
    }
    Some(vector)
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("layout", &self.layout).finish_non_exhaustive()
    }
}
