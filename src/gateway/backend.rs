//! A version that can answer: its engine with the words around it.

use std::fmt;

use crate::engine::Engine;
use crate::ids::{Digest, VersionRef};
use crate::model::{GenerationDefaults, ModelInfo, Tokenizer};
use crate::prompt::{ChatTemplate, Prompt, version_digest};

/// A hot version. Immutable; requests share it by `Arc`.
pub struct Backend {
    /// Which version this is.
    pub version: VersionRef,
    /// The digest of its image.
    pub digest: Digest,
    /// Its prompt as it was read when the version was loaded.
    pub(super) prompt: Option<Prompt>,
    /// The size of its image on disk.
    pub image_bytes: u64,
    /// What was loaded.
    pub info: ModelInfo,
    pub(super) engine: Engine,
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Option<ChatTemplate>,
    pub(super) defaults: GenerationDefaults,
    pub(super) eos: Vec<u32>,
}

impl Backend {
    /// `system_fingerprint`: names what decides the answers, so it changes with the version and with nothing else.
    pub fn fingerprint(&self) -> String {
        format!("fp_{}", self.version_digest().short())
    }

    /// The digest of all that decides the answers: the image's, and with a prompt, that of both.
    pub fn version_digest(&self) -> Digest {
        self.prompt.as_ref().map_or(self.digest, |prompt| version_digest(self.digest, prompt.digest()))
    }

    /// The most tokens of a prompt and its answer together.
    pub fn max_context(&self) -> usize {
        self.engine.limits().max_context
    }

    /// Whether the engine's thread is alive.
    pub fn is_alive(&self) -> bool {
        self.engine.is_alive()
    }

    /// The text of each token by itself.
    pub fn token_texts(&self, tokens: &[u32]) -> Vec<String> {
        let text = |token: &u32| self.tokenizer.token_bytes(*token).unwrap_or_default();
        tokens.iter().map(|token| String::from_utf8_lossy(&text(token)).into_owned()).collect()
    }

    /// A count of the vocabulary: tokens are below it.
    pub fn vocab_size(&self) -> usize {
        self.info.vocab_size
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("version", &self.version)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
