//! The door: a folder becomes an encoder, and a text a vector.

use std::fmt;
use std::path::Path;

use super::bert::Bert;
use super::config::Config;
use super::layout::{Layout, Pooling};
use crate::model::error::ModelError;
use crate::model::pool::WeightPool;
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
        let mut checkpoint = Checkpoint::open(dir, &pool, &|_, _| ())?;
        let bert = Bert::load(config, &mut checkpoint)?;
        checkpoint.finish()?;
        Ok(Self { bert, tokenizer, layout })
    }

    /// What a text means, as a vector of length 1: the cosine of two texts is the product of their vectors. Of a text
    /// that is longer than [`Self::max_tokens`], only the beginning counts.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, ModelError> {
        let tokens = self.tokenizer.encode(text, SpecialTokens::Add)?;
        let rows = self.bert.forward(&tokens)?; // [tokens, hidden]
        let pooled = match self.layout.pooling {
            Pooling::Mean => rows.mean(0)?,
            Pooling::Cls => rows.get(0)?,
        };
        unit(pooled.to_vec1()?).ok_or(ModelError::NotFinite)
    }

    /// The most tokens of a text that count, those included that the tokenizer adds.
    pub fn max_tokens(&self) -> usize {
        self.layout.max_tokens
    }
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
