//! Models: what a forward pass takes and gives, and text to tokens and back.
//!
//! Knows no sequences and no scheduling: a [`Batch`] says which rows to compute and where their keys and values go.

mod batch;
mod error;
mod tokenizer;

pub use batch::{Batch, CausalLm, KvGeometry, KvShape, Logits, Span};
pub use error::ModelError;
pub use tokenizer::{SpecialText, SpecialTokens, Tokenizer};
