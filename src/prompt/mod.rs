//! From messages to the text that a model reads: a version's chat template, rendered as Hugging Face does.
//!
//! In: the template's source and the special tokens' text, once per version; messages per request.
//! Out: a prompt, or a [`PromptError`] that tells a broken template from messages it refuses.
//! May import: `model` (for [`SpecialTokenText`](crate::model::SpecialTokenText)). Knows no HTTP, no tokens.
//!
//! Invariants: rendering reads no file and no environment, and its work is bounded by fuel, so that a template
//! that loops for ever is an error and not a hang.

mod python;
mod template;

pub use template::{ChatTemplate, GenerationPrompt, PromptError};
