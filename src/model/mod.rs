//! Models: what computes logits for a batch of tokens, and the door through which it is loaded.
//!
//! In: a folder in Hugging Face layout; then batches of rows. Out: a [`LoadedModel`]; then [`Logits`].
//! May import: `tensor`. Knows no sequences, no scheduling, no versions.
//!
//! Invariants: a row's logits depend on its own context only, never on how the context was cut into batches nor
//! on what else a batch held; a model file that is cut short, corrupt or of another shape is a [`ModelError`]
//! that names it; tensors that are equal byte for byte are held once, whichever versions they came with.

mod batch;
mod config;
mod decoder;
mod error;
mod load;
mod pool;
mod rope;
mod tokenizer;
mod weights;

pub use batch::{Batch, CausalLm, KvGeometry, KvShape, Logits, Span};
pub use error::ModelError;
pub use load::{GenerationDefaults, LoadedModel, ModelInfo, SpecialTokenText, load};
pub use pool::WeightPool;
pub use tokenizer::{SpecialText, SpecialTokens, Tokenizer};
