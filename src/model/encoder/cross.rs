//! Cross-encoders: how well two texts go together, told from both at once (Nogueira and Cho, 2019).

use std::fmt;
use std::path::Path;

use super::bert::Bert;
use super::config::Classifier;
use super::files::{checkpoint, tokenizers};
use super::layout::max_tokens;
use crate::model::error::ModelError;
use crate::model::pool::WeightPool;
use crate::model::projection::{Bias, Projection};
use crate::model::tokenizer::{PairTokens, Texts, Tokenizer};
use crate::model::weights::Totals;
use crate::tensor::{Tensor, linear};

/// A model of one label over pairs of texts, such as `ms-marco-MiniLM-L6-v2` and `bge-reranker-v2-m3`.
pub struct CrossEncoder {
    bert: Bert,
    /// The first token's state goes through this one and tanh,
    dense: Projection,
    /// and through this one, which gives one number.
    out: Projection,
    tokenizer: Tokenizer,
    /// The same, and cuts pairs to the longest that counts.
    cutting: Tokenizer,
    max_tokens: usize,
    vocab: usize,
    segments: usize,
    totals: Totals,
}

impl CrossEncoder {
    /// Loads the one in `dir`. Its weights are mapped, and read once from end to end.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        Self::load_in(dir, &WeightPool::new(), &|_, _| ())
    }

    /// Whether the model in `dir` says that it is one.
    pub fn is_in(dir: &Path) -> bool {
        Classifier::is_named_in(&dir.join("config.json"))
    }

    /// The same with weights that are shared with other versions. `progress` hears of bytes read and of all bytes.
    pub fn load_in(dir: &Path, pool: &WeightPool, progress: &dyn Fn(u64, u64)) -> Result<Self, ModelError> {
        let (kind, config) = Classifier::read(&dir.join("config.json"))?;
        let max_tokens = max_tokens(dir, config.max_positions - config.first_position)?;
        let (tokenizer, cutting) = tokenizers(dir, config.vocab, max_tokens, Texts::Pair)?;
        let (hidden, vocab, segments) = (config.hidden, config.vocab, config.token_types);
        let mut checkpoint = checkpoint(dir, pool, progress)?;
        let dense = Projection::take(&mut checkpoint, kind.dense, [hidden, hidden], Bias::Added)?;
        let out = Projection::take(&mut checkpoint, kind.out, [1, hidden], Bias::Added)?;
        let bert = Bert::load(config, &mut checkpoint)?;
        let (totals, _) = checkpoint.finish()?;
        Ok(Self { bert, dense, out, tokenizer, cutting, max_tokens, vocab, segments, totals })
    }

    /// All tokens of a pair, with those that the tokenizer adds.
    pub fn tokens(&self, query: &str, document: &str) -> Result<PairTokens, ModelError> {
        self.tokenizer.encode_pair(query, document)
    }

    /// The tokens of a pair that count: of one that is longer than [`Self::max_tokens`], the longer text is cut first.
    pub fn cut_tokens(&self, query: &str, document: &str) -> Result<PairTokens, ModelError> {
        self.cutting.encode_pair(query, document)
    }

    /// How well the texts of a pair go together, from 0 to 1: at most [`Self::max_tokens`] tokens.
    pub fn score(&self, pair: &PairTokens) -> Result<f32, ModelError> {
        let PairTokens { ids, segments } = pair;
        if ids.is_empty() || ids.len() > self.max_tokens {
            let (count, most) = (ids.len(), self.max_tokens);
            return Err(ModelError::Batch(format!("a pair of {count} tokens, where 1 to {most} are taken")));
        }
        // a model that knows one segment is told of no second
        let segments = if self.segments == 1 { &[0][..] } else { segments };
        let states = self.bert.forward(ids, segments)?; // [tokens, hidden]
        let width = states.width();
        let mut first = states.into_vec()?;
        first.truncate(width);
        let h = linear(&Tensor::from_vec(first, 1, width)?, self.dense.layer())?; // [1, hidden]
        let h = h.into_vec()?.into_iter().map(f32::tanh).collect();
        let logit = linear(&Tensor::from_vec(h, 1, width)?, self.out.layer())?.into_vec()?; // [1, 1]
        let score = 1.0 / (1.0 + (-logit[0]).exp());
        if score.is_finite() { Ok(score) } else { Err(ModelError::NotFinite) }
    }

    /// The most tokens of a pair that count, those included that the tokenizer adds.
    pub const fn max_tokens(&self) -> usize {
        self.max_tokens
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

impl fmt::Debug for CrossEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrossEncoder").field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}
