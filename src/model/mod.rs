//! Models: what computes logits for a batch of tokens, what turns a text into a vector or a pair of texts into a score, and
//! the doors through which they are loaded.
//!
//! In: a folder in Hugging Face layout, or a GGUF file; then batches of rows, or texts. Out: a [`LoadedModel`], an [`Encoder`]
//! or a [`CrossEncoder`]; then [`Logits`], embeddings or scores.
//! May import: `tensor`. Knows no sequences, no scheduling, no versions.
//!
//! Invariants: a row's logits depend on its own context only, never on how the context was cut into batches nor
//! on what else a batch held; a model file that is cut short, corrupt or of another shape is a [`ModelError`]
//! that names it; tensors that are equal byte for byte are held once, whichever versions they came with.

mod adapter;
mod batch;
mod block;
mod config;
mod decoder;
mod encoder;
mod error;
mod footprint;
mod gguf;
mod load;
mod moe;
mod pool;
mod projection;
mod quantize;
mod rope;
mod source;
mod templates;
mod tensors;
mod tokenizer;
mod weights;

#[cfg(test)]
mod gpu_quantised_tests;
#[cfg(test)]
mod gpu_tests;

pub use adapter::{Adapter, AdapterInfo};
pub use batch::{Batch, CausalLm, KvGeometry, KvShape, Logits, MOST_SCORED_ROWS, Span};
pub use encoder::{CrossEncoder, Encoder};
pub use error::ModelError;
pub use footprint::Footprint;
pub use load::{GenerationDefaults, LoadedModel, ModelInfo, StagedModel, load};
pub use pool::WeightPool;
pub use templates::{ChatTemplateSources, SpecialTokenText};
pub use tokenizer::{PairTokens, SpecialText, SpecialTokens, Spelling, Tokenizer};

#[cfg(test)]
pub(crate) use crate::tensor::watched_device;
/// What models compute on, and how tokens are chosen there, for those who may not know how.
pub use crate::tensor::{
    AdapterSlot, Choice, Device, Edit, ElementType, GpuInfo, KvCache, KvLayout, KvPool, TensorError,
    TokenMask, by_rank, greatest,
};
