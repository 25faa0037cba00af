//! Models: architectures, tokenizers and loading from Hugging Face layout.

/// The special tokens that a chat template may name.
#[derive(Debug, Clone, Default)]
pub struct SpecialTokenText {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a turn or a text.
    pub eos: Option<String>,
}
