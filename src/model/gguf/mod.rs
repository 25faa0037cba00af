//! GGUF: one file that holds a model's sizes, its tokenizer, its chat template and its tensors, quantised or not.
//!
//! `header` reads the file's own structure, `value` what its keys hold. `config` says the same in the keys of `config.json`,
//! `names` in the names of the tensors of `transformers`, `vocabulary` and `words` as a tokenizer, so that one family of
//! readers and one loading door serve both layouts. Tensors are mapped where they lie, but for the queries and keys of
//! Llama, whose rows these files have in another order.
//!
//! Invariants: no length in a file is believed before it was held against the file's own; what is wrong with a file is an
//! error with its offset, its key or its tensor. Formats: github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3.

mod config;
mod header;
mod names;
mod pieces;
mod splitting;
mod value;
mod vocabulary;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};

use header::Header;

use super::config::Config;
use super::error::ModelError;
use super::templates::TokenizerWords;
use super::tensors::Tensors;
use super::tokenizer::Tokenizer;
use crate::tensor::MappedFile;

/// What the names of these files end in.
pub(super) const EXTENSION: &str = "gguf";

/// A mapped file.
pub(super) struct Gguf {
    path: PathBuf,
    file: MappedFile,
}

impl Gguf {
    /// Maps a file; nothing of it is read yet.
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = MappedFile::open(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
        Ok(Self { path: path.into(), file })
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The decoder that it describes.
    pub(super) fn config(&self) -> Result<Config, ModelError> {
        let text = self.read(|header| config::translated(header, self.file.bytes()))?;
        Ok(Config::of(&self.path, text.as_bytes())?.with_whole_gains())
    }

    /// Where its tensors lie, by the names that `transformers` gives them.
    pub(super) fn tensors(&self, config: &Config) -> Result<Tensors, ModelError> {
        let all = self.read(|header| names::placed(header, config, &self.path, &self.file))?;
        Ok(Tensors { source: self.path.clone(), all })
    }

    /// Its tokenizer.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        self.read(vocabulary::tokenizer)
    }

    /// Its special tokens and its chat templates.
    pub(super) fn words(&self) -> Result<TokenizerWords, ModelError> {
        self.read(words::words)
    }

    /// Something of its header, which is read anew: it borrows from the mapped file, and takes milliseconds.
    fn read<T>(&self, of: impl FnOnce(&Header<'_>) -> Result<T, String>) -> Result<T, ModelError> {
        let read = Header::read(self.file.bytes()).and_then(|header| of(&header));
        read.map_err(|what| ModelError::Gguf { path: self.path.clone(), what })
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gguf({})", self.path.display())
    }
}
