//! A version that can answer: what the host's memory holds of it, and its engine.

use std::fmt;
use std::sync::Arc;

use super::identity::Identity;
use super::structured::Structures;
use crate::engine::Engine;
use crate::ids::{Digest, Quantize, VersionRef};
use crate::model::{LoadedModel, ModelInfo, StagedModel, Tokenizer};
use crate::prompt::{ChatTemplate, Prompt};

/// What the host's memory holds of a version: all that it takes to answer, but an engine. Immutable.
pub struct Prepared {
    /// Which version this is.
    pub version: VersionRef,
    /// The digest of its image.
    pub digest: Digest,
    /// What became of the image's weights.
    pub(super) quantize: Quantize,
    /// Its prompt as it was read when the version was loaded.
    pub(super) prompt: Option<Prompt>,
    /// The size of its image on disk.
    pub image_bytes: u64,
    pub(super) model: LoadedModel,
    pub(super) template: Option<ChatTemplate>,
    /// Grammars that were compiled for it.
    pub(super) structures: Structures,
}

/// A warm version: its weights lie where a device gets them fastest.
#[derive(Debug)]
pub struct Warm {
    pub(super) prepared: Arc<Prepared>,
    /// Held, not read.
    pub(super) _staged: StagedModel,
}

/// A hot version. Immutable; requests share it by `Arc`.
pub struct Backend {
    pub(super) prepared: Arc<Prepared>,
    pub(super) engine: Engine,
}

impl Prepared {
    /// What was loaded.
    pub const fn info(&self) -> &ModelInfo {
        &self.model.info
    }

    /// `system_fingerprint`: names what decides the answers, so it changes with the version and with nothing else.
    pub fn fingerprint(&self) -> String {
        format!("fp_{}", self.version_digest().short())
    }

    /// The digest of all that decides the answers.
    pub fn version_digest(&self) -> Digest {
        let prompt = self.prompt.as_ref().map(Prompt::digest);
        Identity { image: self.digest, quantize: self.quantize, prompt }.digest()
    }

    /// The text of each token by itself.
    pub fn token_texts(&self, tokens: &[u32]) -> Vec<String> {
        let text = |token: &u32| self.model.tokenizer.token_bytes(*token).unwrap_or_default();
        tokens.iter().map(|token| String::from_utf8_lossy(&text(token)).into_owned()).collect()
    }

    /// A count of the vocabulary: tokens are below it.
    pub fn vocab_size(&self) -> usize {
        self.model.info.vocab_size
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.model.tokenizer
    }
}

impl Backend {
    /// Which version this is.
    pub fn version(&self) -> &VersionRef {
        &self.prepared.version
    }

    /// The most tokens of a prompt and its answer together.
    pub fn max_context(&self) -> usize {
        self.engine.limits().max_context
    }

    /// Whether the engine's thread is alive.
    pub fn is_alive(&self) -> bool {
        self.engine.is_alive()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("version", &self.version)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("prepared", &self.prepared).finish_non_exhaustive()
    }
}
