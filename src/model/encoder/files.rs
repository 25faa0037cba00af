//! What encoders and cross-encoders read alike: their tokenizer, and the doors to their tensors.

use std::path::Path;

use crate::model::error::ModelError;
use crate::model::pool::WeightPool;
use crate::model::quantize::Recipe;
use crate::model::tensors::Tensors;
use crate::model::tokenizer::{Texts, Tokenizer};
use crate::model::weights::Checkpoint;

/// The tokenizer in `dir`, for a model of so many tokens; and the same, which cuts what is longer than `max_tokens`.
pub(super) fn tokenizers(
    dir: &Path,
    vocabulary: usize,
    max_tokens: usize,
    texts: Texts,
) -> Result<(Tokenizer, Tokenizer), ModelError> {
    let path = dir.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&path)?;
    let cutting = tokenizer.cut_to(&path, max_tokens, texts)?;
    let tokens = tokenizer.vocab_size();
    if tokens > vocabulary {
        return Err(ModelError::Vocabulary { path, tokens, vocabulary });
    }
    Ok((tokenizer, cutting))
}

/// The tensors in `dir`, as they are stored: encoders compute on the host.
pub(super) fn checkpoint<'a>(
    dir: &Path,
    pool: &'a WeightPool,
    progress: &'a dyn Fn(u64, u64),
) -> Result<Checkpoint<'a>, ModelError> {
    pool.sweep();
    Checkpoint::new(Tensors::in_folder(dir)?, Recipe::AS_STORED, None, pool, progress)
}
