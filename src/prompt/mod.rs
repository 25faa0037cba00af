//! From messages to the text that a model reads: a version's prompt around a conversation, and its chat template over
//! both, rendered as Hugging Face does.
//!
//! In: a prompt file and the chat template's source, once per version; messages and variables per request.
//! Out: messages with the prompt around them; a text, or a [`PromptError`] that tells a broken template from messages
//! it refuses; of a prompt, its digest.
//! May import: `model` (for [`SpecialTokenText`](crate::model::SpecialTokenText)), `config` (what a prompt file says),
//! `sandbox` (where templates run).
//! Knows no HTTP, no tokens.
//!
//! Invariants: rendering reads no file and no environment, and is bounded in all that it takes, so that a template that
//! loops for ever is an error and not a hang; a [`Prompt`] is read once and never changes; its digest says every byte of its
//! file.

mod endless;
mod file;
mod python;
mod repr;
mod template;
mod wrap;

#[cfg(test)]
mod tests;

pub use file::{Prompt, PromptFileError};
pub use template::{ChatTemplate, GenerationPrompt, PromptError};
pub use wrap::{VariableFault, WrapError};
