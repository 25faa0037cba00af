//! A version that can answer: what the host's memory holds of it, and its engine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::GatewayError;
use super::encoders::EncoderQueue;
use super::identity::Identity;
use super::speech::Formats;
use super::structured::Structures;
use crate::engine::{DrainOutcome, Engine};
use crate::ids::{Digest, Quantize, VersionRef};
use crate::model::{
    Adapter, AdapterInfo, CrossEncoder, Encoder, LoadedModel, ModelInfo, StagedModel, Tokenizer,
};
use crate::prompt::{ChatTemplate, Prompt};

/// What the host's memory holds of a version: all that it takes to answer, but what computes. Immutable.
pub struct Prepared {
    /// Which version this is.
    pub version: VersionRef,
    /// The digest of its image.
    pub digest: Digest,
    /// What became of the image's weights.
    pub(super) quantize: Quantize,
    /// The digest of its adapter, if it has one.
    pub(super) adapter: Option<Digest>,
    /// Its prompt as it was read when the version was loaded.
    pub(super) prompt: Option<Prompt>,
    /// The size of its image on disk.
    pub image_bytes: u64,
    pub(super) body: Body,
}

/// What an image is.
pub(super) enum Body {
    /// It goes on with texts.
    Decoder(Box<Decoder>),
    /// It turns texts into vectors.
    Encoder(Arc<Encoder>),
    /// It tells how well two texts go together.
    CrossEncoder(Arc<CrossEncoder>),
}

/// A model that goes on with texts, and how it speaks.
pub(super) struct Decoder {
    pub(super) model: LoadedModel,
    /// What its requests go through beside the model's weights.
    pub(super) adapter: Option<Adapter>,
    /// What guesses its tokens, if that is a model.
    pub(super) draft: Option<LoadedModel>,
    pub(super) template: Option<ChatTemplate>,
    /// Grammars that were compiled for it.
    pub(super) structures: Structures,
    pub(super) formats: Formats,
}

/// A warm version: its weights lie where a device gets them fastest.
#[derive(Debug)]
pub struct Warm {
    pub(super) prepared: Arc<Prepared>,
    /// Held, not read. An encoder computes where its weights are.
    pub(super) _staged: Option<StagedModel>,
}

/// A hot version. Immutable; requests share it by `Arc`.
pub struct Backend {
    pub(super) prepared: Arc<Prepared>,
    pub(super) runner: Runner,
}

/// What computes.
pub(super) enum Runner {
    Engine(Engine),
    /// Of cross-encoders, too.
    Encoder(EncoderQueue),
}

impl Prepared {
    /// Bytes of its weights.
    pub fn weight_bytes(&self) -> u64 {
        match &self.body {
            Body::Decoder(decoder) => {
                decoder.of_models(|info| info.weight_bytes) + decoder.of_adapter(|info| info.weight_bytes)
            }
            Body::Encoder(encoder) => encoder.weight_bytes(),
            Body::CrossEncoder(encoder) => encoder.weight_bytes(),
        }
    }

    /// Of these, bytes that another version had loaded before.
    pub fn shared_bytes(&self) -> u64 {
        match &self.body {
            Body::Decoder(decoder) => {
                decoder.of_models(|info| info.shared_bytes) + decoder.of_adapter(|info| info.shared_bytes)
            }
            Body::Encoder(encoder) => encoder.shared_bytes(),
            Body::CrossEncoder(encoder) => encoder.shared_bytes(),
        }
    }

    /// `system_fingerprint`: names what decides the answers, so it changes with the version and with nothing else.
    pub fn fingerprint(&self) -> String {
        format!("fp_{}", self.version_digest().short())
    }

    /// The digest of all that decides the answers.
    pub fn version_digest(&self) -> Digest {
        let prompt = self.prompt.as_ref().map(Prompt::digest);
        Identity { image: self.digest, quantize: self.quantize, adapter: self.adapter, prompt }.digest()
    }

    /// The text of each token by itself.
    pub fn token_texts(&self, tokens: &[u32]) -> Vec<String> {
        let text = |token: &u32| self.tokenizer().token_bytes(*token).unwrap_or_default();
        tokens.iter().map(|token| String::from_utf8_lossy(&text(token)).into_owned()).collect()
    }

    /// A count of the vocabulary: tokens are below it.
    pub fn vocab_size(&self) -> usize {
        match &self.body {
            Body::Decoder(decoder) => decoder.model.info.vocab_size,
            Body::Encoder(encoder) => encoder.vocab_size(),
            Body::CrossEncoder(encoder) => encoder.vocab_size(),
        }
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        match &self.body {
            Body::Decoder(decoder) => &decoder.model.tokenizer,
            Body::Encoder(encoder) => encoder.tokenizer(),
            Body::CrossEncoder(encoder) => encoder.tokenizer(),
        }
    }

    /// The version as one that goes on with texts.
    pub(super) fn decoder(&self) -> Result<&Decoder, GatewayError> {
        match &self.body {
            Body::Decoder(decoder) => Ok(decoder),
            Body::Encoder(_) | Body::CrossEncoder(_) => Err(self.is_another_kind()),
        }
    }

    /// The version as one that turns texts into vectors.
    pub(super) fn encoder(&self) -> Result<&Arc<Encoder>, GatewayError> {
        match &self.body {
            Body::Encoder(encoder) => Ok(encoder),
            Body::Decoder(_) | Body::CrossEncoder(_) => Err(self.is_another_kind()),
        }
    }

    /// The version as one that tells how well two texts go together.
    pub(super) fn cross_encoder(&self) -> Result<&Arc<CrossEncoder>, GatewayError> {
        match &self.body {
            Body::CrossEncoder(encoder) => Ok(encoder),
            Body::Decoder(_) | Body::Encoder(_) => Err(self.is_another_kind()),
        }
    }

    /// What it is, for who asked for something else.
    fn is_another_kind(&self) -> GatewayError {
        let (is, answers) = match &self.body {
            Body::Decoder(_) => (
                "a model that writes texts",
                "/v1/chat/completions, /v1/completions, /v1/responses and /v1/messages",
            ),
            Body::Encoder(_) => ("an encoder, which turns texts into vectors", "/v1/embeddings"),
            Body::CrossEncoder(_) => ("a cross-encoder, which compares a query with texts", "/v1/rerank"),
        };
        GatewayError::WrongKind { version: self.version.clone(), is, answers }
    }
}

impl Decoder {
    /// Something of its model and of its draft.
    fn of_models(&self, of: impl Fn(&ModelInfo) -> u64) -> u64 {
        of(&self.model.info) + self.draft.as_ref().map_or(0, |draft| of(&draft.info))
    }

    /// Something of its adapter, 0 without one.
    fn of_adapter(&self, of: impl Fn(AdapterInfo) -> u64) -> u64 {
        self.adapter.as_ref().map_or(0, |adapter| of(adapter.info()))
    }
}

impl Backend {
    /// Which version this is.
    pub fn version(&self) -> &VersionRef {
        &self.prepared.version
    }

    /// The most tokens of a prompt and its answer together; of an encoder, of a text or a pair of texts.
    pub fn max_context(&self) -> usize {
        match (&self.runner, &self.prepared.body) {
            (Runner::Engine(engine), _) => engine.limits().max_context,
            (Runner::Encoder(_), Body::Encoder(encoder)) => encoder.max_tokens(),
            (Runner::Encoder(_), Body::CrossEncoder(encoder)) => encoder.max_tokens(),
            (Runner::Encoder(_), Body::Decoder(_)) => 0,
        }
    }

    /// Whether what computes is alive.
    pub fn is_alive(&self) -> bool {
        match &self.runner {
            Runner::Engine(engine) => engine.is_alive(),
            Runner::Encoder(_) => true,
        }
    }

    /// What goes on with texts.
    pub(super) fn engine(&self) -> Result<&Engine, GatewayError> {
        match &self.runner {
            Runner::Engine(engine) => Ok(engine),
            Runner::Encoder(_) => Err(self.prepared.is_another_kind()),
        }
    }

    /// Takes no more requests, lets those it has finish, and cuts off what is left at the deadline.
    pub(super) async fn drain(&self, deadline: Duration) -> DrainOutcome {
        match &self.runner {
            Runner::Engine(engine) => engine.drain(deadline).await,
            Runner::Encoder(queue) => queue.drain(deadline).await,
        }
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
