//! The door: a folder becomes an encoder, and a text a vector.

use std::fmt;
use std::path::Path;

use super::bert::Bert;
use super::config::Config;
use super::layout::{Layout, Pooling};
use crate::model::error::ModelError;
use crate::model::pool::WeightPool;
use crate::model::quantize::Recipe;
use crate::model::tokenizer::{SpecialTokens, Tokenizer};
use crate::model::weights::Checkpoint;

/// A sentence encoder in the layout of sentence-transformers, such as `all-MiniLM-L6-v2`.
pub struct Encoder {
    bert: Bert,
    tokenizer: Tokenizer,
    layout: Layout,
}

impl Encoder {
    /// Loads the encoder in `dir`. Its weights are mapped, and read once from end to end, so that the first text does
    /// not wait for the disk.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let config = Config::read(&dir.join("config.json"))?;
        let layout = Layout::read(dir, config.hidden, config.max_positions)?;
        let path = dir.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file_cut_to(&path, layout.max_tokens)?;
        if tokenizer.vocab_size() > config.vocab {
            let (tokens, vocabulary) = (tokenizer.vocab_size(), config.vocab);
            return Err(ModelError::Vocabulary { path, tokens, vocabulary });
        }
        // nothing else that is served has an encoder's tensors
        let pool = WeightPool::new();
        let mut checkpoint = Checkpoint::open(dir, Recipe::AS_STORED, &pool, &|_, _| ())?;
        let bert = Bert::load(config, &mut checkpoint)?;
        checkpoint.finish()?;
        Ok(Self { bert, tokenizer, layout })
    }

    /// What a text means, as a vector of length 1: the cosine of two texts is the product of their vectors. Of a text
    /// that is longer than [`Self::max_tokens`], only the beginning counts.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, ModelError> {
        let tokens = self.tokenizer.encode(text, SpecialTokens::Add)?;
        let states = self.bert.forward(&tokens)?; // [tokens, hidden]
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
