//! Why a model could not be loaded or run.

use std::path::PathBuf;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tokenizer file that cannot be read or understood.
    #[error("{}: not a usable tokenizer: {why}", path.display())]
    TokenizerFile {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        why: String,
    },
    /// A text or token list that the tokenizer refuses.
    #[error("tokenizer: {0}")]
    Tokenize(String),
    /// The forward pass failed.
    #[error("forward pass: {0}")]
    Forward(String),
}
